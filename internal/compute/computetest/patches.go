package computetest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

func (o *ops) Patches(dst compute.Tensor, pics []compute.Picture, args compute.PatchArgs) {
	if !o.start(compute.CheckPatches(dst, pics, args)) {
		return
	}
	d := o.at("Patches", dst)
	if o.err != nil {
		return
	}
	w, h := args.Size()
	pair, area := max(args.Pair, 1), args.Patch*args.Patch
	down, across := compute.PatchOrder(h/args.Patch, w/args.Patch, args.Merge)
	for i, p := range pics {
		value := pixels(p, args)
		first := i / pair * len(down) * len(across)
		for y := range h {
			for x := range w {
				for c := range 3 {
					row := first + down[y/args.Patch] + across[x/args.Patch]
					col := (c*pair+i%pair)*area + y%args.Patch*args.Patch + x%args.Patch
					d.put(row, col, float64(value(x, y, c)))
				}
			}
		}
	}
}

// pixels takes a picture through its steps and returns the value of each of the result's.
func pixels(p compute.Picture, args compute.PatchArgs) func(x, y, c int) float32 {
	if args.Area() {
		return averages(p, args)
	}
	for _, s := range args.Steps {
		if s.Filter == compute.Place {
			p = placed(p, s)
		} else {
			p = turned(resampled(p, s.Filter, s.W)) // down is across of the picture on its side
			p = turned(resampled(p, s.Filter, s.H))
		}
	}
	values := args.Values()
	return func(x, y, c int) float32 { return values[c][p.Pix[3*(y*p.W+x)+c]] }
}

func placed(p compute.Picture, s compute.Step) compute.Picture {
	out := compute.Picture{W: s.W, H: s.H}
	for y := range s.H {
		for x := range s.W {
			v := s.Fill[:]
			if i, j := y-s.Y, x-s.X; i >= 0 && i < p.H && j >= 0 && j < p.W {
				v = p.Pix[3*(i*p.W+j):][:3]
			}
			out.Pix = append(out.Pix, v...)
		}
	}
	return out
}

func turned(p compute.Picture) compute.Picture {
	out := compute.Picture{W: p.H, H: p.W}
	for x := range p.W {
		for y := range p.H {
			out.Pix = append(out.Pix, p.Pix[3*(y*p.W+x):][:3]...)
		}
	}
	return out
}

// resampled changes a picture's width.
func resampled(p compute.Picture, f compute.Filter, w int) compute.Picture {
	if w == p.W {
		return p
	}
	out := compute.Picture{W: w, H: p.H}
	t := compute.NewTaps(f, p.W, w)
	for y := range p.H {
		for x := range w {
			for c := range 3 {
				sum := int64(1) << (compute.TapBits - 1)
				for i := range int(t.Count[x]) {
					sum += int64(t.Weight[x*t.Size+i]) * int64(p.Pix[3*(y*p.W+int(t.First[x])+i)+c])
				}
				out.Pix = append(out.Pix, byte(min(max(sum>>compute.TapBits, 0), 255)))
			}
		}
	}
	return out
}

// averages is the definition: a grid so fine that the pixels of both pictures are whole cells of it.
func averages(p compute.Picture, args compute.PatchArgs) func(x, y, c int) float32 {
	w, h := args.Size()
	unitX, totalX := compute.Refine(p.W, w)
	unitY, totalY := compute.Refine(p.H, h)
	overlap := func(cell, total, i, unit int) int { return min((cell+1)*total, (i+1)*unit) - max(cell*total, i*unit) }
	scale, shift := args.Affine(totalX, totalY)
	return func(x, y, c int) float32 {
		var sum uint64
		for i := y * totalY / unitY; i*unitY < (y+1)*totalY; i++ {
			for j := x * totalX / unitX; j*unitX < (x+1)*totalX; j++ {
				weight := uint64(overlap(y, totalY, i, unitY)) * uint64(overlap(x, totalX, j, unitX))
				sum += weight * uint64(p.Pix[3*(i*p.W+j)+c])
			}
		}
		return float32(float64(float64(sum)*scale[c]) + shift[c]) // the inner conversion forbids a fused multiply-add
	}
}

// patchCase is a way of pictures, of each of the sizes.
type patchCase struct {
	steps              []compute.Step
	patch, merge, pair int
	sizes              [][2]int
}

