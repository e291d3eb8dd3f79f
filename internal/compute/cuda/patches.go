//go:build cuda

package cuda

import (
	"fmt"

	"afterimage/internal/compute"
)

// The arguments of patches.cu.
type (
	axis        struct{ unit, total uint32 }
	patchesArgs struct {
		dst          view
		src          devptr
		srcW, srcH   uint32
		dstW, dstH   uint32
		x, y         axis
		patch, merge uint32
		scale, shift [3]float64
	}
)

func newAxis(src, dst int) axis {
	a, b := src, dst
	for b != 0 {
		a, b = b, a%b
	}
	return axis{unit: uint32(dst / a), total: uint32(src / a)}
}

// patches uploads pictures, as many as staging memory of a sensible size takes at a time, and prepares runs of equal sizes together.
func (s *stream) patches(dst view, pics []compute.Picture, c compute.PatchArgs) {
	perPicture := uint32(c.W / c.Patch * (c.H / c.Patch))
	const most = 256 << 20
	for from := 0; from < len(pics) && s.err == nil; {
		w, h := pics[from].W, pics[from].H
		size := 3 * w * h
		to := from + 1
		for to < len(pics) && pics[to].W == w && pics[to].H == h && (to+1-from)*size <= most && to-from < 1<<15 {
			to++
		}
		src := s.scratch(scratchHost, int64(to-from)*int64(size))
		for i, p := range pics[from:to] {
			s.upload(src+devptr(i*size), p.Pix[:size])
		}
		a := patchesArgs{
			dst: dst, src: src, srcW: uint32(w), srcH: uint32(h), dstW: uint32(c.W), dstH: uint32(c.H),
			x: newAxis(w, c.W), y: newAxis(h, c.H), patch: uint32(c.Patch), merge: uint32(max(c.Merge, 1)),
		}
		a.dst.rows = uint32(to-from) * perPicture
		a.dst.p += devptr(int64(from) * int64(perPicture) * dst.stride * dst.size())
		area := float64(a.x.total) * float64(a.y.total)
		for i := range a.scale {
			a.scale[i] = 1 / (255 * area * float64(c.Std[i]))
			a.shift[i] = -float64(c.Mean[i]) / float64(c.Std[i])
		}
		start(s, "patches", [3]uint32{blocks(c.W, 32), blocks(c.H, 8), uint32(to - from)}, threads256, 0, &a, 0)
		from = to
	}
}

// maxSide bounds a picture so that no sum overflows: 255·2²⁶·2²⁶ < 2⁶⁴.
const maxSide = 1 << 26

func checkPatches(dst compute.Tensor, pics []compute.Picture, c compute.PatchArgs) error {
	const op = "cuda: Patches"
	if c.Patch <= 0 || c.W <= 0 || c.H <= 0 || c.W > maxSide || c.H > maxSide || c.W%c.Patch != 0 || c.H%c.Patch != 0 {
		return fmt.Errorf("%s: patches of %d do not tile %dx%d", op, c.Patch, c.W, c.H)
	}
	if side := c.Patch * max(c.Merge, 1); c.Merge < 0 || c.W%side != 0 || c.H%side != 0 {
		return fmt.Errorf("%s: squares of %d patches of %d do not tile %dx%d", op, c.Merge, c.Patch, c.W, c.H)
	}
	if dst.None() || dst.Rows != len(pics)*(c.W/c.Patch)*(c.H/c.Patch) || dst.Cols != 3*c.Patch*c.Patch {
		return fmt.Errorf("%s: dst %s does not fit %d pictures of %dx%d in patches of %d", op, dst.Shape(), len(pics), c.W, c.H, c.Patch)
	}
	for i, p := range pics {
		if p.W <= 0 || p.H <= 0 || p.W > maxSide || p.H > maxSide || len(p.Pix) != 3*p.W*p.H {
			return fmt.Errorf("%s: picture %d of %dx%d has %d bytes", op, i, p.W, p.H, len(p.Pix))
		}
	}
	return nil
}
