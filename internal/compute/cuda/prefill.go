//go:build cuda

package cuda

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"unsafe"
)

// Attention of many query rows on the tensor cores (prefill_sm90.cu, prefill_sm80.cu), from a plan that serves all layers of a pass.

// prefillTensor and prefillArgs mirror prefill.h.
type prefillTensor struct {
	p              devptr
	row, head, seg int64 // strides in elements, multiples of 8
}

type prefillArgs struct {
	qMap, kMap, vMap        tensorMap
	q, k, v, out            prefillTensor
	lse, parts              devptr
	items, first, pages     devptr
	heads, kvHeads, headDim int32
	scaleLog2               float32
	count                   int32
	_                       int32
}

type prefillMergeArgs struct {
	out                prefillTensor
	lse, parts, splits devptr
	heads, headDim     int32
	count, tileRows    int32
}

// prefillKernel is a kernel for heads of up to dim columns.
type prefillKernel struct {
	name            string
	dim             int
	tile            prefillTile
	perSM           int     // thread blocks that a multiprocessor runs at a time
	tma             bool    // the kernel reads by tensor maps:
	chunk           int     // columns that lie together in shared memory
	pageBox         int     // rows that one copy takes of a page
	speed           float64 // of whole tiles, compared with other kernels for dim
	threads, shared uint32
}

// Tiles are those that measured fastest; NOTES-prefill.md says what else was tried. A second kernel for a size is there for rows that
// leave much of the first one's last tiles empty.
var hopperPrefills = []prefillKernel{
	hopperPrefill("prefill_sm90_64", 64, 3, 128, 2, 1),
	hopperPrefill("prefill_sm90_64_short", 64, 3, 96, 3, 0.93),
	hopperPrefill("prefill_sm90_80", 80, 3, 96, 2, 1),
	hopperPrefill("prefill_sm90_96", 96, 3, 96, 3, 1),
	hopperPrefill("prefill_sm90_128", 128, 2, 128, 2, 1),
}

// hopperPrefill is the host's side of the Prefill template.
func hopperPrefill(name string, dim, groups, keys, stages int, speed float64) prefillKernel {
	k := prefillKernel{
		name: name, dim: dim, tile: prefillTile{64 * groups, keys}, perSM: 1, tma: true, chunk: 64, pageBox: pageRows, speed: speed, threads: uint32(128 * (groups + 1)),
		shared: uint32(2*dim*(64*groups+2*stages*keys) + 8*(2*groups+4*stages)),
	}
	for dim%k.chunk != 0 {
		k.chunk /= 2
	}
	for keys%k.pageBox != 0 {
		k.pageBox /= 2
	}
	return k
}

// Those for whatever else has tensor cores for bf16.
var amperePrefills = []prefillKernel{amperePrefill(64), amperePrefill(80), amperePrefill(96), amperePrefill(128)}

// amperePrefill is the host's side of prefill_sm80.cu.
func amperePrefill(dim int) prefillKernel {
	const rows, keys = 128, 64
	return prefillKernel{
		name: fmt.Sprintf("prefill_sm80_%d", dim), dim: dim, tile: prefillTile{rows, keys}, perSM: 2, speed: 1, threads: 128,
		shared: uint32((rows + 2*keys) * (2*dim + 16)),
	}
}

// prefillsFor are the kernels for heads of a size, none where there are none.
func (d *device) prefillsFor(headDim int) []prefillKernel {
	switch {
	case d.info.Major == 9:
		return prefillsOf(hopperPrefills, headDim)
	case d.info.Major >= 8:
		return prefillsOf(amperePrefills, headDim)
	}
	return nil
}

// prefillsOf are those of a list for heads of a size.
func prefillsOf(all []prefillKernel, headDim int) []prefillKernel {
	if headDim%8 != 0 {
		return nil
	}
	from := slices.IndexFunc(all, func(k prefillKernel) bool { return headDim <= k.dim })
	if from < 0 {
		return nil
	}
	same := all[from:]
	if to := slices.IndexFunc(same, func(k prefillKernel) bool { return k.dim != same[0].dim }); to >= 0 {
		same = same[:to]
	}
	return same
}

// fastestPrefill is the kernel that should be done with these segments first.
func fastestPrefill(kernels []prefillKernel, segs []prefillSegment) prefillKernel {
	time := func(k prefillKernel) float64 {
		work := 0
		for _, g := range segs {
			blocks, tiles := (g.rows+k.tile.rows-1)/k.tile.rows, (g.keys+k.tile.keys-1)/k.tile.keys
			work += blocks * k.tile.rows * (tiles + prefillStart) * k.tile.keys
		}
		return float64(work) / k.speed
	}
	return slices.MinFunc(kernels, func(a, b prefillKernel) int { return cmp.Compare(time(a), time(b)) })
}

// prefillPlan is planned attention. Its device memory grows as needed and is freed by close.
type prefillPlan struct {
	d             *device
	shape         prefillShape
	kernels       []prefillKernel // for such heads
	kernel        prefillKernel   // the one planned for
	blocks        uint32
	rows          int // query rows
	paged         bool
	captured      bool // in use by a graph
	buf           block
	count, splits int // of parts, and of what they are parts of
	at            struct{ items, first, splits, pages, parts devptr }
}

var errNoPrefill = errors.New("no kernel for attention of many rows")

// newPrefillPlan is an empty plan for calls of a shape. An error wraps errNoPrefill where there is no kernel for it.
func (d *device) newPrefillPlan(c prefillShape) (*prefillPlan, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	kernels := d.prefillsFor(c.headDim)
	if len(kernels) == 0 {
		return nil, fmt.Errorf("cuda: %w with heads of %d", errNoPrefill, c.headDim)
	}
	return &prefillPlan{d: d, shape: c, kernels: kernels}, nil
}

