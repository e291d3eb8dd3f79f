package encoder

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"

	"afterimage/ingest"
)

func randomFrame(w, h int) ingest.Frame {
	f := ingest.Frame{W: w, H: h, Pix: make([]byte, 3*w*h)}
	rng := rand.New(rand.NewPCG(uint64(w), uint64(h)))
	for i := range f.Pix {
		f.Pix[i] = byte(rng.Uint32())
	}
	return f
}

func preprocessConfig(h, w, patch int) *Config {
	return &Config{Shuffle: 1, Vision: Vision{PatchSize: patch, Image: Size{h, w}}, Mean: [3]float32{.5, .25, .125}, Std: [3]float32{.5, .25, 1}}
}

// naive is the area average by its definition, one pixel at a time, in the picture's own layout.
func naive(f ingest.Frame, c *Config, y, x, ch int) float64 {
	overlap := func(i, j, src, dst int) float64 {
		s := float64(src) / float64(dst)
		return max(0, min(float64(j+1)*s, float64(i+1))-max(float64(j)*s, float64(i))) / s
	}
	var sum float64
	for i := range f.H {
		wy := overlap(i, y, f.H, c.Vision.Image.H)
		for j := 0; wy > 0 && j < f.W; j++ {
			sum += wy * overlap(j, x, f.W, c.Vision.Image.W) * float64(f.Pix[3*(i*f.W+j)+ch])
		}
	}
	return (sum/255 - float64(c.Mean[ch])) / float64(c.Std[ch])
}

func TestPatches(t *testing.T) {
	const h, w, ps = 8, 12, 4
	c := preprocessConfig(h, w, ps)
	for _, size := range [][2]int{{12, 8}, {24, 16}, {5, 3}, {1, 1}, {13, 9}, {37, 23}, {101, 97}, {211, 13}, {640, 360}} {
		t.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(t *testing.T) {
			f := randomFrame(size[0], size[1])
			r := newResizer(f.W, f.H, w, h)
			have := make([]float32, 3*h*w)
			r.patches(have, f, c)
			for y := range h {
				for x := range w {
					for ch := range 3 {
						patch := y/ps*(w/ps) + x/ps
						at := patch*3*ps*ps + ch*ps*ps + y%ps*ps + x%ps
						if want := naive(f, c, y, x, ch); math.Abs(want-float64(have[at])) > 1e-6 {
							t.Fatalf("row %d column %d channel %d: want %g, have %g", y, x, ch, want, have[at])
						}
					}
				}
			}
			again := make([]float32, 3*h*w)
			r.patches(again, f, c)
			assert.Equal(t, have, again)
		})
	}
}

func TestPackedAndWideAgree(t *testing.T) {
	c := preprocessConfig(8, 12, 4)
	for _, size := range [][2]int{{13, 9}, {36, 8}, {120, 88}} {
		f := randomFrame(size[0], size[1])
		r := newResizer(f.W, f.H, 12, 8)
		assert.True(t, r.packed)
		packed, wide := make([]float32, 3*8*12), make([]float32, 3*8*12)
		r.patches(packed, f, c)
		r.packed, r.wide, r.sum = false, make([]uint64, 3*12), make([]uint64, 3*12)
		r.patches(wide, f, c)
		assert.Equal(t, packed, wide)
	}
	assert.False(t, newResizer(1921, 1081, 256, 128).packed)
}

func BenchmarkPreprocess(b *testing.B) {
	for _, size := range [][2]int{{640, 360}, {1280, 720}, {1920, 1080}, {1921, 1081}} {
		b.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(b *testing.B) {
			c := preprocessConfig(128, 256, 16)
			f := randomFrame(size[0], size[1])
			r := newResizer(f.W, f.H, 256, 128)
			dst := make([]float32, 3*128*256)
			for b.Loop() {
				r.patches(dst, f, c)
			}
		})
	}
}
