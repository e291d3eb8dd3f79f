package memorybank

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every code decodes to a value that encodes to it again, and every number goes to the nearest value, ties to even.
func TestE4M3(t *testing.T) {
	require.EqualValues(t, 448, fromE4M3[0x7e])
	require.EqualValues(t, 1, fromE4M3[0x38])
	require.EqualValues(t, math.Ldexp(1, -9), fromE4M3[1])
	for c := range 256 {
		if c&0x7f == 0x7f || c == 0x80 {
			continue
		}
		require.EqualValues(t, c, toE4M3(float64(fromE4M3[c])), "code %x", c)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		x := (2*r.Float64() - 1) * math.Ldexp(448, -r.IntN(20))
		got := toE4M3(x)
		for c := range 256 {
			if c&0x7f != 0x7f {
				require.LessOrEqual(t, math.Abs(float64(fromE4M3[got])-x), math.Abs(float64(fromE4M3[c])-x), "%v: %x or %x", x, got, c)
			}
		}
	}
	require.EqualValues(t, 0x38, toE4M3(1+1.0/16), "a tie goes to the even mantissa")
	require.EqualValues(t, 0x3a, toE4M3(1+3.0/16))
}

func TestIndicator(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	unit := func(n int) []float32 {
		v, sum := make([]float32, n), 0.0
		for i := range v {
			v[i] = float32(r.NormFloat64())
			sum += float64(v[i]) * float64(v[i])
		}
		for i := range v {
			v[i] /= float32(math.Sqrt(sum))
		}
		return v
	}
	for _, n := range []int{1, 3, 128, 383} {
		v, q := unit(n), unit(n)
		i := NewIndicator(v)
		require.Equal(t, n, i.Dim())
		var dot, length float64
		for k, x := range i.Vector() {
			dot += float64(v[k]) * float64(q[k])
			length += float64(x) * float64(x)
		}
		require.InDelta(t, 1, length, 1e-5)
		require.InDelta(t, dot, i.Cosine(q), 0.03)
		require.InDelta(t, 1, i.Cosine(i.Vector()), 1e-5)
		require.Equal(t, i, NewIndicator(i.Vector()), "what was rounded once stays")
	}
	nan := float32(math.NaN())
	for _, v := range [][]float32{nil, {0, 0}, {1, nan}, {nan}, {float32(math.Inf(1)), 1}} {
		require.True(t, NewIndicator(v).None(), "%v", v)
	}
	require.EqualValues(t, -1, Indicator{}.Cosine([]float32{1}))
	require.EqualValues(t, -1, NewIndicator([]float32{1}).Cosine([]float32{1, 0}))
	a, b := NewIndicator([]float32{1, 0}), NewIndicator([]float32{0, 1})
	require.Equal(t, a, mixIndicators(a, 1, a, 7))
	require.InDelta(t, 3/math.Sqrt(10), mixIndicators(a, 3, b, 1).Cosine([]float32{1, 0}), 0.02)
	require.Equal(t, a, mixIndicators(a, 1, Indicator{}, 5))
	require.Equal(t, a, mixIndicators(Indicator{}, 5, a, 1))
	require.True(t, mixIndicators(a, 1, NewIndicator([]float32{-1, 0}), 1).None(), "opposites have no direction together")
}
