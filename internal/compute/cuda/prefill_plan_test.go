package cuda

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// Every query row of every head is in one item, which names the keys that it sees.
func TestDealPrefill(t *testing.T) {
	for _, c := range []struct {
		shape prefillShape
		tile  prefillTile
		segs  []prefillSegment
	}{
		{prefillShape{4, 4, 64, false}, prefillTile{128, 128}, []prefillSegment{{rows: 577, keys: 577}, {rows: 577, keys: 577, seg: 1}}},
		{prefillShape{14, 2, 64, true}, prefillTile{192, 128}, []prefillSegment{{rows: 1, past: 700, keys: 701, row: 3}, {rows: 0, keys: 1}, {rows: 333, keys: 333}}},
		{prefillShape{28, 4, 128, true}, prefillTile{128, 176}, []prefillSegment{{rows: 4096, keys: 4096}}},
		{prefillShape{2, 1, 8, false}, prefillTile{128, 128}, []prefillSegment{{rows: 1, keys: 1}}},
	} {
		const blocks = 132
		items, first, err := dealPrefill(c.shape, c.tile, blocks, c.segs)
		require.NoError(t, err)
		require.LessOrEqual(t, len(first), blocks+1)
		assert.Equal(t, len(items), int(first[len(first)-1]))
		rows := 0
		for _, g := range c.segs {
			rows += g.rows
		}
		seen := make([]int, rows*c.shape.heads)
		for _, it := range items {
			g, row := 0, int(it.qRow)
			for ; row >= c.segs[g].rows; g++ {
				row -= c.segs[g].rows
			}
			s := c.segs[g]
			assert.Equal(t, int(it.head)/(c.shape.heads/c.shape.kvHeads), int(it.kvHead))
			assert.Equal(t, [2]int{s.row, s.seg}, [2]int{int(it.kvRow), int(it.kvSeg)})
			assert.LessOrEqual(t, int(it.rows), c.tile.rows)
			for r := range int(it.rows) {
				sees := min(int(it.keys), int(it.diagonal)+r+1)
				want := s.keys
				if c.shape.causal {
					want = min(s.keys, s.past+row+r+1)
				}
				assert.Equal(t, want, sees)
				seen[(int(it.qRow)+r)*c.shape.heads+int(it.head)]++
			}
		}
		for i, n := range seen {
			require.Equal(t, 1, n, "row %d, head %d", i/c.shape.heads, i%c.shape.heads)
		}
		most, sum := 0, 0
		for b := range len(first) - 1 {
			load := 0
			for _, it := range items[first[b]:first[b+1]] {
				load += (int(it.keys)+c.tile.keys-1)/c.tile.keys + prefillStart
			}
			most, sum = max(most, load), sum+load
		}
		longest := 0
		for _, it := range items {
			longest = max(longest, (int(it.keys)+c.tile.keys-1)/c.tile.keys+prefillStart)
		}
		assert.LessOrEqual(t, most, sum/(len(first)-1)+longest)
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
		_, _, err := dealPrefill(c.shape, prefillTile{128, 128}, 132, []prefillSegment{c.seg})
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
