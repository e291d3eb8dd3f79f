package encoder

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/internal/compute/cpu"
)

func randomFrame(w, h int) ingest.Frame {
	f := ingest.Frame{W: w, H: h, Pix: make([]byte, 3*w*h)}
	rng := rand.New(rand.NewPCG(uint64(w), uint64(h)))
	for i := range f.Pix {
		f.Pix[i] = byte(rng.Uint32())
	}
	return f
}

// drawn is picture of testdata/make_pixels.py: noise, slopes and stripes, in squares.
func drawn(w, h, seed int) ingest.Frame {
	f := ingest.Frame{W: w, H: h, Pix: make([]byte, 3*w*h)}
	for y := range h {
		for x := range w {
			for c := range 3 {
				i := (y*w+x)*3 + c
				n := uint64(i + 7919*seed)
				v := int((n*2654435761&math.MaxUint32 ^ (n*40503+12345)&math.MaxUint32) * 2246822519 & math.MaxUint32 >> 24)
				switch (x/16 + y/16) % 3 {
				case 1:
					v = x*255/max(w-1, 1) + 60*c + y
				case 2:
					v = 255 * ((x/2 + y + c) % 2)
				}
				f.Pix[i] = byte(v)
			}
		}
	}
	return f
}

// pixelFamily is what one published processor makes of pictures, by testdata/make_pixels.py.
type pixelFamily struct {
	Name   string
	Model  string
	Files  map[string]json.RawMessage
	Target struct {
		Image              [2]int
		Patch, Merge, Pair int
		Pixels             int
		Aspect             string
	}
	Frames int
	Cases  []struct {
		W, H    int
		Refused bool
		Out     [2]int // height, width
		Slow    string // SHA-256 of the bytes [frames][h][w][3] by Pillow
		Fast    []byte // a sample of them by torchvision
	}
}

//go:embed testdata/pixels.json
var pixelsJSON []byte

func (f *pixelFamily) processor() (*processor, error) {
	files := fstest.MapFS{}
	for name, data := range f.Files {
		files[name] = &fstest.MapFile{Data: data}
	}
	t := f.Target
	return readProcessor(files, target{Model: f.Model, Aspect: t.Aspect, Image: Size{t.Image[0], t.Image[1]}, Patch: t.Patch, Merge: t.Merge,
		Order: t.Merge, Pair: t.Pair, Mean: clipMean, Std: clipStd, Pixels: t.Pixels})
}

// resized is what a processor makes of frames on dev: RGB24 one after another, and their size.
func resized(t *testing.T, dev compute.Device, p *processor, frames []ingest.Frame) (pix []byte, w, h int) {
	for _, f := range frames {
		require.NoError(t, p.check(f))
	}
	a, err := p.args(frames[0].W, frames[0].H)
	require.NoError(t, err)
	w, h = a.Size()
	pair, merge, area := max(a.Pair, 1), max(a.Merge, 1), a.Patch*a.Patch
	across, patches := w/a.Patch, w/a.Patch*(h/a.Patch)
	m := compute.NewMatrix(len(frames)/pair*patches, 3*pair*area)
	fill, err := p.patches(frames)
	require.NoError(t, err)
	arena, err := dev.NewArena(compute.AllocBytes(m.Rows, m.Cols))
	require.NoError(t, err)
	defer func() { require.NoError(t, arena.Close()) }()
	dst, err := arena.Alloc(m.Rows, m.Cols)
	require.NoError(t, err)
	require.NoError(t, dev.Run(t.Context(), func(ops compute.Ops) {
		fill(ops, dst)
		ops.Download(m, dst)
	}))
	pix = make([]byte, 3*w*h*len(frames))
	for i := range pix {
		n, y, x, c := i/(3*w*h), i/(3*w)%h, i/3%w, i%3
		py, px := y/a.Patch, x/a.Patch
		// Squares of patches after one another, and patches within one: not as the code puts it.
		square, within := py/merge*(across/merge)+px/merge, py%merge*merge+px%merge
		v := m.Row(n/pair*patches + square*merge*merge + within)[(c*pair+n%pair)*area+y%a.Patch*a.Patch+x%a.Patch]
		b := (float64(v)*float64(p.std[c]) + float64(p.mean[c])) * 255
		if math.Abs(b-math.Round(b)) > 1e-3 {
			t.Fatalf("value %g of row %d, column %d, channel %d is no byte's", v, y, x, c)
		}
		pix[i] = byte(math.Round(b))
	}
	return pix, w, h
}

