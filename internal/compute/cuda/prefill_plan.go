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

// prefillItem mirrors prefill.h.
type prefillItem struct {
	qRow, rows   int32
	head, kvHead int32
	kvRow, kvSeg int32
	keys         int32
	diagonal     int32
}

// prefillTile is the query rows and keys that a kernel takes at a time.
type prefillTile struct{ rows, keys int }

const (
	prefillStart  = 1        // what starting and ending an item costs, in tiles of keys
	prefillCached = 16 << 20 // bytes of K/V that are worked on at a time, so that they stay in the L2 cache
	prefillFull   = 1 << 30  // diagonal of rows that see all keys
)

func (c prefillShape) check() error {
	if c.heads < 1 || c.kvHeads < 1 || c.heads%c.kvHeads != 0 || c.headDim < 1 {
		return fmt.Errorf("cuda: attention: %d heads of %d on %d K/V heads", c.heads, c.headDim, c.kvHeads)
	}
	return nil
}

// dealPrefill cuts segments into items and deals them to thread blocks: those of block b are items[first[b]:first[b+1]].
// There are as many blocks as given, or fewer when there is less work. Each item goes to the block that will be free first, and
// among items whose keys and values share the cache the longest go first.
func dealPrefill(c prefillShape, tile prefillTile, blocks int, segs []prefillSegment) (items []prefillItem, first []int32, err error) {
	if err := c.check(); err != nil {
		return nil, nil, err
	}
	cost := func(it prefillItem) int { return (int(it.keys)+tile.keys-1)/tile.keys + prefillStart }
	var all []prefillItem
	held, start, qRow := 0, 0, 0
	longestFirst := func() {
		slices.SortStableFunc(all[start:], func(a, b prefillItem) int { return cmp.Compare(b.keys, a.keys) })
		held, start = 0, len(all)
	}
	for i, g := range segs {
		if g.rows < 0 || g.keys < 1 || g.past < 0 {
			return nil, nil, fmt.Errorf("cuda: attention: segment %d of %d rows after %d, %d keys", i, g.rows, g.past, g.keys)
		}
		share := c.heads / c.kvHeads
		for kvHead := range c.kvHeads {
			bytes := 4 * g.keys * c.headDim
			if held > 0 && held+bytes > prefillCached {
				longestFirst()
			}
			held += bytes
			for r := max(g.rows-1, 0) / tile.rows * tile.rows; r >= 0 && r < g.rows; r -= tile.rows {
				n := min(tile.rows, g.rows-r)
				it := prefillItem{
					qRow: int32(qRow + r), rows: int32(n), kvHead: int32(kvHead), kvRow: int32(g.row), kvSeg: int32(g.seg),
					keys: int32(g.keys), diagonal: prefillFull,
				}
				if c.causal {
					it.keys, it.diagonal = int32(min(g.keys, g.past+r+n)), int32(g.past+r)
				}
				for h := range share {
					it.head = int32(kvHead*share + h)
					all = append(all, it)
				}
			}
		}
		qRow += g.rows
	}
	longestFirst()

	blocks = min(blocks, len(all))
	mine := make([][]prefillItem, blocks)
	load := make([]int, blocks)
	for _, it := range all {
		b := 0
		for i, l := range load {
			if l < load[b] {
				b = i
			}
		}
		mine[b] = append(mine[b], it)
		load[b] += cost(it)
	}
	first = make([]int32, 1, blocks+1)
	for _, m := range mine {
		items = append(items, m...)
		first = append(first, int32(len(items)))
	}
	return items, first, nil
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