func patchCases() []patchCase {
	area := func(w, h int) []compute.Step { return []compute.Step{{Filter: compute.Area, W: w, H: h}} }
	cubic, lanczos, linear := compute.Bicubic, compute.Lanczos, compute.Bilinear
	grey := [3]uint8{122, 116, 104}
	return []patchCase{
		{area(1, 1), 1, 0, 0, [][2]int{{1, 1}, {7, 5}}},
		{area(4, 6), 2, 1, 1, [][2]int{{1, 1}, {3, 5}, {4, 6}, {8, 12}, {9, 7}}},
		{area(32, 16), 8, 0, 2, [][2]int{{31, 17}, {640, 361}, {33, 1}, {1, 33}}},
		{area(28, 42), 14, 0, 0, [][2]int{{1919, 1079}, {28, 42}, {27, 43}, {1921, 1081}}},
		{area(24, 16), 4, 2, 0, [][2]int{{37, 23}, {24, 16}, {1, 1}}},
		{area(45, 18), 3, 3, 2, [][2]int{{640, 361}, {44, 19}}},
		{[]compute.Step{{Filter: cubic, W: 1, H: 1}}, 1, 0, 0, [][2]int{{1, 1}, {2, 1}, {1, 2}, {7, 5}, {101, 97}}},
		{[]compute.Step{{Filter: cubic, W: 6, H: 4}}, 2, 0, 0, [][2]int{{1, 1}, {5, 3}, {6, 4}, {7, 4}, {6, 9}, {37, 23}}},
		{[]compute.Step{{Filter: linear, W: 33, H: 15}}, 3, 1, 0, [][2]int{{1, 1}, {1, 40}, {40, 1}, {32, 16}, {127, 63}, {320, 180}}},
		{[]compute.Step{{Filter: lanczos, W: 32, H: 32}}, 16, 2, 2, [][2]int{{3, 2}, {8, 8}, {31, 33}, {63, 65}, {641, 359}}},
		{[]compute.Step{{Filter: cubic, W: 84, H: 56}}, 14, 2, 2, [][2]int{{8, 8}, {84, 57}, {85, 56}, {640, 360}, {1023, 77}}},
		{[]compute.Step{{Filter: lanczos, W: 64, H: 37}, {Filter: lanczos, W: 16, H: 16}}, 8, 0, 0, [][2]int{{19, 11}, {1, 1}, {333, 251}}},
		{[]compute.Step{{Filter: cubic, W: 49, H: 28}, {Filter: compute.Place, W: 28, H: 28, X: -10}}, 14, 0, 0, [][2]int{{64, 36}, {7, 4}, {700, 401}}},
		{[]compute.Step{{Filter: compute.Place, W: 41, H: 41, X: 0, Y: 8, Fill: grey}, {Filter: cubic, W: 20, H: 20}}, 4, 1, 0, [][2]int{{41, 25}}},
		{[]compute.Step{{Filter: compute.Place, W: 12, H: 8, X: 3, Y: -2, Fill: grey}}, 4, 0, 2, [][2]int{{4, 5}, {30, 30}, {1, 1}}},
		{[]compute.Step{{Filter: compute.Place, W: 4, H: 4, X: 9, Y: -9, Fill: grey}}, 2, 0, 0, [][2]int{{5, 5}}},
		{[]compute.Step{{Filter: cubic, W: 96, H: 96}}, 16, 0, 0, [][2]int{{1280, 720}, {1921, 1081}}},
	}
}

// picture is noise with black, white and flat places, which sharpening filters overshoot at.
func picture(w, h int, seed uint64) compute.Picture {
	p := compute.Picture{W: w, H: h, Pix: make([]byte, 3*w*h)}
	rng := rand.New(rand.NewPCG(uint64(w)<<32|uint64(h), seed))
	for y := range h {
		for x := range w {
			at := p.Pix[3*(y*w+x):][:3]
			for c := range at {
				switch v := rng.Uint32(); (x/5 + y/7) % 3 {
				case 0:
					at[c] = byte(v)
				case 1:
					at[c] = byte(255 * (v & 1))
				default:
					at[c] = byte(255 * (x / 3 & 1))
				}
			}
		}
	}
	return p
}

