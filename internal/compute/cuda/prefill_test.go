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

// prefillCase is attention of segments over rows, or over pages where paged.
type prefillCase struct {
	heads, kvHeads, dim int
	causal, paged       bool
	segs                [][2]int // rows, past
	gap                 int      // columns between rows
	scale               float64
}

// Each case is compared with the definition in float64, row by row, with outputs poisoned and fenced.
func TestPrefill(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	if len(d.prefillsFor(64)) == 0 {
		t.Skip("no kernel for this device")
	}
	cases := []prefillCase{
		{heads: 1, kvHeads: 1, dim: 64, segs: [][2]int{{1, 0}}},
		{heads: 2, kvHeads: 2, dim: 64, segs: [][2]int{{64, 0}}},
		{heads: 2, kvHeads: 2, dim: 64, segs: [][2]int{{257, 0}, {257, 0}}, gap: 24},
		{heads: 3, kvHeads: 1, dim: 8, segs: [][2]int{{130, 0}}, scale: 0.7},
		{heads: 2, kvHeads: 2, dim: 72, segs: [][2]int{{129, 0}, {129, 0}, {129, 0}}},
		{heads: 2, kvHeads: 1, dim: 80, segs: [][2]int{{300, 0}}, gap: 8},
		{heads: 2, kvHeads: 2, dim: 96, segs: [][2]int{{200, 33}}, causal: true},
		{heads: 7, kvHeads: 1, dim: 128, segs: [][2]int{{333, 77}}, causal: true, gap: 16},
		{heads: 4, kvHeads: 2, dim: 104, segs: [][2]int{{128, 128}}, causal: true},
		{heads: 8, kvHeads: 2, dim: 64, segs: [][2]int{{70, 0}, {1, 513}, {64, 64}}, causal: true, paged: true},
		{heads: 6, kvHeads: 2, dim: 128, segs: [][2]int{{130, 190}, {2, 0}, {63, 1}}, causal: true, paged: true},
		{heads: 3, kvHeads: 3, dim: 96, segs: [][2]int{{65, 320}}, causal: true, paged: true},
		{heads: 5, kvHeads: 1, dim: 80, segs: [][2]int{{127, 0}, {129, 1}}, causal: true, paged: true},
		// Few items with many keys: these are split.
		{heads: 4, kvHeads: 2, dim: 128, segs: [][2]int{{40, 2500}}, causal: true, paged: true},
		{heads: 2, kvHeads: 2, dim: 96, segs: [][2]int{{33, 1950}, {7, 1200}}, causal: true, paged: true},
		{heads: 1, kvHeads: 1, dim: 72, segs: [][2]int{{193, 1900}}, causal: true, gap: 8},
		{heads: 2, kvHeads: 1, dim: 64, segs: [][2]int{{1801, 0}}},
	}
	for _, major := range generations(d) {
		d.info.Major = major
		for _, c := range cases {
			t.Run(fmt.Sprintf("%d: %d/%d x %d %v causal %v paged %v", major, c.heads, c.kvHeads, c.dim, c.segs, c.causal, c.paged), func(t *testing.T) {
				require.NoError(t, d.do(t.Context(), "test", func(s *stream) error { return c.run(t, s) }))
			})
		}
	}
}

