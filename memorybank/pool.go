package memorybank

import "afterimage/internal/compute"

// pool2x2 averages a grid of rows in blocks of 2x2; at an odd edge, over what there is.
func pool2x2(g Grid, m compute.Matrix) (Grid, compute.Matrix) {
	to := Grid{H: (g.H + 1) / 2, W: (g.W + 1) / 2}
	out := compute.NewMatrix(to.H*to.W, m.Cols)
	for y := range to.H {
		for x := range to.W {
			dst, n := out.Row(y*to.W+x), float32(0)
			for sy := 2 * y; sy < min(2*y+2, g.H); sy++ {
				for sx := 2 * x; sx < min(2*x+2, g.W); sx++ {
					for i, v := range m.Row(sy*g.W + sx) {
						dst[i] += v
					}
					n++
				}
			}
			for i := range dst {
				dst[i] /= n
			}
		}
	}
	return to, out
}

// mean returns (wa*a + wb*b) / (wa+wb), rounded to float32 once.
func mean(a compute.Matrix, wa float32, b compute.Matrix, wb float32) compute.Matrix {
	out := compute.NewMatrix(a.Rows, a.Cols)
	fa := float64(wa) / (float64(wa) + float64(wb))
	for i, v := range a.Data {
		d := float64(b.Data[i])
		out.Data[i] = float32(d + fa*(float64(v)-d)) // exact where both are equal, however often they are merged
	}
	return out
}

// distance returns the squared Euclidean distance. Four sums, so that the additions need not wait for each other.
func distance(a, b compute.Matrix) float64 {
	x, y := a.Data, b.Data[:len(a.Data)]
	var s0, s1, s2, s3 float64
	i := 0
	for ; i+4 <= len(x); i += 4 {
		d0, d1 := float64(x[i])-float64(y[i]), float64(x[i+1])-float64(y[i+1])
		d2, d3 := float64(x[i+2])-float64(y[i+2]), float64(x[i+3])-float64(y[i+3])
		s0, s1, s2, s3 = s0+d0*d0, s1+d1*d1, s2+d2*d2, s3+d3*d3
	}
	for ; i < len(x); i++ {
		d := float64(x[i]) - float64(y[i])
		s0 += d * d
	}
	return s0 + s1 + s2 + s3
}

// gistDistance returns the squared Euclidean distance of the means of a's and of b's rows; the shapes are equal.
func gistDistance(a, b compute.Matrix) float64 {
	var sum float64
	for c := range a.Cols {
		var d float64
		for i := c; i < len(a.Data); i += a.Cols {
			d += float64(a.Data[i]) - float64(b.Data[i])
		}
		sum += d * d
	}
	if a.Rows == 0 {
		return 0
	}
	return sum / float64(a.Rows*a.Rows)
}

// gist returns the mean of m's rows.
func gist(m compute.Matrix) []float32 {
	sum := make([]float64, m.Cols)
	for r := range m.Rows {
		for c, v := range m.Row(r) {
			sum[c] += float64(v)
		}
	}
	out := make([]float32, m.Cols)
	for c, v := range sum {
		out[c] = float32(v / float64(max(m.Rows, 1)))
	}
	return out
}
