package encoder

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// goldens are small random checkpoints as public models are published, with what transformers computes: see its README.
const goldens = "../models/golden/testdata/"

// golden is what one of them computes.
type golden struct {
	ck      *weights.Checkpoint
	Unit    int    `json:"unit"`
	Late    bool   `json:"late"`
	Grid    [2]int `json:"grid"`
	Dim     int    `json:"dim"`
	Patches [2]int `json:"patch_grid"` // where pictures are of any size
}

func readGolden(t testing.TB, family string) *golden {
	data, err := os.ReadFile(goldens + family + "/golden.safetensors")
	require.NoError(t, err)
	g := &golden{}
	g.ck, err = weights.Open(fstest.MapFS{weights.Single: {Data: data}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.ck.Close()) })
	data, err = os.ReadFile(goldens + family + "/golden.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, g))
	return g
}

func (g *golden) floats(t testing.TB, name string, shape ...int) []float32 {
	data, err := g.ck.Floats(name, shape...)
	require.NoError(t, err)
	return data
}

func (g *golden) has(name string) bool { return g.ck.Has(name) }

// frames are the pictures of a golden.
func (g *golden) frames(t testing.TB) []ingest.Frame {
	const n, h, w = 4, 33, 45
	data := g.floats(t, "frames", n, h, w, 3)
	frames := make([]ingest.Frame, n)
	for i := range frames {
		frames[i] = ingest.Frame{Index: int64(i), W: w, H: h, Pix: make([]byte, 3*h*w)}
		for j := range frames[i].Pix {
			frames[i].Pix[j] = byte(data[i*3*h*w+j])
		}
	}
	return frames
}

// feed encodes n units whose patches are given, [n*patches, values], in the tower's order.
func (e *Encoder) feed(t testing.TB, n int, g Size, patches []float32) []compute.Matrix {
	cells := e.c.grid(g)
	out := make([]compute.Matrix, n)
	staged := compute.Matrix{Rows: n * g.H * g.W, Cols: e.c.patchValues(), Data: patches}
	require.Len(t, patches, staged.Rows*staged.Cols)
	require.NoError(t, e.run(n, g, func(ops compute.Ops, dst compute.Tensor) { ops.Upload(dst, staged) }, func(ops compute.Ops, rows compute.Tensor) {
		per := cells.H * cells.W
		for i := range out {
			out[i] = compute.NewMatrix(per, e.Dim())
			ops.Download(out[i], rows.Slice(i*per, (i+1)*per))
		}
	}))
	return out
}

// inOrder cuts pictures [n, 3, h, w] into patches in the tower's order.
func (c *Config) inOrder(pixels []float32, h, w int) []float32 {
	g, p := c.patchGrid(Size{h, w}), c.Vision.PatchSize
	var out []float32
	for ; len(pixels) > 0; pixels = pixels[3*h*w:] {
		for _, at := range c.places(g) {
			for ch := range 3 {
				for y := range p {
					from := (ch*h+at.y*p+y)*w + at.x*p
					out = append(out, pixels[from:from+p]...)
				}
			}
		}
	}
	return out
}

// processed returns golden patches as the tower takes them, and the patch grid. Processors for pictures of any size give patches in squares.
func (g *golden) processed(t testing.TB, c *Config, name string, n int) ([]float32, Size) {
	v := c.Vision
	if !v.Dynamic {
		shape := []int{3, v.Image.H, v.Image.W}
		if name != "pixels" {
			shape = append([]int{n}, shape...)
		}
		return c.inOrder(g.floats(t, name, shape...), v.Image.H, v.Image.W), c.patchGrid(v.Image)
	}
	grid := Size{g.Patches[0], g.Patches[1]}
	np, values := grid.H*grid.W, c.patchValues()
	data := g.floats(t, name, n*np, values)
	if c.side() == c.Join.Merge {
		return data, grid
	}
	squares := Config{Vision: Vision{PatchSize: v.PatchSize}, Shuffle: c.Join.Merge} // of the processor's order
	out := make([]float32, len(data))
	for r := range n * np {
		y, x := squares.place(grid, r%np)
		to := r/np*np + y*grid.W + x
		copy(out[to*values:(to+1)*values], data[r*values:])
	}
	return out, grid
}

// published are the published ones.
var published = []string{"smolvlm", "qwen2vl", "qwen25vl", "flashvstreamqwen", "internvl2", "videochat", "llava15", "flashvstream", "onevision"}

// goldenPixels is the size that their pictures of any size have: Flash-VStream enlarges small ones as far as it is let.
const goldenPixels = 32 * 48

func TestPublished(t *testing.T) {
	for _, family := range published {
		g := readGolden(t, family)
		for name, open := range devices {
			for as, tolerance := range map[compute.DType]float64{compute.F32: 2e-5, compute.BF16: 3e-2} {
				t.Run(fmt.Sprintf("%s/%s/%v", family, name, as), func(t *testing.T) {
					dev, err := open()
					require.NoError(t, err)
					defer dev.Close()
					e, err := LoadWith(os.DirFS(goldens+family), dev, Options{Weights: as, Pixels: goldenPixels})
					require.NoError(t, err)
					defer e.Close()
					assert.Equal(t, g.Unit, e.Unit())
					assert.Equal(t, g.Late, e.Late())
					assert.Equal(t, g.Dim, e.Dim())
					cells := g.Grid[0] * g.Grid[1]
					width := e.c.Join.Dim
					near := func(want []float32, have ...compute.Matrix) {
						t.Helper()
						var all []float32
						for _, m := range have {
							all = append(all, m.Data...)
						}
						assert.LessOrEqual(t, worst(t, want, all), tolerance)
					}

					pixels, grid := g.processed(t, e.c, "pixels", 1)
					assert.Equal(t, Size{g.Grid[0], g.Grid[1]}, e.c.grid(grid))
					still := e.feed(t, 1, grid, pixels)
					near(g.floats(t, "features", cells, g.Dim), still...)
					joined, err := e.Join(t.Context(), Rows{g.Grid[0], g.Grid[1], still[0]})
					require.NoError(t, err)
					near(g.floats(t, "embeds", joined[0].Rows, width), joined...)

					// All the way from pictures.
					frames := g.frames(t)
					units := len(frames) / g.Unit
					h, w := e.Grid(frames[0].W, frames[0].H)
					video, err := e.Encode(t.Context(), frames...)
					require.NoError(t, err)
					assert.Equal(t, g.Grid, [2]int{h, w})
					if g.Late {
						near(g.floats(t, "video.features", units*cells, g.Dim), video...)
					}
					var grids []Rows
					for _, m := range video {
						grids = append(grids, Rows{h, w, m})
					}
					joined, err = e.Join(t.Context(), grids...)
					require.NoError(t, err)
					near(g.floats(t, "video.embeds", units*joined[0].Rows, width), joined...)
					if g.has("pooled.features") {
						pooled := compute.Matrix{Rows: cells / 4, Cols: g.Dim, Data: g.floats(t, "pooled.features", cells/4, g.Dim)}
						joined, err = e.Join(t.Context(), Rows{h / 2, w / 2, pooled})
						require.NoError(t, err)
						near(g.floats(t, "pooled.embeds", joined[0].Rows, width), joined...)
					}
					if g.has("newline") {
						near(g.floats(t, "newline", 1, width), e.Newline())
					} else {
						assert.Zero(t, e.Newline())
					}
				})
			}
		}
	}
}
