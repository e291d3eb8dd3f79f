package cuda

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"unsafe"

	"afterimage/internal/compute"
)

// This file plans decode.cu's work on the host and needs no GPU. It is planned once for a pass and serves all its layers.

// decodeSegment is one sequence in a pass: its new rows, whose K/V is in its pages by the time attention runs.
type decodeSegment struct {
	past    int
	rows    int
	parents []int32 // as in compute.Segment; nil: row i sees the rows before it
	pages   []int32
}

const (
	decodeRows   = 32 // of a pass
	decodeGroups = 64
	pageRows     = compute.PageRows
)

// Keys are cut into chunks at fixed places, whatever the length: a row's result is the merge of its chunks' states in order, so it
// does not depend on who else attends. Short chunks first, so that a few thousand keys give every multiprocessor work; longer ones
// further on keep the number of states down.
var decodeChunks = [...]struct{ from, size, first int }{ // first: the number of the chunk at key from
	{0, 128, 0}, {4096, 256, 32}, {32768, 1024, 144},
}

// chunkKey is the first key of a chunk.
func chunkKey(chunk int) int {
	i := len(decodeChunks) - 1
	for chunk < decodeChunks[i].first {
		i--
	}
	c := decodeChunks[i]
	return c.from + (chunk-c.first)*c.size
}

// keyChunks is how many chunks n keys touch.
func keyChunks(n int) int {
	i := len(decodeChunks) - 1
	for i > 0 && n <= decodeChunks[i].from {
		i--
	}
	c := decodeChunks[i]
	return c.first + (n-c.from+c.size-1)/c.size
}

// The structs of a plan mirror decode.h.

type decodeRow struct {
	past         int32
	mask         uint32
	slot, chunks int32
}

type decodeGroup struct {
	rows int32
	_    [3]int32
	row  [decodeRows]int32
}

type decodeUnit struct {
	head, group uint8
	chunk       uint16
	key, keys   int32
	page        int32
}

const (
	decodeFresh  = 128 // in decodeUnit.group
	decodeHeader = int(decodeRows*unsafe.Sizeof(decodeRow{}) + decodeGroups*unsafe.Sizeof(decodeGroup{}))
)

// decodePlanner makes plans for one shape of attention. Its memory is used again by the next plan.
type decodePlanner struct {
	kvHeads, share int    // share: query heads of a K/V head
	together       int    // rows that a group may have
	grids          [2]int // thread blocks of the kernel for groups of up to 16 rows times heads, and of the other one

	wide   bool // the plan is for the other one
	blocks int

	rows   []decodeRow
	groups []decodeGroup
	units  []decodeUnit
	pages  []int32 // tables of all segments, one after another
	slots  int     // states a query head leaves

	owner  []int // of a unit: its block
	loads  []uint64
	counts []int
	bytes  []byte
}

// newDecodePlanner plans for kernels that take groups of up to wide rows times query heads of a K/V head, and run as so many blocks.
func newDecodePlanner(heads, kvHeads, wide int, grids [2]int) (*decodePlanner, error) {
	switch {
	case heads < 1 || kvHeads < 1 || heads%kvHeads != 0:
		return nil, fmt.Errorf("cuda: decode attention: %d heads do not share %d K/V heads evenly", heads, kvHeads)
	case heads/kvHeads > wide:
		return nil, fmt.Errorf("cuda: decode attention: %d query heads share a K/V head, at most %d can", heads/kvHeads, wide)
	case kvHeads > 256 || min(grids[0], grids[1]) < 1 || max(grids[0], grids[1]) > 1<<16:
		return nil, fmt.Errorf("cuda: decode attention: %d K/V heads, %v blocks", kvHeads, grids)
	}
	return &decodePlanner{kvHeads: kvHeads, share: heads / kvHeads, together: wide * kvHeads / heads, grids: grids}, nil
}

// plan plans a pass. Segments whose tables name the same pages for the same chunks, below the past of each, have their rows stacked
// there, so that the keys are read once for all of them. wide asks for the kernel for many rows where the other would do.
func (p *decodePlanner) plan(segs []decodeSegment, wide bool) error {
	p.rows, p.groups, p.units, p.pages, p.slots = p.rows[:0], p.groups[:0], p.units[:0], p.pages[:0], 0
	first := make([]int, len(segs)) // of a segment: its first row
	table := make([]int, len(segs)) // and its place in pages
	sets := make([]int, len(segs))
	for i := range segs {
		first[i], table[i], sets[i] = len(p.rows), len(p.pages), i
		if err := p.addRows(&segs[i]); err != nil {
			return fmt.Errorf("cuda: decode attention: segment %d: %w", i, err)
		}
		p.pages = append(p.pages, segs[i].pages[:(segs[i].past+segs[i].rows+pageRows-1)/pageRows]...)
	}
	w := decodeWalk{p, segs, first, table}
	w.shared(sets, 0)
	p.wide = wide || p.widest() > 16
	p.blocks = p.grids[0]
	if p.wide {
		p.blocks = p.grids[1]
	}
	p.deal()
	p.encode()
	return nil
}