// What each published processor makes of a picture, by Pillow to the bit; by torchvision within 1/255, but for the few values in
// a hundred thousand at which more than one pass rounds the other way.
func TestPixels(t *testing.T) {
	var families []pixelFamily
	require.NoError(t, json.Unmarshal(pixelsJSON, &families))
	dev, err := cpu.Open(2, "")
	require.NoError(t, err)
	defer func() { require.NoError(t, dev.Close()) }()
	for _, f := range families {
		t.Run(f.Name, func(t *testing.T) {
			p, err := f.processor()
			require.NoError(t, err)
			var sampled, differ, far int
			for _, c := range f.Cases {
				name := fmt.Sprintf("%dx%d", c.W, c.H)
				var frames []ingest.Frame
				for i := range f.Frames {
					frames = append(frames, drawn(c.W, c.H, i))
				}
				if c.Refused {
					assert.ErrorContains(t, p.check(frames[0]), "too narrow", name)
					continue
				}
				still := f.Frames < max(p.of.Pair, 1)
				if still {
					frames = append(frames, frames[0])
				}
				pix, w, h := resized(t, dev, p, frames)
				require.Equal(t, c.Out, [2]int{h, w}, name)
				if still {
					require.Equal(t, pix[:len(pix)/2], pix[len(pix)/2:], name)
					pix = pix[:len(pix)/2]
				}
				if c.Slow != "" {
					sum := sha256.Sum256(pix)
					assert.Equal(t, c.Slow, hex.EncodeToString(sum[:]), "%s: bytes are not Pillow's", name)
				}
				step := (len(pix)+599)/600 | 1
				for i, want := range c.Fast {
					sampled++
					switch d := max(want, pix[i*step]) - min(want, pix[i*step]); {
					case d > 2:
						t.Fatalf("%s: byte %d is %d, by torchvision %d", name, i*step, pix[i*step], want)
					case d == 2:
						far++
						fallthrough
					case d == 1:
						differ++
					}
				}
			}
			t.Logf("%d of %d sampled bytes differ from torchvision's, %d by 2", differ, sampled, far)
			assert.LessOrEqual(t, far, sampled/1000)
			assert.LessOrEqual(t, differ, sampled/20)
		})
	}
}

// Where patches do not divide a side, as those of so400m's 384, what is over at the right and bottom is not looked at.
func TestProcessorOver(t *testing.T) {
	p, err := readProcessor(fstest.MapFS{}, target{Model: "llava_onevision", Image: Size{384, 384}, Patch: 14, Mean: half, Std: half})
	require.NoError(t, err)
	a, err := p.args(640, 361)
	require.NoError(t, err)
	assert.Equal(t, []compute.Step{{Filter: compute.Bicubic, W: 384, H: 384}, {Filter: compute.Place, W: 378, H: 378}}, a.Steps)
}

// A model of our own averages, whatever lies beside it, and a tower alone too.
func TestProcessorOfOurOwn(t *testing.T) {
	files := fstest.MapFS{"preprocessor_config.json": {Data: []byte("not JSON")}}
	for _, model := range []string{"afterimage_vlm", ""} {
		p, err := readProcessor(files, target{Model: model, Image: Size{4, 8}, Patch: 4, Mean: half, Std: half})
		require.NoError(t, err)
		a, err := p.args(640, 361)
		require.NoError(t, err)
		assert.Equal(t, compute.PatchArgs{Steps: []compute.Step{{Filter: compute.Area, W: 8, H: 4}}, Patch: 4, Mean: half, Std: half}, a)
	}
}

