//go:build cuda

package cuda

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// refDraw is compute.Draw in float64. It returns the token, and whether a relative error of eps in sums could give another instead.
func refDraw(logits []float32, d compute.Draw, eps float64) (int32, func(int32) bool) {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	if d.Temperature == 0 {
		return int32(best), func(id int32) bool { return id == int32(best) }
	}
	prob := make([]float64, len(logits))
	order := make([]int32, len(logits))
	var sum float64
	for i, v := range logits {
		prob[i] = math.Exp((float64(v) - float64(logits[best])) / float64(d.Temperature))
		sum += prob[i]
		order[i] = int32(i)
	}
	cut := func(e float64) int { return len(order) }
	if d.TopP > 0 && d.TopP < 1 {
		slices.SortFunc(order, func(a, b int32) int {
			return cmp.Or(cmp.Compare(logits[b], logits[a]), cmp.Compare(a, b))
		})
		cut = func(e float64) int {
			var held float64
			for i, id := range order {
				if held += prob[id]; held >= float64(d.TopP)*sum*(1+e) {
					return i + 1
				}
			}
			return len(order)
		}
	}
	// share is the part of [0, 1) that belongs to a token when the set has n tokens.
	share := func(id int32, n int) (from, to float64) {
		var held, before float64
		met := false
		for _, other := range order[:n] {
			held += prob[other]
			met = met || other == id
			if !met {
				before += prob[other]
			}
		}
		if !met {
			return 2, 2
		}
		return before / held, (before + prob[id]) / held
	}
	want := order[0]
	n := cut(0)
	var run float64
	for _, id := range order[:n] {
		run += prob[id]
	}
	u := d.U * run
	for _, id := range order[:n] {
		if u -= prob[id]; u < 0 {
			want = id
			break
		}
	}
	return want, func(id int32) bool {
		for _, e := range []float64{0, -eps, eps} {
			if from, to := share(id, cut(e)); from <= d.U+eps && to >= d.U-eps {
				return true
			}
		}
		return false
	}
}

func TestSample(t *testing.T) {
	d := openTest(t)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	rng := rand.New(rand.NewPCG(3, 4))
	vocabs, rounds := []int{1, 5, 67, 2047, 2048, 2049, 32003, 151936}, 6
	if testing.Short() {
		vocabs, rounds = []int{1, 67, 2049, 20003}, 2
	}
	for _, vocab := range vocabs {
		stride := (vocab+3)/4*4 + 4
		const rows = 9
		for _, kind := range []string{"wide", "flat", "peaked", "ties"} {
			t.Run(fmt.Sprintf("%s/%d", kind, vocab), func(t *testing.T) {
				logits := make([]float32, rows*stride)
				for i := range logits {
					if i%stride >= vocab {
						logits[i] = float32(math.NaN()) // beyond the vocabulary nothing counts
						continue
					}
					switch kind {
					case "wide":
						logits[i] = float32(4 * rng.NormFloat64())
					case "flat":
						logits[i] = float32(0.01 * rng.NormFloat64())
					case "peaked":
						logits[i] = float32(40 * rng.NormFloat64())
					case "ties":
						logits[i] = float32(rng.IntN(3) - 1)
						if rng.IntN(8) == 0 {
							logits[i] = float32(math.Copysign(0, -1))
						}
					}
				}
				for round := range rounds {
					draws := make([]compute.Draw, rows)
					for i := range draws {
						draws[i] = compute.Draw{Temperature: []float32{0, 0.7, 1, 1.5}[(i+round)%4], TopP: []float32{0, 0.9, 1, 0.5, 0.999, 1e-6}[rng.IntN(6)], U: rng.Float64()}
						if rng.IntN(8) == 0 {
							draws[i].U = []float64{0, math.Nextafter(1, 0)}[rng.IntN(2)]
						}
					}
					have := runSample(t, d, logits, stride, vocab, draws, rows)
					for i, draw := range draws {
						want, near := refDraw(logits[i*stride:][:vocab], draw, 3e-6)
						assert.True(t, near(have[i]), "row %d, %+v: want %d, have %d", i, draw, want, have[i])
					}
					assert.Equal(t, have, runSample(t, d, logits, stride, vocab, draws, rows), "the same again")
				}
			})
		}
	}
}

func TestSampleNotFinite(t *testing.T) {
	d := openTest(t)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	const vocab, rows = 5000, 6
	logits := make([]float32, rows*vocab)
	for i := range logits {
		logits[i] = float32(i % 91)
	}
	logits[0*vocab+4999] = float32(math.NaN())
	logits[1*vocab] = float32(math.Inf(1))
	logits[2*vocab+2048] = float32(math.Inf(-1))
	logits[4*vocab+7] = float32(-math.NaN())
	draws := make([]compute.Draw, rows)
	draws[1].Temperature, draws[4].Temperature = 1, 1
	assert.Equal(t, []int32{-1, -1, -1, 14, -1, -7}, runSample(t, d, logits, vocab, vocab, draws, 5))
}

// runSample draws from the first live rows; those after keep -7.
func runSample(t *testing.T, d *device, logits []float32, stride, vocab int, draws []compute.Draw, live int) []int32 {
	t.Helper()
	rows := len(draws)
	args := make([]sampleDraw, rows)
	for i, draw := range draws {
		args[i] = sampleDraw{draw.Temperature, draw.TopP, draw.U}
	}
	out := make([]int32, rows)
	for i := range out {
		out[i] = -7
	}
	err := d.do(context.Background(), "test", func(s *stream) error {
		put := func(b []byte) devptr {
			p, err := d.alloc(int64(len(b)))
			s.fail(err)
			s.upload(p, b)
			return p
		}
		a := sampleArgs{rows: int32(rows), vocab: int32(vocab), stride: int64(stride)}
		a.logits = put(bytesOf(logits))
		a.draws = put(unsafe.Slice((*byte)(unsafe.Pointer(&args[0])), rows*sampleDrawBytes))
		a.tokens = put(bytesOf(out))
		a.live = put(bytesOf([]int32{int32(live)}))
		var err error
		a.pieces, err = d.alloc(sampleRoom(rows, vocab))
		s.fail(err)
		s.sample(a)
		s.download(bytesOf(out), a.tokens)
		for _, p := range []devptr{a.logits, a.draws, a.tokens, a.live, a.pieces} {
			d.free(p)
		}
		return nil
	})
	require.NoError(t, err)
	return out
}
