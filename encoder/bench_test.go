package encoder

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/internal/weights"
	"afterimage/internal/weights/weightstest"
)

const defaultConfig = `{"model_type":"afterimage_vlm","vision_config":{"model_type":"siglip_vision_model","hidden_size":256,"num_hidden_layers":6,
"num_attention_heads":4,"intermediate_size":1024,"patch_size":16,"image_size":[128,256],"hidden_act":"gelu_pytorch_tanh","layer_norm_eps":1e-6},
"text_config":{"model_type":"llama","hidden_size":384},"projector_hidden_act":"gelu","vision_pool":[2,2]}`

// defaultShapes are the vision tensors of the embedded default.
func defaultShapes() map[string][]int {
	const c, mlp, dim = 256, 1024, 384
	p := "vision_tower.vision_model."
	s := map[string][]int{p + "embeddings.patch_embedding.weight": {c, 3, 16, 16}, p + "embeddings.patch_embedding.bias": {c},
		p + "embeddings.position_embedding.weight": {128, c}, p + "post_layernorm.weight": {c}, p + "post_layernorm.bias": {c},
		"multi_modal_projector.linear_1.weight": {dim, c}, "multi_modal_projector.linear_1.bias": {dim},
		"multi_modal_projector.linear_2.weight": {dim, dim}, "multi_modal_projector.linear_2.bias": {dim}}
	for i := range 6 {
		l := fmt.Sprintf("%sencoder.layers.%d.", p, i)
		for _, n := range []string{"layer_norm1", "layer_norm2"} {
			s[l+n+".weight"], s[l+n+".bias"] = []int{c}, []int{c}
		}
		for _, n := range []string{"q", "k", "v", "out"} {
			s[l+"self_attn."+n+"_proj.weight"], s[l+"self_attn."+n+"_proj.bias"] = []int{c, c}, []int{c}
		}
		s[l+"mlp.fc1.weight"], s[l+"mlp.fc1.bias"] = []int{mlp, c}, []int{mlp}
		s[l+"mlp.fc2.weight"], s[l+"mlp.fc2.bias"] = []int{c, mlp}, []int{c}
	}
	return s
}

// BenchmarkEncode is the embedded default's size, one frame and a full batch at a time, from 640x360.
func BenchmarkEncode(b *testing.B) {
	for name, open := range devices {
		if name == "reference" || name == "narrow" {
			continue // nothing there is fast
		}
		for _, as := range []compute.DType{compute.F32, compute.BF16, compute.I8} {
			for _, n := range []int{1, batch} {
				b.Run(fmt.Sprintf("%s/%v/%d", name, as, n), func(b *testing.B) {
					dev, err := open()
					require.NoError(b, err)
					defer dev.Close()
					e, err := LoadFS(weightstest.Random(defaultConfig, defaultShapes(), 1), dev, as)
					require.NoError(b, err)
					defer e.Close()
					frames := slices.Repeat([]ingest.Frame{randomFrame(640, 360)}, n)
					for b.Loop() {
						_, err := e.Encode(context.Background(), frames...)
						require.NoError(b, err)
					}
					b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "frames/s")
				})
			}
		}
	}
}

// BenchmarkPublished is public towers of full size with random weights, from 640x360, a batch of what a busy watcher gives at once: frames
// a second, and of operations. Name one: all of them take long on a processor.
func BenchmarkPublished(b *testing.B) {
	for _, p := range publishedConfigs {
		for name, open := range devices {
			if name == "reference" || name == "narrow" {
				continue // nothing there is fast
			}
			b.Run(p.name+"/"+name, func(b *testing.B) {
				dev, err := open()
				require.NoError(b, err)
				defer dev.Close()
				e, err := LoadFS(weights.Random{Config: []byte(p.config)}, dev, compute.BF16)
				require.NoError(b, err)
				defer e.Close()
				frames := slices.Repeat([]ingest.Frame{randomFrame(640, 360)}, e.t.batch*e.Unit())
				_, err = e.Encode(context.Background(), frames...) // first touch of everything
				require.NoError(b, err)
				for b.Loop() {
					_, err := e.Encode(context.Background(), frames...)
					require.NoError(b, err)
				}
				rate := float64(len(frames)) * float64(b.N) / b.Elapsed().Seconds()
				b.ReportMetric(rate, "frames/s")
				b.ReportMetric(rate/float64(e.Unit())*e.FLOPs(640, 360)/1e12, "TFLOP/s")
			})
		}
	}
}
