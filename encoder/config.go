package encoder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"afterimage/internal/compute"
)

// Size is height and width, in pixels or patches.
type Size struct{ H, W int }

// Config is a checked config.json: what shapes the weights have and how a picture becomes rows.
type Config struct {
	Vision    Vision
	Pool      Size       // average pool over patches; 1x1 for none
	Projector *Projector // nil: rows leave in the vision tower's own space
	Mean, Std [3]float32 // of pixel/255
	family    family
}

// Vision is a pre-norm vision transformer of the CLIP and SigLIP kind.
type Vision struct {
	Hidden, Layers, Heads, MLP int
	PatchSize                  int
	Image                      Size
	Act                        compute.Activation
	Eps                        float32
	Run                        int  // layers to run: fewer than Layers when an earlier hidden state is taken
	PostNorm                   bool // post_layernorm after the last layer run
}

// Projector maps a row of the vision tower to the language model's space: linear, activation, linear.
type Projector struct {
	Dim int
	Act compute.Activation
}

// family is what distinguishes one published tower from another.
type family struct {
	class     bool // a class token before the patches, and pre_layrnorm (the checkpoint's own spelling) after the embedding
	patchBias bool
	postNorm  bool // the last hidden state goes through post_layernorm
	act       string
	eps       float32
	mean, std [3]float32
}

var families = map[string]family{
	"siglip_vision_model": {patchBias: true, postNorm: true, act: "gelu_pytorch_tanh", eps: 1e-6, mean: [3]float32{.5, .5, .5}, std: [3]float32{.5, .5, .5}},
	"clip_vision_model": {class: true, act: "quick_gelu", eps: 1e-5, mean: [3]float32{0.48145466, 0.4578275, 0.40821073},
		std: [3]float32{0.26862954, 0.26130258, 0.27577711}},
}

var activations = map[string]compute.Activation{"gelu": compute.GELU, "gelu_pytorch_tanh": compute.GELUTanh, "quick_gelu": compute.QuickGELU}

// Limits keep a hostile config from asking for memory; they are far above every published model.
const (
	maxDim    = 1 << 16
	maxLayers = 1 << 10
)

type rawVision struct {
	ModelType string          `json:"model_type"`
	Hidden    int             `json:"hidden_size"`
	Layers    int             `json:"num_hidden_layers"`
	Heads     int             `json:"num_attention_heads"`
	MLP       int             `json:"intermediate_size"`
	Channels  *int            `json:"num_channels"`
	PatchSize int             `json:"patch_size"`
	ImageSize json.RawMessage `json:"image_size"`
	Act       string          `json:"hidden_act"`
	Eps       *float32        `json:"layer_norm_eps"`
}

type rawConfig struct {
	ModelType string     `json:"model_type"`
	Vision    *rawVision `json:"vision_config"`
	Text      *struct {
		Hidden int `json:"hidden_size"`
	} `json:"text_config"`
	Layer    *int      `json:"vision_feature_layer"`
	Strategy *string   `json:"vision_feature_select_strategy"`
	Act      string    `json:"projector_hidden_act"`
	Pool     []int     `json:"vision_pool"`
	Mean     []float32 `json:"image_mean"`
	Std      []float32 `json:"image_std"`
	Bias     *bool     `json:"multimodal_projector_bias"`
	Quant    any       `json:"quantization_config"`
}

// ReadConfig reads config.json of a model directory: an afterimage_vlm, or a vision tower alone.
func ReadConfig(fsys fs.FS) (*Config, error) {
	raw, err := fs.ReadFile(fsys, "config.json")
	if err != nil {
		return nil, fmt.Errorf("encoder: %w", err)
	}
	c, err := parseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("encoder: config.json: %w", err)
	}
	return c, nil
}

func parseConfig(data []byte) (*Config, error) {
	var raw rawConfig
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	if raw.Quant != nil {
		return nil, errors.New("quantization_config is not supported")
	}
	prefix := "vision_config."
	vision := raw.Vision
	switch _, tower := families[raw.ModelType]; {
	case raw.ModelType == "afterimage_vlm":
		if vision == nil || raw.Text == nil {
			return nil, errors.New("vision_config and text_config must be given")
		}
	case tower:
		prefix, vision = "", new(rawVision)
		if err := json.Unmarshal(data, vision); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("model_type %q is not supported", raw.ModelType)
	}
	c := &Config{}
	if err := c.vision(vision); err != nil {
		return nil, fmt.Errorf("%s%w", prefix, err)
	}
	if err := c.features(&raw); err != nil {
		return nil, err
	}
	if raw.Text != nil && raw.ModelType == "afterimage_vlm" {
		if err := between("text_config.hidden_size", raw.Text.Hidden, maxDim); err != nil {
			return nil, err
		}
		if raw.Bias != nil && !*raw.Bias {
			return nil, errors.New("multimodal_projector_bias false is not supported")
		}
		act, ok := activations[raw.Act]
		if !ok {
			return nil, fmt.Errorf("projector_hidden_act %q is not supported", raw.Act)
		}
		c.Projector = &Projector{Dim: raw.Text.Hidden, Act: act}
	}
	return c, nil
}

