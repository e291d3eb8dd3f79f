package cpu

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
)

// What Open does not offer by name: AMX with its instructions modelled in C, and AVX-512 as on machines without its bfloat16 and
// int8 products.
func TestUnnamedLevels(t *testing.T) {
	rounding := computetest.Float32()
	rounding.BF16, rounding.I8, rounding.I4, rounding.RoundedAttention = 4e-3, 5e-3, 5e-3, 4e-3
	t.Run("amx model", func(t *testing.T) {
		d, err := open(2, "amx model", amxModel)
		require.NoError(t, err)
		computetest.Run(t, d, rounding)
		require.NoError(t, d.Close())
	})
	t.Run("plain avx512", func(t *testing.T) {
		if !slices.Contains(Levels(), "avx512") {
			t.Skip("this machine has no avx512")
		}
		d, err := open(2, "plain avx512", plainAVX512)
		require.NoError(t, err)
		computetest.Run(t, d, computetest.Float32())
		require.NoError(t, d.Close())
	})
}

// The model and the machine do the same sums, so AMX's int8 products agree exactly and its bfloat16 ones to rounding.
func TestAMXMatchesItsModel(t *testing.T) {
	if !slices.Contains(Levels(), "amx") {
		t.Skip("this machine has no amx")
	}
	model, err := open(1, "amx model", amxModel)
	require.NoError(t, err)
	defer func() { require.NoError(t, model.Close()) }()
	machine, err := Open(1, "amx")
	require.NoError(t, err)
	defer func() { require.NoError(t, machine.Close()) }()
	for _, as := range []compute.DType{compute.BF16, compute.I8, compute.I4} {
		for _, rows := range []int{1, 5, 9, 16, 17, 32, 33, 100} {
			want, got := product(t, model, rows, 200, 75, as), product(t, machine, rows, 200, 75, as)
			require.InDeltaSlice(t, want.Data, got.Data, 1e-4, "%v, %d rows", as, rows)
		}
	}
}

// A row's product does not depend on the rows beside it, nor on the number of threads: what was drafted verifies.
func TestSkinnyRowsAreIndependent(t *testing.T) {
	for _, level := range Levels() {
		for _, as := range []compute.DType{compute.F32, compute.BF16, compute.I8, compute.I4} {
			t.Run(level+"/"+as.String(), func(t *testing.T) {
				one, err := Open(1, level)
				require.NoError(t, err)
				defer func() { require.NoError(t, one.Close()) }()
				three, err := Open(3, level)
				require.NoError(t, err)
				defer func() { require.NoError(t, three.Close()) }()
				alone := product(t, one, 1, 383, 130, as)
				for rows := 2; rows <= 8; rows++ {
					require.Equal(t, alone.Row(0), product(t, three, rows, 383, 130, as).Row(0), "%d rows", rows)
				}
			})
		}
	}
}

func TestDecodedAttentionRowsAreIndependent(t *testing.T) {
	for _, level := range Levels() {
		t.Run(level, func(t *testing.T) {
			d, err := Open(2, level)
			require.NoError(t, err)
			defer func() { require.NoError(t, d.Close()) }()
			for _, past := range []int{0, 61, 250, 1020} {
				alone := decode(t, d, past, 1)
				for n := 2; n <= 8; n++ {
					require.Equal(t, alone.Row(0), decode(t, d, past, n).Row(0), "%d rows after %d", n, past)
				}
			}
		})
	}
}

// fill writes values in (-1, 1) that depend on the position only, so that more rows share their beginning.
func fill(m compute.Matrix, seed uint32) compute.Matrix {
	for i := range m.Data {
		h := (uint32(i)*2654435761 + seed) * 2246822519
		m.Data[i] = float32(int32(h^h>>13)) / (1 << 31)
	}
	return m
}

func product(t *testing.T, d compute.Device, rows, in, outs int, as compute.DType) compute.Matrix {
	t.Helper()
	a, err := d.NewArena(compute.AllocBytes(rows, in) + compute.AllocBytes(rows, outs))
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Close()) }()
	x, err := a.Alloc(rows, in)
	require.NoError(t, err)
	y, err := a.Alloc(rows, outs)
	require.NoError(t, err)
	w, err := d.NewWeight(fill(compute.NewMatrix(outs, in), 7), as)
	require.NoError(t, err)
	got := compute.NewMatrix(rows, outs)
	require.NoError(t, d.Run(t.Context(), func(o compute.Ops) {
		o.Upload(x, fill(compute.NewMatrix(rows, in), 3))
		o.Linear(y, x, w, compute.LinearArgs{Act: compute.GELU})
		o.Download(got, y)
	}))
	return got
}

