package cuda

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// Every key that a query row sees is in one item of the row and head, and the items of each block take about as long.
func TestDealPrefill(t *testing.T) {
	for _, c := range []struct {
		shape prefillShape
		tile  prefillTile
		segs  []prefillSegment
		cut   bool
	}{
		{prefillShape{4, 4, 64, false}, prefillTile{128, 128}, []prefillSegment{{rows: 577, keys: 577}, {rows: 577, keys: 577, seg: 1}}, false},
		{prefillShape{14, 2, 64, true}, prefillTile{192, 128}, []prefillSegment{{rows: 1, past: 700, keys: 701, row: 3}, {rows: 0, keys: 1}, {rows: 333, keys: 333}}, false},
		{prefillShape{28, 4, 128, true}, prefillTile{128, 176}, []prefillSegment{{rows: 4096, keys: 4096}}, false},
		{prefillShape{2, 1, 8, false}, prefillTile{128, 128}, []prefillSegment{{rows: 1, keys: 1}}, false},
		{prefillShape{28, 4, 128, true}, prefillTile{128, 128}, []prefillSegment{{rows: 40, past: 11500, keys: 11540}}, true},
		{prefillShape{28, 4, 128, true}, prefillTile{128, 128}, []prefillSegment{{rows: 512, past: 11264, keys: 11776}}, true},
		{prefillShape{2, 2, 96, true}, prefillTile{192, 96}, []prefillSegment{{rows: 700, past: 3000, keys: 3700}, {rows: 3, past: 90000, keys: 90003}}, true},
	} {
		const blocks = 132
		w, err := dealPrefill(c.shape, c.tile, blocks, c.segs)
		require.NoError(t, err)
		require.LessOrEqual(t, len(w.first), blocks+1)
		assert.Equal(t, len(w.items), int(w.first[len(w.first)-1]))
		assert.Equal(t, c.cut, len(w.splits) > 0)
		rows := 0
		for _, g := range c.segs {
			rows += g.rows
		}
		seen := make([]int, rows*c.shape.heads)
		parts := make([]int, w.parts)
		for _, it := range w.items {
			g, row := 0, int(it.qRow)
			for ; row >= c.segs[g].rows; g++ {
				row -= c.segs[g].rows
			}
			s := c.segs[g]
			assert.Equal(t, int(it.head)/(c.shape.heads/c.shape.kvHeads), int(it.kvHead))
			assert.Equal(t, [2]int{s.row, s.seg}, [2]int{int(it.kvRow), int(it.kvSeg)})
			assert.LessOrEqual(t, int(it.rows), c.tile.rows)
			assert.Zero(t, int(it.from)%c.tile.keys)
			assert.Less(t, it.from, it.keys)
			for r := range int(it.rows) {
				seen[(int(it.qRow)+r)*c.shape.heads+int(it.head)] += max(min(int(it.keys), int(it.diagonal)+r+1)-int(it.from), 0)
			}
			if it.part >= 0 {
				parts[it.part]++
			}
		}
		first := 0
		for _, g := range c.segs {
			for r := range g.rows {
				want := g.keys
				if c.shape.causal {
					want = min(g.keys, g.past+r+1)
				}
				for h := range c.shape.heads {
					require.Equal(t, want, seen[(first+r)*c.shape.heads+h], "row %d, head %d", first+r, h)
				}
			}
			first += g.rows
		}
		merged := 0
		for _, x := range w.splits {
			merged += int(x.parts)
			for i := x.part; i < x.part+x.parts; i++ {
				at := slices.IndexFunc(w.items, func(it prefillItem) bool { return it.part == i })
				assert.Equal(t, [3]int32{x.qRow, x.rows, x.head}, [3]int32{w.items[at].qRow, w.items[at].rows, w.items[at].head})
			}
		}
		assert.Equal(t, len(parts), merged)
		for _, n := range parts {
			assert.Equal(t, 1, n)
		}
		most, sum, longest := 0, 0, 0
		for b := range len(w.first) - 1 {
			load := 0
			for _, it := range w.items[w.first[b]:w.first[b+1]] {
				load += c.tile.cost(it)
				longest = max(longest, c.tile.cost(it))
			}
			most, sum = max(most, load), sum+load
		}
		if c.cut {
			longest = 4 + prefillPiece
		}
		assert.LessOrEqual(t, most, sum/blocks+longest)
	}
}

func TestDealPrefillRefuses(t *testing.T) {
	good := prefillShape{4, 2, 64, true}
	for i, c := range []struct {
		shape prefillShape
		seg   prefillSegment
	}{
		{prefillShape{3, 2, 64, true}, prefillSegment{rows: 1, keys: 1}},
		{prefillShape{}, prefillSegment{rows: 1, keys: 1}},
		{good, prefillSegment{rows: 1}},
		{good, prefillSegment{rows: -1, keys: 1}},
		{good, prefillSegment{rows: 1, past: -1, keys: 1}},
	} {
		_, err := dealPrefill(c.shape, prefillTile{128, 128}, 132, []prefillSegment{c.seg})
		assert.Error(t, err, fmt.Sprint(i))
	}
}

func TestPagedPrefill(t *testing.T) {
	row := func(n int) []compute.Input { return []compute.Input{{IDs: make([]int32, n)}} }
	segs, pages := pagedPrefill([]compute.Segment{
		{Inputs: row(10), Past: 60, Pages: []int32{7, 3, 9}},
		{Inputs: row(64), Pages: []int32{1}},
		{Inputs: row(1), Past: 64, Pages: []int32{4, 5}},
	})
	assert.Equal(t, []int32{7, 3, 1, 4, 5}, pages)
	assert.Equal(t, []prefillSegment{{rows: 10, past: 60, keys: 70}, {rows: 64, keys: 64, row: 2}, {rows: 1, past: 64, keys: 65, row: 3}}, segs)
}