func (c prefillCase) run(t *testing.T, s *stream) error {
	rng := rand.New(rand.NewPCG(uint64(c.dim), uint64(c.heads)))
	p, err := s.d.newPrefillPlan(prefillShape{c.heads, c.kvHeads, c.dim, c.causal})
	require.NoError(t, err)
	defer p.close()

	rows, keys := 0, 0 // of all segments; those of keys start on a page where paged
	var segs []prefillSegment
	var pages []int32
	kvRows := c.segs[0][0] + c.segs[0][1]
	for i, g := range c.segs {
		sees := g[0] + g[1]
		seg := prefillSegment{rows: g[0], past: g[1], keys: sees, seg: i}
		if c.paged {
			seg.seg, seg.row, kvRows = 0, len(pages), pageRows
			for range (sees + pageRows - 1) / pageRows {
				pages = append(pages, 0)
			}
		}
		segs = append(segs, seg)
		rows, keys = rows+g[0], keys+sees
	}
	kvSegs := len(segs)
	if c.paged {
		kvSegs = len(pages) + 3
		for i, page := range rng.Perm(kvSegs)[:len(pages)] {
			pages[i] = int32(page)
		}
	}
	require.NoError(t, p.set(s, segs, pages))

	q := prefillTensor{row: int64(c.heads*c.dim + c.gap), head: int64(c.dim)}
	kv := prefillTensor{row: int64(c.kvHeads*c.dim + c.gap), head: int64(c.dim)}
	kv.seg = kv.row * int64(kvRows)
	if c.paged {
		kv = prefillTensor{row: int64(c.dim), head: int64(c.dim * pageRows), seg: int64(c.kvHeads * c.dim * pageRows)}
	}
	qs := rounded(noise(rng, rows*int(q.row), 1, 0))
	ks := rounded(noise(rng, kvSegs*int(kv.seg), 1, 0))
	vs := rounded(noise(rng, kvSegs*int(kv.seg), 1, 0.5))
	if c.paged { // what pages hold beyond the keys does not matter, even if it is no number
		for _, g := range segs {
			for j := g.keys; j%pageRows != 0; j++ {
				for h := range c.kvHeads {
					from := int64(pages[g.row+j/pageRows])*kv.seg + int64(j%pageRows)*kv.row + int64(h)*kv.head
					for x := range int64(c.dim) {
						ks[from+x], vs[from+x] = 0x7fc0, 0x7fc0
					}
				}
			}
		}
	}
	q.p, kv.p = s.put(t, bytesOf16(qs)), s.put(t, bytesOf16(ks))
	v := kv
	v.p = s.put(t, bytesOf16(vs))
	defer func() {
		for _, x := range []devptr{q.p, kv.p, v.p} {
			s.d.free(x)
		}
	}()
	dst, lse := s.fenced(t, 2*rows*int(q.row)), s.fenced(t, 4*rows*c.heads)
	defer func() { s.d.free(dst.p - fence); s.d.free(lse.p - fence) }()
	out := q
	out.p = dst.p
	call := prefillCall{q: q, k: kv, v: v, out: out, kvRows: kvRows, kvSegs: kvSegs, lse: lse.p, scale: c.scale}
	p.run(s, call)

	got, sums := dst.halves(t, s), lse.floats(t, s)
	at := func(g prefillSegment, j, head int) int64 {
		seg, row := g.seg, j
		if c.paged {
			seg, row = int(pages[g.row+j/pageRows]), j%pageRows
		}
		return int64(seg)*kv.seg + int64(row)*kv.row + int64(head)*kv.head
	}
	scale := c.scale
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(c.dim))
	}
	var off, norm float64
	first := 0
	for _, g := range segs {
		for i := range g.rows {
			sees := g.keys
			if c.causal {
				sees = g.past + i + 1
			}
			for h := range c.heads {
				query := qs[int64(first+i)*q.row+int64(h)*q.head:][:c.dim]
				want, sum := make([]float64, c.dim), 0.0
				for j := range sees {
					from := at(g, j, h/(c.heads/c.kvHeads))
					score := 0.0
					for x := range query {
						score += fromBF16(query[x]) * fromBF16(ks[from+int64(x)])
					}
					e := math.Exp(score * scale)
					sum += e
					for x := range want {
						want[x] += e * fromBF16(vs[from+int64(x)])
					}
				}
				require.InDelta(t, math.Log(sum), sums[(first+i)*c.heads+h], 2e-3, "row %d, head %d", first+i, h)
				for x, w := range want {
					y := fromBF16(got[int64(first+i)*q.row+int64(h*c.dim+x)])
					require.InDelta(t, w/sum, y, 0.05, "row %d, head %d, column %d", first+i, h, x)
					off, norm = off+(y-w/sum)*(y-w/sum), norm+w/sum*w/sum
				}
			}
		}
		first += g.rows
	}
	assert.Less(t, math.Sqrt(off/norm), 4e-3)
	for i := range rows { // the gaps
		for x := c.heads * c.dim; x < int(q.row); x++ {
			require.Equal(t, uint16(0xffff), got[i*int(q.row)+x])
		}
	}
	return s.err
}

// Plans of Ops.Attention are made once a shape and used again; a graph keeps its own.
func TestPrefillPlansAreKept(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	if len(d.prefillsFor(64)) == 0 {
		t.Skip("no kernel for this device")
	}
	require.NoError(t, d.do(t.Context(), "test", func(s *stream) error {
		key := func(n int) prefillKey {
			return prefillKey{shape: prefillShape{2, 2, 64, false}, segments: 1, rows: n, keys: n}
		}
		one, err := s.prefillPlan(key(1), nil)
		require.NoError(t, err)
		again, err := s.prefillPlan(key(1), nil)
		require.NoError(t, err)
		assert.Same(t, one, again)
		one.captured = true
		for n := range 3 * prefillPlans {
			_, err := s.prefillPlan(key(n+1), nil)
			require.NoError(t, err)
		}
		assert.LessOrEqual(t, len(s.prefills.plans), prefillPlans+1)
		again, err = s.prefillPlan(key(1), nil)
		require.NoError(t, err)
		assert.Same(t, one, again)
		causal := prefillKey{shape: prefillShape{2, 2, 64, true}, segments: 1, rows: 1, keys: 65, past: 64}
		_, err = s.prefillPlan(causal, []int32{1, 0})
		require.NoError(t, err)
		assert.Len(t, d.held, len(s.prefills.plans)+1)
		return nil
	}))
	_, err := d.newPrefillPlan(prefillShape{2, 2, 136, false})
	assert.ErrorIs(t, err, errNoPrefill)
}

// generations are the compute capabilities, major part, whose kernels for attention the device can run: Hopper runs Ampere's too.
func generations(d *device) []int { return slices.Compact([]int{d.info.Major, 8}) }

// BenchmarkPrefill reports TFLOP/s of each shape that `afterimage bench kernels` times.
func BenchmarkPrefill(b *testing.B) {
	d := openTest(b)
	defer func() { require.NoError(b, d.Close()) }()
	benchmarkPrefill(b, d)
}

// BenchmarkPrefillAmpere is the same with the kernels for Ampere and later.
func BenchmarkPrefillAmpere(b *testing.B) {
	d := openTest(b)
	defer func() { require.NoError(b, d.Close()) }()
	d.info.Major = 8
	benchmarkPrefill(b, d)
}

func benchmarkPrefill(b *testing.B, d *device) {
	for _, c := range d.prefillBenchmarks() {
		b.Run(c.Shape, func(b *testing.B) {
			for range b.N {
				t, err := c.Time(b.Context())
				require.NoError(b, err)
				b.ReportMetric(c.FLOPs/t*1e-12, "TFLOP/s")
				b.ReportMetric(t*1e6, "us")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
