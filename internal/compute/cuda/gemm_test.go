//go:build cuda

package cuda

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// gemmCase is one product in host memory, every matrix with a gap after each row and poison in the gaps of dst.
type gemmCase struct {
	g                 gemm
	x, w, dst         []float32
	bias, scale, want []float32
}

func newGemmCase(rng *rand.Rand, g gemm) *gemmCase {
	c := &gemmCase{g: g}
	noise := func(n int, size float64) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = roundBF16(float32(rng.NormFloat64() * size))
		}
		return v
	}
	c.x, c.w = noise(g.rows*g.ldx, 1), noise(g.out*g.ldw, 1/math.Sqrt(float64(g.in)))
	c.dst = noise(g.rows*g.ldd, 1)
	if g.bias != 0 {
		c.bias = noise(g.out, 1)
	}
	if g.scale != 0 {
		c.scale = noise(g.out, 1)
	}
	c.want = make([]float32, g.rows*g.columns())
	for r := range g.rows {
		for j := range g.columns() {
			c.want[r*g.columns()+j] = float32(c.value(r, j))
		}
	}
	return c
}

func (c *gemmCase) value(r, j int) float64 {
	g := &c.g
	dot := func(n int) float64 {
		sum := 0.0
		for k := range g.in {
			sum += float64(c.x[r*g.ldx+k]) * float64(c.w[n*g.ldw+k])
		}
		return sum
	}
	if g.swiglu {
		gate, up := dot(j/8*16+j%8), dot(j/8*16+8+j%8)
		return gate / (1 + math.Exp(-gate)) * up
	}
	v := dot(j)
	if c.bias != nil {
		v += float64(c.bias[j])
	}
	switch g.act {
	case compute.GELU:
		v *= 0.5 * math.Erfc(-v/math.Sqrt2)
	case compute.GELUTanh:
		v *= 0.5 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
	case compute.QuickGELU:
		v /= 1 + math.Exp(-1.702*v)
	}
	if c.scale != nil {
		v *= float64(c.scale[j])
	}
	if g.add {
		v += float64(c.dst[r*g.ldd+j])
	}
	return v
}

// run computes c by multiply between guard bands and compares.
func (c *gemmCase) run(t *testing.T, d *device, multiply func(s *stream, g gemm)) {
	g := c.g
	const guard = 1024 // elements
	n := g.rows * g.ldd
	padded := make([]float32, n+2*guard)
	for i := range padded {
		padded[i] = -77
	}
	copy(padded[guard:], c.dst)
	got := make([]float32, len(padded))
	require.NoError(t, d.do(context.Background(), "test", func(s *stream) error {
		place := func(v []float32, as compute.DType) devptr {
			p, err := d.alloc(int64(len(v)) * 4)
			require.NoError(t, err)
			s.uploadRows(rowsAt(p, 1, uint32(len(v)), as), compute.Matrix{Rows: 1, Cols: len(v), Data: v})
			return p
		}
		g.x, g.w = place(c.x, compute.BF16), place(c.w, compute.BF16)
		base := place(padded, g.as)
		defer func() { d.free(g.x); d.free(g.w); d.free(base) }()
		g.dst = base + devptr(guard*g.element())
		if c.bias != nil {
			g.bias = place(c.bias, compute.F32)
			defer d.free(g.bias)
		}
		if c.scale != nil {
			g.scale = place(c.scale, compute.F32)
			defer d.free(g.scale)
		}
		multiply(s, g)
		s.downloadRows(compute.Matrix{Rows: 1, Cols: len(got), Data: got}, rowsAt(base, 1, uint32(len(got)), g.as))
		return s.err
	}))
	var num, den float64
	for i, v := range got {
		r, j := (i-guard)/max(g.ldd, 1), (i-guard)%max(g.ldd, 1)
		if i < guard || i >= guard+n || j >= g.columns() {
			if v != padded[i] {
				require.Equal(t, padded[i], v, "element %d, outside of dst, was written", i-guard)
			}
			continue
		}
		want := float64(c.want[r*g.columns()+j])
		num += (float64(v) - want) * (float64(v) - want)
		den += want * want
	}
	tolerance := 3e-4
	if g.as == compute.BF16 {
		tolerance = 4e-3
	}
	assert.LessOrEqual(t, math.Sqrt(num/max(den, 1e-30)), tolerance)
}