func TestProcessorErrors(t *testing.T) {
	const own = "preprocessor_config.json"
	for _, c := range []struct{ model, file, json, says string }{
		{"llava", own, `{`, "unexpected end"},
		{"llava", own, `{"resample": "cubic"}`, "resample"},
		{"llava", own, `{"resample": 0}`, "resample 0 is not supported"},
		{"llava", own, `{"image_processor_type": "ViTImageProcessor"}`, `image_processor_type "ViTImageProcessor" is not supported for model_type "llava"`},
		{"llava", own, `{"do_resize": false}`, "do_resize false is not supported"},
		{"llava", own, `{"do_center_crop": false}`, "do_center_crop false is not supported with size.shortest_edge"},
		{"llava", own, `{"image_mean": [0.5, 0.5]}`, "image_mean [0.5 0.5]: want three values"},
		{"llava", own, `{"image_mean": [0.5, 0.5, 1e300]}`, "image_mean [0.5 0.5 1e+300] is out of range"},
		{"llava", own, `{"image_std": [0.5, 0.5, 0]}`, "image_std [0.5 0.5 0]: want positive values"},
		{"llava", own, `{"rescale_factor": -1}`, "rescale_factor -1 is out of range"},
		{"llava", own, `{"rescale_factor": 1e-300}`, "image_std"},
		{"llava", own, `{"size": {"longest_edge": 5}}`, `size {"longest_edge": 5} is not supported, want shortest_edge`},
		{"llava", own, `{"size": {"height": 5}}`, `size {"height": 5}: want a number or sides`},
		{"llava", own, `{"size": -3}`, "size -3: want a number or sides"},
		{"llava", own, `{"size": null}`, "size null: want a number or sides"},
		{"llava", own, `{"size": {"shortest_edge": 1e9}}`, "size"},
		{"llava", own, `{"crop_size": 99}`, "crop_size 99x99 is not the tower's picture of 56x56"},
		{"llava", own, `{"crop_size": {"shortest_edge": 56}}`, "crop_size has no height and width"},
		{"smolvlm", own, `{"size": {"height": 9, "width": 9}}`, "want longest_edge"},
		{"smolvlm", own, `{"max_image_size": {"height": 56, "width": 56}}`, "want longest_edge"},
		{"smolvlm", own, `{"max_image_size": {"longest_edge": 57}}`, "max_image_size 57x57 is not the tower's picture of 56x56"},
		{"llava_onevision", own, `{"size": {"height": 56, "width": 57}}`, "size 56x57 is not the tower's picture of 56x56"},
		{"qwen2_vl", own, `{"min_pixels": 0}`, "min_pixels 0 is out of range"},
		{"qwen2_vl", own, `{"max_pixels": -1}`, "max_pixels -1 is out of range"},
		{"qwen2_vl", own, `{"size": {"shortest_edge": 5}}`, "want shortest_edge and longest_edge"},
		{"qwen2_vl", own, `{"patch_size": 16}`, "patch_size 16 is not the tower's 14"},
		{"qwen2_vl", own, `{"merge_size": 3}`, "merge_size 3 is not the tower's 2"},
		{"qwen2_vl", own, `{"temporal_patch_size": 1}`, "temporal_patch_size 1 is not the tower's 2"},
		{"qwen2_vl", "processor_config.json", `{"video_processor": {"resample": 5}}`, "processor_config.json: video_processor: resample 5"},
		{"qwen2_vl", "processor_config.json", `{"image_processor": {"resample": 4}}`, "processor_config.json: image_processor: resample 4"},
		{"qwen2_vl", "processor_config.json", `[]`, "processor_config.json: video_processor: json"},
		{"qwen2_vl", "video_preprocessor_config.json", `{"resample": 5}`, "video_preprocessor_config.json: resample 5"},
	} {
		_, err := readProcessor(fstest.MapFS{c.file: {Data: []byte(c.json)}},
			target{Model: c.model, Image: Size{56, 56}, Patch: 14, Merge: 2, Order: 2, Pair: 2, Mean: half, Std: half})
		if assert.Error(t, err, c.json) {
			assert.Contains(t, err.Error(), c.says)
			assert.Contains(t, err.Error(), "encoder: "+c.file)
			assert.NotContains(t, err.Error(), "\n")
		}
	}
	_, err := readProcessor(fstest.MapFS{}, target{Model: "llava_llama", Aspect: "anyres", Image: Size{56, 56}, Patch: 14, Mean: half, Std: half})
	assert.ErrorContains(t, err, `image_aspect_ratio "anyres" is not supported`)
}