// close frees what is on the device, after all that is in the stream. None is nothing.
func (p *prefillPlan) close() {
	if p != nil {
		p.d.free(p.buf.p)
		p.buf = block{}
	}
}

// set plans for these segments and puts the plan on the device, after what is in the stream. pages, when not nil, is the table that
// the segments' rows count in.
func (p *prefillPlan) set(s *stream, segs []prefillSegment, pages []int32) error {
	if s.capturing {
		return errors.New("cuda: attention is planned within a capture")
	}
	p.kernel = fastestPrefill(p.kernels, segs)
	w, err := dealPrefill(p.shape, p.kernel.tile, p.d.info.SMs*p.kernel.perSM, segs)
	if err != nil {
		return err
	}
	p.rows, p.blocks, p.paged = 0, uint32(len(w.first)-1), pages != nil
	p.count, p.splits = w.parts, len(w.splits)
	for _, g := range segs {
		p.rows += g.rows
	}
	tables := [][]byte{memoryOf(w.items), memoryOf(w.first), memoryOf(w.splits), memoryOf(pages)}
	need := int64(4 * w.parts * p.kernel.tile.rows * (p.shape.headDim + 1))
	for _, t := range tables {
		need += int64(len(t)+15) &^ 15
	}
	if need > p.buf.bytes {
		p.close()
		room := need + need/2
		buf, err := p.d.alloc(room)
		if err != nil {
			return fmt.Errorf("cuda: attention's plan: %w", err)
		}
		p.buf = block{buf, room}
	}
	to := p.buf.p
	for i, at := range []*devptr{&p.at.items, &p.at.first, &p.at.splits, &p.at.pages, &p.at.parts} {
		*at = to
		if i < len(tables) {
			s.upload(to, tables[i])
			to += devptr(len(tables[i])+15) &^ 15
		}
	}
	return s.err
}

// memoryOf is the memory of a slice of int32 or of structs of them.
func memoryOf[T any](v []T) []byte {
	if len(v) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), len(v)*int(unsafe.Sizeof(v[0])))
}

// prefillCall is one call's operands, bf16. Of k and v there are kvSegs segments (or pages) of kvRows rows each.
type prefillCall struct {
	q, k, v, out   prefillTensor
	kvRows, kvSegs int
	lse            devptr  // float32 [rows][heads], or 0
	scale          float64 // of scores; 0 means 1/sqrt(headDim)
}

// run puts the planned attention in the stream.
func (p *prefillPlan) run(s *stream, c prefillCall) {
	if s.err != nil || p.blocks == 0 {
		return
	}
	h := p.shape
	a := prefillArgs{
		q: c.q, k: c.k, v: c.v, out: c.out, lse: c.lse, parts: p.at.parts, items: p.at.items, first: p.at.first,
		heads: int32(h.heads), kvHeads: int32(h.kvHeads), headDim: int32(h.headDim), count: int32(p.count),
	}
	if p.paged {
		a.pages = p.at.pages
	}
	if c.scale == 0 {
		c.scale = 1 / math.Sqrt(float64(h.headDim))
	}
	a.scaleLog2 = float32(c.scale * math.Log2E)
	if p.kernel.tma && !s.fail(p.maps(&a, c)) {
		return
	}
	overlap := launchFlags(0)
	if p.kernel.tma { // the others do not wait for what is ahead of them
		overlap = launchPDL
	}
	start(s, p.kernel.name, [3]uint32{p.blocks, 1, 1}, [3]uint32{p.kernel.threads, 1, 1}, p.kernel.shared, &a, overlap)
	if p.splits > 0 {
		m := prefillMergeArgs{
			out: c.out, lse: c.lse, parts: p.at.parts, splits: p.at.splits, heads: int32(h.heads), headDim: int32(h.headDim),
			count: int32(p.count), tileRows: int32(p.kernel.tile.rows),
		}
		start(s, "prefill_merge", [3]uint32{uint32(p.splits), blocks(p.kernel.tile.rows, 8), 1}, [3]uint32{256, 1, 1}, 0, &m, 0)
	}
}

// maps makes the tensor maps of a call.
func (p *prefillPlan) maps(a *prefillArgs, c prefillCall) (err error) {
	keyBox := p.kernel.tile.keys
	if p.paged {
		keyBox = p.kernel.pageBox
	}
	if a.qMap, err = p.tensorMap(c.q, p.rows, p.shape.heads, 1, 64); err != nil {
		return err
	}
	if a.kMap, err = p.tensorMap(c.k, c.kvRows, p.shape.kvHeads, c.kvSegs, keyBox); err != nil {
		return err
	}
	a.vMap, err = p.tensorMap(c.v, c.kvRows, p.shape.kvHeads, c.kvSegs, keyBox)
	return err
}

// tensorMap shows TMA the columns of a head, which read as zero beyond its size, rows, heads and segments; a copy moves a chunk of
// columns of boxRows rows.
func (p *prefillPlan) tensorMap(t prefillTensor, rows, heads, segs, boxRows int) (tensorMap, error) {
	seg := t.seg
	if segs == 1 {
		seg = t.row // any will do, but none is no stride
	}
	swizzle := map[int]int{64: swizzle128, 32: swizzle64, 16: swizzle32}[p.kernel.chunk]
	return p.d.tensorMap(mapBF16, t.p, []uint64{uint64(p.shape.headDim), uint64(rows), uint64(heads), uint64(segs)},
		[]uint64{uint64(2 * t.row), uint64(2 * t.head), uint64(2 * seg)}, []uint32{uint32(p.kernel.chunk), uint32(boxRows), 1, 1}, swizzle)
}
