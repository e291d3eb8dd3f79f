package computetest

import (
	"fmt"
	"math"

	"afterimage/internal/compute"
)

func attentionCases(tol Tolerances) []testCase {
	table := []struct {
		n, keys int
		args    compute.AttentionArgs
	}{
		{1, 1, compute.AttentionArgs{Heads: 1, KVHeads: 1, HeadDim: 1}},
		{1, 2, compute.AttentionArgs{Heads: 2, KVHeads: 1, HeadDim: 2}},
		{3, 7, compute.AttentionArgs{Heads: 3, KVHeads: 3, HeadDim: 7}},
		{7, 7, compute.AttentionArgs{Heads: 2, KVHeads: 2, HeadDim: 17, Causal: true}},
		{17, 33, compute.AttentionArgs{Heads: 4, KVHeads: 2, HeadDim: 31, Causal: true, Past: 16}},
		{2, 300, compute.AttentionArgs{Heads: 6, KVHeads: 2, HeadDim: 64, Causal: true, Past: 200}}, // 98 stale keys
		{1, 1100, compute.AttentionArgs{Heads: 6, KVHeads: 2, HeadDim: 64, Causal: true, Past: 1099}},
		{8, 700, compute.AttentionArgs{Heads: 6, KVHeads: 2, HeadDim: 64, Causal: true, Past: 692}},
		{5, 129, compute.AttentionArgs{Heads: 14, KVHeads: 1, HeadDim: 64, Causal: true, Past: 124}},
		{33, 33, compute.AttentionArgs{Heads: 2, KVHeads: 1, HeadDim: 33, Causal: true}},
		{63, 65, compute.AttentionArgs{Heads: 2, KVHeads: 2, HeadDim: 63}},
		{65, 63, compute.AttentionArgs{Heads: 4, KVHeads: 2, HeadDim: 65, Scale: 0.3}},
		{127, 127, compute.AttentionArgs{Heads: 6, KVHeads: 2, HeadDim: 64, Causal: true}},
		{130, 257, compute.AttentionArgs{Heads: 3, KVHeads: 1, HeadDim: 128, Causal: true, Past: 127}},
		{100, 100, compute.AttentionArgs{Heads: 2, KVHeads: 1, HeadDim: 80, Causal: true}},
		{256, 256, compute.AttentionArgs{Heads: 4, KVHeads: 4, HeadDim: 64, Segment: 128}},
		{51, 51, compute.AttentionArgs{Heads: 2, KVHeads: 2, HeadDim: 48, Segment: 17}},
		{4, 4, compute.AttentionArgs{Heads: 2, KVHeads: 2, HeadDim: 16, Segment: 1}},
		{0, 9, compute.AttentionArgs{Heads: 2, KVHeads: 2, HeadDim: 16}},
		{1, 64, compute.AttentionArgs{Heads: 2, KVHeads: 1, HeadDim: 16, Causal: true, Pages: []int32{0}}},
		{3, 192, compute.AttentionArgs{Heads: 4, KVHeads: 2, HeadDim: 31, Causal: true, Past: 61, Pages: []int32{2}}},
		{5, 256, compute.AttentionArgs{Heads: 4, KVHeads: 2, HeadDim: 64, Causal: true, Past: 61, Pages: []int32{3, 1}}},
		{1, 384, compute.AttentionArgs{Heads: 6, KVHeads: 2, HeadDim: 64, Causal: true, Past: 319, Pages: []int32{4, 0, 5, 2, 1, 3}}},
		{8, 1280, compute.AttentionArgs{Heads: 6, KVHeads: 2, HeadDim: 64, Causal: true, Past: 700, Pages: []int32{19, 3, 5, 4, 0, 9, 8, 17, 2, 11, 6, 1}}},
		{100, 512, compute.AttentionArgs{Heads: 3, KVHeads: 1, HeadDim: 80, Causal: true, Past: 150, Pages: []int32{6, 2, 5, 1}}},
		{130, 320, compute.AttentionArgs{Heads: 3, KVHeads: 1, HeadDim: 128, Causal: true, Pages: []int32{1, 0, 4}}},
	}
	var cases []testCase
	for _, row := range table {
		a := row.args
		q, k, v := random(11, row.n, a.Heads*a.HeadDim), random(12, row.keys, a.KVHeads*a.HeadDim), random(13, row.keys, a.KVHeads*a.HeadDim)
		if a.Causal { // what lies beyond the causal horizon must not even be looked at
			seen := make([]bool, row.keys)
			for j := range a.Past + row.n {
				at := j
				if a.Pages != nil {
					at = int(a.Pages[j/compute.PageRows])*compute.PageRows + j%compute.PageRows
				}
				seen[at] = true
			}
			for j := range seen {
				for c := 0; c < k.Cols && !seen[j]; c++ {
					k.Row(j)[c], v.Row(j)[c] = poison, poison
				}
			}
		}
		name := fmt.Sprintf("%dx%d/%d,%dx%d/causal=%v,past=%d,segment=%d,pages=%d", row.n, row.keys, a.Heads, a.KVHeads, a.HeadDim, a.Causal, a.Past, a.Segment, len(a.Pages))
		cases = append(cases, attentionCase(name, q, k, v, a, tol))
		if a.Rounded = true; row.n > 8 {
			cases = append(cases, attentionCase(name+",rounded", q, k, v, a, tol))
		}
	}
	// Scores of hundreds: the running maximum moves in every block, and exp meets its far tail.
	for _, a := range []compute.AttentionArgs{{}, {Rounded: true}} {
		a.Heads, a.KVHeads, a.HeadDim = 1, 1, 64
		q, k, v := random(14, 40, 64), random(15, 700, 64), random(16, 700, 64)
		size := float32(30)
		if a.Rounded {
			size = 6 // with more of it, two near scores may change places
		}
		for i := range q.Data {
			q.Data[i] *= size
		}
		sharp := attentionCase(fmt.Sprintf("sharp, rounded=%v", a.Rounded), q, k, v, a, tol)
		sharp.tol *= float64(size) // an error in a score is multiplied like the score
		cases = append(cases, sharp)
	}
	return cases
}

func attentionCase(name string, q, k, v compute.Matrix, a compute.AttentionArgs, tol Tolerances) testCase {
	peak := 0.0
	for _, x := range v.Data {
		if math.Abs(float64(x)) > peak {
			peak = math.Abs(float64(x))
		}
	}
	most := tol.Attention
	if a.Rounded {
		most = max(most, tol.RoundedAttention)
	}
	return testCase{
		name:  name,
		slots: []slot{out(q.Rows, q.Cols), in(q), in(k), in(v)},
		tol:   most,
		call: func(o compute.Ops, t []compute.Tensor, _ []compute.Weight) {
			o.Attention(t[0], t[1], t[2], t[3], a)
		},
		scale: func(int, int) float64 { return peak },
	}
}
