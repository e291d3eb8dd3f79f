package encoder

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
	"afterimage/internal/weights"
)

// devices are what goldens are compared on; other files of this test add those that need a C compiler.
var devices = map[string]func() (compute.Device, error){
	"reference": func() (compute.Device, error) { return computetest.Open(), nil },
	"narrow":    func() (compute.Device, error) { return narrow{computetest.Open()}, nil },
}

// narrow keeps rows in bfloat16 between products where weights are less than float32, as a GPU does.
type narrow struct{ compute.Device }

func (narrow) Activations(w compute.DType) compute.DType {
	if w == compute.F32 {
		return compute.F32
	}
	return compute.BF16
}

// NewArena has room for float32, as which the reference holds bfloat16 too.
func (n narrow) NewArena(bytes int64) (compute.Arena, error) { return n.Device.NewArena(2 * bytes) }

const goldenH, goldenW = 23, 37

func goldenFrames(t *testing.T) []ingest.Frame {
	raw, err := os.ReadFile("testdata/frames.rgb")
	require.NoError(t, err)
	var frames []ingest.Frame
	for n := 3 * goldenH * goldenW; len(raw) >= n; raw = raw[n:] {
		frames = append(frames, ingest.Frame{Index: int64(len(frames)), H: goldenH, W: goldenW, Pix: raw[:n:n]})
	}
	require.Len(t, frames, 5)
	return frames
}

// withConfig is dir with some keys of its config.json replaced (nil removes one).
func withConfig(t *testing.T, dir string, change map[string]any) fs.FS {
	out := fstest.MapFS{}
	for _, name := range []string{"config.json", "model.safetensors"} {
		data, err := os.ReadFile(dir + "/" + name)
		require.NoError(t, err)
		out[name] = &fstest.MapFile{Data: data}
	}
	var c map[string]any
	require.NoError(t, json.Unmarshal(out["config.json"].Data, &c))
	for k, v := range change {
		at := c
		if k, ok := cutPrefix(k, "vision_config."); ok {
			at = c["vision_config"].(map[string]any)
			at[k] = v
			continue
		}
		if at[k] = v; v == nil {
			delete(at, k)
		}
	}
	data, err := json.Marshal(c)
	require.NoError(t, err)
	out["config.json"] = &fstest.MapFile{Data: data}
	return out
}

func cutPrefix(s, p string) (string, bool) {
	if len(s) > len(p) && s[:len(p)] == p {
		return s[len(p):], true
	}
	return s, false
}

// worst is the largest difference relative to the largest reference value.
func worst(t *testing.T, want, have []float32) float64 {
	require.Equal(t, len(want), len(have))
	var diff, scale float64
	for i := range want {
		diff = max(diff, math.Abs(float64(want[i])-float64(have[i])))
		scale = max(scale, math.Abs(float64(want[i])))
	}
	require.False(t, math.IsNaN(diff))
	return diff / scale
}

func TestGolden(t *testing.T) {
	frames := goldenFrames(t)
	for _, tt := range []struct {
		name, dir, golden string
		change            map[string]any
		h, w, dim         int
	}{
		{"siglip", "testdata/siglip", "last", nil, 3, 3, 20},
		{"clip", "testdata/clip", "last", nil, 3, 3, 20},
		{"clip penultimate", "testdata/clip", "penultimate", map[string]any{"vision_feature_layer": -2}, 3, 3, 20},
		{"vlm", "testdata/vlm", "last", nil, 2, 3, 20},
		{"intern", "testdata/intern", "last", nil, 3, 3, 20},
	} {
		ck, err := weights.Open(os.DirFS(tt.dir + "/golden"))
		require.NoError(t, err)
		want, err := ck.Floats(tt.golden, len(frames), tt.h*tt.w, tt.dim)
		require.NoError(t, err)
		require.NoError(t, ck.Close())
		for name, open := range devices {
			for as, tolerance := range map[compute.DType]float64{compute.F32: 2e-5, compute.BF16: 3e-2} {
				t.Run(tt.name+"/"+name+"/"+as.String(), func(t *testing.T) {
					dev, err := open()
					require.NoError(t, err)
					defer dev.Close()
					e, err := LoadFS(withConfig(t, tt.dir, tt.change), dev, as)
					require.NoError(t, err)
					defer e.Close()
					h, w := e.Grid(goldenW, goldenH)
					assert.Equal(t, [3]int{tt.h, tt.w, tt.dim}, [3]int{h, w, e.Dim()})

					all, err := e.Encode(context.Background(), frames...)
					require.NoError(t, err)
					require.Len(t, all, len(frames))
					var have []float32
					for _, m := range all {
						assert.Equal(t, h*w, m.Rows)
						have = append(have, m.Data...)
					}
					assert.LessOrEqual(t, worst(t, want, have), tolerance)

					// Frames do not see each other, whatever the batch.
					alone, err := e.Encode(context.Background(), frames[2])
					require.NoError(t, err)
					assert.LessOrEqual(t, worst(t, all[2].Data, alone[0].Data), tolerance)
				})
			}
		}
	}
}

