package encoder

import (
	"fmt"

	"afterimage/ingest"
)

// resizer turns pictures of one size into the model's patches by area average: every source pixel counts by exactly the area it
// covers. All sums are integers, in units of the common refinement of both grids, so the result is the same on every machine.
type resizer struct {
	srcW, srcH int
	x, y       axis
	packed     bool     // a pixel's three channel sums fit one uint64
	row, sum   []uint64 // one packed source row, and the sums of one destination row
	wide       []uint64 // the same for sums that do not fit: three uint64 a pixel
}

// axis maps n source cells to m destination cells along one side.
type axis struct {
	unit  uint64 // weight of a source cell fully inside a destination cell
	total uint64 // weights of every destination cell add up to this
	taps  []tap
}

// tap lists the source cells first..last of one destination cell: head is the weight of first, tail that of last when they
// differ; those between weigh unit.
type tap struct {
	first, last int
	head, tail  uint64
}

// lane is the width of one channel's sum inside a packed pixel.
const lane = 21

func newResizer(srcW, srcH, dstW, dstH int) *resizer {
	r := &resizer{srcW: srcW, srcH: srcH, x: newAxis(srcW, dstW), y: newAxis(srcH, dstH)}
	r.packed = r.x.total*r.y.total*255 < 1<<lane
	if r.packed {
		r.row, r.sum = make([]uint64, dstW), make([]uint64, dstW)
	} else {
		r.wide, r.sum = make([]uint64, 3*dstW), make([]uint64, 3*dstW)
	}
	return r
}

func newAxis(src, dst int) axis {
	g := gcd(src, dst)
	a := axis{unit: uint64(dst / g), total: uint64(src / g), taps: make([]tap, dst)}
	for j := range a.taps {
		from, to := uint64(j)*a.total, uint64(j+1)*a.total
		t := tap{first: int(from / a.unit), last: int((to - 1) / a.unit)}
		if t.first == t.last {
			t.head = a.total
		} else {
			t.head = uint64(t.first+1)*a.unit - from
			t.tail = to - uint64(t.last)*a.unit
		}
		a.taps[j] = t
	}
	return a
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// patches writes f, resized and normalised, as rows of patches in the order of Config.place, a patch's values channel by channel,
// row by row, as a flattened convolution weight expects them.
func (r *resizer) patches(dst []float32, f ingest.Frame, c *Config) {
	ps := c.Vision.PatchSize
	down, across := c.order(c.patchGrid(Size{len(r.y.taps), len(r.x.taps)}))
	area := float64(r.x.total) * float64(r.y.total)
	var scale, shift [3]float64
	for i := range scale {
		scale[i] = 1 / (255 * area * float64(c.Std[i]))
		shift[i] = -float64(c.Mean[i]) / float64(c.Std[i])
	}
	const mask = 1<<lane - 1
	done := -1 // the source row that r.row or r.wide holds; neighbours in y share one
	for y, t := range r.y.taps {
		clear(r.sum)
		for i := t.first; i <= t.last; i++ {
			w := r.y.unit
			switch i {
			case t.first:
				w = t.head
			case t.last:
				w = t.tail
			}
			src := f.Pix[3*r.srcW*i : 3*r.srcW*(i+1)]
			if r.packed {
				if i != done {
					r.packRow(src)
				}
				for j, v := range r.row {
					r.sum[j] += v * w
				}
			} else {
				if i != done {
					r.wideRow(src)
				}
				for j, v := range r.wide {
					r.sum[j] += v * w
				}
			}
			done = i
		}
		base := down[y/ps]*3*ps*ps + (y%ps)*ps
		for x := range r.x.taps {
			at := base + across[x/ps]*3*ps*ps + x%ps
			var v [3]uint64
			if r.packed {
				s := r.sum[x]
				v = [3]uint64{s & mask, s >> lane & mask, s >> (2 * lane)}
			} else {
				v = [3]uint64(r.sum[3*x:])
			}
			for ch := range v {
				dst[at+ch*ps*ps] = float32(float64(float64(v[ch])*scale[ch]) + shift[ch]) // the inner conversion forbids a fused multiply-add
			}
		}
	}
}

// packRow sums one source row along x, the three channels side by side in one word.
func (r *resizer) packRow(src []byte) {
	unit, out := r.x.unit, r.row[:len(r.x.taps)]
	for j := range r.x.taps {
		t := &r.x.taps[j]
		i, last := 3*t.first, 3*t.last
		sum := pack(src[i:]) * t.head
		if last > i {
			var mid uint64
			for i += 3; i < last; i += 3 {
				mid += pack(src[i:])
			}
			sum += mid*unit + pack(src[last:])*t.tail
		}
		out[j] = sum
	}
}

func pack(p []byte) uint64 {
	_ = p[2]
	return uint64(p[0]) | uint64(p[1])<<lane | uint64(p[2])<<(2*lane)
}

// wideRow is packRow for sizes whose sums need more than a lane.
func (r *resizer) wideRow(src []byte) {
	for j, t := range r.x.taps {
		for ch := range 3 {
			sum := uint64(src[3*t.first+ch]) * t.head
			if t.last > t.first {
				var mid uint64
				for i := t.first + 1; i < t.last; i++ {
					mid += uint64(src[3*i+ch])
				}
				sum += mid*r.x.unit + uint64(src[3*t.last+ch])*t.tail
			}
			r.wide[3*j+ch] = sum
		}
	}
}

// maxSide bounds a picture so that no sum above overflows: 255·2²⁶·2²⁶ < 2⁶⁴.
const maxSide = 1 << 26

func checkFrame(f ingest.Frame) error {
	if f.W <= 0 || f.H <= 0 || f.W > maxSide || f.H > maxSide {
		return fmt.Errorf("picture of %dx%d", f.W, f.H)
	}
	if len(f.Pix) != 3*f.W*f.H {
		return fmt.Errorf("picture of %dx%d: want %d bytes, have %d", f.W, f.H, 3*f.W*f.H, len(f.Pix))
	}
	return nil
}
