package cpu_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/compute/cpu"
)

// One picture on one thread, by the ways of the embedded model, of InternVL, of CLIP, of SmolVLM and of Qwen2-VL.
func BenchmarkPatches(b *testing.B) {
	step := func(f compute.Filter, w, h int) compute.Step { return compute.Step{Filter: f, W: w, H: h} }
	for _, way := range []struct {
		name  string
		patch int
		steps []compute.Step
	}{
		{"area 256x128", 16, []compute.Step{step(compute.Area, 256, 128)}},
		{"bicubic 512x512", 16, []compute.Step{step(compute.Bicubic, 512, 512)}},
		{"bicubic 448x448", 14, []compute.Step{step(compute.Bicubic, 448, 448)}},
		{"bicubic 597x336 crop", 14, []compute.Step{step(compute.Bicubic, 597, 336), {Filter: compute.Place, W: 336, H: 336, X: -130}}},
		{"lanczos 2048x1152 512x512", 16, []compute.Step{step(compute.Lanczos, 2048, 1152), step(compute.Lanczos, 512, 512)}},
		{"bicubic 1008x560", 14, []compute.Step{step(compute.Bicubic, 1008, 560)}},
	} {
		for _, level := range cpu.Levels() {
			if level != "scalar" && level != "avx2" {
				continue
			}
			b.Run(fmt.Sprintf("%s/%s", way.name, level), func(b *testing.B) {
				d, err := cpu.Open(1, level)
				require.NoError(b, err)
				defer func() { require.NoError(b, d.Close()) }()
				p := compute.Picture{W: 1920, H: 1080, Pix: make([]byte, 3*1920*1080)}
				rng := rand.New(rand.NewPCG(1, 2))
				for i := range p.Pix {
					p.Pix[i] = byte(rng.Uint32())
				}
				args := compute.PatchArgs{Steps: way.steps, Patch: way.patch, Std: [3]float32{1, 1, 1}}
				w, h := args.Size()
				rows, cols := w/way.patch*(h/way.patch), 3*way.patch*way.patch
				a, err := d.NewArena(compute.AllocBytes(rows, cols))
				require.NoError(b, err)
				dst, err := a.Alloc(rows, cols)
				require.NoError(b, err)
				for b.Loop() {
					require.NoError(b, d.Run(b.Context(), func(o compute.Ops) { o.Patches(dst, []compute.Picture{p}, args) }))
				}
			})
		}
	}
}
