package cuda

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// Cut in any way, segments give the same rows at the same places, and every draw goes to its own row.
func TestTakeRows(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	type row struct {
		segment, at int
		value       float32 // a token, or an embedding's first number
		draw        float64 // 0: none
	}
	for range 300 {
		var pass []compute.Segment
		var want []row
		drawn := make([][]int32, 0, 4)
		for range 1 + rng.IntN(4) {
			g := compute.Segment{Past: rng.IntN(100), Pages: []int32{int32(len(pass))}}
			for range 1 + rng.IntN(3) {
				n := 1 + rng.IntN(30)
				in := compute.Input{}
				if rng.IntN(2) == 0 {
					in.Visual = compute.NewMatrix(n, 2)
					for i := range n {
						in.Visual.Row(i)[0] = rng.Float32()
					}
				} else {
					for range n {
						in.IDs = append(in.IDs, int32(rng.IntN(1000)))
					}
				}
				g.Inputs = append(g.Inputs, in)
			}
			n := g.Rows()
			if n <= 32 && rng.IntN(3) == 0 {
				g.Parents = make([]int32, n)
			}
			g.Draws = make([]compute.Draw, rng.IntN(n+1))
			for i := range g.Draws {
				g.Draws[i].U = rng.Float64() + 1e-9
			}
			g.Drawn = make([]int32, len(g.Draws))
			logits := compute.NewMatrix(len(g.Draws), 1)
			g.Logits = &logits
			drawn = append(drawn, g.Drawn)
			i := 0
			for _, in := range g.Inputs {
				for r := range in.Rows() {
					x := row{segment: len(pass), at: g.Past + i}
					if in.IDs != nil {
						x.value = float32(in.IDs[r])
					} else {
						x.value = in.Visual.Row(r)[0]
					}
					if d := i - (n - len(g.Draws)); d >= 0 {
						x.draw = g.Draws[d].U
					}
					want = append(want, x)
					i++
				}
			}
			pass = append(pass, g)
		}
		var have []row
		rest := pass
		for len(rest) > 0 {
			var part []compute.Segment
			part, rest = takeRows(rest, 32)
			require.NotEmpty(t, part)
			total := 0
			for _, g := range part {
				n := g.Rows()
				require.Positive(t, n)
				total += n
				if g.Parents != nil {
					require.Len(t, g.Parents, n)
				}
				require.Len(t, g.Drawn, len(g.Draws))
				i := 0
				for _, in := range g.Inputs {
					for r := range in.Rows() {
						x := row{segment: int(g.Pages[0]), at: g.Past + i}
						if in.IDs != nil {
							x.value = float32(in.IDs[r])
						} else {
							x.value = in.Visual.Row(r)[0]
						}
						if d := i - (n - len(g.Draws)); d >= 0 {
							x.draw = g.Draws[d].U
							g.Drawn[d]++
							g.Logits.Row(d)[0]++
						}
						have = append(have, x)
						i++
					}
				}
			}
			require.LessOrEqual(t, total, 32)
		}
		require.Equal(t, want, have)
		for i, g := range pass {
			for d := range g.Draws {
				assert.Equal(t, int32(1), drawn[i][d])
				assert.Equal(t, float32(1), g.Logits.Row(d)[0])
			}
		}
	}
}
