package encoder

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
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

// Vision parts of config.json files as they were published.
var publishedConfigs = []struct {
	name, config string
	w, h         int // of frames
	grid         Size
	dim, width   int // of rows as Encode leaves them, and in the language model's space
	late         bool
	unit         int
	gflops       float64
}{
	{"SmolVLM2-256M-Video", `{"model_type":"smolvlm","scale_factor":4,"text_config":{"hidden_size":576,"model_type":"llama"},"vision_config":{"hidden_size":768,
		"image_size":512,"max_image_size":{"longest_edge":512},"model_type":"smolvlm_vision","num_attention_heads":12,"patch_size":16}}`,
		640, 360, Size{8, 8}, 576, 576, false, 1, 214.9},
	{"SmolVLM2-2.2B", `{"model_type":"smolvlm","scale_factor":3,"text_config":{"hidden_size":2048,"model_type":"llama"},"vision_config":{"hidden_size":1152,
		"image_size":384,"intermediate_size":4304,"model_type":"smolvlm_vision","num_attention_heads":16,"num_hidden_layers":27,"patch_size":14}}`,
		640, 360, Size{9, 9}, 2048, 2048, false, 1, 669.9},
	{"Qwen2-VL-2B", `{"model_type":"qwen2_vl","hidden_size":1536,"vision_config":{"depth":32,"embed_dim":1280,"mlp_ratio":4,"num_heads":16,"in_chans":3,
		"hidden_size":1536,"patch_size":14,"spatial_merge_size":2,"spatial_patch_size":14,"temporal_patch_size":2}}`,
		448, 448, Size{16, 16}, 1536, 1536, false, 2, 1480.8},
	{"Qwen2.5-VL-3B", `{"model_type":"qwen2_5_vl","hidden_size":2048,"vision_config":{"depth":32,"hidden_act":"silu","hidden_size":1280,"intermediate_size":3420,
		"num_heads":16,"in_chans":3,"out_hidden_size":2048,"patch_size":14,"spatial_merge_size":2,"spatial_patch_size":14,"window_size":112,
		"fullatt_block_indexes":[7,15,23,31],"tokens_per_second":2,"temporal_patch_size":2}}`,
		640, 480, Size{13, 18}, 2048, 2048, false, 2, 1224.9},
	{"Flash-VStream-Qwen-7b", `{"model_type":"flash_vstream_qwen2_vl","hidden_size":3584,"vision_config":{"depth":32,"embed_dim":1280,"mlp_ratio":4,"num_heads":16,
		"in_chans":3,"hidden_size":3584,"patch_size":14,"spatial_merge_size":2,"spatial_patch_size":14,"temporal_patch_size":2,
		"flash_memory_config":{"flash_memory_temporal_length":120}}}`, 1280, 720, Size{24, 40}, 1280, 3584, true, 2, 1363},
	{"InternVL2-4B", `{"model_type":"internvl_chat","downsample_ratio":0.5,"ps_version":"v2","select_layer":-1,"llm_config":{"hidden_size":3072,"model_type":"phi3"},
		"vision_config":{"model_type":"intern_vit_6b","hidden_act":"gelu","hidden_size":1024,"image_size":448,"intermediate_size":4096,"layer_norm_eps":1e-6,
		"norm_type":"layer_norm","num_attention_heads":16,"num_channels":3,"num_hidden_layers":24,"patch_size":14,"qk_normalization":false,"qkv_bias":true}}`,
		640, 360, Size{16, 16}, 4096, 3072, true, 1, 723.6},
	{"llava-1.5-7b-hf", `{"model_type":"llava","projector_hidden_act":"gelu","text_config":{"model_type":"llama","vocab_size":32064},"vision_config":{"hidden_size":1024,
		"image_size":336,"intermediate_size":4096,"model_type":"clip_vision_model","num_attention_heads":16,"num_hidden_layers":24,"patch_size":14},
		"vision_feature_layer":-2,"vision_feature_select_strategy":"default"}`, 640, 360, Size{24, 24}, 4096, 4096, false, 1, 390.2},
	{"llava-v1.5-7b", `{"model_type":"llava_llama","hidden_size":4096,"image_aspect_ratio":"pad","mm_hidden_size":1024,"mm_projector_type":"mlp2x_gelu",
		"mm_vision_select_feature":"patch","mm_vision_select_layer":-2,"mm_vision_tower":"openai/clip-vit-large-patch14-336"}`,
		640, 360, Size{24, 24}, 4096, 4096, false, 1, 390.2},
	{"Flash-VStream-7b", `{"model_type":"vstream","hidden_size":4096,"image_aspect_ratio":"pad","mm_hidden_size":1024,"mm_projector_type":"mlp2x_gelu",
		"mm_vision_select_feature":"patch","mm_vision_select_layer":-2,"mm_vision_tower":"openai/clip-vit-large-patch14","compress_type":"mean","compress_size":8}`,
		640, 360, Size{8, 8}, 1024, 4096, true, 1, 155.3},
	{"llava-onevision-qwen2-7b", `{"model_type":"llava_onevision","projector_hidden_act":"gelu","text_config":{"hidden_size":3584,"model_type":"qwen2"},
		"vision_config":{"hidden_size":1152,"image_size":384,"intermediate_size":4304,"model_type":"siglip_vision_model","num_attention_heads":16,
		"num_hidden_layers":26,"patch_size":14,"vision_use_head":false},"vision_feature_layer":-1,"vision_feature_select_strategy":"full"}`,
		640, 360, Size{14, 14}, 3584, 3584, false, 1, 652.9},
}

