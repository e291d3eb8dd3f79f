//go:build cuda

package cuda

import (
	"fmt"
	"math/rand/v2"

	"afterimage/internal/compute"
)

// prefillBenchmarks time attention of many rows on the shapes of the models that this is for.
func (d *device) prefillBenchmarks() []compute.Benchmark {
	var out []compute.Benchmark
	for _, c := range []struct {
		heads, kvHeads, headDim, batch, n, past int
		causal, paged                           bool
	}{
		// The longest come last: the clock takes a while to recover from them.
		{16, 16, 64, 16, 577, 0, false, false}, {16, 16, 64, 32, 257, 0, false, false}, // CLIP ViT-L/14 at 336 and 224
		{16, 16, 72, 16, 729, 0, false, false},                                       // SigLIP-so400m
		{16, 16, 64, 8, 1025, 0, false, false},                                       // InternViT-300M
		{14, 2, 64, 1, 4096, 0, true, false},                                         // Qwen2-0.5B
		{16, 16, 80, 1, 4096, 0, false, false},                                       // Qwen2-VL's vision tower
		{28, 4, 128, 1, 1024, 0, true, false}, {28, 4, 128, 1, 4096, 0, true, false}, // Qwen2-7B
		{28, 4, 128, 1, 4096, 0, true, true},                                            // as its decoder has them
		{28, 4, 128, 1, 512, 11264, true, true}, {28, 4, 128, 1, 40, 11500, true, true}, // a chunk, and a question, after a long memory
		{32, 32, 128, 1, 4096, 0, true, false},                                      // Llama-7B
		{32, 32, 96, 1, 4096, 0, true, false}, {32, 32, 96, 1, 4096, 0, true, true}, // Phi-3-mini
		{28, 4, 128, 1, 16384, 0, true, false}, {32, 32, 128, 1, 16384, 0, true, false},
		{32, 32, 96, 1, 16384, 0, true, false}, {16, 16, 80, 1, 16384, 0, false, false},
	} {
		shape := prefillShape{heads: c.heads, kvHeads: c.kvHeads, headDim: c.headDim, causal: c.causal}
		if len(d.prefillsFor(c.headDim)) == 0 {
			continue
		}
		b := compute.Benchmark{
			What: compute.BenchPrefill, Shape: compute.PrefillShape(c.heads, c.kvHeads, c.headDim, c.batch, c.n, c.causal),
			FLOPs: compute.PrefillFLOPs(c.heads, c.headDim, c.batch, c.n, c.causal),
		}
		if c.past > 0 {
			b.Shape += fmt.Sprintf(" after %d", c.past)
			b.FLOPs += 4 * float64(c.heads) * float64(c.headDim) * float64(c.batch) * float64(c.n) * float64(c.past)
		}
		if c.paged {
			b.Shape += " in pages"
		}
		keys := c.past + c.n
		rows, q, kv := c.batch*keys, c.heads*c.headDim, c.kvHeads*c.headDim
		sets := d.rotations(float64(2 * rows * (2*q + 2*kv)))
		reps := min(64, max(3, int(5e12/b.FLOPs)))
		out = append(out, d.benchmark(b, reps, func(s *stream) (func(*stream, int), error) {
			p, err := d.newPrefillPlan(shape)
			if err != nil {
				return nil, err
			}
			segs := make([]prefillSegment, c.batch)
			for i := range segs {
				segs[i] = prefillSegment{rows: c.n, past: c.past, keys: keys, seg: i}
			}
			var pages []int32 // a sequence's pages lie anywhere
			if c.paged {
				for _, page := range rand.New(rand.NewPCG(1, uint64(keys))).Perm((keys + pageRows - 1) / pageRows) {
					pages = append(pages, int32(page))
				}
			}
			if err := p.set(s, segs, pages); err != nil {
				return nil, err
			}
			calls := make([]prefillCall, sets)
			for i := range calls {
				from, err := d.randomBF16(s, int64(rows*q+2*(rows+pageRows)*kv), 1)
				if err != nil {
					return nil, err
				}
				to, err := d.alloc(int64(2 * rows * q))
				if err != nil {
					return nil, err
				}
				// q, k and v side by side, as the product before leaves them.
				row := int64(q + 2*kv)
				at := func(col int) prefillTensor {
					return prefillTensor{p: from + devptr(2*col), row: row, head: int64(c.headDim), seg: row * int64(keys)}
				}
				out := prefillTensor{p: to, row: int64(q), head: int64(c.headDim), seg: int64(q * keys)}
				calls[i] = prefillCall{q: at(0), k: at(q), v: at(q + kv), out: out, kvRows: keys, kvSegs: c.batch}
				if c.paged {
					pool := prefillTensor{p: from + devptr(2*rows*q), row: int64(c.headDim), head: int64(c.headDim * pageRows), seg: int64(kv * pageRows)}
					calls[i].q.row, calls[i].k, calls[i].v = int64(q), pool, pool
					calls[i].v.p += devptr(2 * len(pages) * pageRows * kv)
					calls[i].kvRows, calls[i].kvSegs = pageRows, len(pages)
				}
			}
			return func(s *stream, i int) { p.run(s, calls[i%sets]) }, nil
		}))
	}
	return out
}