// addRows says what each new row of a segment sees.
func (p *decodePlanner) addRows(g *decodeSegment) error {
	switch {
	case g.rows < 1 || len(p.rows)+g.rows > decodeRows:
		return fmt.Errorf("%d new rows after %d, a pass has at most %d", g.rows, len(p.rows), decodeRows)
	case g.past < 0 || (g.past+g.rows+pageRows-1)/pageRows > len(g.pages):
		return fmt.Errorf("%d past and %d new rows in %d pages", g.past, g.rows, len(g.pages))
	case keyChunks(g.past+g.rows) >= 1<<16:
		return fmt.Errorf("%d keys are more than can be planned", g.past+g.rows)
	case g.parents != nil && len(g.parents) != g.rows:
		return fmt.Errorf("%d parents of %d rows", len(g.parents), g.rows)
	}
	from := len(p.rows)
	for i := range g.rows {
		mask := uint32(1) << i
		switch {
		case g.parents == nil:
			mask |= mask - 1
		case g.parents[i] >= int32(i) || g.parents[i] < -1:
			return fmt.Errorf("row %d follows row %d", i, g.parents[i])
		case g.parents[i] >= 0:
			mask |= p.rows[from+int(g.parents[i])].mask
		}
		n := keyChunks(g.past + i + 1)
		p.rows = append(p.rows, decodeRow{past: int32(g.past), mask: mask, slot: int32(p.slots), chunks: int32(n)})
		p.slots += n
	}
	return nil
}

// decodeWalk goes along the keys of a pass's segments.
type decodeWalk struct {
	*decodePlanner
	segs         []decodeSegment
	first, table []int
}

// shared adds the units from a chunk on of segments that have had the same pages so far.
func (w *decodeWalk) shared(set []int, chunk int) {
	for len(set) > 1 {
		from, to := chunk, chunk
		for w.same(set, to) {
			to++
		}
		if to > from && !w.stack(set, from, to) {
			break
		}
		// They part here: those that agree on the next chunk go on together, the others alone.
		chunk = to
		var rest []int
		together := []int{set[0]}
		for _, s := range set[1:] {
			if w.same([]int{set[0], s}, chunk) {
				together = append(together, s)
			} else {
				rest = append(rest, s)
			}
		}
		if len(rest) > 0 {
			w.shared(rest, chunk)
		}
		set = together
	}
	for _, s := range set {
		g := &w.segs[s]
		w.add(w.rowsOf([]int{s}), s, chunk, keyChunks(g.past+g.rows))
	}
}

// same is whether a chunk lies in the past of all segments of a set and in the same pages.
func (w *decodeWalk) same(set []int, chunk int) bool {
	from, to := chunkKey(chunk)/pageRows, chunkKey(chunk+1)/pageRows
	for _, s := range set {
		g := &w.segs[s]
		if to*pageRows > g.past || !slices.Equal(g.pages[from:to], w.segs[set[0]].pages[from:to]) {
			return false
		}
	}
	return true
}

func (w *decodeWalk) rowsOf(set []int) []int32 {
	var rows []int32
	for _, s := range set {
		for i := range w.segs[s].rows {
			rows = append(rows, int32(w.first[s]+i))
		}
	}
	return rows
}

// stack adds the units of chunks [from, to) once for all segments of a set. It does nothing and says so when there are more different
// sets than a plan can name: room is left for each row to be on its own.
func (w *decodeWalk) stack(set []int, from, to int) bool {
	rows := w.rowsOf(set)
	if len(w.groups)+(len(rows)+w.together-1)/w.together > decodeGroups-decodeRows {
		return false
	}
	w.add(rows, set[0], from, to)
	return true
}

