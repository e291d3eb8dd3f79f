package computetest

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// Shares implements compute.Sharer.
func (o *ops) Shares(dst, q, k compute.Tensor, a compute.ShareArgs) {
	const op = "Shares"
	if !o.start(compute.CheckShares(dst, q, k, a)) {
		return
	}
	d, qv, kv := o.at(op, dst), o.at(op, q), o.at(op, k)
	if o.err != nil {
		return
	}
	scale := float64(a.Scale)
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(a.HeadDim))
	}
	sums := make([]float64, d.cols)
	weights := make([]float64, a.Past+1)
	for h := range a.Heads {
		qh := qv.row(0)[h*a.HeadDim:][:a.HeadDim]
		col := h / (a.Heads / a.KVHeads) * a.HeadDim
		peak, all := math.Inf(-1), 0.0
		for j := range weights {
			at := j
			if a.Pages != nil {
				at = int(a.Pages[j/compute.PageRows])*compute.PageRows + j%compute.PageRows
			}
			s := 0.0
			for c, kc := range kv.row(at)[col:][:a.HeadDim] {
				s += float64(qh[c]) * float64(kc)
			}
			weights[j] = s * scale
			peak = max(peak, weights[j])
		}
		for j := range weights {
			weights[j] = math.Exp(weights[j] - peak)
			all += weights[j]
		}
		for i := range sums {
			for _, w := range weights[a.Bounds[i]:a.Bounds[i+1]] {
				sums[i] += w / all / float64(a.Heads)
			}
		}
	}
	for i, s := range sums {
		d.put(0, i, s)
	}
}

func shareCases(tol Tolerances) []testCase {
	table := []struct {
		keys int
		args compute.ShareArgs
	}{
		{1, compute.ShareArgs{Heads: 1, KVHeads: 1, HeadDim: 1, Bounds: []int32{0, 1}}},
		{9, compute.ShareArgs{Heads: 3, KVHeads: 3, HeadDim: 7, Past: 6, Bounds: []int32{0, 0, 2, 2, 6, 7}}},
		{300, compute.ShareArgs{Heads: 6, KVHeads: 2, HeadDim: 64, Past: 200, Bounds: []int32{3, 64, 65, 128, 200}}},
		{1100, compute.ShareArgs{Heads: 6, KVHeads: 2, HeadDim: 64, Past: 1099, Scale: 0.5, Bounds: []int32{0, 1, 17, 900, 1100}}},
		{129, compute.ShareArgs{Heads: 14, KVHeads: 1, HeadDim: 80, Past: 124, Bounds: []int32{0, 125}}},
		{64, compute.ShareArgs{Heads: 2, KVHeads: 1, HeadDim: 16, Pages: []int32{0}, Bounds: []int32{0, 1}}},
		{384, compute.ShareArgs{Heads: 6, KVHeads: 2, HeadDim: 31, Past: 319, Pages: []int32{4, 0, 5, 2, 1, 3}, Bounds: []int32{0, 60, 70, 320}}},
		{1280, compute.ShareArgs{Heads: 6, KVHeads: 2, HeadDim: 128, Past: 700, Pages: []int32{19, 3, 5, 4, 0, 9, 8, 17, 2, 11, 6}, Bounds: []int32{1, 2, 3, 64, 256, 701}}},
	}
	var cases []testCase
	for _, row := range table {
		a := row.args
		q, k := random(21, 1, a.Heads*a.HeadDim), random(22, row.keys, a.KVHeads*a.HeadDim)
		seen := make([]bool, row.keys)
		for j := range a.Past + 1 {
			at := j
			if a.Pages != nil {
				at = int(a.Pages[j/compute.PageRows])*compute.PageRows + j%compute.PageRows
			}
			seen[at] = true
		}
		for j := range seen { // what the row does not see must not even be looked at
			for c := 0; c < k.Cols && !seen[j]; c++ {
				k.Row(j)[c] = poison
			}
		}
		cases = append(cases, testCase{
			name:  fmt.Sprintf("%d/%d,%dx%d/past=%d,pages=%d,ranges=%d", row.keys, a.Heads, a.KVHeads, a.HeadDim, a.Past, len(a.Pages), len(a.Bounds)-1),
			slots: []slot{{Matrix: compute.Matrix{Rows: 1, Cols: len(a.Bounds) - 1}, vector: true}, in(q), in(k)},
			tol:   tol.Attention,
			call: func(o compute.Ops, t []compute.Tensor, _ []compute.Weight) {
				o.(compute.Sharer).Shares(t[0], t[1], t[2], a)
			},
		})
	}
	return cases
}

// shares reports whether a device can tell what a row attends to.
func shares(t *testing.T, dev compute.Device) (can bool) {
	t.Helper()
	require.NoError(t, dev.Run(t.Context(), func(o compute.Ops) { _, can = o.(compute.Sharer) }))
	return can
}