func TestPublishedConfigs(t *testing.T) {
	for _, tt := range publishedConfigs {
		t.Run(tt.name, func(t *testing.T) {
			files := weights.Random{Config: []byte(tt.config)}
			c, err := ReadConfig(files)
			require.NoError(t, err)
			e := &Encoder{c: c, t: tower{c: c, batch: batch}}
			e.p, err = readProcessor(files, c.target(DefaultPixels))
			require.NoError(t, err)
			require.NoError(t, e.size(DefaultPixels))
			h, w := e.Grid(tt.w, tt.h)
			assert.Equal(t, tt.grid, Size{h, w})
			assert.Equal(t, []any{tt.dim, tt.width, tt.late, tt.unit}, []any{e.Dim(), c.Join.Dim, e.Late(), e.Unit()})
			assert.InEpsilon(t, tt.gflops, e.FLOPs(tt.w, tt.h)/1e9, 1e-3)
		})
	}
}

// counted is a device that counts the operations of products and attention.
type counted struct {
	compute.Device
	flops float64
}

type countedOps struct {
	compute.Ops
	d *counted
}

func (d *counted) Run(ctx context.Context, fn func(compute.Ops)) error {
	return d.Device.Run(ctx, func(o compute.Ops) { fn(countedOps{o, d}) })
}

func (o countedOps) Linear(dst, x compute.Tensor, w compute.Weight, a compute.LinearArgs) {
	o.d.flops += 2 * float64(x.Rows) * float64(w.In()) * float64(w.Out())
	o.Ops.Linear(dst, x, w, a)
}

func (o countedOps) Attention(dst, q, k, v compute.Tensor, a compute.AttentionArgs) {
	keys := a.Segment
	if keys == 0 {
		keys = k.Rows
	}
	if a.Scale != 1 { // what averages
		o.d.flops += 4 * float64(q.Rows) * float64(keys) * float64(q.Cols)
	}
	o.Ops.Attention(dst, q, k, v, a)
}

// Every family loads with no weights at all, as benchmarks do, and does as many operations as it says.
func TestRandomWeightsAndFLOPs(t *testing.T) {
	for _, family := range published {
		t.Run(family, func(t *testing.T) {
			config, err := os.ReadFile(goldens + family + "/config.json")
			require.NoError(t, err)
			dev := &counted{Device: computetest.Open()}
			defer dev.Close()
			e, err := LoadWith(weights.Random{Config: config}, dev, Options{Pixels: 56 * 56})
			require.NoError(t, err)
			defer e.Close()
			const w, h = 65, 33
			f := randomFrame(w, h)
			rows, err := e.Encode(t.Context(), []ingest.Frame{f, f}[:e.Unit()]...)
			require.NoError(t, err)
			gh, gw := e.Grid(w, h)
			require.Len(t, rows, 1)
			assert.Equal(t, [2]int{gh * gw, e.Dim()}, [2]int{rows[0].Rows, rows[0].Cols})
			for _, v := range rows[0].Data {
				require.False(t, math.IsNaN(float64(v)) || math.IsInf(float64(v), 0))
			}
			assert.Equal(t, e.FLOPs(w, h), dev.flops)
		})
	}
}

