//go:build cuda

package cuda

import (
	"context"
	"fmt"
	"slices"
	"time"

	"afterimage/internal/compute"
)

// Benchmarks implements compute.Benchmarks: the ceilings, then what each family of kernels lists.
func (d *device) Benchmarks() []compute.Benchmark {
	return slices.Concat(d.ceilings(), d.prefillBenchmarks(), d.decodeBenchmarks(), d.gemmBenchmarks(), d.skinnyBenchmarks(), d.sampleBenchmarks())
}

// benchmark completes b: setup takes memory with d.alloc, fills it and returns what is to be timed, which is recorded reps times in a
// graph with i from 0, or, when reps is alone, put in the stream by itself each time. To find its operands cold it goes round rotations
// of them, i%n. What setup took is given back afterwards.
func (d *device) benchmark(b compute.Benchmark, reps int, setup func(s *stream) (func(s *stream, i int), error)) compute.Benchmark {
	b.Time = func(ctx context.Context) (seconds float64, err error) {
		err = d.do(ctx, "timing "+b.What, func(s *stream) error {
			before := make(map[devptr]bool, len(d.held))
			for p := range d.held {
				before[p] = true
			}
			defer func() {
				_ = s.cu.sync() // memory is given back at once, not in the stream's order
				for p := range d.held {
					if !before[p] && !s.isScratch(p) {
						d.free(p)
					}
				}
			}()
			run, err := setup(s)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", b.What, b.Shape, err)
			}
			for i := range min(max(reps, 1), 2) { // plans are made and scratch memory is taken before the recording
				run(s, i)
			}
			if s.err != nil {
				return fmt.Errorf("%s, %s: %w", b.What, b.Shape, s.err)
			}
			if reps == alone {
				seconds, err = s.timeAlone(func() { run(s, 0) })
			} else {
				var t time.Duration
				t, err = d.time(reps, run)
				seconds = t.Seconds()
			}
			if err != nil {
				return fmt.Errorf("%s, %s: %w", b.What, b.Shape, err)
			}
			return nil
		})
		return seconds, err
	}
	return b
}

func (s *stream) isScratch(p devptr) bool {
	for _, b := range s.scratches {
		if b.p == p {
			return true
		}
	}
	return p == s.d.blas.workspace
}

// randomBF16 takes memory for n bfloat16 numbers of noise.
func (d *device) randomBF16(s *stream, n int64, deviation float64) (devptr, error) {
	p, err := d.alloc(2*n + 16) // passRandom rounds up
	if err != nil {
		return 0, err
	}
	s.passRandom(p, n, uint64(p), deviation)
	return p, s.err
}

// rotations is how many sets of operands of so many bytes exceed the L2 cache three times, at least one and at most 64.
func (d *device) rotations(bytes float64) int {
	return min(64, max(1, int(3*float64(d.info.L2Bytes)/bytes)+1))
}

// alone is how ceilings are timed: a graph would leave large copies to the copy engines, which are far slower than the multiprocessors,
// and products without a pause between them run into the power limit.
const alone = 0

// ceilings are what nothing on this device can be better than.
func (d *device) ceilings() []compute.Benchmark {
	const size = int64(2) << 30
	return []compute.Benchmark{
		d.benchmark(compute.Benchmark{What: compute.CeilingCopy, Shape: "2 GiB", Bytes: 2 * float64(size)}, alone,
			func(s *stream) (func(*stream, int), error) {
				from, err := d.randomBF16(s, size/2, 1)
				if err != nil {
					return nil, err
				}
				to, err := d.alloc(size)
				return func(s *stream, _ int) { s.copy(to, from, size) }, err
			}),
		d.matmulCeiling(),
	}
}

// timeAlone is the median seconds of what fn puts in the stream, outside of any graph and with a pause after each.
func (s *stream) timeAlone(fn func()) (float64, error) {
	ms, err := s.between(2, 10, fn)
	return ms / 1e3, err
}
