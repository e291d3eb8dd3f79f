package encoder

import (
	"math"

	"afterimage/internal/compute"
)

// rotaryBase is what Qwen2-VL's frequencies are powers of.
const rotaryBase = 10000

// point is a patch's place in its picture.
type point struct{ y, x int }

// side is that of the squares of patches in which rows lie in the tower: those which leave it as one row lie side by side.
func (c *Config) side() int {
	if c.Late {
		return c.Shuffle
	}
	return c.square()
}

// place is where the patch of row r is, as patches are made: row by row, or square by square.
func (c *Config) place(g Size, r int) (y, x int) {
	side := c.side()
	within := r % (side * side)
	square := r / (side * side)
	across := g.W / side
	return square/across*side + within/side, square%across*side + within%side
}

// block is a column of windows of one size: squares of patches from row y0 to y1 and column x0 to x1 of a picture. Their rows lie together
// in the tower, from row at on.
type block struct{ y0, y1, x0, x1, at int }

// span is consecutive rows of a picture that attend in segments of one size.
type span struct{ from, to, segment int }

// windows cuts a picture of g patches into windows, as nearly all layers of Qwen2.5-VL attend: those at the right and at the bottom may
// be smaller. Windows of one size lie together, so that one call of Attention does for all of them.
func (c *Config) windows(g Size) (blocks []block, spans []span) {
	m := c.side()
	h, w, n := g.H/m, g.W/m, c.Vision.Window/m
	at := 0
	part := func(y0, y1, x0, x1 int) {
		if y0 == y1 || x0 == x1 {
			return
		}
		high, wide, from := min(n, y1-y0), min(n, x1-x0), at
		for x := x0; x < x1; x += wide {
			blocks = append(blocks, block{y0, y1, x, x + wide, at})
			at += (y1 - y0) * wide * m * m
		}
		spans = append(spans, span{from, at, high * wide * m * m})
	}
	wholeH, wholeW := h/n*n, w/n*n
	part(0, wholeH, 0, wholeW)
	part(0, wholeH, wholeW, w)
	part(wholeH, h, 0, wholeW)
	part(wholeH, h, wholeW, w)
	return blocks, spans
}

// moveWindows copies n pictures of g patches from rows in the order of patches to rows in that of windows, or back.
func (c *Config) moveWindows(ops compute.Ops, dst, src compute.Tensor, n int, g Size, blocks []block, back bool) {
	m := c.side()
	square := m * m * src.Cols // of a row of squares, as one row
	np := g.H * g.W
	for f := range n {
		plain, cut := src.Slice(f*np, (f+1)*np), dst.Slice(f*np, (f+1)*np)
		if back {
			plain, cut = dst.Slice(f*np, (f+1)*np), src.Slice(f*np, (f+1)*np)
		}
		rows := plain.Fold(g.W * m)
		for _, b := range blocks {
			a := rows.Slice(b.y0, b.y1).Columns(b.x0*square, b.x1*square)
			z := cut.Slice(b.at, b.at+(b.y1-b.y0)*(b.x1-b.x0)*m*m).Fold((b.x1 - b.x0) * m * m)
			if back {
				ops.Copy(a, z)
			} else {
				ops.Copy(z, a)
			}
		}
	}
}

// places lists where the patch of every row is, in the order of the tower.
func (c *Config) places(g Size) []point {
	all := make([]point, g.H*g.W)
	for r := range all {
		all[r].y, all[r].x = c.place(g, r)
	}
	if c.Vision.Window == 0 {
		return all
	}
	m := c.side()
	blocks, _ := c.windows(g)
	cut := make([]point, 0, len(all))
	for _, b := range blocks {
		for y := b.y0; y < b.y1; y++ {
			for x := b.x0; x < b.x1; x++ {
				at := (y*(g.W/m) + x) * m * m
				cut = append(cut, all[at:at+m*m]...)
			}
		}
	}
	return cut
}

// axes is the table by which heads turn: half of the angles by a patch's height in the picture, half by its place across.
func (c *Config) axes(g Size) compute.Matrix {
	quarter := c.Vision.Hidden / c.Vision.Heads / 4
	places := c.places(g)
	m := compute.NewMatrix(len(places), 4*quarter)
	for j := range quarter {
		freq := float32(math.Pow(rotaryBase, -float64(j)/float64(quarter)))
		for i := range 2 {
			turn := make([][2]float32, max(g.H, g.W)) // a place's cosine and sine: patches share a few
			for at := range turn {
				sin, cos := math.Sincos(float64(float32(at) * freq))
				turn[at] = [2]float32{float32(cos), float32(sin)}
			}
			for r, p := range places {
				at := p.y
				if i == 1 {
					at = p.x
				}
				m.Row(r)[i*quarter+j], m.Row(r)[(2+i)*quarter+j] = turn[at][0], turn[at][1]
			}
		}
	}
	return m
}

// halving holds bilinear weights from a grid to one of half its sides (rounded up) as Attention's operands: its softmax gives back what
// scores are the logarithms of, and a score is a sum over both directions. d is the size of a head, which a grid's sides fit into
// together; both are repeated for heads of them.
func halving(g Size, d, heads int) (q, k compute.Matrix) {
	to := Size{(g.H + 1) / 2, (g.W + 1) / 2}
	q, k = compute.NewMatrix(to.H*to.W, d*heads), compute.NewMatrix(g.H*g.W, d*heads)
	const never = -1e4 // its exponential is 0
	axis := func(dst []float32, n, to, i int) {
		for j := range dst {
			dst[j] = never
		}
		at := max(0, (float32(i)+0.5)*(float32(n)/float32(to))-0.5)
		low := int(at)
		high, part := min(low+1, n-1), at-float32(low)
		if low == high {
			part = 0
		}
		dst[low] = float32(math.Log(float64(1 - part)))
		if part > 0 {
			dst[high] = float32(math.Log(float64(part)))
		}
	}
	for r := range q.Rows {
		one := q.Row(r)[:d]
		axis(one[:g.H], g.H, to.H, r/to.W)
		axis(one[g.H:g.H+g.W], g.W, to.W, r%to.W)
		for h := 1; h < heads; h++ {
			copy(q.Row(r)[h*d:], one)
		}
	}
	for r := range k.Rows {
		for h := range heads {
			k.Row(r)[h*d+r/g.W], k.Row(r)[h*d+g.H+r%g.W] = 1, 1
		}
	}
	return q, k
}

// headFor is the smallest size of heads that width divides into and that holds n, 0 where there is none that devices have.
func headFor(width, n int) int {
	for d := n; d <= 256; d++ {
		if width%d == 0 {
			return d
		}
	}
	return 0
}

// rowSide is the side in patches of the square that a row of the smallest grid stands for, which sides of pictures are multiples of.
func (c *Config) rowSide() int {
	s := c.square()
	if c.Vision.Coarse {
		s *= 2
	}
	return s
}
