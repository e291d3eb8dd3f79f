package cpu

// #cgo nocallback af_resize_across
// #cgo noescape af_resize_across
// #cgo nocallback af_resize_down
// #cgo noescape af_resize_down
// #cgo nocallback af_patches
// #cgo noescape af_patches
// #cgo nocallback af_patches_area
// #cgo noescape af_patches_area
// #include "device.h"
import "C"

import (
	"unsafe"

	"afterimage/internal/compute"
)

// resizer is what preparing pictures keeps: the weights of the sizes that come again, and room for the pictures between two steps.
type resizer struct {
	taps compute.TapCache
	room [2][]byte
}

// picture returns room for one of w x h that is not p's own.
func (r *resizer) picture(p compute.Picture, w, h int) compute.Picture {
	i := 0
	if b := r.room[0]; len(b) > 0 && &b[0] == &p.Pix[0] {
		i = 1
	}
	if n := 3 * w * h; len(r.room[i]) < n {
		r.room[i] = make([]byte, n)
	}
	return compute.Picture{W: w, H: h, Pix: r.room[i][:3*w*h]}
}

func (o *ops) Patches(dst compute.Tensor, pics []compute.Picture, args compute.PatchArgs) {
	const op = "Patches"
	if !o.check(compute.CheckPatches(dst, pics, args)) {
		return
	}
	d := o.at(op, dst)
	if o.err != nil || len(pics) == 0 {
		return
	}
	w, h := args.Size()
	patches := w / args.Patch * (h / args.Patch)
	down, across := patchOrder(args)
	pair, area := max(args.Pair, 1), args.Patch*args.Patch
	values := args.Values()
	at := func(i int) C.af_view { // where the first value of picture i lies
		v := d
		v.p = (*C.float)(unsafe.Add(unsafe.Pointer(d.p), 4*(i/pair*patches*dst.Stride+i%pair*area)))
		return v
	}
	if args.Area() {
		unitX, totalX := compute.Refine(pics[0].W, w)
		unitY, totalY := compute.Refine(pics[0].H, h)
		scale, shift := args.Affine(totalX, totalY)
		for i, p := range pics {
			o.done(op, C.af_patches_area(o.c, at(i), bytes(p), C.int(p.W), C.int(w), C.int(h), C.uint64_t(unitX), C.uint64_t(totalX), C.uint64_t(unitY),
				C.uint64_t(totalY), C.int(args.Patch), C.int(pair*area), &down[0], &across[0], (*C.double)(&scale[0]), (*C.double)(&shift[0])))
		}
		return
	}
	var done compute.Picture
	for i, p := range pics {
		if i == 0 || &p.Pix[0] != &pics[i-1].Pix[0] { // a still is a pair of one picture
			done = p
			for _, s := range args.Steps {
				done = o.step(done, s)
			}
		}
		if o.err != nil {
			return
		}
		C.af_patches(o.c, at(i), bytes(done), C.int(w), C.int(h), C.int(args.Patch), C.int(pair*area), &down[0], &across[0],
			(*C.float)(&values[0][0]))
	}
}

// step takes a picture through a step; the result is good until the next but one.
func (o *ops) step(p compute.Picture, s compute.Step) compute.Picture {
	r := &o.dev.resize
	if s.Filter == compute.Place {
		placed := r.picture(p, s.W, s.H)
		s.Place(placed.Pix, p)
		return placed
	}
	if s.W != p.W {
		t, to := r.taps.Get(s.Filter, p.W, s.W), r.picture(p, s.W, p.H)
		o.done("Patches", C.af_resize_across(o.c, bytes(to), bytes(p), C.int(p.W), C.int(p.H), number(t.First), number(t.Count), number(t.Weight),
			C.int(s.W), C.int(t.Size)))
		p = to
	}
	if s.H != p.H {
		t, to := r.taps.Get(s.Filter, p.H, s.H), r.picture(p, p.W, s.H)
		o.done("Patches", C.af_resize_down(o.c, bytes(to), bytes(p), C.int(p.W), number(t.First), number(t.Count), number(t.Weight),
			C.int(s.H), C.int(t.Size)))
		p = to
	}
	return p
}

func bytes(p compute.Picture) *C.uint8_t { return (*C.uint8_t)(&p.Pix[0]) }

func number(v []int32) *C.int32_t { return (*C.int32_t)(&v[0]) }

func patchOrder(args compute.PatchArgs) (down, across []C.int32_t) {
	w, h := args.Size()
	narrow := func(v []int) []C.int32_t {
		out := make([]C.int32_t, len(v))
		for i, n := range v {
			out[i] = C.int32_t(n)
		}
		return out
	}
	y, x := compute.PatchOrder(h/args.Patch, w/args.Patch, args.Merge)
	return narrow(y), narrow(x)
}
