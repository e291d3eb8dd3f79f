package cuda

import (
	"cmp"
	"fmt"
	"slices"

	"afterimage/internal/compute"
)

// This file plans the work of attention of many query rows on the host and needs no GPU.

// prefillShape is what one call of attention looks like but for its rows.
type prefillShape struct {
	heads, kvHeads, headDim int
	causal                  bool // query row i of a segment sees its keys 0..past+i, else it sees all
}

// prefillSegment is consecutive query rows that see the same keys. The rows of the next segment follow.
type prefillSegment struct {
	rows int
	past int // keys before those of the rows, when causal
	keys int // all that there are, at most past+rows of them when causal
	row  int // where key row 0 is: a row of segment seg of k and v, or with pages an entry of the page table
	seg  int
}

// prefillItem and prefillSplit mirror prefill.h.
type prefillItem struct {
	qRow, rows   int32
	head, kvHead int32
	kvRow, kvSeg int32
	from, keys   int32
	diagonal     int32
	part         int32
}

type prefillSplit struct {
	qRow, rows, head int32
	part, parts      int32
}

// prefillWork is what thread blocks do: items[first[b]:first[b+1]] is for block b. The keys of some rows may be split over several
// items, each of which leaves a part to be merged.
type prefillWork struct {
	items  []prefillItem
	first  []int32
	splits []prefillSplit
	parts  int
}

// prefillTile is the query rows and keys that a kernel takes at a time.
type prefillTile struct{ rows, keys int }

const (
	prefillStart  = 1        // what starting and ending an item costs, in tiles of keys
	prefillMerge  = 6        // and what merging costs
	prefillPiece  = 2        // the fewest tiles that an item is cut to
	prefillCached = 16 << 20 // bytes of K/V that are worked on at a time, so that they stay in the L2 cache
	prefillFull   = 1 << 30  // diagonal of rows that see all keys
)

func (c prefillShape) check() error {
	if c.heads < 1 || c.kvHeads < 1 || c.heads%c.kvHeads != 0 || c.headDim < 1 {
		return fmt.Errorf("cuda: attention: %d heads of %d on %d K/V heads", c.heads, c.headDim, c.kvHeads)
	}
	return nil
}

// tiles is how many tiles of keys an item takes.
func (t prefillTile) tiles(it prefillItem) int { return (int(it.keys-it.from) + t.keys - 1) / t.keys }

// cost is an item's time in those of tiles.
func (t prefillTile) cost(it prefillItem) int { return t.tiles(it) + prefillStart }

// dealPrefill cuts segments into items and deals them to thread blocks, as many as given or fewer when there is less work.
func dealPrefill(c prefillShape, tile prefillTile, blocks int, segs []prefillSegment) (w prefillWork, err error) {
	all, err := prefillItems(c, tile, segs)
	if err != nil {
		return w, err
	}
	d := newDealing(tile, min(blocks, len(all)))
	d.whole(all)
	sum := 0
	for _, l := range d.load {
		sum += l
	}
	// Where whole items leave blocks idle at the end, the last ones are cut. That costs the parts' way through memory and a launch more.
	if tiles := sum/blocks + prefillStart; len(all) > 0 && slices.Max(d.load) > tiles+tiles/32+prefillMerge {
		d = newDealing(tile, blocks)
		last := max(0, (len(all)/blocks-1)*blocks)
		d.whole(all[:last])
		w.splits = d.cut(all[last:])
	}
	w.parts, w.first = d.parts, []int32{0}
	for _, m := range d.mine {
		w.items = append(w.items, m...)
		w.first = append(w.first, int32(len(w.items)))
	}
	return w, nil
}

