package computetest

import (
	"fmt"
	"math"

	"afterimage/internal/compute"
)

var sizes = []struct{ rows, cols int }{
	{1, 1}, {2, 2}, {3, 3}, {1, 7}, {7, 17}, {17, 31}, {2, 33}, {33, 63}, {3, 65}, {5, 127}, {1, 384}, {129, 384}, {65, 256}, {2, 1024}, {0, 4},
}

func normCases(tol Tolerances) []testCase {
	var cases []testCase
	for i, s := range sizes {
		x, w, b := random(21, s.rows, s.cols), random(22, 1, s.cols), random(23, 1, s.cols)
		for j := range x.Data {
			x.Data[j] = x.Data[j]*3 + 1 // a mean to subtract
		}
		inPlace := i%2 == 1
		norm := func(name string, rms bool, eps float32) testCase {
			return testCase{
				name:  fmt.Sprintf("%s/%dx%d,inplace=%v", name, s.rows, s.cols, inPlace),
				slots: []slot{out(s.rows, s.cols), in(x), vector(w), vector(b)},
				tol:   tol.Other * 4, // a mean and a root, then three products
				call: func(o compute.Ops, t []compute.Tensor, _ []compute.Weight) {
					src := t[1]
					if inPlace {
						o.Copy(t[0], t[1])
						src = t[0]
					}
					if rms {
						o.RMSNorm(t[0], src, t[2], eps)
					} else {
						o.LayerNorm(t[0], src, t[2], t[3], eps)
					}
				},
				scale: func(_, c int) float64 { return 1 + 3*abs(w.Data[c], b.Data[c]) },
			}
		}
		cases = append(cases, norm("RMSNorm", true, 1e-5), norm("LayerNorm", false, 1e-6))
	}
	return cases
}

func elementwiseCases(tol Tolerances) []testCase {
	var cases []testCase
	for _, s := range sizes {
		x, y, gateUp := random(31, s.rows, s.cols), random(32, s.rows, s.cols), random(33, s.rows, 2*s.cols)
		for j := range gateUp.Data {
			gateUp.Data[j] *= 8 // well into both tails of the sigmoid
		}
		one := random(34, 1, s.cols)
		size := fmt.Sprintf("/%dx%d", s.rows, s.cols)
		cases = append(cases,
			testCase{name: "Copy" + size, slots: []slot{out(s.rows, s.cols), in(x)}, call: func(o compute.Ops, t []compute.Tensor, _ []compute.Weight) {
				o.Copy(t[0], t[1])
			}},
			testCase{name: "Add" + size, slots: []slot{in(x), in(y)}, tol: tol.Other, call: func(o compute.Ops, t []compute.Tensor, _ []compute.Weight) {
				o.Add(t[0], t[1])
			}},
			testCase{name: "AddRow" + size, slots: []slot{in(x), in(one)}, tol: tol.Other, call: func(o compute.Ops, t []compute.Tensor, _ []compute.Weight) {
				o.Add(t[0], t[1])
			}},
			testCase{name: "SwiGLU" + size, slots: []slot{out(s.rows, s.cols), in(gateUp)}, tol: tol.Other, call: func(o compute.Ops, t []compute.Tensor, _ []compute.Weight) {
				o.SwiGLU(t[0], t[1])
			}, scale: func(r, c int) float64 {
				g, u := float64(gateUp.Row(r)[c]), float64(gateUp.Row(r)[s.cols+c])
				return math.Abs(g*u) + 1e-3
			}},
			embedCase(s.rows, s.cols, compute.F32), embedCase(s.rows, s.cols, compute.BF16), embedCase(s.rows, s.cols, compute.I8), embedCase(s.rows, s.cols, compute.I4),
		)
	}
	x, y := random(35, 12, 9), random(36, 4, 9)
	cases = append(cases, testCase{name: "AddRepeated", slots: []slot{in(x), in(y)}, tol: tol.Other, call: func(o compute.Ops, t []compute.Tensor, _ []compute.Weight) {
		o.Add(t[0], t[1])
	}})
	for _, r := range []struct{ rows, heads, dim, first int }{{1, 1, 2, 0}, {3, 2, 6, 5}, {7, 3, 34, 900}, {33, 6, 64, 1000}, {1, 8, 64, 4000}, {150, 2, 128, 0}, {2, 1, 80, 17}, {0, 1, 2, 0}} {
		cases = append(cases, ropeCase(r.rows, r.heads, r.dim, r.first, tol))
	}
	for _, r := range []struct{ rows, heads, dim, table int }{{1, 1, 2, 1}, {6, 2, 6, 3}, {7, 3, 34, 7}, {33, 16, 80, 11}, {150, 2, 128, 50}, {5, 2, 64, 9}, {0, 1, 2, 1}} {
		cases = append(cases, rotateCase(r.rows, r.heads, r.dim, r.table, tol))
	}
	for _, p := range []struct{ n, h, w, kh, kw, cols int }{{1, 1, 1, 1, 1, 1}, {1, 2, 2, 2, 2, 7}, {3, 8, 16, 2, 2, 33}, {2, 4, 8, 2, 2, 384}, {2, 6, 9, 3, 1, 65}, {1, 5, 4, 5, 4, 17}} {
		m := random(37, p.n*p.h*p.w, p.cols)
		cases = append(cases, testCase{
			name:  fmt.Sprintf("AvgPool/%dx%dx%d/%dx%d,cols=%d", p.n, p.h, p.w, p.kh, p.kw, p.cols),
			slots: []slot{out(m.Rows/(p.kh*p.kw), p.cols), in(m)}, tol: tol.Other,
			call: func(o compute.Ops, t []compute.Tensor, _ []compute.Weight) {
				o.AvgPool(t[0], t[1], p.h, p.w, p.kh, p.kw)
			},
		})
	}
	return cases
}