// Frames of several sizes make the same rows together as one after another, and what cannot be is said.
func TestPatchesOfSizes(t *testing.T) {
	dev, err := cpu.Open(1, "")
	require.NoError(t, err)
	defer func() { require.NoError(t, dev.Close()) }()
	p, err := readProcessor(fstest.MapFS{}, target{Model: "qwen2_vl", Patch: 14, Merge: 2, Order: 2, Pair: 2, Mean: half, Std: half})
	require.NoError(t, err)
	a, b := drawn(112, 84, 1), drawn(57, 90, 2)
	rows := func(frames ...ingest.Frame) compute.Matrix {
		n := 0
		for i := 0; i < len(frames); i += 2 {
			args, err := p.args(frames[i].W, frames[i].H)
			require.NoError(t, err)
			w, h := args.Size()
			n += w / 14 * (h / 14)
		}
		m := compute.NewMatrix(n, 2*3*14*14)
		arena, err := dev.NewArena(compute.AllocBytes(m.Rows, m.Cols))
		require.NoError(t, err)
		dst, err := arena.Alloc(m.Rows, m.Cols)
		require.NoError(t, err)
		fill, err := p.patches(frames)
		require.NoError(t, err)
		require.NoError(t, dev.Run(t.Context(), func(ops compute.Ops) { fill(ops, dst); ops.Download(m, dst) }))
		require.NoError(t, arena.Close())
		return m
	}
	want := slices.Concat(rows(a, a).Data, rows(b, b).Data, rows(b, drawn(57, 90, 3)).Data, rows(a, drawn(112, 84, 4)).Data)
	assert.Equal(t, want, rows(a, a, b, b, b, drawn(57, 90, 3), a, drawn(112, 84, 4)).Data)

	_, err = p.patches([]ingest.Frame{a})
	assert.EqualError(t, err, "1 frames make no pairs")
	_, err = p.patches([]ingest.Frame{a, b})
	assert.EqualError(t, err, "a pair of frames of 112x84 and 57x90")
	assert.ErrorContains(t, p.check(ingest.Frame{W: 2, H: 2}), "picture of 2x2: want 12 bytes, have 0")
	assert.ErrorContains(t, p.check(drawn(1, 201, 0)), "picture of 1x201 is too narrow")
}

// Whatever a file says and whatever the size of a picture: an error, or steps that can be taken to a picture in whole squares.
func FuzzProcessor(f *testing.F) {
	var families []pixelFamily
	require.NoError(f, json.Unmarshal(pixelsJSON, &families))
	models := []string{"idefics3", "smolvlm", "qwen2_vl", "qwen2_5_vl", "flash_vstream_qwen2_vl", "internvl_chat", "llava", "llava_llama",
		"vstream", "llava_onevision"}
	for _, one := range families {
		for name, data := range one.Files {
			if name != "processor_config.json" {
				f.Add(uint8(slices.Index(models, one.Model)), string(data), 640, 361, 0)
			}
		}
	}
	f.Add(uint8(2), `{"size": {"min_pixels": 1, "max_pixels": 1}}`, 1, 200, 1)
	f.Add(uint8(0), `{"size": {"longest_edge": 5000}}`, 1, 1<<20, 0)
	f.Add(uint8(6), `{"size": {"shortest_edge": 16384}, "do_pad": true}`, 1<<13, 1, 0)
	f.Fuzz(func(t *testing.T, model uint8, data string, w, h, pixels int) {
		p, err := readProcessor(fstest.MapFS{"preprocessor_config.json": {Data: []byte(data)}}, target{Model: models[int(model)%len(models)],
			Image: Size{56, 56}, Patch: 14, Merge: 2, Order: 2, Pair: 2, Mean: half, Std: half, Pixels: max(pixels, 0)})
		if err != nil {
			assert.NotContains(t, err.Error(), "\n")
			return
		}
		w, h = max(w&(1<<20-1), 1), max(h&(1<<20-1), 1)
		a, err := p.args(w, h)
		if err != nil {
			return
		}
		assert.NoError(t, compute.CheckSteps(w, h, a.Steps))
		outW, outH := a.Size()
		assert.Zero(t, outW%28)
		assert.Zero(t, outH%28)
		for c := range 3 {
			assert.Greater(t, a.Std[c], float32(0))
		}
	})
}