// runPatches checks Patches to the bit, with guard bands as other ops have them.
func runPatches(t *testing.T, dev compute.Device, tol Tolerances) {
	ref := Open()
	for i, c := range patchCases() {
		for _, size := range c.sizes {
			args := compute.PatchArgs{Steps: c.steps, Patch: c.patch, Merge: c.merge, Pair: c.pair,
				Mean: [3]float32{0.48, 0.45, 0.4}, Std: [3]float32{0.26, 0.27, 0.28}}
			w, h := args.Size()
			pair := max(c.pair, 1)
			var pics []compute.Picture
			for n := range 2 * pair {
				if pair > 1 && n == 1 {
					pics = append(pics, pics[0]) // as a still
					continue
				}
				pics = append(pics, picture(size[0], size[1], uint64(n)))
			}
			tc := testCase{
				name:  fmt.Sprintf("%d:%v,%dx%d to %dx%d", i, c.steps[0].Filter, size[0], size[1], w, h),
				slots: []slot{out(2*(w/c.patch)*(h/c.patch), 3*pair*c.patch*c.patch)},
				call:  func(o compute.Ops, t []compute.Tensor, _ []compute.Weight) { o.Patches(t[0], pics, args) },
			}
			t.Run(tc.name, func(t *testing.T) {
				for _, as := range []compute.DType{compute.F32, compute.BF16} {
					if as == compute.BF16 && tol.Rounded == 0 {
						break
					}
					want := tc.exec(t, ref, 0, as)
					for _, pad := range []int{0, 5} {
						tc.compare(t, pad, tc.exec(t, dev, pad, as), want) // tol is 0: to the bit
					}
				}
			})
		}
	}
	t.Run("Errors", func(t *testing.T) { patchErrors(t, dev) })
}

func patchErrors(t *testing.T, dev compute.Device) {
	a, err := dev.NewArena(1 << 16)
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Close()) }()
	dst, err := a.Alloc(4, 12)
	require.NoError(t, err)
	good := compute.Picture{W: 2, H: 2, Pix: make([]byte, 12)}
	step := func(f compute.Filter, w, h int) compute.Step { return compute.Step{Filter: f, W: w, H: h} }
	with := func(patch, merge, pair int, steps ...compute.Step) compute.PatchArgs {
		return compute.PatchArgs{Steps: steps, Patch: patch, Merge: merge, Pair: pair, Std: [3]float32{1, 1, 1}}
	}
	args := with(2, 0, 0, step(compute.Bicubic, 4, 4))
	for _, c := range []struct {
		pics []compute.Picture
		args compute.PatchArgs
		says string
	}{
		{[]compute.Picture{good, good}, args, "2 pictures"},
		{[]compute.Picture{{W: 2, H: 3, Pix: make([]byte, 12)}}, args, "picture 0: picture of 2x3: want 18 bytes, have 12"},
		{[]compute.Picture{{W: -2, H: 2}}, args, "picture 0: picture of -2x2"},
		{[]compute.Picture{good}, with(2, 0, 0), "no steps"},
		{[]compute.Picture{good}, with(2, 0, 0, step(compute.Bicubic, 4, 5)), "do not tile"},
		{[]compute.Picture{good}, with(0, 0, 0, step(compute.Bicubic, 4, 4)), "do not tile"},
		{[]compute.Picture{good}, with(2, 3, 0, step(compute.Bicubic, 4, 4)), "squares of 3"},
		{[]compute.Picture{good}, with(2, 0, 2, step(compute.Bicubic, 4, 4)), "1 pictures make no rows of 2"},
		{[]compute.Picture{good}, with(2, 0, 0, step(compute.Bicubic, 0, 4)), "step 0 of 2x2 leads to 0x4"},
		{[]compute.Picture{good}, with(2, 0, 0, step(compute.Bicubic, 1<<20, 1<<20)), "step 0 of 2x2 leads to"},
		{[]compute.Picture{{W: 1, H: 1 << 20, Pix: make([]byte, 3<<20)}}, with(2, 0, 0, step(compute.Bicubic, 256, 4)),
			"step 0 of 1x1048576 leads by way of 256x1048576"},
		{[]compute.Picture{{W: 1<<20 + 1, H: 1}}, args, "picture of 1048577x1"},
		{[]compute.Picture{good}, with(2, 0, 0, compute.Step{Filter: compute.Place, W: 4, H: 4, X: -1 << 21}), "step 0 of 2x2 lays it at -2097152, 0"},
		{[]compute.Picture{good}, with(2, 0, 0, step(compute.Area, 4, 4), step(compute.Bicubic, 4, 4)), "step 0 of 2 is area"},
		{[]compute.Picture{good}, with(2, 0, 0, step(compute.Place+1, 4, 4)), "step 0 of 1 is Filter(5)"},
		{[]compute.Picture{good, {W: 1, H: 1, Pix: make([]byte, 3)}}, with(2, 0, 0, step(compute.Bicubic, 2, 4)), "picture 1 of 1x1 after one of 2x2"},
	} {
		err := dev.Run(t.Context(), func(o compute.Ops) { o.Patches(dst, c.pics, c.args) })
		assert.ErrorContains(t, err, c.says)
	}
}
