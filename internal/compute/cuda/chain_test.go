//go:build cuda

package cuda

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// Ops issued one behind the other give the bits that each gives when all before it are done: kernels that start ahead of time wait for
// what they read. The table of single ops cannot show that, since an upload comes before each.
func TestOpsBehindEachOther(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	layers, again := 12, 3
	if testing.Short() {
		layers, again = 2, 1
	}
	rng := rand.New(rand.NewPCG(7, 8))
	random := func(rows, cols int, scale float32) compute.Matrix {
		m := compute.NewMatrix(rows, cols)
		for i := range m.Data {
			m.Data[i] = float32(rng.NormFloat64()) * scale
		}
		return m
	}
	for _, c := range []struct{ rows, hidden, mlp, heads int }{
		{5, 24, 40, 2}, {120, 64, 200, 2}, {257, 1024, 2048, 16}, {600, 1152, 1024, 16}, {33, 4104, 256, 27},
	} {
		t.Run(fmt.Sprintf("%dx%d", c.rows, c.hidden), func(t *testing.T) {
			a, err := d.NewArena(64 << 20)
			require.NoError(t, err)
			defer a.Close()
			tensor := func(rows, cols int, as compute.DType) compute.Tensor {
				x, err := a.AllocAs(rows, cols, as)
				require.NoError(t, err)
				return x
			}
			weight := func(out, in int) compute.Weight {
				w, err := d.NewWeight(random(out, in, 0.7/float32(in)), compute.BF16)
				require.NoError(t, err)
				return w
			}
			x, h, qkv, up := tensor(c.rows, c.hidden, compute.BF16), tensor(c.rows, c.hidden, compute.BF16), tensor(c.rows, 3*c.hidden, compute.BF16), tensor(c.rows, c.mlp, compute.BF16)
			scale, bias := tensor(1, c.hidden, compute.F32), tensor(1, c.hidden, compute.F32)
			in, ones, zeros := random(c.rows, c.hidden, 1), random(1, c.hidden, 1), random(1, c.hidden, 1)
			w1, w2, w3, w4 := weight(3*c.hidden, c.hidden), weight(c.hidden, c.hidden), weight(c.mlp, c.hidden), weight(c.hidden, c.mlp)
			begin := func(o compute.Ops) {
				o.Upload(x, in)
				o.Upload(scale, ones)
				o.Upload(bias, zeros)
			}
			hd := c.hidden
			layer := []func(o compute.Ops){
				func(o compute.Ops) { o.LayerNorm(h, x, scale, bias, 1e-6) },
				func(o compute.Ops) { o.Linear(qkv, h, w1, compute.LinearArgs{}) },
				func(o compute.Ops) {
					o.Attention(h, qkv.Columns(0, hd), qkv.Columns(hd, 2*hd), qkv.Columns(2*hd, 3*hd), compute.AttentionArgs{Heads: c.heads, KVHeads: c.heads, HeadDim: hd / c.heads})
				},
				func(o compute.Ops) { o.Linear(x, h, w2, compute.LinearArgs{Residual: x}) },
				func(o compute.Ops) { o.RMSNorm(h, x, scale, 1e-6) },
				func(o compute.Ops) { o.Linear(up, h, w3, compute.LinearArgs{Act: compute.GELU}) },
				func(o compute.Ops) { o.Linear(x, up, w4, compute.LinearArgs{Residual: x}) },
			}
			want, have := compute.NewMatrix(c.rows, c.hidden), compute.NewMatrix(c.rows, c.hidden)
			require.NoError(t, d.Run(t.Context(), begin))
			for range layers {
				for _, op := range layer {
					require.NoError(t, d.Run(t.Context(), op))
				}
			}
			require.NoError(t, d.Run(t.Context(), func(o compute.Ops) { o.Download(want, x) }))
			for range again {
				require.NoError(t, d.Run(t.Context(), func(o compute.Ops) {
					begin(o)
					for range layers {
						for _, op := range layer {
							op(o)
						}
					}
					o.Download(have, x)
				}))
				require.Equal(t, want.Data, have.Data)
			}
		})
	}
}