func TestGemm(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	ways := map[string]func(s *stream, g gemm){"chosen": func(s *stream, g gemm) { s.gemm(g) }}
	if d.info.Major == 9 {
		for i := range gemmTiles {
			tile := &gemmTiles[i]
			ways[tile.name] = func(s *stream, g gemm) {
				if g.aligned() && (!g.swiglu || tile.columns%128 == 0) {
					s.gemmHopper(g, tile)
				} else {
					s.gemm(g)
				}
			}
		}
	}
	sizes := [][3]int{
		{1, 8, 8}, {7, 24, 40}, {64, 64, 64}, {129, 136, 72}, {257, 520, 200}, {300, 1000, 136}, {515, 264, 1096}, {33, 17, 19},
	}
	if testing.Short() { // for checkers: each kind of tile, less than one, one past it, the ring more than once round, what is not aligned
		sizes = [][3]int{{7, 24, 40}, {129, 136, 72}, {257, 264, 456}, {33, 17, 19}}
	} else if err := d.do(context.Background(), "test", func(*stream) error { return d.blas.open(d) }); err == nil {
		ways["cuBLASLt"] = func(s *stream, g gemm) {
			if g.aligned() {
				s.gemmBlas(g)
			} else {
				s.gemm(g)
			}
		}
	} else {
		t.Log(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for _, size := range sizes {
		rows, out, in := size[0], size[1], size[2]
		for i, g := range []gemm{
			{as: compute.BF16}, {as: compute.F32},
			{as: compute.BF16, bias: 1}, {as: compute.F32, bias: 1, add: true},
			{as: compute.BF16, bias: 1, act: compute.QuickGELU}, {as: compute.F32, bias: 1, act: compute.GELU},
			{as: compute.BF16, act: compute.GELU},
			{as: compute.BF16, act: compute.GELUTanh, scale: 1, add: true}, {as: compute.F32, add: true},
			{as: compute.BF16, bias: 1, scale: 1, add: true}, {as: compute.BF16, add: true}, {as: compute.BF16, swiglu: true},
		} {
			if g.swiglu && out%16 != 0 || out%8 != 0 && g.bias == 0 && g.act == compute.Identity {
				continue
			}
			g.rows, g.out, g.in = rows, out, in
			g.ldx, g.ldw, g.ldd = (in+7)/8*8+8, in, g.columns()+8
			if in%8 == 0 {
				g.ldw += 8
			}
			c := newGemmCase(rng, g)
			for name, way := range ways {
				t.Run(fmt.Sprintf("%dx%dx%d/%d/%s", rows, out, in, i, name), func(t *testing.T) { c.run(t, d, way) })
			}
		}
	}
}

// More tiles than multiprocessors, so that blocks go on from one to the next.
func TestGemmManyTiles(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	if d.info.Major != 9 {
		t.Skip("our own large products are for Hopper")
	}
	rng := rand.New(rand.NewPCG(7, 8))
	const rows, out, in = 1100, 4104, 136 // 9 x 17 tiles of 256 columns
	for i, g := range []gemm{{as: compute.BF16, bias: 1, act: compute.QuickGELU}, {as: compute.F32, add: true}, {as: compute.BF16, bias: 1, scale: 1, add: true}} {
		g.rows, g.out, g.in, g.ldx, g.ldw, g.ldd = rows, out, in, in+8, in, out+8
		c := newGemmCase(rng, g)
		for j := range gemmTiles {
			t.Run(fmt.Sprint(i, "/", gemmTiles[j].name), func(t *testing.T) {
				c.run(t, d, func(s *stream, g gemm) { s.gemmHopper(g, &gemmTiles[j]) })
			})
		}
	}
}

func TestGemmRefuses(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	for _, g := range []gemm{
		{rows: 8, out: 8, in: 8, ldx: 4, ldw: 8, ldd: 8, as: compute.BF16},
		{rows: 8, out: 8, in: 8, ldx: 8, ldw: 8, ldd: 8, as: compute.I8},
		{rows: 8, out: 8, in: 8, ldx: 8, ldw: 8, ldd: 8, as: compute.BF16, swiglu: true},
	} {
		assert.ErrorContains(t, d.do(context.Background(), "test", func(s *stream) error { s.gemm(g); return nil }), "gemm")
	}
}

// Rows do not depend on what is beside them, nor on how many there are.
func TestGemmRowsAlone(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	if d.info.Major != 9 {
		t.Skip("cuBLASLt promises no such thing")
	}
	const rows, out, in = 300, 512, 640
	rng := rand.New(rand.NewPCG(5, 6))
	c := newGemmCase(rng, gemm{rows: rows, out: out, in: in, ldx: in, ldw: in, ldd: out, as: compute.F32})
	all, one := make([]float32, rows*out), make([]float32, out)
	require.NoError(t, d.do(context.Background(), "test", func(s *stream) error {
		place := func(v []float32) devptr {
			p, err := d.alloc(int64(len(v)) * 4)
			require.NoError(t, err)
			s.uploadRows(rowsAt(p, 1, uint32(len(v)), compute.BF16), compute.Matrix{Rows: 1, Cols: len(v), Data: v})
			return p
		}
		g := c.g
		g.x, g.w, g.dst = place(c.x), place(c.w), place(c.dst)
		s.gemm(g)
		s.download(bytesOf(all), g.dst)
		for _, r := range []int{0, 131, 299} {
			h := g
			h.rows, h.x = 1, g.x+devptr(2*r*in)
			s.gemm(h)
			s.download(bytesOf(one), g.dst)
			assert.Equal(t, all[r*out:(r+1)*out], one)
		}
		return s.err
	}))
}

func roundBF16(x float32) float32 {
	b := math.Float32bits(x)
	return math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
}
