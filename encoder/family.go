package encoder

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// kind is one of the ways in which published towers work.
type kind uint8

const (
	clip   kind = iota // CLIP and SigLIP: position embeddings
	intern             // InternViT: position embeddings and layer scale
	qwen2              // Qwen2-VL: pairs of pictures of any size, no class, heads that turn by height and width, patches that merge
)

// family is what distinguishes one published tower from another.
type family struct {
	kind      kind
	names     names
	class     bool // a class token before the patches
	preNorm   bool // pre_layrnorm (the checkpoint's own spelling) after the embedding
	patchBias bool
	postNorm  bool // the last hidden state goes through post_layernorm
	published bool // InternViT as OpenGVLab has it rather than transformers
	windows   bool // Qwen2.5-VL: most layers attend within windows
	act       string
	eps       float32
	mean, std [3]float32
}

var (
	clipMean, clipStd         = [3]float32{0.48145466, 0.4578275, 0.40821073}, [3]float32{0.26862954, 0.26130258, 0.27577711}
	imagenetMean, imagenetStd = [3]float32{0.485, 0.456, 0.406}, [3]float32{0.229, 0.224, 0.225}
	half                      = [3]float32{.5, .5, .5}

	siglip   = family{names: clipNames, patchBias: true, postNorm: true, act: "gelu_pytorch_tanh", eps: 1e-6, mean: half, std: half}
	qwen2VL  = family{kind: qwen2, names: qwenNames, act: "quick_gelu", eps: 1e-6, mean: clipMean, std: clipStd}
	qwen25VL = family{kind: qwen2, names: qwenNames, windows: true, act: "silu", eps: 1e-6, mean: clipMean, std: clipStd}

	// families are towers by the model_type of a vision_config, or of a config.json that is one.
	families = map[string]family{
		"siglip_vision_model": siglip,
		"clip_vision_model":   {names: clipNames, class: true, preNorm: true, act: "quick_gelu", eps: 1e-5, mean: clipMean, std: clipStd},
		"internvl_vision":     internViT(internNames, false),
		"intern_vit_6b":       internViT(internViTNames, true),
		"qwen2_vl":            qwen2VL, // what the published configs call the tower too
		"qwen2_vl_vision":     qwen2VL,
		"qwen2_5_vl":          qwen25VL,
		"qwen2_5_vl_vision":   qwen25VL,
	}
)

func internViT(n names, published bool) family {
	return family{kind: intern, names: n, class: true, patchBias: true, published: published, act: "gelu", eps: 1e-6, mean: imagenetMean, std: imagenetStd}
}

// model is a published way of putting a tower before a language model.
type model struct {
	tower   string    // of families, where vision_config's model_type is one of aliases
	aliases []string  // "": it has none
	vision  rawVision // what transformers takes for fields that vision_config leaves out
	read    func(*Config, *rawConfig, model) error
	late    bool
	coarse  bool // grids are made of squares of twice the usual side: Flash-VStream averages them 2x2 before they merge
}

// models are the model_type of a config.json.
var models = map[string]model{
	"afterimage_vlm":         {read: (*Config).afterimage},
	"smolvlm":                smolVLM,
	"idefics3":               smolVLM,
	"qwen2_vl":               qwenVL,
	"qwen2_5_vl":             qwen25,
	"flash_vstream_qwen2_vl": {tower: qwenVL.tower, aliases: qwenVL.aliases, vision: qwenVL.vision, read: (*Config).qwen, late: true, coarse: true},
	"internvl_chat":          {tower: "intern_vit_6b", aliases: []string{""}, read: (*Config).internVL, late: true},
	"llava":                  llava,
	"llava_llama":            llava,
	"vstream":                {tower: llava.tower, aliases: llava.aliases, read: (*Config).oldLLaVA, late: true},
	"llava_onevision":        {tower: "siglip_vision_model", aliases: []string{""}, read: (*Config).llava},
}

