package ffmpeg

// orientation maps a shown picture onto the stored one: stored(x,y) = origin + x*(xx,yx) + y*(xy,yy). It is one of the eight
// that need no resampling.
type orientation struct{ xx, xy, yx, yy int }

var upright = orientation{xx: 1, yy: 1}

// newOrientation reads a display matrix (a b u, c d v, x y w; 16.16), in which the stored point (x,y) is shown at
// (ax+cy, bx+dy). A matrix that is no multiple of a quarter turn, apart from scale, leaves the picture as stored.
func newOrientation(m [9]int32) orientation {
	sign := func(v int32) int {
		switch {
		case v > 1<<14:
			return 1
		case v < -(1 << 14):
			return -1
		}
		return 0
	}
	a, b, c, d := sign(m[0]), sign(m[1]), sign(m[3]), sign(m[4])
	if (a == 0) == (b == 0) || a*a != d*d || b*b != c*c {
		return upright
	}
	// The inverse of a signed permutation is its transpose: shown = [a c; b d] stored, so stored = [a b; c d] shown.
	return orientation{xx: a, xy: b, yx: c, yy: d}
}

// size is that of the shown picture for a stored one of w x h.
func (o orientation) size(w, h int) (pw, ph int) {
	if o.xx == 0 {
		return h, w
	}
	return w, h
}

// origin is the stored point shown at the top left corner.
func (o orientation) origin(w, h int) (x0, y0 int) {
	if o.xx < 0 || o.xy < 0 {
		x0 = w - 1
	}
	if o.yx < 0 || o.yy < 0 {
		y0 = h - 1
	}
	return x0, y0
}
