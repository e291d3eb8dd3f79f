//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// decodeCase is attention of a pass's new rows: past, rows of each segment.
type decodeCase struct {
	heads, kvHeads, dim int
	segs                [][2]int
	shared              int  // pages that all segments begin with
	trees               bool // new rows are random trees
}

// decodeRun holds the operands of a case on the device.
type decodeRun struct {
	decodeCase
	a          *decodeAttention
	segs       []decodeSegment
	kv         decodeKV
	q          devptr
	qs, ks, vs []uint16
	stride     int
	held       []devptr
}

func (c decodeCase) setup(t *testing.T, s *stream) *decodeRun {
	rng := rand.New(rand.NewPCG(uint64(c.dim), uint64(c.heads)))
	r := &decodeRun{decodeCase: c, stride: c.heads*c.dim + 8*rng.IntN(3)}
	var keys []int
	rows, longest := 0, 0
	for _, g := range c.segs {
		keys, rows, longest = append(keys, g[0]+g[1]), rows+g[1], max(longest, g[0]+g[1])
	}
	pools := 0
	for i, pages := range decodePages(rng, c.shared, keys...) {
		g := decodeSegment{past: c.segs[i][0], rows: c.segs[i][1], pages: pages}
		if c.trees {
			for j := range g.rows {
				g.parents = append(g.parents, int32(rng.IntN(j+1)-1))
			}
		}
		r.segs, pools = append(r.segs, g), max(pools, int(slices.Max(pages))+1)
	}
	var err error
	r.a, err = s.d.newDecodeAttention(c.heads, c.kvHeads, c.dim, longest)
	require.NoError(t, err)
	r.qs = rounded(noise(rng, rows*r.stride, 2, 0))
	r.ks = rounded(noise(rng, pools*c.kvHeads*pageRows*c.dim, 1, 0))
	r.vs = rounded(noise(rng, pools*c.kvHeads*pageRows*c.dim, 1, 0.5))
	used := make([]bool, pools*pageRows)
	for _, g := range r.segs {
		for j := range g.past + g.rows {
			used[int(g.pages[j/pageRows])*pageRows+j%pageRows] = true
		}
	}
	for i := range r.ks { // what lies beyond a sequence's end may be anything
		if page, row := i/(c.kvHeads*pageRows*c.dim), i/c.dim%pageRows; !used[page*pageRows+row] {
			r.ks[i], r.vs[i] = 0x7fc0, 0x7fc0
		}
	}
	k, v := s.put(t, bytesOf16(r.ks)), s.put(t, bytesOf16(r.vs))
	r.q = s.put(t, bytesOf16(r.qs))
	r.held = []devptr{k, v, r.q}
	r.kv, err = r.a.kv(k, v, pools)
	require.NoError(t, err)
	return r
}

func (r *decodeRun) close() {
	r.a.close()
	for _, p := range r.held {
		r.a.d.free(p)
	}
}

// attend runs a pass of rows [first, ...) of the case's queries and returns its output, rows of heads*dim.
func (r *decodeRun) attend(t *testing.T, s *stream, segs []decodeSegment, first, more int, wide, early bool) []uint16 {
	tables, plan, wide, err := r.a.planFor(segs, wide)
	require.NoError(t, err)
	rows := 0
	for _, g := range segs {
		rows += g.rows
	}
	tp, pp := s.put(t, tables), s.put(t, plan)
	width := r.heads * r.dim
	out := s.fenced(t, 2*(rows+more)*width)
	defer func() {
		for _, p := range []devptr{tp, pp, out.p - fence} {
			s.d.free(p)
		}
	}()
	s.upload(r.a.o, slices.Repeat([]byte{0xff}, maxDecodeSlots(decodeRows, r.a.keys)*width*4))
	r.a.run(s, decodeCall{
		q: r.q + devptr(2*first*r.stride), qStride: r.stride, out: out.p, outStride: width, rows: rows + more, wide: wide,
		kv: r.kv, tables: tp, plan: pp, early: early,
	})
	got := out.halves(t, s)
	for _, x := range got[rows*width:] {
		require.Zero(t, x, "rows that were not planned")
	}
	return got[:rows*width]
}

// Each case is compared with the definition in float64.
func TestDecodeAttention(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	cases := []decodeCase{
		{heads: 1, kvHeads: 1, dim: 64, segs: [][2]int{{0, 1}}},
		{heads: 14, kvHeads: 2, dim: 64, segs: [][2]int{{63, 1}, {64, 1}, {65, 1}}},
		{heads: 28, kvHeads: 4, dim: 128, segs: [][2]int{{1023, 1}}},
		{heads: 28, kvHeads: 4, dim: 128, segs: [][2]int{{4095, 6}}},
		{heads: 6, kvHeads: 2, dim: 128, segs: [][2]int{{300, 32}}, trees: true},
		{heads: 3, kvHeads: 3, dim: 96, segs: [][2]int{{127, 9}, {0, 4}, {511, 3}}, trees: true},
		{heads: 5, kvHeads: 1, dim: 80, segs: [][2]int{{700, 5}, {62, 3}}},
		{heads: 16, kvHeads: 2, dim: 80, segs: [][2]int{{1000, 11}}, trees: true},
		{heads: 32, kvHeads: 8, dim: 96, segs: [][2]int{{900, 20}}},
		{heads: 14, kvHeads: 2, dim: 64, segs: [][2]int{{5000, 2}, {4990, 1}, {5111, 3}}, shared: 77},
		{heads: 7, kvHeads: 1, dim: 128, segs: slices.Repeat([][2]int{{1300, 2}}, 16), shared: 20},
		{heads: 2, kvHeads: 2, dim: 128, segs: [][2]int{{34000, 2}}},
	}
	d.eachDecode(t, cases, func(t *testing.T, s *stream, r *decodeRun) {
		got := r.attend(t, s, r.segs, 0, 1, false, false)
		assert.Less(t, r.off(got), 5e-3)
		assert.Equal(t, got, r.attend(t, s, r.segs, 0, 0, false, true), "started early")
	})
}

