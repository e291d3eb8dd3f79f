package llm

import (
	"cmp"
	"math"
	"slices"

	"afterimage/internal/compute"
)

// uniform is the number in [0, 1) that the token of that index is drawn with. It is a function of the seed and the index alone, so
// a token comes out the same whether it was verified among drafts or drawn by itself.
func uniform(seed uint64, index int) float64 {
	z := mix(seed) + (uint64(index)+1)*0x9e3779b97f4a7c15
	return float64(mix(z)>>11) / (1 << 53)
}

// mix is the finalizer of SplitMix64.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// sampler draws tokens from logits as compute.Draw says. It only holds room to work in.
type sampler struct {
	prob  []float64
	order []int32
}

// draw returns the token, or -1 where the logits are not all finite.
func (s *sampler) draw(logits []float32, d compute.Draw) int32 {
	switch {
	case !finite(logits):
		return -1
	case d.Temperature == 0:
		return argmax(logits)
	}
	return s.at(logits, float64(d.Temperature), float64(d.TopP), d.U)
}

// finite says whether a row of logits can be sampled from.
func finite(row []float32) bool {
	for _, v := range row {
		if v-v != 0 {
			return false
		}
	}
	return true
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

// at returns the token at u of the cumulative distribution.
func (s *sampler) at(logits []float32, temperature, topP, u float64) int32 {
	top := float64(logits[argmax(logits)])
	s.prob = slices.Grow(s.prob[:0], len(logits))[:len(logits)]
	var sum float64
	for i, v := range logits {
		p := math.Exp((float64(v) - top) / temperature)
		s.prob[i] = p
		sum += p
	}
	cut := topP > 0 && topP < 1
	// Tokens below this share are together less than 1-topP, so they lie outside the set: only the others need sorting.
	least := 0.0
	if cut {
		least = sum * (1 - topP) / float64(len(logits))
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
			if held += s.prob[id]; held >= topP*sum {
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
