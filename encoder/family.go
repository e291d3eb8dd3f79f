package encoder

import (
	"fmt"
	"math"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// kind is one of the ways in which published towers are laid out.
type kind uint8

const (
	clip   kind = iota // CLIP and SigLIP, as transformers names their tensors
	intern             // InternViT: layer scale, other names
	qwen2              // Qwen2-VL: no class, no position embedding, heads that turn by height and width, patches that merge
)

// family is what distinguishes one published tower from another.
type family struct {
	kind      kind
	class     bool // a class token before the patches
	preNorm   bool // pre_layrnorm (the checkpoint's own spelling) after the embedding
	patchBias bool
	postNorm  bool // the last hidden state goes through post_layernorm
	act       string
	eps       float32
	mean, std [3]float32
}

var (
	clipMean, clipStd         = [3]float32{0.48145466, 0.4578275, 0.40821073}, [3]float32{0.26862954, 0.26130258, 0.27577711}
	imagenetMean, imagenetStd = [3]float32{0.485, 0.456, 0.406}, [3]float32{0.229, 0.224, 0.225}
	half                      = [3]float32{.5, .5, .5}

	qwen2VL  = family{kind: qwen2, act: "quick_gelu", eps: 1e-6, mean: clipMean, std: clipStd}
	families = map[string]family{
		"siglip_vision_model": {patchBias: true, postNorm: true, act: "gelu_pytorch_tanh", eps: 1e-6, mean: half, std: half},
		"clip_vision_model":   {class: true, preNorm: true, act: "quick_gelu", eps: 1e-5, mean: clipMean, std: clipStd},
		"internvl_vision":     {kind: intern, class: true, patchBias: true, act: "gelu", eps: 1e-6, mean: imagenetMean, std: imagenetStd},
		"qwen2_vl":            qwen2VL, // what the published configs call the tower too
		"qwen2_vl_vision":     qwen2VL,
	}
)

// names are where a checkpoint of one kind keeps a tower. A layer's have its number in front.
type names struct {
	prefixes                           []string // in a larger model, alone, or alone as newer libraries save it
	patch, class, position, layer      string
	norm1, norm2, q, k, v, out         string
	qkv                                string // q, k and v in one, instead
	fc1, fc2, scale1, scale2           string
	preNorm, postNorm, mergeNorm       string
	projPrefix, projector1, projector2 string
}

var checkpoints = map[kind]names{
	clip: {
		prefixes: []string{"vision_tower.vision_model.", "vision_model.", ""},
		patch:    "embeddings.patch_embedding", class: "embeddings.class_embedding", position: "embeddings.position_embedding.weight",
		layer: "encoder.layers.", norm1: "layer_norm1", norm2: "layer_norm2", q: "self_attn.q_proj", k: "self_attn.k_proj", v: "self_attn.v_proj",
		out: "self_attn.out_proj", fc1: "mlp.fc1", fc2: "mlp.fc2", preNorm: "pre_layrnorm", postNorm: "post_layernorm",
		projPrefix: "multi_modal_projector.", projector1: "linear_1", projector2: "linear_2",
	},
	intern: {
		prefixes: []string{"model.vision_tower.", "vision_tower.", ""},
		patch:    "embeddings.patch_embeddings.projection", class: "embeddings.cls_token", position: "embeddings.position_embeddings",
		layer: "encoder.layer.", norm1: "layernorm_before", norm2: "layernorm_after", q: "attention.q_proj", k: "attention.k_proj", v: "attention.v_proj",
		out: "attention.projection_layer", fc1: "mlp.fc1", fc2: "mlp.fc2", scale1: "lambda_1", scale2: "lambda_2", postNorm: "layernorm",
		projPrefix: "multi_modal_projector.", projector1: "linear_1", projector2: "linear_2",
	},
	qwen2: {
		prefixes: []string{"model.visual.", "visual.", ""},
		patch:    "patch_embed.proj", layer: "blocks.", norm1: "norm1", norm2: "norm2", qkv: "attn.qkv", out: "attn.proj", fc1: "mlp.fc1", fc2: "mlp.fc2",
		mergeNorm: "merger.ln_q", projPrefix: "", projector1: "merger.mlp.0", projector2: "merger.mlp.2",
	},
}

// patchKernel fetches the convolution that embeds patches as [hidden, 3*patch*patch]. Qwen2-VL's looks at two pictures; a frame is
// the same picture twice, so its two halves add up.
func (t *tower) patchKernel(l *weights.Loader, name string) compute.Matrix {
	v := t.c.Vision
	area := v.PatchSize * v.PatchSize
	m := compute.Matrix{Rows: v.Hidden, Cols: 3 * area}
	if t.c.family.kind != qwen2 {
		m.Data = l.Floats(name, v.Hidden, 3, v.PatchSize, v.PatchSize)
		return m
	}
	pair := l.Floats(name, v.Hidden, 3, 2, v.PatchSize, v.PatchSize)
	if pair == nil {
		return m
	}
	m.Data = make([]float32, v.Hidden*3*area)
	for i := range m.Data {
		at := i/area*2*area + i%area
		m.Data[i] = pair[at] + pair[at+area]
	}
	return m
}

// axes is the table by which Qwen2-VL's heads turn: half of the angles by a patch's height in the picture, half by its place across.
func (c *Config) axes() compute.Matrix {
	g := c.patchGrid()
	quarter := c.Vision.Hidden / c.Vision.Heads / 4
	m := compute.NewMatrix(g.H*g.W, 4*quarter)
	for r := range m.Rows {
		y, x := c.place(r)
		for j := range quarter {
			freq := math.Pow(10000, -float64(j)/float64(quarter))
			for i, at := range []int{y, x} {
				sin, cos := math.Sincos(float64(float32(at) * float32(freq)))
				m.Row(r)[i*quarter+j], m.Row(r)[(2+i)*quarter+j] = float32(cos), float32(sin)
			}
		}
	}
	return m
}

// place is where in the grid the patch of row r is: row by row, or square of Merge x Merge by square, so that those which leave as
// one row lie side by side.
func (c *Config) place(r int) (y, x int) {
	g := c.patchGrid()
	within := r % (c.Merge * c.Merge)
	square := r / (c.Merge * c.Merge)
	across := g.W / c.Merge
	return square/across*c.Merge + within/c.Merge, square%across*c.Merge + within%c.Merge
}

func layerName(n names, i int) string { return fmt.Sprintf("%s%d.", n.layer, i) }

// target is what a processor must know of the model.
func (c *Config) target() target {
	return target{Model: c.model, Image: c.Vision.Image, Patch: c.Vision.PatchSize, Merge: c.Merge, Order: c.Merge, Mean: c.Mean, Std: c.Std}
}
