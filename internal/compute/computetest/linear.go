package computetest

import (
	"fmt"
	"math"

	"afterimage/internal/compute"
)

// linearCases cover each type of weight over rows below and above every kernel's switch from the skinny to the blocked path.
func linearCases(tol Tolerances) []testCase {
	shapes := []struct{ rows, in, out int }{
		{1, 1, 1}, {1, 2, 3}, {2, 3, 2}, {3, 7, 17}, {1, 17, 31}, {7, 31, 7}, {4, 33, 63}, {8, 63, 33}, {9, 65, 65},
		{5, 127, 127}, {6, 64, 48}, {16, 1, 17}, {17, 3, 1}, {31, 17, 33}, {33, 127, 65}, {63, 33, 31}, {65, 31, 63},
		{127, 65, 17}, {12, 96, 96}, {13, 130, 100}, {24, 384, 32}, {130, 48, 70}, {1, 384, 1024}, {3, 1024, 384},
		{8, 384, 127}, {32, 1024, 33}, {49, 100, 256}, {200, 64, 40}, {2, 384, 2049}, {0, 5, 6},
	}
	var cases []testCase
	for i, s := range shapes {
		for _, as := range []compute.DType{compute.F32, compute.BF16, compute.I8, compute.I4} {
			// The epilogues cycle, so that each meets every weight type and both paths.
			cases = append(cases, linearCase(s.rows, s.in, s.out, as, i+int(as), tol))
		}
	}
	for e := range 16 {
		cases = append(cases, linearCase(3, 20, 37, compute.F32, e, tol), linearCase(19, 20, 37, compute.BF16, e, tol))
	}
	return append(cases, oddWeights(tol)...)
}

func linearCase(rows, cols, outs int, as compute.DType, epilogue int, tol Tolerances) testCase {
	act := compute.Activation(epilogue % 4)
	bias, residual, inPlace, gain := epilogue%2 == 1, epilogue/2%2 == 1, epilogue/4%2 == 1, epilogue/3%2 == 1
	x, w := random(1, rows, cols), random(2, outs, cols)
	// Weights of a model's size, so that results stay near 1 and activations are not all in their tails.
	for i := range w.Data {
		w.Data[i] /= float32(math.Sqrt(float64(cols)))
	}
	b, res, g := random(3, 1, outs), random(4, rows, outs), random(5, 1, outs)
	c := testCase{
		name:    fmt.Sprintf("%dx%dx%d/%v/act%d,bias=%v,scale=%v,residual=%v,inplace=%v", rows, cols, outs, as, act, bias, gain, residual, inPlace && residual),
		slots:   []slot{out(rows, outs), in(x), vector(b), in(res), vector(g)},
		weights: []weightSpec{{w, as}},
		tol:     [...]float64{tol.F32, tol.BF16, tol.I8, tol.I4}[as],
		call: func(o compute.Ops, t []compute.Tensor, ws []compute.Weight) {
			args := compute.LinearArgs{Act: act}
			if bias {
				args.Bias = t[2]
			}
			if gain {
				args.Scale = t[4]
			}
			if residual {
				args.Residual = t[3]
				if inPlace {
					o.Copy(t[0], t[3])
					args.Residual = t[0]
				}
			}
			o.Linear(t[0], t[1], ws[0], args)
		},
		scale: func(r, n int) float64 {
			sum, peak := 0.0, 0.0
			for _, v := range x.Row(r) {
				peak = max(peak, math.Abs(float64(v)))
			}
			for k, v := range x.Row(r) {
				if as == compute.I8 || as == compute.I4 {
					v = float32(peak) // one step of rounding for the whole row
				}
				sum += math.Abs(float64(v) * float64(w.Row(n)[k]))
			}
			if bias {
				sum += abs(b.Data[n])
			}
			if gain {
				sum *= abs(g.Data[n])
			}
			if residual {
				sum += abs(res.Row(r)[n])
			}
			return sum
		},
	}
	return c
}

// oddWeights: rows of zeros (whose int8 scale is zero), of one huge value among small ones, and rows of x that are all zero.
func oddWeights(tol Tolerances) []testCase {
	var cases []testCase
	for _, as := range []compute.DType{compute.F32, compute.BF16, compute.I8, compute.I4} {
		for _, rows := range []int{2, 20} {
			c := linearCase(rows, 70, 35, as, 0, tol)
			c.name = "odd values/" + c.name
			w, x := c.weights[0].Matrix, c.slots[1].Matrix
			clear(w.Row(0))
			clear(w.Row(33))
			w.Row(5)[3] = 1e4
			w.Row(6)[69] = -3e-20
			clear(x.Row(1))
			cases = append(cases, c)
		}
	}
	return cases
}
