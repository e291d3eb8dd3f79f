package encoder

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
)

func TestWindows(t *testing.T) {
	const side, window = 2, 6 // patches
	c := &Config{Vision: Vision{Dynamic: true, Window: window}, Shuffle: 1, Join: &Join{Merge: side}}
	for _, g := range []Size{{6, 6}, {12, 18}, {8, 6}, {6, 10}, {8, 12}, {14, 16}, {2, 2}, {4, 20}, {20, 2}} {
		t.Run(fmt.Sprint(g), func(t *testing.T) {
			places := c.places(g)
			_, spans := c.windows(g)
			seen := map[point]bool{}
			end := 0
			for _, s := range spans {
				require.Equal(t, end, s.from)
				require.Zero(t, (s.to-s.from)%s.segment)
				for at := s.from; at < s.to; at += s.segment {
					first := point{places[at].y / window, places[at].x / window}
					for i, p := range places[at : at+s.segment] {
						assert.Equal(t, first, point{p.y / window, p.x / window}, "a segment is in one window")
						square := places[at+i/(side*side)*side*side]
						assert.Equal(t, point{square.y + i%4/2, square.x + i%2}, p, "what merges lies together")
						seen[p] = true
					}
					high, wide := min(window, g.H-first.y*window), min(window, g.W-first.x*window)
					assert.Equal(t, high*wide, s.segment, "all of a window is in its segment")
				}
				end = s.to
			}
			assert.Equal(t, g.H*g.W, end)
			assert.Len(t, seen, g.H*g.W)
		})
	}
}

// Rows that went into the order of windows say where they came from, and come back.
func TestMoveWindows(t *testing.T) {
	c := &Config{Vision: Vision{Dynamic: true, Window: 6}, Shuffle: 1, Join: &Join{Merge: 2}}
	g, n := Size{8, 14}, 3
	np := g.H * g.W
	dev := computetest.Open()
	defer dev.Close()
	arena, err := dev.NewArena(1 << 20)
	require.NoError(t, err)
	defer arena.Close()
	plain, cut, back := compute.NewMatrix(n*np, 3), compute.NewMatrix(n*np, 3), compute.NewMatrix(n*np, 3)
	for r := range plain.Rows {
		y, x := c.place(g, r%np)
		copy(plain.Row(r), []float32{float32(r / np), float32(y), float32(x)})
	}
	blocks, _ := c.windows(g)
	var a, b compute.Tensor
	for _, dst := range []*compute.Tensor{&a, &b} {
		*dst, err = arena.Alloc(n*np, 3)
		require.NoError(t, err)
	}
	require.NoError(t, dev.Run(t.Context(), func(ops compute.Ops) {
		ops.Upload(a, plain)
		c.moveWindows(ops, b, a, n, g, blocks, false)
		ops.Download(cut, b)
		c.moveWindows(ops, a, b, n, g, blocks, true)
		ops.Download(back, a)
	}))
	assert.Equal(t, plain.Data, back.Data)
	for r, p := range c.places(g) {
		for f := range n {
			assert.Equal(t, []float32{float32(f), float32(p.y), float32(p.x)}, cut.Row(f*np+r))
		}
	}
}

func TestHalving(t *testing.T) {
	for _, g := range []Size{{27, 27}, {4, 4}, {7, 5}, {2, 1}, {1, 1}} {
		d := g.H + g.W + 3
		q, k := halving(g, d, 2)
		to := Size{(g.H + 1) / 2, (g.W + 1) / 2}
		require.Equal(t, [2]int{to.H * to.W, g.H * g.W}, [2]int{q.Rows, k.Rows})
		// The weight of one place for another, along one side: as bilinear interpolation has it.
		axis := func(n, to, i, j int) float64 {
			at := max(0, (float64(i)+.5)*float64(n)/float64(to)-.5)
			return max(0, 1-math.Abs(at-float64(j)))
		}
		for r := range q.Rows {
			for j := range k.Rows {
				for head := range 2 {
					score := 0.0
					for i := range d {
						score += float64(q.Row(r)[head*d+i]) * float64(k.Row(j)[head*d+i])
					}
					want := axis(g.H, to.H, r/to.W, j/g.W) * axis(g.W, to.W, r%to.W, j%g.W)
					require.InDelta(t, want, math.Exp(score), 2e-6, "%v: %d from %d", g, r, j)
				}
			}
		}
	}
	assert.Equal(t, 56, headFor(896, 54))
	assert.Equal(t, 56, headFor(3584, 54))
	assert.Zero(t, headFor(32, 54))
	assert.Zero(t, headFor(521, 54), "devices have no head of 521")
}
