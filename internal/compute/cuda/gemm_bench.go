//go:build cuda

package cuda

import (
	"fmt"

	"afterimage/internal/compute"
)

// gemmBenchmarks are large products with what is fused to them, at the sizes of Qwen2-7B reading 4096 rows and of CLIP ViT-L/14
// encoding 32 frames; the first of each are bare products, beside cuBLASLt's best.
func (d *device) gemmBenchmarks() (list []compute.Benchmark) {
	for _, c := range []struct {
		fused string
		g     gemm
	}{
		{"", gemm{rows: 4096, in: 3584, out: 4608, as: compute.BF16}},
		{"", gemm{rows: 4096, in: 3584, out: 37888, as: compute.BF16}},
		{"", gemm{rows: 4096, in: 18944, out: 3584, as: compute.BF16}},
		{"", gemm{rows: 8224, in: 1024, out: 4096, as: compute.BF16}},
		{"", gemm{rows: 8224, in: 4096, out: 1024, as: compute.BF16}},
		{" and SwiGLU", gemm{rows: 4096, in: 3584, out: 37888, as: compute.BF16, swiglu: true}},
		{" added to float32", gemm{rows: 4096, in: 3584, out: 3584, as: compute.F32, add: true}},
		{" added to float32", gemm{rows: 4096, in: 18944, out: 3584, as: compute.F32, add: true}},
		{" added to float32", gemm{rows: 11520, in: 18944, out: 3584, as: compute.F32, add: true}},
		{" with bias", gemm{rows: 8224, in: 1024, out: 3072, as: compute.BF16, bias: 1}},
		{" with bias added to bf16", gemm{rows: 8224, in: 1024, out: 1024, as: compute.BF16, bias: 1, add: true}},
		{" with bias and QuickGELU", gemm{rows: 8224, in: 1024, out: 4096, as: compute.BF16, bias: 1, act: compute.QuickGELU}},
		{" with bias added to bf16", gemm{rows: 8224, in: 4096, out: 1024, as: compute.BF16, bias: 1, add: true}},
	} {
		run := func(g gemm) func(*stream) (func(*stream, int), error) {
			return func(s *stream) (func(*stream, int), error) {
				err := d.gemmOperands(s, &g)
				return func(s *stream, _ int) { s.gemm(g) }, err
			}
		}
		if c.fused == "" {
			list = append(list, d.gemmBenchmark("", c.g, run(c.g)), d.gemmBenchmark(" by cuBLASLt", c.g, d.blasBest(c.g)))
		} else {
			list = append(list, d.gemmBenchmark(c.fused, c.g, run(c.g)))
		}
	}
	return list
}

func (d *device) gemmBenchmark(fused string, g gemm, setup func(*stream) (func(*stream, int), error)) compute.Benchmark {
	return d.benchmark(compute.Benchmark{
		What: compute.BenchLinear + fused, Shape: compute.LinearShape(g.rows, g.in, g.out, compute.BF16),
		FLOPs: 2 * float64(g.rows) * float64(g.in) * float64(g.out),
	}, 20, setup)
}

// gemmOperands takes memory for g and fills it; a bias of 1 asks for one.
func (d *device) gemmOperands(s *stream, g *gemm) (err error) {
	g.ldx, g.ldw, g.ldd = g.in, g.in, g.columns()
	if g.x, err = d.randomBF16(s, int64(g.rows)*int64(g.in), 1); err != nil {
		return err
	}
	if g.w, err = d.randomBF16(s, int64(g.out)*int64(g.in), 0.02); err != nil {
		return err
	}
	if g.bias != 0 {
		if g.bias, err = d.randomBF16(s, 2*int64(g.out), 0.02); err != nil { // pairs of them are float32 as well
			return err
		}
	}
	bytes := int64(g.rows) * int64(g.ldd) * int64(g.element())
	if g.dst, err = d.alloc(bytes); err == nil {
		s.zero(g.dst, bytes)
	}
	return err
}

// blasBest is the product by the fastest of cuBLASLt's ways, found by trying them.
func (d *device) blasBest(g gemm) func(*stream) (func(*stream, int), error) {
	return func(s *stream) (func(*stream, int), error) {
		if err := d.blas.open(d); err != nil {
			return nil, err
		}
		if err := d.gemmOperands(s, &g); err != nil {
			return nil, err
		}
		p, err := d.blas.plan(d, &g)
		if err != nil {
			return nil, err
		}
		run := func(way int) func(*stream, int) {
			return func(s *stream, _ int) { s.fail(d.blas.run(s, p, way, &g)) }
		}
		best, least := -1, 0.0
		for way := range p.ways {
			spent, err := d.time(5, run(way))
			if err != nil {
				s.err = nil // another may do
				continue
			}
			if best < 0 || spent.Seconds() < least {
				best, least = way, spent.Seconds()
			}
		}
		if best < 0 {
			return nil, fmt.Errorf("cuBLASLt: none of its %d ways works", p.ways)
		}
		return run(best), nil
	}
}

// matmulCeiling is the fastest large product there is here: cuBLASLt's, or this program's own where there is no cuBLASLt.
func (d *device) matmulCeiling() compute.Benchmark {
	const n = 8192
	g := gemm{rows: n, in: n, out: n, as: compute.BF16}
	b := compute.Benchmark{What: compute.CeilingMatmul, Shape: fmt.Sprintf("%dx%dx%d", n, n, n), FLOPs: 2 * float64(n) * n * n}
	return d.benchmark(b, alone,
		func(s *stream) (func(*stream, int), error) {
			if d.blas.open(d) == nil {
				return d.blasBest(g)(s)
			}
			err := d.gemmOperands(s, &g)
			return func(s *stream, _ int) { s.gemm(g) }, err
		})
}