// add makes groups of rows and the units of chunks [from, to) for them, K/V being that of segment s.
func (w *decodeWalk) add(rows []int32, s, from, to int) {
	if from >= to {
		return
	}
	g := &w.segs[s]
	groups := len(w.groups)
	for part := range slices.Chunk(rows, w.together) {
		x := decodeGroup{rows: int32(len(part))}
		copy(x.row[:], part)
		w.groups = append(w.groups, x)
	}
	for chunk := from; chunk < to; chunk++ {
		key, end := chunkKey(chunk), min(chunkKey(chunk+1), g.past+g.rows)
		for head := range w.kvHeads {
			for i := groups; i < len(w.groups); i++ { // side by side, so that one finds in the cache what another has read
				u := decodeUnit{head: uint8(head), group: uint8(i), chunk: uint16(chunk), key: int32(key), keys: int32(end - key),
					page: int32(w.table[s] + key/pageRows)}
				if end > g.past {
					u.group |= decodeFresh
				}
				w.units = append(w.units, u)
			}
		}
	}
}

// deal gives every unit to the block with the least to do, long units first. Units of the same keys and other heads, which lie beside
// each other in memory, are done at the same time; a run of chunks for each block instead measured 2 to 10 % slower.
func (p *decodePlanner) deal() {
	slices.SortStableFunc(p.units, func(a, b decodeUnit) int { return cmp.Compare(b.keys, a.keys) })
	p.owner, p.loads, p.counts = p.owner[:0], p.loads[:0], p.counts[:0]
	for b := range p.blocks {
		p.loads, p.counts = append(p.loads, uint64(b)), append(p.counts, 0)
	}
	for _, u := range p.units {
		least := p.loads[0]
		b := int(least & 0xffff)
		p.owner = append(p.owner, b)
		p.counts[b]++
		p.sink(least + uint64(u.cost())<<16)
	}
}

// cost is a unit's time in those of keys: 32 for what it costs however short it is.
func (u decodeUnit) cost() int { return int(u.keys) + 32 }

// sink replaces the least of the heap of loads.
func (p *decodePlanner) sink(v uint64) {
	h, i := p.loads, 0
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1] < h[c] {
			c++
		}
		if h[c] >= v {
			break
		}
		h[i], i = h[c], c
	}
	h[i] = v
}

// encode writes the plan as decode.cu reads it. A block does the units that need nothing of the current pass first.
func (p *decodePlanner) encode() {
	most := slices.Max(p.counts)
	size := decodeHeader + (most+1)*p.blocks*int(unsafe.Sizeof(decodeUnit{}))
	p.bytes = slices.Grow(p.bytes[:0], size)[:size]
	clear(p.bytes)
	at := p.bytes
	put := func(v ...uint32) {
		for _, x := range v {
			binary.LittleEndian.PutUint32(at, x)
			at = at[4:]
		}
	}
	for _, r := range p.rows {
		put(uint32(r.past), r.mask, uint32(r.slot), uint32(r.chunks))
	}
	at = p.bytes[decodeRows*unsafe.Sizeof(decodeRow{}):]
	for _, g := range p.groups {
		put(uint32(g.rows), 0, 0, 0)
		for _, r := range g.row {
			put(uint32(r))
		}
	}
	next := p.counts
	clear(next)
	for _, fresh := range []bool{false, true} {
		for i, u := range p.units {
			if u.group&decodeFresh != 0 != fresh {
				continue
			}
			b := p.owner[i]
			at = p.bytes[decodeHeader+(next[b]*p.blocks+b)*int(unsafe.Sizeof(u)):]
			next[b]++
			put(uint32(u.head)|uint32(u.group)<<8|uint32(u.chunk)<<16, uint32(u.key), uint32(u.keys), uint32(u.page))
		}
	}
}

// widest is the most rows times heads that any group has.
func (p *decodePlanner) widest() int {
	n := 0
	for _, g := range p.groups {
		n = max(n, int(g.rows)*p.share)
	}
	return n
}

// maxDecodeSlots is how many states a query head leaves at most in a pass of so many rows and keys.
func maxDecodeSlots(rows, keys int) int { return rows * keyChunks(keys) }

// maxDecodeUnits is how many units a block gets at most, each row having a segment of its own. Dealing never lets a block get more
// than the longest unit ahead of the others; 1056 is that one's cost, 160 that of the shortest which is not the end of a sequence,
// and ends cost 33.
func maxDecodeUnits(rows, keys, kvHeads, blocks int) int {
	return (rows*kvHeads*(keys+32*keyChunks(keys))/blocks+1056)/160 + 1056/33 + rows*kvHeads/blocks + 2
}
