//go:build cuda

package cuda

import (
	"afterimage/internal/compute"
)

// decodeBenchmarks time attention of few rows: decoding, verifying a draft, and many questions over one memory.
func (d *device) decodeBenchmarks() []compute.Benchmark {
	var out []compute.Benchmark
	for _, c := range []struct{ heads, kvHeads, headDim, rows, keys int }{
		{28, 4, 128, 1, 1024}, {28, 4, 128, 1, 8192}, {28, 4, 128, 1, 11520}, {28, 4, 128, 1, 32768}, {28, 4, 128, 1, 131072}, // Qwen2-7B
		{28, 4, 128, 4, 11520}, {28, 4, 128, 8, 11520},
		{32, 32, 128, 1, 1024}, {32, 32, 128, 1, 8192}, {32, 32, 128, 1, 11520}, {32, 32, 128, 1, 32768}, // Llama-7B
		{32, 32, 96, 1, 1024}, {32, 32, 96, 1, 8192}, {32, 32, 96, 1, 11520}, {32, 32, 96, 1, 32768}, // Phi-3-mini
		{14, 2, 64, 1, 11520}, // Qwen2-0.5B
	} {
		b := compute.Benchmark{
			What: compute.BenchDecode, Shape: compute.DecodeShape(c.heads, c.kvHeads, c.headDim, c.rows, c.keys),
			Bytes: compute.DecodeBytes(c.kvHeads, c.headDim, c.keys), Latency: true,
		}
		out = append(out, d.decodeBenchmark(b, c.heads, c.kvHeads, c.headDim, 0, []decodeSegment{{past: c.keys - c.rows, rows: c.rows}}))
	}
	const questions, prefix, suffix = 16, 11520, 41
	b := compute.Benchmark{
		What: compute.BenchCascade, Shape: compute.CascadeShape(28, 4, 128, questions, prefix, suffix),
		Bytes: compute.DecodeBytes(4, 128, prefix+questions*suffix), Latency: true,
	}
	segs := make([]decodeSegment, questions)
	for i := range segs {
		segs[i] = decodeSegment{past: prefix + suffix - 1, rows: 1}
	}
	return append(out, d.decodeBenchmark(b, 28, 4, 128, prefix/pageRows, segs))
}

// decodeBenchmark times b for segments whose first pages are the same. Each call of a round has K/V of its own.
func (d *device) decodeBenchmark(b compute.Benchmark, heads, kvHeads, headDim, shared int, segs []decodeSegment) compute.Benchmark {
	sets := max(2, d.rotations(b.Bytes))
	return d.benchmark(b, max(sets, 20), func(s *stream) (func(*stream, int), error) {
		rows, longest, pages := 0, 0, shared
		for _, g := range segs {
			rows, longest = rows+g.rows, max(longest, g.past+g.rows)
			pages += (g.past+g.rows+pageRows-1)/pageRows - shared
		}
		a, err := d.newDecodeAttention(heads, kvHeads, headDim, longest)
		if err != nil {
			return nil, err
		}
		pool := int64(pages * kvHeads * pageRows * headDim)
		q, err := d.randomBF16(s, int64(rows*heads*headDim), 1)
		if err != nil {
			return nil, err
		}
		to, err := d.alloc(int64(2 * rows * heads * headDim))
		if err != nil {
			return nil, err
		}
		// Pages are scattered over the pools as they are after some time in use: every step-th one, for a step that meets them all.
		step := pages/2 + 1
		for gcd(step, pages) != 1 {
			step++
		}
		next := 0
		page := func() int32 {
			next++
			return int32(next * step % pages)
		}
		var common []int32
		for range shared {
			common = append(common, page())
		}
		for i := range segs {
			segs[i].pages = append([]int32(nil), common...)
			for len(segs[i].pages)*pageRows < segs[i].past+segs[i].rows {
				segs[i].pages = append(segs[i].pages, page())
			}
		}
		tables, plan, wide, err := a.plan(segs)
		if err != nil {
			return nil, err
		}
		tp, err := d.alloc(int64(len(tables)))
		if err != nil {
			return nil, err
		}
		pp, err := d.alloc(int64(len(plan)))
		if err != nil {
			return nil, err
		}
		s.upload(tp, tables)
		s.upload(pp, plan)
		calls := make([]decodeCall, sets)
		for i := range calls {
			k, err := d.randomBF16(s, pool, 1)
			if err != nil {
				return nil, err
			}
			v, err := d.randomBF16(s, pool, 1)
			if err != nil {
				return nil, err
			}
			kv, err := a.kv(k, v, pages)
			if err != nil {
				return nil, err
			}
			calls[i] = decodeCall{q: q, out: to, qStride: heads * headDim, outStride: heads * headDim, rows: rows, wide: wide,
				kv: kv, tables: tp, plan: pp, early: true}
		}
		return func(s *stream, i int) { a.run(s, calls[i%sets]) }, nil
	})
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
