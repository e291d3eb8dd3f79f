package cuda

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDecodeChunks(t *testing.T) {
	assert.Zero(t, keyChunks(0))
	for chunk := range 400 {
		from, to := chunkKey(chunk), chunkKey(chunk+1)
		require.Greater(t, to, from)
		require.Zero(t, from%128, "tiles of keys must not straddle chunks")
		require.Equal(t, chunk, keyChunks(from))
		require.Equal(t, chunk+1, keyChunks(from+1))
		require.Equal(t, chunk+1, keyChunks(to))
	}
}

// decodePages deals out pages of which the first shared are the same for all.
func decodePages(rng *rand.Rand, shared int, keys ...int) [][]int32 {
	n := int32(0)
	common := make([]int32, shared)
	for i := range common {
		common[i], n = n, n+1
	}
	var out [][]int32
	for _, k := range keys {
		pages := append([]int32(nil), common...)
		for len(pages) < (k+pageRows-1)/pageRows {
			pages, n = append(pages, n), n+1
		}
		out = append(out, pages[:(k+pageRows-1)/pageRows])
	}
	perm := rng.Perm(int(n))
	for i, pages := range out {
		out[i] = make([]int32, len(pages))
		for j, p := range pages {
			out[i][j] = int32(perm[p])
		}
	}
	return out
}

// Every key that a row sees, and no other, is in one unit of the row and head, at the page that the row's own table names.
func TestDecodePlan(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name           string
		heads, kvHeads int
		segs           [][2]int // past, rows
		shared         int      // pages
		most           int      // units times keys over those of a plan without sharing, in percent
	}{
		{"one row", 28, 4, [][2]int{{11519, 1}}, 0, 100},
		{"nothing before", 14, 2, [][2]int{{0, 1}, {0, 7}}, 0, 100},
		{"many rows of many heads", 32, 1, [][2]int{{700, 32}}, 0, 800},
		{"long", 4, 4, [][2]int{{100001, 3}, {63, 2}, {64, 1}}, 0, 100},
		{"one memory", 28, 4, [][2]int{{11560, 1}, {11600, 1}, {11521, 1}, {11700, 1}, {11530, 1}, {11530, 1}, {11530, 1}, {11530, 1}}, 180, 15},
		{"part of a memory", 12, 12, [][2]int{{1000, 2}, {300, 1}, {5000, 9}}, 10, 95},
		{"pages shared that are still written", 2, 1, [][2]int{{100, 3}, {100, 3}}, 2, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			var keys []int
			rows, sum := 0, 0
			for _, g := range c.segs {
				keys, rows, sum = append(keys, g[0]+g[1]), rows+g[1], sum+(g[0]+g[1])*c.kvHeads
			}
			var segs []decodeSegment
			var segOf []int
			for i, pages := range decodePages(rng, c.shared, keys...) {
				g := decodeSegment{past: c.segs[i][0], rows: c.segs[i][1], pages: pages}
				segs = append(segs, g)
				for range g.rows {
					segOf = append(segOf, i)
				}
			}
			const blocks = 132
			p, err := newDecodePlanner(c.heads, c.kvHeads, 128, [2]int{blocks, blocks})
			require.NoError(t, err)
			require.NoError(t, p.plan(segs, false))
			require.NoError(t, p.plan(segs, false), "a second plan in the same memory")
			require.Len(t, p.rows, rows)
			assert.LessOrEqual(t, len(p.groups), decodeGroups)
			assert.LessOrEqual(t, p.widest(), 128)

			loads := append([]uint64(nil), p.loads...)
			assert.LessOrEqual(t, slices.Max(loads)>>16, slices.Min(loads)>>16+1056, "equal work")

			seen := make([]map[int]int, rows*c.kvHeads)
			for i := range seen {
				seen[i] = map[int]int{}
			}
			read, units, most := 0, 0, 0
			for b := range blocks {
				for j := 0; ; j++ {
					at := p.bytes[decodeHeader+16*(j*blocks+b):]
					word := func(i int) int { return int(binary.LittleEndian.Uint32(at[4*i:])) }
					key, n, page := word(1), word(2), word(3)
					if n == 0 {
						most = max(most, j)
						break
					}
					units, read = units+1, read+n
					head, group, chunk := int(at[0]), p.groups[at[1]&127], int(at[2])|int(at[3])<<8
					require.Equal(t, chunkKey(chunk), key)
					for _, r := range group.row[:group.rows] {
						row, g := p.rows[r], segs[segOf[r]]
						if chunk >= int(row.chunks) {
							require.GreaterOrEqual(t, key, g.past, "left out though it sees past keys")
							continue
						}
						seen[int(r)*c.kvHeads+head][chunk]++
						require.Equal(t, at[1] < 128, key+n <= g.past, "marked wrongly")
						for i := 0; i < n; i += pageRows {
							require.Equal(t, g.pages[(key+i)/pageRows], p.pages[page+i/pageRows])
						}
					}
				}
			}
			assert.LessOrEqual(t, most, maxDecodeUnits(decodeRows, 1<<17, c.kvHeads, blocks))
			assert.LessOrEqual(t, p.slots, maxDecodeSlots(decodeRows, 1<<17))
			assert.LessOrEqual(t, read*100, c.most*sum)
			at := 0
			for r := range p.rows {
				assert.Equal(t, at, int(p.rows[r].slot))
				at += int(p.rows[r].chunks)
				for h := range c.kvHeads {
					require.Len(t, seen[r*c.kvHeads+h], int(p.rows[r].chunks))
					for _, n := range seen[r*c.kvHeads+h] {
						require.Equal(t, 1, n)
					}
				}
			}
			assert.Equal(t, at, p.slots)
		})
	}
}

func TestDecodePlanTree(t *testing.T) {
	p, err := newDecodePlanner(2, 1, 64, [2]int{4, 4})
	require.NoError(t, err)
	require.NoError(t, p.plan([]decodeSegment{{past: 5, rows: 6, parents: []int32{-1, 0, 0, 1, -1, 4}, pages: []int32{3}}}, false))
	var masks []uint32
	for _, r := range p.rows {
		masks = append(masks, r.mask)
	}
	assert.Equal(t, []uint32{1, 0b11, 0b101, 0b1011, 0b10000, 0b110000}, masks)
}

func TestDecodePlanRefuses(t *testing.T) {
	for _, c := range [][3]int{{3, 2, 4}, {0, 1, 4}, {65, 1, 4}, {1, 1, 0}} {
		_, err := newDecodePlanner(c[0], c[1], 64, [2]int{4, c[2]})
		assert.Error(t, err, "%v", c)
	}
	p, err := newDecodePlanner(2, 1, 64, [2]int{4, 4})
	require.NoError(t, err)
	for _, g := range []decodeSegment{
		{past: 1, rows: 0, pages: []int32{0}},
		{past: -1, rows: 1, pages: []int32{0}},
		{past: 1, rows: 33, pages: []int32{0}},
		{past: 63, rows: 2, pages: []int32{0}},
		{past: 1, rows: 2, parents: []int32{-1}, pages: []int32{0}},
		{past: 1, rows: 2, parents: []int32{-1, 1}, pages: []int32{0}},
		{past: 1, rows: 2, parents: []int32{-2, 0}, pages: []int32{0}},
	} {
		assert.Error(t, p.plan([]decodeSegment{g}, false), "%+v", g)
	}
}