func decode(t *testing.T, d compute.Device, past, n int) compute.Matrix {
	t.Helper()
	const heads, kvHeads, dim = 6, 2, 64
	keys := past + n
	a, err := d.NewArena(2*compute.AllocBytes(n, heads*dim) + 2*compute.AllocBytes(keys, kvHeads*dim))
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Close()) }()
	var ts [4]compute.Tensor
	for i, shape := range [4][2]int{{n, heads * dim}, {n, heads * dim}, {keys, kvHeads * dim}, {keys, kvHeads * dim}} {
		ts[i], err = a.Alloc(shape[0], shape[1])
		require.NoError(t, err)
	}
	got := compute.NewMatrix(n, heads*dim)
	require.NoError(t, d.Run(t.Context(), func(o compute.Ops) {
		for i := 1; i < 4; i++ {
			o.Upload(ts[i], fill(compute.NewMatrix(ts[i].Rows, ts[i].Cols), uint32(i)))
		}
		o.Attention(ts[0], ts[1], ts[2], ts[3], compute.AttentionArgs{Heads: heads, KVHeads: kvHeads, HeadDim: dim, Causal: true, Past: past})
		o.Download(got, ts[0])
	}))
	return got
}

// What decoding with int8 and int4 weights adds to their own rounding: activations have 16 bits, so it is at most half a step of a row's
// largest for each weight. Compared with a sum in float64 of the weights as the device itself reads them.
func TestSplitActivationsError(t *testing.T) {
	const in, outs = 391, 70
	for _, l := range append(levels(), level{name: "amx model", use: amxModel}) {
		for _, as := range []compute.DType{compute.I8, compute.I4} {
			t.Run(l.name+"/"+as.String(), func(t *testing.T) {
				if l.use != amxModel && !slices.Contains(Levels(), l.name) {
					t.Skipf("this machine has no %s", l.name)
				}
				d, err := open(1, l.name, l.use)
				require.NoError(t, err)
				defer func() { require.NoError(t, d.Close()) }()
				held := heldWeights(t, d, in, outs, as)
				for _, rows := range []int{1, 5, 8} {
					x := fill(compute.NewMatrix(rows, in), 3)
					got := multiply(t, d, x, outs, as)
					for r := range rows {
						peak := 0.0
						for _, v := range x.Row(r) {
							peak = max(peak, math.Abs(float64(v)))
						}
						for n := range outs {
							sum, size := 0.0, 0.0
							for k, v := range x.Row(r) {
								w := float64(held.Row(n)[k])
								sum, size = sum+float64(v)*w, size+math.Abs(w)
							}
							require.InDelta(t, sum, got.Row(r)[n], 2e-5*peak*size, "%d rows: row %d, column %d", rows, r, n)
						}
					}
				}
			})
		}
	}
}

// heldWeights is fill(7) [outs, in] as the device holds it, read back row by row.
func heldWeights(t *testing.T, d compute.Device, in, outs int, as compute.DType) compute.Matrix {
	t.Helper()
	ids := make([]int32, outs)
	for i := range ids {
		ids[i] = int32(i)
	}
	a, err := d.NewArena(compute.AllocBytes(outs, in))
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Close()) }()
	x, err := a.Alloc(outs, in)
	require.NoError(t, err)
	w, err := d.NewWeight(fill(compute.NewMatrix(outs, in), 7), as)
	require.NoError(t, err)
	held := compute.NewMatrix(outs, in)
	require.NoError(t, d.Run(t.Context(), func(o compute.Ops) {
		o.Embed(x, w, ids)
		o.Download(held, x)
	}))
	return held
}

// multiply is x by the transpose of fill(7) [outs, in].
func multiply(t *testing.T, d compute.Device, m compute.Matrix, outs int, as compute.DType) compute.Matrix {
	t.Helper()
	a, err := d.NewArena(compute.AllocBytes(m.Rows, m.Cols) + compute.AllocBytes(m.Rows, outs))
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Close()) }()
	x, err := a.Alloc(m.Rows, m.Cols)
	require.NoError(t, err)
	y, err := a.Alloc(m.Rows, outs)
	require.NoError(t, err)
	w, err := d.NewWeight(fill(compute.NewMatrix(outs, m.Cols), 7), as)
	require.NoError(t, err)
	got := compute.NewMatrix(m.Rows, outs)
	require.NoError(t, d.Run(t.Context(), func(o compute.Ops) {
		o.Upload(x, m)
		o.Linear(y, x, w, compute.LinearArgs{})
		o.Download(got, y)
	}))
	return got
}