var (
	smolVLM = model{tower: "siglip_vision_model", aliases: []string{"", "idefics3", "idefics3_vision", "smolvlm", "smolvlm_vision"},
		read:   (*Config).smolVLM,
		vision: rawVision{Hidden: 1152, Layers: 12, Heads: 16, MLP: 3072, ImageSize: json.RawMessage("224"), PatchSize: json.RawMessage("32")}}
	qwenVL = model{tower: "qwen2_vl_vision", aliases: []string{"", "qwen2_vl", "flash_vstream_qwen2_vl"}, read: (*Config).qwen,
		vision: rawVision{Depth: 32, EmbedDim: 1280, Hidden: 3584, NumHeads: 16, MLPRatio: 4, PatchSize: json.RawMessage("14")}}
	qwen25 = model{tower: "qwen2_5_vl_vision", aliases: []string{"", "qwen2_5_vl"}, read: (*Config).qwen,
		vision: rawVision{Depth: 32, Hidden: 3584, MLP: 3420, NumHeads: 16, OutHidden: 3584, Window: 112, Full: []int{7, 15, 23, 31},
			PatchSize: json.RawMessage("14")}}
	llava = model{tower: "clip_vision_model", aliases: []string{""}, read: (*Config).llava}
)

// visionOf reads the vision_config of a model.
func (c *Config) visionOf(raw *rawConfig, m model) error {
	if raw.Vision == nil {
		return errors.New("vision_config must be given")
	}
	var t rawText // anything that has a model_type
	if err := json.Unmarshal(raw.Vision, &t); err != nil {
		return fmt.Errorf("vision_config: %w", err)
	}
	if f, ok := families[t.ModelType]; ok && (f.kind == qwen2) != (families[m.tower].kind == qwen2) {
		return fmt.Errorf("vision_config.model_type %q is not supported in a model_type %q", t.ModelType, raw.ModelType)
	}
	return c.tower(raw.Vision, m, "vision_config.")
}

// textWidth is the language model's.
func textWidth(name string, t *rawText) (int, error) {
	if t == nil {
		return 0, fmt.Errorf("%s must be given", name)
	}
	if t.Hidden == 0 && t.ModelType == "llama" {
		t.Hidden = 4096 // as transformers has it; LLaVA-1.5 does not say
	}
	return t.Hidden, between(name+".hidden_size", t.Hidden, maxDim)
}

// mlp is a join of two products as wide as the language model.
func (c *Config) mlp(raw *rawConfig, width int) error {
	act, ok := activations[raw.Act]
	if !ok {
		return fmt.Errorf("projector_hidden_act %q is not supported", raw.Act)
	}
	c.Join = &Join{Dim: width, Inner: width, Act: act, Bias: true, Merge: 1, names: projectorNames}
	return nil
}

func (c *Config) afterimage(raw *rawConfig, m model) error {
	if raw.Vision == nil || raw.Text == nil {
		return errors.New("vision_config and text_config must be given")
	}
	if err := c.visionOf(raw, m); err != nil {
		return err
	}
	if err := c.whole(); err != nil {
		return fmt.Errorf("vision_config.%w", err)
	}
	width, err := textWidth("text_config", raw.Text)
	if err != nil {
		return err
	}
	if raw.Bias != nil && !*raw.Bias {
		return errors.New("multimodal_projector_bias false is not supported")
	}
	return c.mlp(raw, width)
}

// smolVLM puts squares of patches side by side and projects them. Pictures are whole, so the fractional position of a patch is its own
// number in every direction (so it is for the 26, 27 and 32 patches a side that were published).
func (c *Config) smolVLM(raw *rawConfig, m model) error {
	if err := c.visionOf(raw, m); err != nil {
		return err
	}
	width, err := textWidth("text_config", raw.Text)
	if err != nil {
		return err
	}
	if raw.ScaleFactor == 0 {
		raw.ScaleFactor = 2
	}
	c.Shuffle = raw.ScaleFactor
	c.Join = &Join{Dim: width, Merge: 1, names: connectorNames}
	return between("scale_factor", raw.ScaleFactor, 16)
}

func (c *Config) qwen(raw *rawConfig, m model) error {
	if err := c.visionOf(raw, m); err != nil {
		return err
	}
	c.Late = m.late
	c.Vision.Coarse = m.coarse
	return nil
}