// Two cameras of different sizes share an encoder: a pass is of one grid, and each gets what it would get alone.
func TestSizesShareAnEncoder(t *testing.T) {
	for _, family := range []string{"qwen2vl", "qwen25vl", "flashvstreamqwen"} {
		t.Run(family, func(t *testing.T) {
			dev := &counting{Device: computetest.Open()}
			defer dev.Close()
			e, err := LoadWith(os.DirFS(goldens+family), dev, Options{Pixels: 1024})
			require.NoError(t, err)
			defer e.Close()
			sizes := [][2]int{{45, 33}, {17, 64}, {33, 45}, {101, 7}, {1, 3}, {640, 360}}
			var frames []ingest.Frame
			var want []compute.Matrix
			for _, s := range sizes {
				a, b := randomFrame(s[0], s[1]), randomFrame(s[0], s[1])
				b.Pix = append([]byte(nil), b.Pix...)
				for i := range b.Pix {
					b.Pix[i] ^= 255
				}
				frames = append(frames, a, b)
				one, err := e.Encode(t.Context(), a, b)
				require.NoError(t, err)
				h, w := e.Grid(s[0], s[1])
				require.Equal(t, h*w, one[0].Rows, s)
				want = append(want, one...)
			}
			all, err := e.Encode(t.Context(), frames...)
			require.NoError(t, err)
			assert.Equal(t, want, all)
			still, err := e.Encode(t.Context(), frames[0], frames[0])
			require.NoError(t, err)
			assert.NotEqual(t, want[0].Data, still[0].Data, "a pair's second picture counts")

			// Those who wait while a pass is under way share the next ones by size.
			dev.runs.Store(0)
			dev.first = make(chan struct{})
			var wg sync.WaitGroup
			ask := func(i int) {
				wg.Go(func() {
					have, err := e.Encode(t.Context(), frames[2*i], frames[2*i+1])
					if assert.NoError(t, err) {
						assert.Equal(t, want[i], have[0])
					}
				})
			}
			ask(0)
			require.Eventually(t, func() bool { return dev.runs.Load() == 1 }, 10*time.Second, time.Millisecond)
			for n, i := range []int{0, 1, 0, 1} {
				ask(i)
				require.Eventually(t, func() bool { e.mu.Lock(); defer e.mu.Unlock(); return len(e.waiting) == n+1 }, 10*time.Second, time.Millisecond)
			}
			close(dev.first)
			wg.Wait()
			assert.EqualValues(t, 3, dev.runs.Load())
		})
	}
}

func TestEncodeRefusesUnits(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	e, err := LoadWith(os.DirFS(goldens+"qwen2vl"), dev, Options{Pixels: 1024})
	require.NoError(t, err)
	defer e.Close()
	f := randomFrame(20, 20)
	for want, frames := range map[string][]ingest.Frame{
		"encoder: 1 frames: want a multiple of 2":                                              {f},
		"encoder: frame 0: picture of 20x24: the one before it is of 20x20":                    {f, randomFrame(20, 24)},
		"encoder: frame 0: picture of 201x1 is too narrow: no side may be 200 times the other": {randomFrame(201, 1), randomFrame(201, 1)},
	} {
		_, err := e.Encode(t.Context(), frames...)
		assert.EqualError(t, err, want)
	}
	h, w := e.Grid(0, 5)
	assert.Zero(t, h+w)
	for pixels, want := range map[int]string{
		-1: "encoder: pictures of -1 pixels: want at most 12845056", 1 << 24: "encoder: pictures of 16777216 pixels: want at most 12845056",
		63: "encoder: pictures of 63 pixels: one row takes 64",
	} {
		_, err := LoadWith(os.DirFS(goldens+"qwen2vl"), dev, Options{Pixels: pixels})
		assert.EqualError(t, err, want)
	}
}