func (c *Config) vision(r *rawVision) error {
	f, ok := families[r.ModelType]
	if !ok {
		return fmt.Errorf("model_type %q is not supported", r.ModelType)
	}
	c.family, c.Mean, c.Std = f, f.mean, f.std
	if r.Channels != nil && *r.Channels != 3 {
		return fmt.Errorf("num_channels %d is not supported, want 3", *r.Channels)
	}
	image, err := imageSize(r.ImageSize)
	if err != nil {
		return fmt.Errorf("image_size %s: want a number or [height, width]", r.ImageSize)
	}
	for _, v := range []struct {
		name string
		val  int
		max  int
	}{{"hidden_size", r.Hidden, maxDim}, {"num_hidden_layers", r.Layers, maxLayers}, {"num_attention_heads", r.Heads, maxDim},
		{"intermediate_size", r.MLP, 4 * maxDim}, {"patch_size", r.PatchSize, 256}, {"image_size", image.H, 4096}, {"image_size", image.W, 4096}} {
		if err := between(v.name, v.val, v.max); err != nil {
			return err
		}
	}
	if r.Hidden%r.Heads != 0 {
		return fmt.Errorf("num_attention_heads %d does not divide hidden_size %d", r.Heads, r.Hidden)
	}
	if image.H < r.PatchSize || image.W < r.PatchSize || image.H%r.PatchSize != 0 || image.W%r.PatchSize != 0 {
		return fmt.Errorf("patch_size %d does not divide image_size %dx%d", r.PatchSize, image.H, image.W)
	}
	if r.Act == "" {
		r.Act = f.act
	}
	act, ok := activations[r.Act]
	if !ok {
		return fmt.Errorf("hidden_act %q is not supported", r.Act)
	}
	eps := f.eps
	if r.Eps != nil {
		eps = *r.Eps
	}
	if !(eps >= 0 && eps < 1) {
		return fmt.Errorf("layer_norm_eps %g is out of range", eps)
	}
	c.Vision = Vision{Hidden: r.Hidden, Layers: r.Layers, Heads: r.Heads, MLP: r.MLP, PatchSize: r.PatchSize, Image: image,
		Act: act, Eps: eps, Run: r.Layers, PostNorm: f.postNorm}
	return nil
}

func (c *Config) features(raw *rawConfig) error {
	if raw.Layer != nil { // Hugging Face numbering: 0 is the embedding, -1 the last layer's result, never normalised
		run := *raw.Layer
		if run < 0 {
			run += c.Vision.Layers + 1
		}
		if run < 0 || run > c.Vision.Layers {
			return fmt.Errorf("vision_feature_layer %d is out of range, the tower has %d layers", *raw.Layer, c.Vision.Layers)
		}
		c.Vision.Run, c.Vision.PostNorm = run, false
	}
	if s := raw.Strategy; s != nil && *s != "default" && (*s != "full" || c.family.class) {
		return fmt.Errorf("vision_feature_select_strategy %q is not supported", *s)
	}
	c.Pool = Size{1, 1}
	if raw.Pool != nil {
		if len(raw.Pool) != 2 {
			return fmt.Errorf("vision_pool %v: want [height, width]", raw.Pool)
		}
		c.Pool = Size{raw.Pool[0], raw.Pool[1]}
	}
	g := c.patchGrid()
	if c.Pool.H < 1 || c.Pool.W < 1 || g.H%c.Pool.H != 0 || g.W%c.Pool.W != 0 {
		return fmt.Errorf("vision_pool %dx%d does not divide the %dx%d patches", c.Pool.H, c.Pool.W, g.H, g.W)
	}
	for _, v := range []struct {
		name string
		have []float32
		dst  *[3]float32
	}{{"image_mean", raw.Mean, &c.Mean}, {"image_std", raw.Std, &c.Std}} {
		if v.have == nil {
			continue
		}
		if len(v.have) != 3 {
			return fmt.Errorf("%s %v: want three values", v.name, v.have)
		}
		*v.dst = [3]float32(v.have)
	}
	for _, s := range c.Std {
		if !(s > 0) {
			return fmt.Errorf("image_std %v: want positive values", c.Std)
		}
	}
	return nil
}

func (c *Config) patchGrid() Size {
	return Size{c.Vision.Image.H / c.Vision.PatchSize, c.Vision.Image.W / c.Vision.PatchSize}
}

func (c *Config) grid() Size {
	g := c.patchGrid()
	return Size{g.H / c.Pool.H, g.W / c.Pool.W}
}

func (c *Config) dim() int {
	if c.Projector != nil {
		return c.Projector.Dim
	}
	return c.Vision.Hidden
}

func imageSize(raw json.RawMessage) (Size, error) {
	var side int
	if json.Unmarshal(raw, &side) == nil {
		return Size{side, side}, nil
	}
	var pair []int
	if err := json.Unmarshal(raw, &pair); err != nil {
		return Size{}, err
	}
	if len(pair) != 2 {
		return Size{}, errors.New("not two values")
	}
	return Size{pair[0], pair[1]}, nil
}

func between(name string, v, limit int) error {
	if v < 1 || v > limit {
		return fmt.Errorf("%s %d is out of range 1 to %d", name, v, limit)
	}
	return nil
}