// eachDecode sets every case up with the kernels of every generation.
func (d *device) eachDecode(t *testing.T, cases []decodeCase, fn func(t *testing.T, s *stream, r *decodeRun)) {
	for _, major := range generations(d) {
		d.info.Major = major
		for _, c := range cases {
			t.Run(fmt.Sprintf("%d: %d/%d x %d %v", major, c.heads, c.kvHeads, c.dim, c.segs), func(t *testing.T) {
				require.NoError(t, d.do(t.Context(), "test", func(s *stream) error {
					r := c.setup(t, s)
					defer r.close()
					fn(t, s, r)
					return s.err
				}))
			})
		}
	}
}

// off is the distance of an output from the definition, relative to its size.
func (r *decodeRun) off(got []uint16) float64 {
	var off, norm float64
	row := 0
	for _, g := range r.segs {
		masks := make([]uint32, g.rows)
		for i := range g.rows {
			masks[i] = 1 << i
			switch {
			case g.parents == nil:
				masks[i] |= masks[i] - 1
			case g.parents[i] >= 0:
				masks[i] |= masks[g.parents[i]]
			}
			for h := range r.heads {
				query := r.qs[row*r.stride+h*r.dim:][:r.dim]
				want, sum := make([]float64, r.dim), 0.0
				for j := range g.past + i + 1 {
					if j >= g.past && masks[i]>>(j-g.past)&1 == 0 {
						continue
					}
					from := ((int(g.pages[j/pageRows])*r.kvHeads+h/(r.heads/r.kvHeads))*pageRows + j%pageRows) * r.dim
					score := 0.0
					for x, v := range query {
						score += fromBF16(v) * fromBF16(r.ks[from+x])
					}
					p := math.Exp(score / math.Sqrt(float64(r.dim)))
					sum += p
					for x := range want {
						want[x] += p * fromBF16(r.vs[from+x])
					}
				}
				for x := range want {
					w := want[x] / sum
					e := fromBF16(got[(row*r.heads+h)*r.dim+x]) - w
					off, norm = off+e*e, norm+w*w
				}
			}
			row++
		}
	}
	if math.IsNaN(off) {
		return off
	}
	return math.Sqrt(off / norm)
}

// A row gives the same bits alone, with others of its sequence, beside other sequences, and with a memory read once for many.
func TestDecodeAttentionBits(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	cases := []decodeCase{
		{heads: 28, kvHeads: 4, dim: 128, segs: [][2]int{{1500, 18}}},
		{heads: 28, kvHeads: 4, dim: 128, segs: slices.Repeat([][2]int{{4200, 1}, {4301, 2}}, 10), shared: 65},
		{heads: 3, kvHeads: 3, dim: 96, segs: [][2]int{{383, 3}, {511, 30 - 3}}, shared: 5},
		{heads: 14, kvHeads: 2, dim: 64, segs: [][2]int{{4095, 9}, {1, 5}}},
		{heads: 10, kvHeads: 2, dim: 80, segs: [][2]int{{200, 16}}},
	}
	d.eachDecode(t, cases, func(t *testing.T, s *stream, r *decodeRun) {
		all := r.attend(t, s, r.segs, 0, 0, false, false)
		assert.Less(t, r.off(all), 5e-3)
		width, row := r.heads*r.dim, 0
		for _, g := range r.segs {
			for i := range g.rows {
				if testing.Short() && row%5 != 0 {
					row++
					continue
				}
				// Row i of a chain is the only new row after the others have become past.
				alone := []decodeSegment{{past: g.past + i, rows: 1, pages: g.pages}}
				want := all[row*width:][:width]
				assert.Equal(t, want, r.attend(t, s, alone, row, 0, false, false), "row %d alone", row)
				assert.Equal(t, want, r.attend(t, s, alone, row, 0, true, false), "row %d alone in the kernel for many", row)
				row++
			}
		}
	})
}

func TestDecodeAttentionRefuses(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	require.NoError(t, d.do(t.Context(), "test", func(*stream) error {
		for _, c := range [][3]int{{4, 2, 72}, {4, 3, 64}, {129, 1, 64}} {
			_, err := d.newDecodeAttention(c[0], c[1], c[2], 100)
			assert.Error(t, err, "%v", c)
		}
		a, err := d.newDecodeAttention(4, 2, 64, 100)
		require.NoError(t, err)
		defer a.close()
		_, _, _, err = a.plan([]decodeSegment{{past: 100, rows: 1, pages: []int32{0, 1}}})
		assert.ErrorContains(t, err, "at most 100")
		return nil
	}))
}

// BenchmarkDecodeAttention reports TB/s of K/V of each shape that `afterimage bench kernels` times.
func BenchmarkDecodeAttention(b *testing.B) {
	d := openTest(b)
	defer func() { require.NoError(b, d.Close()) }()
	for _, major := range generations(d) {
		d.info.Major = major
		for _, c := range d.decodeBenchmarks() {
			b.Run(fmt.Sprintf("%d: %s", major, c.Shape), func(b *testing.B) {
				for range b.N {
					t, err := c.Time(b.Context())
					require.NoError(b, err)
					b.ReportMetric(c.Bytes/t*1e-12, "TB/s")
					b.ReportMetric(t*1e6, "us")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