func TestEncodeMixedSizesAndCallers(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	e, err := Load("testdata/vlm", dev, compute.F32)
	require.NoError(t, err)
	frames := goldenFrames(t)
	small := ingest.Frame{W: 5, H: 7, Pix: make([]byte, 3*5*7)}
	want, err := e.Encode(context.Background(), frames[0])
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			have, err := e.Encode(context.Background(), small, frames[0], small)
			assert.NoError(t, err)
			assert.Equal(t, want[0].Data, have[1].Data)
			assert.Equal(t, have[0].Data, have[2].Data)
		})
	}
	wg.Wait()

	none, err := e.Encode(context.Background())
	require.NoError(t, err)
	assert.Empty(t, none)

	_, err = e.Encode(context.Background(), frames[0], ingest.Frame{Index: 7, W: 4, H: 4, Pix: make([]byte, 47)})
	assert.EqualError(t, err, "encoder: frame 7: picture of 4x4: want 48 bytes, have 47")
	_, err = e.Encode(context.Background(), ingest.Frame{W: 0, H: 4})
	assert.EqualError(t, err, "encoder: frame 0: picture of 0x4")

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = e.Encode(ctx, small)
	assert.ErrorIs(t, err, context.Canceled)

	require.NoError(t, e.Close())
	require.NoError(t, e.Close())
	_, err = e.Encode(context.Background(), small)
	assert.EqualError(t, err, "encoder: closed")
}

