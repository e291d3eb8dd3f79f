//go:build cuda

package cuda

import "afterimage/internal/compute"

// skinnyBenchmarks are the products of a decode step, at Qwen2-7B's sizes, each over several weights so that none is in the cache.
func (d *device) skinnyBenchmarks() (list []compute.Benchmark) {
	for _, as := range []compute.DType{compute.BF16, compute.I8, compute.I4} {
		for _, c := range []struct {
			in, out int
			rows    []int
		}{
			{3584, 4608, []int{1}}, {3584, 3584, []int{1}}, {3584, 18944, []int{1}}, {3584, 37888, []int{1, 8, 32}}, {18944, 3584, []int{1, 8, 32}},
			{3584, 152064, []int{1}},
		} {
			for _, rows := range c.rows {
				list = append(list, d.skinnyBenchmark(rows, c.in, c.out, as))
			}
		}
	}
	return list
}

func (d *device) skinnyBenchmark(rows, in, out int, as compute.DType) compute.Benchmark {
	w := skinny{out: out, in: in, as: as}
	w.pack(d.info.SMs)
	bytes := int64(w.strips) * int64(w.blocks) * int64(w.block)
	b := compute.Benchmark{What: compute.BenchLinear, Shape: compute.LinearShape(rows, in, out, as), Bytes: float64(bytes)}
	n := max(4, d.rotations(b.Bytes))
	return d.benchmark(b, max(n, 12), func(s *stream) (func(*stream, int), error) {
		x, err := d.randomBF16(s, int64(rows*in), 1)
		if err != nil {
			return nil, err
		}
		dst, err := d.alloc(int64(4 * rows * out))
		if err != nil {
			return nil, err
		}
		weights := make([]skinny, n)
		for i := range weights {
			weights[i] = w
			if weights[i].p, err = d.randomBF16(s, bytes/2, 0.02); err != nil { // noise as any type: only its bytes matter
				return nil, err
			}
			if as != compute.I8 {
				continue
			}
			if weights[i].scales, err = d.randomBF16(s, int64(2*out), 0.02); err != nil {
				return nil, err
			}
		}
		return func(s *stream, i int) {
			s.skinny(&weights[i%n], skinnyArgs{mode: modeLogits, rows: int32(rows), x: x, ldx: int32(in), out: dst, ldo: int32(out)})
		}, nil
	})
}
