//go:build cuda

package cuda

import (
	"fmt"
	"math/rand/v2"
	"unsafe"

	"afterimage/internal/compute"
)

// sampleBenchmarks time drawing tokens from the logits of Qwen2's vocabulary, which the product before has left in the cache.
func (d *device) sampleBenchmarks() []compute.Benchmark {
	const vocab = 152064
	var out []compute.Benchmark
	for _, c := range []struct {
		rows int
		how  string
		draw sampleDraw
	}{
		{1, "greedy", sampleDraw{}}, {32, "greedy", sampleDraw{}},
		{1, "all", sampleDraw{0.8, 1, 0.5}}, {1, "top 0.9", sampleDraw{0.8, 0.9, 0.5}}, {32, "top 0.9", sampleDraw{0.8, 0.9, 0.5}},
	} {
		b := compute.Benchmark{
			What: "drawing tokens", Shape: fmt.Sprintf("%d of %d, %s", c.rows, vocab, c.how), Bytes: float64(4 * c.rows * vocab), Latency: true,
		}
		out = append(out, d.benchmark(b, 50, func(s *stream) (func(*stream, int), error) {
			rng := rand.New(rand.NewPCG(1, 2))
			logits := make([]float32, c.rows*vocab)
			for i := range logits {
				logits[i] = float32(3 * rng.NormFloat64())
			}
			draws := make([]sampleDraw, c.rows)
			for i := range draws {
				draws[i] = c.draw
			}
			a := sampleArgs{stride: vocab, rows: int32(c.rows), vocab: vocab}
			for _, v := range []struct {
				to    *devptr
				bytes int64
			}{
				{&a.logits, int64(4 * len(logits))}, {&a.draws, int64(c.rows * sampleDrawBytes)}, {&a.tokens, int64(4 * c.rows)},
				{&a.pieces, sampleRoom(c.rows, vocab)},
			} {
				var err error
				if *v.to, err = d.alloc(v.bytes); err != nil {
					return nil, err
				}
			}
			s.upload(a.logits, bytesOf(logits))
			s.upload(a.draws, unsafe.Slice((*byte)(unsafe.Pointer(&draws[0])), c.rows*sampleDrawBytes))
			return func(s *stream, _ int) { s.sample(a) }, nil
		}))
	}
	return out
}