func TestJoin(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	for _, family := range []string{"flashvstreamqwen", "internvl2", "flashvstream"} {
		t.Run(family, func(t *testing.T) {
			e, err := LoadWith(os.DirFS(goldens+family), dev, Options{Pixels: 256})
			require.NoError(t, err)
			m := e.c.Join.Merge
			// More rows than go into a pass, in grids of many shapes, in one call and one by one.
			var grids []Rows
			for i := range 40 {
				h, w := m*(1+i%7), m*(1+i%5)
				data := compute.NewMatrix(h*w, e.Dim())
				for j := range data.Data {
					data.Data[j] = float32(math.Sin(float64(j*7 + i)))
				}
				grids = append(grids, Rows{h, w, data})
			}
			all, err := e.Join(t.Context(), grids...)
			require.NoError(t, err)
			for i, g := range grids {
				one, err := e.Join(t.Context(), g)
				require.NoError(t, err)
				assert.Equal(t, g.H*g.W/(m*m), one[0].Rows)
				assert.Equal(t, one[0], all[i])
			}
			none, err := e.Join(t.Context())
			require.NoError(t, err)
			assert.Empty(t, none)

			refused := map[string]Rows{
				"encoder: join: grid 0: 4 rows of 1x3":                                              {1, 3, compute.NewMatrix(4, e.Dim())},
				"encoder: join: grid 0: 0 rows of 0x0":                                              {},
				fmt.Sprintf("encoder: join: grid 0: rows of 7 in 28 values, want %d each", e.Dim()): {2, 2, compute.NewMatrix(4, 7)},
			}
			if m > 1 {
				refused["encoder: join: grid 0: 2x3 rows: squares of 2x2 become one"] = Rows{2, 3, compute.NewMatrix(6, e.Dim())}
			}
			for want, g := range refused {
				_, err := e.Join(t.Context(), g)
				assert.EqualError(t, err, want)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err = e.Join(ctx, grids[0])
			assert.ErrorIs(t, err, context.Canceled)
			require.NoError(t, e.Close())
			_, err = e.Join(t.Context(), grids[0])
			assert.EqualError(t, err, "encoder: join: closed")
		})
	}
	e, err := Load("testdata/vlm", dev, compute.F32)
	require.NoError(t, err)
	defer e.Close()
	g := Rows{2, 2, compute.NewMatrix(4, e.Dim())}
	same, err := e.Join(t.Context(), g)
	require.NoError(t, err)
	assert.Equal(t, []compute.Matrix{g.Data}, same)
}

// changed is a published golden with some fields of its config.json replaced: "a.b" is field b of a, nil takes one away.
func changed(t *testing.T, name string, change map[string]any) fs.FS {
	dir := os.DirFS(goldens + name)
	data, err := fs.ReadFile(dir, "config.json")
	require.NoError(t, err)
	var c map[string]any
	require.NoError(t, json.Unmarshal(data, &c))
	for k, v := range change {
		at := c
		if outer, inner, ok := strings.Cut(k, "."); ok {
			at, k = c[outer].(map[string]any), inner
		}
		if at[k] = v; v == nil {
			delete(at, k)
		}
	}
	data, err = json.Marshal(c)
	require.NoError(t, err)
	files := fstest.MapFS{"config.json": {Data: data}}
	entries, err := fs.ReadDir(dir, ".")
	require.NoError(t, err)
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".safetensors") || strings.Contains(name, "processor") || strings.HasSuffix(name, ".index.json") {
			data, err := fs.ReadFile(dir, name)
			require.NoError(t, err)
			files[name] = &fstest.MapFile{Data: data}
		}
	}
	return files
}

