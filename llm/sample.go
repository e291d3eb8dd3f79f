package llm

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// sampler draws tokens from logits. With temperature 0 it takes the largest (the smallest ID of equals). Otherwise it draws from
// softmax(logits/temperature) cut to the smallest set of tokens that holds topP of it. One draw takes one random number, so a
// seed gives the same tokens whether or not drafts were verified on the way. Owned by one request.
type sampler struct {
	temperature, topP float64
	rng               *rand.Rand
	prob              []float64
	order             []int32
}

func newSampler(o Options) *sampler {
	return &sampler{temperature: float64(o.Temperature), topP: float64(o.TopP), rng: rand.New(rand.NewPCG(o.Seed, 0x61667465))}
}

func (s *sampler) sample(logits []float32) int32 {
	if s.temperature == 0 {
		return argmax(logits)
	}
	return s.draw(logits, s.rng.Float64())
}

func argmax(logits []float32) int32 {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	return int32(best)
}

// draw returns the token at u, in [0, 1), of the cumulative distribution.
func (s *sampler) draw(logits []float32, u float64) int32 {
	top := float64(logits[argmax(logits)])
	s.prob = slices.Grow(s.prob[:0], len(logits))[:len(logits)]
	var sum float64
	for i, v := range logits {
		p := math.Exp((float64(v) - top) / s.temperature)
		s.prob[i] = p
		sum += p
	}
	cut := s.topP > 0 && s.topP < 1
	// Tokens below this share are together less than 1-topP, so they lie outside the set: only the others need sorting.
	least := 0.0
	if cut {
		least = sum * (1 - s.topP) / float64(len(logits))
	}
	s.order = s.order[:0]
	for i, p := range s.prob {
		if p > 0 && p >= least {
			s.order = append(s.order, int32(i))
		}
	}
	if cut {
		slices.SortFunc(s.order, func(a, b int32) int {
			return cmp.Or(cmp.Compare(s.prob[b], s.prob[a]), cmp.Compare(a, b))
		})
		var held float64
		for i, id := range s.order {
			if held += s.prob[id]; held >= s.topP*sum {
				s.order = s.order[:i+1]
				break
			}
		}
		sum = held
	}
	u *= sum
	for _, id := range s.order {
		if u -= s.prob[id]; u < 0 {
			return id
		}
	}
	return s.order[len(s.order)-1] // rounding
}