func (c *Config) internVL(raw *rawConfig, m model) error {
	if err := c.visionOf(raw, m); err != nil {
		return err
	}
	width, err := textWidth("llm_config", raw.LLM)
	switch {
	case err != nil:
		return err
	case raw.Downsample != 0.5:
		return fmt.Errorf("downsample_ratio %g is not supported, want 0.5", raw.Downsample)
	case raw.ForceSize != 0 && c.Vision.Image != Size{raw.ForceSize, raw.ForceSize}:
		return fmt.Errorf("force_image_size %d is not supported: the tower's pictures have %dx%d", raw.ForceSize, c.Vision.Image.H, c.Vision.Image.W)
	case raw.PS != "v2":
		return fmt.Errorf("ps_version %q is not supported, want \"v2\"", raw.PS)
	}
	if raw.SelectLayer != nil && *raw.SelectLayer != -1 {
		if err := c.takeLayer("select_layer", *raw.SelectLayer); err != nil {
			return err
		}
	}
	c.Shuffle, c.Late = 2, m.late
	c.Join = &Join{Dim: width, Inner: width, Act: compute.GELU, Bias: true, Merge: 1, Norm: true, Eps: 1e-5, names: mlp1Names}
	return nil
}

// llava is LLaVA-1.5 as transformers has it, and LLaVA-OneVision, of which pictures are taken as a video's frames.
func (c *Config) llava(raw *rawConfig, m model) error {
	if raw.MMTower != "" {
		return c.oldLLaVA(raw, m)
	}
	if err := c.visionOf(raw, m); err != nil {
		return err
	}
	width, err := textWidth("text_config", raw.Text)
	if err != nil {
		return err
	}
	if raw.Act == "" {
		raw.Act = "gelu"
	}
	if err := c.mlp(raw, width); err != nil {
		return err
	}
	c.Join.Bias = raw.Bias == nil || *raw.Bias
	layer, strategy := -2, "default"
	if c.Join.Half = raw.ModelType == "llava_onevision"; c.Join.Half {
		layer, strategy = -1, "full"
		c.Join.names.newline = "image_newline"
	}
	if raw.Layer == nil {
		raw.Layer = &layer
	}
	if raw.Strategy == nil {
		raw.Strategy = &strategy
	}
	if *raw.Strategy == "default" && !c.family.class {
		return fmt.Errorf("vision_feature_select_strategy %q is not supported: the tower has no class token to leave out", *raw.Strategy)
	}
	return nil
}

// clipLarge is CLIP-L/14, and oldTowers the sides of its pictures by what mm_vision_tower may name.
const clipLarge = `{"hidden_size":1024,"intermediate_size":4096,"num_hidden_layers":24,"num_attention_heads":16,"patch_size":14,"image_size":%d}`

var oldTowers = map[string]int{"clip-vit-large-patch14": 224, "clip-vit-large-patch14-336": 336}

// oldLLaVA is LLaVA-1.5 as its authors published it, and Flash-VStream-7b, whose tower leaves compress_size rows a side. A vision_config
// stands for a tower that is not one of the published.
func (c *Config) oldLLaVA(raw *rawConfig, m model) error {
	if c.model == "llava" {
		c.model = "llava_llama"
	}
	if raw.Vision == nil {
		side, ok := oldTowers[path.Base(raw.MMTower)]
		if !ok {
			return fmt.Errorf("mm_vision_tower %q is not supported", raw.MMTower)
		}
		raw.Vision = fmt.Appendf(nil, clipLarge, side)
	}
	if err := c.visionOf(raw, m); err != nil {
		return err
	}
	if raw.MMProjector != "mlp2x_gelu" {
		return fmt.Errorf("mm_projector_type %q is not supported, want \"mlp2x_gelu\"", raw.MMProjector)
	}
	if raw.MMFeature != "" && raw.MMFeature != "patch" {
		return fmt.Errorf("mm_vision_select_feature %q is not supported, want \"patch\"", raw.MMFeature)
	}
	if raw.MMHidden != 0 && raw.MMHidden != c.Vision.Hidden {
		return fmt.Errorf("mm_hidden_size %d: the tower has %d", raw.MMHidden, c.Vision.Hidden)
	}
	if err := between("hidden_size", raw.Hidden, maxDim); err != nil {
		return err
	}
	layer := -2
	if raw.MMLayer != nil {
		layer = *raw.MMLayer
	}
	if err := c.takeLayer("mm_vision_select_layer", layer); err != nil {
		return err
	}
	c.Join = &Join{Dim: raw.Hidden, Inner: raw.Hidden, Act: compute.GELU, Bias: true, Merge: 1, names: mmNames}
	if c.Late = m.late; !c.Late {
		return nil
	}
	if raw.CompressType != "mean" {
		return fmt.Errorf("compress_type %q is not supported, want \"mean\"", raw.CompressType)
	}
	g := c.patchGrid(c.Vision.Image)
	if n := raw.CompressSize; n < 1 || g.H%n != 0 || g.W%n != 0 {
		return fmt.Errorf("compress_size %d does not divide the %dx%d patches", n, g.H, g.W)
	}
	c.Pool = Size{g.H / raw.CompressSize, g.W / raw.CompressSize}
	return nil
}