func TestPublishedRefuses(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	for _, tt := range []struct {
		family, key string
		val         any
		want        string
	}{
		{"smolvlm", "scale_factor", 3, `config.json: squares of 3x3 do not divide the 8x8 patches`},
		{"smolvlm", "scale_factor", 99, `config.json: scale_factor 99 is out of range 1 to 16`},
		{"smolvlm", "scale_factor", 2, `load: weights: model.safetensors: model.connector.modality_projection.proj.weight: want [36 120], have [36 480]`},
		{"smolvlm", "vision_config", nil, `config.json: vision_config must be given`},
		{"smolvlm", "text_config", nil, `config.json: text_config must be given`},
		{"smolvlm", "vision_config.model_type", "vit", `config.json: vision_config.model_type "vit" is not supported`},
		{"smolvlm", "vision_config.hidden_size", 32, `config.json: vision_config.num_attention_heads 3 does not divide hidden_size 32`},
		{"smolvlm", "vision_config.num_hidden_layers", 4, `load: weights: model.safetensors: model.vision_model.encoder.layers.3.layer_norm1.weight: missing`},
		{"qwen2vl", "vision_config.temporal_patch_size", 4, `config.json: vision_config.temporal_patch_size 4 is not supported, want 2`},
		{"qwen2vl", "vision_config.spatial_merge_size", 0, `config.json: vision_config.spatial_merge_size 0 is out of range 1 to 16`},
		{"qwen2vl", "vision_config.mlp_ratio", -1, `config.json: vision_config.mlp_ratio -1 is out of range`},
		{"qwen2vl", "vision_config.embed_dim", 0, `config.json: vision_config.embed_dim 0 is out of range 1 to 65536`},
		{"qwen2vl", "vision_config.num_heads", 20, `config.json: vision_config.heads of 2 cannot turn by height and width`},
		{"qwen2vl", "vision_config.in_chans", 4, `config.json: vision_config.num_channels 4 is not supported, want 3`},
		{"qwen2vl", "vision_config.rope_parameters", map[string]any{"rope_theta": 5}, `config.json: vision_config.rope_parameters.rope_theta 5 is not supported, want 10000`},
		{"qwen2vl", "vision_config.model_type", "clip_vision_model", `config.json: vision_config.model_type "clip_vision_model" is not supported in a model_type "qwen2_vl"`},
		{"qwen2vl", "vision_config.patch_size", "four", `config.json: vision_config.patch_size "four": want a number`},
		{"qwen2vl", "vision_pool", []int{2, 2}, `config.json: vision_pool [2 2] is not supported with patches that merge`},
		{"qwen25vl", "vision_config.window_size", 20, `config.json: vision_config.window_size 20 is not a multiple of 8, which one row covers`},
		{"qwen25vl", "vision_config.window_size", 0, `config.json: vision_config.window_size 0 is out of range 1 to 16384`},
		{"qwen25vl", "vision_config.out_hidden_size", 0, `config.json: vision_config.out_hidden_size 0 is out of range 1 to 65536`},
		{"qwen25vl", "vision_config.fullatt_block_indexes", []int{-1}, `config.json: vision_config.fullatt_block_indexes [-1]: want no negative ones`},
		{"qwen25vl", "vision_config.hidden_act", "gelu", `config.json: vision_config.hidden_act "gelu" is not supported`},
		{"qwen25vl", "vision_config.intermediate_size", 50, `load: weights: model-00002-of-00002.safetensors: visual.blocks.0.mlp.gate_proj.weight: want [50 40], have [54 40]`},
		{"internvl2", "ps_version", "v1", `config.json: ps_version "v1" is not supported, want "v2"`},
		{"internvl2", "downsample_ratio", 0.25, `config.json: downsample_ratio 0.25 is not supported, want 0.5`},
		{"internvl2", "force_image_size", 48, `config.json: force_image_size 48 is not supported: the tower's pictures have 24x24`},
		{"internvl2", "select_layer", -9, `config.json: select_layer -9 is out of range, the tower has 3 layers`},
		{"internvl2", "llm_config", nil, `config.json: llm_config must be given`},
		{"internvl2", "vision_config.qk_normalization", true, `config.json: vision_config.qk_normalization true is not supported`},
		{"internvl2", "vision_config.norm_type", "rms_norm", `config.json: vision_config.norm_type "rms_norm" is not supported`},
		{"internvl2", "vision_config.image_size", 20, `config.json: force_image_size 24 is not supported: the tower's pictures have 20x20`},
		{"llava15", "vision_feature_layer", 7, `config.json: vision_feature_layer 7 is out of range, the tower has 4 layers`},
		{"llava15", "vision_feature_select_strategy", "full", `config.json: vision_feature_select_strategy "full" is not supported`},
		{"llava15", "projector_hidden_act", "relu", `config.json: projector_hidden_act "relu" is not supported`},
		{"llava15", "text_config.hidden_size", 40, `load: weights: model.safetensors: multi_modal_projector.linear_1.bias: want [40], have [48]`},
		{"llava15", "vision_config.model_type", "qwen2_vl_vision", `config.json: vision_config.model_type "qwen2_vl_vision" is not supported in a model_type "llava"`},
		{"onevision", "vision_feature_select_strategy", "default", `config.json: vision_feature_select_strategy "default" is not supported: the tower has no class token to leave out`},
		{"onevision", "quantization_config", map[string]any{}, `config.json: quantization_config is not supported`},
		{"flashvstream", "vision_config", nil, `config.json: mm_hidden_size 40: the tower has 1024`},
		{"flashvstream", "mm_projector_type", "linear", `config.json: mm_projector_type "linear" is not supported, want "mlp2x_gelu"`},
		{"flashvstream", "mm_vision_select_feature", "cls_patch", `config.json: mm_vision_select_feature "cls_patch" is not supported, want "patch"`},
		{"flashvstream", "mm_hidden_size", 41, `config.json: mm_hidden_size 41: the tower has 40`},
		{"flashvstream", "compress_size", 4, `config.json: compress_size 4 does not divide the 6x6 patches`},
		{"flashvstream", "compress_type", "qformer", `config.json: compress_type "qformer" is not supported, want "mean"`},
		{"flashvstream", "mm_vision_select_layer", -6, `config.json: mm_vision_select_layer -6 is out of range, the tower has 4 layers`},
		{"flashvstream", "model_type", "vstream2", `config.json: model_type "vstream2" is not supported`},
	} {
		t.Run(tt.family+"/"+tt.want, func(t *testing.T) {
			_, err := LoadFS(changed(t, tt.family, map[string]any{tt.key: tt.val}), dev, compute.F32)
			assert.EqualError(t, err, "encoder: "+tt.want)
		})
	}
	_, err := LoadFS(changed(t, "flashvstream", map[string]any{"vision_config": nil, "mm_vision_tower": "eva02"}), dev, compute.F32)
	assert.EqualError(t, err, `encoder: config.json: mm_vision_tower "eva02" is not supported`)
}