// embedCase has no tolerance: a weight's row is what its type holds, exactly, up to the one product with an int8 scale.
func embedCase(rows, cols int, as compute.DType) testCase {
	table := random(38, 37, cols)
	ids := make([]int32, rows)
	for i := range ids {
		ids[i] = int32((i*29 + 36) % 37)
	}
	return testCase{
		name: fmt.Sprintf("Embed/%dx%d/%v", rows, cols, as), slots: []slot{out(rows, cols)}, weights: []weightSpec{{table, as}},
		tol: 1e-6,
		call: func(o compute.Ops, t []compute.Tensor, w []compute.Weight) {
			o.Embed(t[0], w[0], ids)
		},
	}
}

func ropeCase(rows, heads, dim, first int, tol Tolerances) testCase {
	x := random(39, rows, heads*dim)
	pos, freq := make([]int32, rows), make([]float32, dim/2)
	for i := range pos {
		pos[i] = int32(first + i)
	}
	for j := range freq {
		freq[j] = float32(math.Pow(10000, -2*float64(j)/float64(dim)))
	}
	return testCase{
		name: fmt.Sprintf("RoPE/%dx%dx%d/from%d", rows, heads, dim, first), slots: []slot{in(x)}, tol: tol.Other,
		call: func(o compute.Ops, t []compute.Tensor, _ []compute.Weight) {
			o.RoPE(t[0], dim, pos, freq)
		},
		scale: func(r, c int) float64 { return abs(x.Row(r)[c]) + 1 },
	}
}

func rotateCase(rows, heads, dim, period int, tol Tolerances) testCase {
	x, table := random(44, rows, heads*dim), random(45, period, dim)
	for r := range period {
		for j, angle := range table.Row(r)[:dim/2] {
			sin, cos := math.Sincos(float64(angle))
			table.Row(r)[j], table.Row(r)[dim/2+j] = float32(cos), float32(sin)
		}
	}
	return testCase{
		name: fmt.Sprintf("Rotate/%dx%dx%d/by%d", rows, heads, dim, period), slots: []slot{in(x), vector(table)}, tol: tol.Other,
		call: func(o compute.Ops, t []compute.Tensor, _ []compute.Weight) {
			o.Rotate(t[0], t[1], dim)
		},
		scale: func(r, c int) float64 { return abs(x.Row(r)[c]) + 1 },
	}
}