func TestLoadRefuses(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	for _, tt := range []struct {
		dir, key string
		val      any
		want     string
	}{
		{"vlm", "model_type", "dragon", `encoder: config.json: model_type "dragon" is not supported`},
		{"vlm", "vision_config.model_type", "dinov9", `encoder: config.json: vision_config.model_type "dinov9" is not supported`},
		{"vlm", "vision_config.hidden_act", "relu", `encoder: config.json: vision_config.hidden_act "relu" is not supported`},
		{"vlm", "vision_config.num_channels", 1, `encoder: config.json: vision_config.num_channels 1 is not supported, want 3`},
		{"vlm", "vision_config.hidden_size", -3, `encoder: config.json: vision_config.hidden_size -3 is out of range 1 to 65536`},
		{"vlm", "vision_config.num_attention_heads", 5, `encoder: config.json: vision_config.num_attention_heads 5 does not divide hidden_size 24`},
		{"vlm", "vision_config.image_size", []int{3, 24}, `encoder: config.json: vision_config.patch_size 4 is larger than image_size 3x24`},
		{"vlm", "vision_config.image_size", []int{15, 24}, `encoder: config.json: vision_config.patch_size 4 does not divide image_size 15x24`},
		{"vlm", "vision_config.image_size", []int{15}, `encoder: config.json: vision_config.image_size [15]: want a number or [height, width]`},
		{"vlm", "vision_config.image_size", []int{16, 28}, `encoder: config.json: vision_pool 2x2 does not divide the 4x7 patches`},
		{"vlm", "vision_pool", []int{0, 2}, `encoder: config.json: vision_pool 0x2 does not divide the 4x6 patches`},
		{"vlm", "vision_feature_layer", -4, `encoder: config.json: vision_feature_layer -4 is out of range, the tower has 2 layers`},
		{"clip", "vision_feature_select_strategy", "full", `encoder: config.json: vision_feature_select_strategy "full" is not supported`},
		{"vlm", "projector_hidden_act", "tanh", `encoder: config.json: projector_hidden_act "tanh" is not supported`},
		{"vlm", "image_std", []float32{1, 0, 1}, `encoder: config.json: image_std [1 0 1]: want positive values`},
		{"vlm", "image_mean", []float32{1}, `encoder: config.json: image_mean [1]: want three values`},
		{"vlm", "quantization_config", map[string]any{"bits": 4}, `encoder: config.json: quantization_config is not supported`},
		{"vlm", "text_config", nil, `encoder: config.json: vision_config and text_config must be given`},
		{"vlm", "text_config", map[string]any{"hidden_size": 21}, `encoder: load: weights: model.safetensors: multi_modal_projector.linear_1.bias: want [21], have [20]`},
		{"intern", "use_qk_norm", true, `encoder: config.json: use_qk_norm true is not supported`},
		{"siglip", "num_hidden_layers", 4, `encoder: load: weights: model.safetensors: encoder.layers.3.layer_norm1.weight: missing`},
	} {
		t.Run(tt.want, func(t *testing.T) {
			_, err := LoadFS(withConfig(t, "testdata/"+tt.dir, map[string]any{tt.key: tt.val}), dev, compute.F32)
			assert.EqualError(t, err, tt.want)
		})
	}
	_, err := Load(t.TempDir(), dev, compute.F32)
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

func FuzzConfig(f *testing.F) {
	for _, dir := range []string{"siglip", "clip", "vlm", "intern"} {
		data, err := os.ReadFile("testdata/" + dir + "/config.json")
		require.NoError(f, err)
		f.Add(data)
	}
	for _, family := range published {
		data, err := os.ReadFile(goldens + family + "/config.json")
		require.NoError(f, err)
		f.Add(data)
	}
	for _, p := range publishedConfigs {
		f.Add([]byte(p.config))
	}
	f.Add([]byte(`{"model_type":"siglip_vision_model","image_size":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig(data)
		if err != nil {
			return
		}
		g := c.grid(c.patchGrid(c.Vision.Image))
		if g.H < 1 || g.W < 1 || c.dim() < 1 || c.Vision.Run > c.Vision.Layers {
			t.Fatalf("accepted a config with grid %v, dim %d, %d of %d layers", g, c.dim(), c.Vision.Run, c.Vision.Layers)
		}
		if c.flops(c.patchGrid(c.Vision.Image)) <= 0 {
			t.Fatal("accepted a config that takes no operations")
		}
	})
}

// counting counts passes and holds the first until it is let go.
type counting struct {
	compute.Device
	runs  atomic.Int32
	first chan struct{} // nil while the encoder is loaded
	fail  atomic.Bool
}

func (d *counting) Run(ctx context.Context, fn func(compute.Ops)) error {
	if d.runs.Add(1) == 1 && d.first != nil {
		<-d.first
	}
	if d.fail.Load() {
		return errors.New("no power")
	}
	return d.Device.Run(ctx, fn)
}

func TestCallersSharePasses(t *testing.T) {
	d := &counting{Device: computetest.Open()}
	defer d.Close()
	plain, err := Load("testdata/vlm", d.Device, compute.F32)
	require.NoError(t, err)
	defer plain.Close()
	e, err := Load("testdata/vlm", d, compute.F32)
	require.NoError(t, err)
	defer e.Close()
	d.runs.Store(0)
	d.first = make(chan struct{})
	frames := goldenFrames(t)
	want, err := plain.Encode(t.Context(), frames...)
	require.NoError(t, err)

	gone, leave := context.WithCancel(t.Context())
	queued := func(n int) func() bool {
		return func() bool { e.mu.Lock(); defer e.mu.Unlock(); return len(e.waiting) == n }
	}
	var wg sync.WaitGroup
	ask := func(ctx context.Context, i int, refused error) {
		wg.Go(func() {
			have, err := e.Encode(ctx, frames[i])
			if assert.ErrorIs(t, err, refused) && refused == nil {
				assert.Equal(t, want[i].Data, have[0].Data)
			}
		})
	}
	ask(t.Context(), 0, nil)
	require.Eventually(t, func() bool { return d.runs.Load() == 1 }, 10*time.Second, time.Millisecond)
	for i, ctx := range []context.Context{t.Context(), t.Context(), gone, t.Context(), t.Context()} {
		if ctx == gone {
			ask(ctx, 0, context.Canceled)
		} else {
			ask(ctx, i%len(frames), nil)
		}
		require.Eventually(t, queued(i+1), 10*time.Second, time.Millisecond)
	}
	leave()
	close(d.first)
	wg.Wait()
	assert.EqualValues(t, 2, d.runs.Load(), "four callers fit into one pass beside the first")

	d.fail.Store(true)
	_, err = e.Encode(t.Context(), frames...)
	assert.EqualError(t, err, "encoder: frame 0: no power")
	d.fail.Store(false)
	_, err = e.Encode(t.Context(), frames...)
	assert.NoError(t, err)
}