// renamed gives the tensors of a checkpoint other names.
func renamed(t *testing.T, files fs.FS, rules ...string) {
	f := files.(fstest.MapFS)[weights.Single]
	n := binary.LittleEndian.Uint64(f.Data)
	var head map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(f.Data[8:8+n], &head))
	out := map[string]json.RawMessage{}
	for name, v := range head {
		for i := 0; i < len(rules); i += 2 {
			if rest, ok := strings.CutPrefix(name, rules[i]); ok {
				name = rules[i+1] + rest
				break
			}
		}
		out[name] = v
	}
	data, err := json.Marshal(out)
	require.NoError(t, err)
	f.Data = slices.Concat(binary.LittleEndian.AppendUint64(nil, uint64(len(data))), data, f.Data[8+n:])
}

// Other libraries and other versions spell the same models otherwise.
func TestOtherSpellings(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	older := map[string]any{"model_type": "llava_llama", "hidden_size": 48, "mm_hidden_size": 40, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
		"mm_vision_tower": "openai/clip-vit-large-patch14-336", "text_config": nil, "vision_feature_layer": nil, "vision_feature_select_strategy": nil}
	for _, tt := range []struct {
		name, family string
		change       map[string]any
		rules        []string
	}{
		{"LLaVA-1.5 of its authors", "llava15", older, []string{"vision_tower.", "model.vision_tower.vision_tower.", "multi_modal_projector.linear_1", "model.mm_projector.0",
			"multi_modal_projector.linear_2", "model.mm_projector.2"}},
		{"CLIP without vision_model", "llava15", nil, []string{"vision_tower.vision_model.", "vision_tower."}},
		{"LLaVA under model", "llava15", nil, []string{"vision_tower.vision_model.", "model.vision_tower.", "multi_modal_projector.", "model.multi_modal_projector."}},
		{"OneVision under model", "onevision", nil, []string{"vision_tower.vision_model.", "model.vision_tower.", "multi_modal_projector.", "model.multi_modal_projector.",
			"image_newline", "model.image_newline"}},
		{"Qwen2-VL under model", "qwen2vl", nil, []string{"visual.", "model.visual."}},
		{"Qwen2-VL with text_config", "qwen2vl", map[string]any{"text_config": map[string]any{"hidden_size": 48}, "vision_config.model_type": "qwen2_vl_vision",
			"vision_config.rope_parameters": map[string]any{"rope_theta": 10000, "rope_type": "axial"}}, nil},
		{"SmolVLM as Idefics3", "smolvlm", map[string]any{"model_type": "idefics3", "vision_config.model_type": "idefics3_vision"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want, err := LoadFS(os.DirFS(goldens+tt.family), dev, compute.F32)
			require.NoError(t, err)
			files := changed(t, tt.family, tt.change)
			renamed(t, files, tt.rules...)
			have, err := LoadFS(files, dev, compute.F32)
			require.NoError(t, err)
			f := randomFrame(45, 45) // square: LLaVA's authors pad others
			a, err := want.Encode(t.Context(), []ingest.Frame{f, f}[:want.Unit()]...)
			require.NoError(t, err)
			b, err := have.Encode(t.Context(), []ingest.Frame{f, f}[:have.Unit()]...)
			require.NoError(t, err)
			assert.Equal(t, a, b)
			assert.Equal(t, want.Newline(), have.Newline())
			require.NoError(t, errors.Join(want.Close(), have.Close()))
		})
	}
}