// names are where a checkpoint keeps a tower. A layer's have its number in front.
type names struct {
	prefixes                 []string // in a larger model, alone, or as other libraries save it; the first that is there counts
	patch, class, position   string
	layer, norm1, norm2      string
	q, k, v, out             string
	qkv                      string // q, k and v in one, instead
	fc1, fc2, scale1, scale2 string
	gate, up, down           string // of a gated MLP
	preNorm, postNorm        string
}

var (
	clipNames = names{
		prefixes: []string{"vision_tower.vision_model.", "model.vision_tower.vision_tower.vision_model.", "model.vision_model.", "vision_tower.",
			"model.vision_tower.vision_model.", "model.vision_tower.", "vision_model.", ""},
		patch: "embeddings.patch_embedding", class: "embeddings.class_embedding", position: "embeddings.position_embedding.weight",
		layer: "encoder.layers.", norm1: "layer_norm1", norm2: "layer_norm2", q: "self_attn.q_proj", k: "self_attn.k_proj", v: "self_attn.v_proj",
		out: "self_attn.out_proj", fc1: "mlp.fc1", fc2: "mlp.fc2", preNorm: "pre_layrnorm", postNorm: "post_layernorm",
	}
	internNames = names{ // as transformers has them
		prefixes: []string{"model.vision_tower.", "vision_tower.", ""},
		patch:    "embeddings.patch_embeddings.projection", class: "embeddings.cls_token", position: "embeddings.position_embeddings",
		layer: "encoder.layer.", norm1: "layernorm_before", norm2: "layernorm_after", q: "attention.q_proj", k: "attention.k_proj", v: "attention.v_proj",
		out: "attention.projection_layer", fc1: "mlp.fc1", fc2: "mlp.fc2", scale1: "lambda_1", scale2: "lambda_2", postNorm: "layernorm",
	}
	internViTNames = names{ // as they were published
		prefixes: []string{"vision_model.", ""},
		patch:    "embeddings.patch_embedding", class: "embeddings.class_embedding", position: "embeddings.position_embedding",
		layer: "encoder.layers.", norm1: "norm1", norm2: "norm2", qkv: "attn.qkv", out: "attn.proj", fc1: "mlp.fc1", fc2: "mlp.fc2",
		scale1: "ls1", scale2: "ls2",
	}
	qwenNames = names{
		prefixes: []string{"visual.", "model.visual.", ""},
		patch:    "patch_embed.proj", layer: "blocks.", norm1: "norm1", norm2: "norm2", qkv: "attn.qkv", out: "attn.proj", fc1: "mlp.fc1", fc2: "mlp.fc2",
		gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj",
	}
)

// joinNames are where a checkpoint keeps a join.
type joinNames struct {
	tower               bool     // they follow the tower's prefix
	prefixes            []string // else: the first that is there counts
	norm, first, second string
	newline             string // a row that ends a picture or a video, "" for none
}

var (
	projectorNames = joinNames{prefixes: []string{"", "model."}, first: "multi_modal_projector.linear_1", second: "multi_modal_projector.linear_2"}
	mmNames        = joinNames{prefixes: []string{"model."}, first: "mm_projector.0", second: "mm_projector.2"}
	mlp1Names      = joinNames{prefixes: []string{""}, norm: "mlp1.0", first: "mlp1.1", second: "mlp1.3"}
	connectorNames = joinNames{prefixes: []string{"model.", ""}, first: "connector.modality_projection.proj"}
	mergerNames    = joinNames{tower: true, norm: "merger.ln_q", first: "merger.mlp.0", second: "merger.mlp.2"}
)

// where returns the first prefix with which name is in ck, or the first of all.
func where(ck *weights.Checkpoint, prefixes []string, name string) string {
	for _, p := range prefixes {
		if ck.Has(p + name) {
			return p
		}
	}
	return prefixes[0]
}