// prefillItems is an item for every block of rows of every head. Among those whose keys and values share the cache the longest come
// first.
func prefillItems(c prefillShape, tile prefillTile, segs []prefillSegment) (all []prefillItem, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	bytes := 0 // of keys and values
	for i, g := range segs {
		if g.rows < 0 || g.keys < 1 || g.past < 0 {
			return nil, fmt.Errorf("cuda: attention: segment %d of %d rows after %d, %d keys", i, g.rows, g.past, g.keys)
		}
		bytes += 4 * g.keys * c.headDim * c.kvHeads
	}
	turns := (bytes + prefillCached - 1) / prefillCached
	begun, start, qRow := 0, 0, 0
	share := c.heads / c.kvHeads
	longestFirst := func() {
		slices.SortStableFunc(all[start:], func(a, b prefillItem) int { return cmp.Compare(b.keys, a.keys) })
		start = len(all)
	}
	for _, g := range segs {
		for kvHead := range c.kvHeads {
			for r := max(g.rows-1, 0) / tile.rows * tile.rows; r >= 0 && r < g.rows; r -= tile.rows {
				n := min(tile.rows, g.rows-r)
				it := prefillItem{
					qRow: int32(qRow + r), rows: int32(n), kvHead: int32(kvHead), kvRow: int32(g.row), kvSeg: int32(g.seg),
					keys: int32(g.keys), diagonal: prefillFull, part: -1,
				}
				if c.causal {
					it.keys, it.diagonal = int32(min(g.keys, g.past+r+n)), int32(g.past+r)
				}
				for h := range share {
					it.head = int32(kvHead*share + h)
					all = append(all, it)
				}
			}
			before := begun * turns / bytes // turns are of equal size, so that the last one is not a few long items
			begun += 4 * g.keys * c.headDim
			if begun*turns/bytes > before {
				longestFirst()
			}
		}
		qRow += g.rows
	}
	longestFirst()
	return all, nil
}

// dealing gives items to blocks.
type dealing struct {
	tile  prefillTile
	mine  [][]prefillItem
	load  []int
	parts int
}

func newDealing(tile prefillTile, blocks int) *dealing {
	return &dealing{tile: tile, mine: make([][]prefillItem, blocks), load: make([]int, blocks)}
}

// whole gives each item to the block that will be free first.
func (d *dealing) whole(items []prefillItem) {
	for _, it := range items {
		b := 0
		for i, l := range d.load {
			if l < d.load[b] {
				b = i
			}
		}
		d.mine[b] = append(d.mine[b], it)
		d.load[b] += d.tile.cost(it)
	}
}

// cut fills block after block to the same load, cutting items where a block is full.
func (d *dealing) cut(items []prefillItem) (splits []prefillSplit) {
	sum := len(d.load) * prefillStart // of the pieces
	for _, l := range d.load {
		sum += l
	}
	for _, it := range items {
		sum += d.tile.cost(it)
	}
	full := (sum + len(d.load) - 1) / len(d.load)
	b := 0
	for _, it := range items {
		split := prefillSplit{qRow: it.qRow, rows: it.rows, head: it.head, part: int32(d.parts)}
		end := it.keys
		type place struct{ block, at int }
		var pieces []place
		for left := d.tile.tiles(it); left > 0; {
			n := min(left, full-d.load[b]-prefillStart)
			if n > 0 && left-n < prefillPiece || b == len(d.load)-1 {
				n = left // no crumbs, and the last block takes what is left
			}
			if n < min(left, prefillPiece) {
				b++
				continue
			}
			it.keys = min(end, it.from+int32(n*d.tile.keys))
			pieces = append(pieces, place{b, len(d.mine[b])})
			d.mine[b] = append(d.mine[b], it)
			d.load[b] += n + prefillStart
			it.from = it.keys
			left -= n
		}
		if len(pieces) > 1 {
			for _, p := range pieces {
				d.mine[p.block][p.at].part = int32(d.parts)
				d.parts++
			}
			split.parts = int32(len(pieces))
			splits = append(splits, split)
		}
	}
	return splits
}

// pagedPrefill makes segments of a decoder's pass, and one table of their pages.
func pagedPrefill(pass []compute.Segment) (segs []prefillSegment, pages []int32) {
	for i := range pass {
		g := &pass[i]
		n := g.Rows()
		keys := g.Past + n
		segs = append(segs, prefillSegment{rows: n, past: g.Past, keys: keys, row: len(pages)})
		pages = append(pages, g.Pages[:(keys+compute.PageRows-1)/compute.PageRows]...)
	}
	return segs, pages
}
