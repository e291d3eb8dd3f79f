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
	Merge     int        // squares of Merge x Merge patches leave as one row, side by side before the projector; 1 for none
	Projector *Projector // nil: rows leave in the vision tower's own space
	Mean, Std [3]float32 // of pixel/255
	model     string     // model_type, "" for a tower alone
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
	QKVBias                    bool
}

// Projector maps a row of the vision tower to the language model's space: linear, activation, linear. Inner is the width between.
type Projector struct {
	Dim, Inner int
	Act        compute.Activation
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
	PatchSize json.RawMessage `json:"patch_size"`
	ImageSize json.RawMessage `json:"image_size"`
	Act       string          `json:"hidden_act"`
	Eps       *float32        `json:"layer_norm_eps"`

	// InternVL's own.
	AttentionBias bool   `json:"attention_bias"`
	QKNorm        bool   `json:"use_qk_norm"`
	NormType      string `json:"norm_type"`
	MeanPooling   *bool  `json:"use_mean_pooling"`
	Absolute      *bool  `json:"use_absolute_position_embeddings"`

	// Qwen2-VL's own, which calls the language model's width hidden_size.
	Depth     int             `json:"depth"`
	EmbedDim  int             `json:"embed_dim"`
	NumHeads  int             `json:"num_heads"`
	MLPRatio  float64         `json:"mlp_ratio"`
	InChans   *int            `json:"in_channels"`
	InChans2  *int            `json:"in_chans"`
	MergeSize *int            `json:"spatial_merge_size"`
	Temporal  json.RawMessage `json:"temporal_patch_size"`
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
	if prefix != "" {
		c.model = raw.ModelType
	}
	if err := c.vision(vision); err != nil {
		return nil, fmt.Errorf("%s%w", prefix, err)
	}
	if err := c.features(&raw); err != nil {
		return nil, err
	}
	if raw.Text != nil && raw.ModelType == "afterimage_vlm" {
		if c.Projector != nil {
			return nil, fmt.Errorf("vision_config.model_type %q is not supported in an afterimage_vlm", vision.ModelType)
		}
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
		c.Projector = &Projector{Dim: raw.Text.Hidden, Inner: raw.Text.Hidden, Act: act}
	}
	return c, nil
}

func (c *Config) vision(r *rawVision) error {
	f, ok := families[r.ModelType]
	if !ok {
		return fmt.Errorf("model_type %q is not supported", r.ModelType)
	}
	c.family, c.Mean, c.Std = f, f.mean, f.std
	c.Merge = 1
	if f.kind == qwen2 {
		if err := c.qwen2(r); err != nil {
			return err
		}
	}
	if r.Channels != nil && *r.Channels != 3 {
		return fmt.Errorf("num_channels %d is not supported, want 3", *r.Channels)
	}
	image, err := imageSize(r.ImageSize)
	if err != nil {
		return fmt.Errorf("image_size %s: want a number or [height, width]", r.ImageSize)
	}
	square, err := imageSize(r.PatchSize)
	if err != nil || square.H != square.W {
		return fmt.Errorf("patch_size %s: want a number", r.PatchSize)
	}
	patch := square.H
	for _, v := range []struct {
		name string
		val  int
		max  int
	}{{"hidden_size", r.Hidden, maxDim}, {"num_hidden_layers", r.Layers, maxLayers}, {"num_attention_heads", r.Heads, maxDim},
		{"intermediate_size", r.MLP, 4 * maxDim}, {"patch_size", patch, 256}, {"image_size", image.H, 4096}, {"image_size", image.W, 4096}} {
		if err := between(v.name, v.val, v.max); err != nil {
			return err
		}
	}
	if r.Hidden%r.Heads != 0 {
		return fmt.Errorf("num_attention_heads %d does not divide hidden_size %d", r.Heads, r.Hidden)
	}
	if image.H < patch || image.W < patch || image.H%patch != 0 || image.W%patch != 0 {
		return fmt.Errorf("patch_size %d does not divide image_size %dx%d", patch, image.H, image.W)
	}
	if image.H/patch%c.Merge != 0 || image.W/patch%c.Merge != 0 {
		return fmt.Errorf("spatial_merge_size %d does not divide the %dx%d patches", c.Merge, image.H/patch, image.W/patch)
	}
	if f.kind == qwen2 && r.Hidden/r.Heads%4 != 0 {
		return fmt.Errorf("heads of %d cannot turn by height and width", r.Hidden/r.Heads)
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
	c.Vision = Vision{Hidden: r.Hidden, Layers: r.Layers, Heads: r.Heads, MLP: r.MLP, PatchSize: patch, Image: image,
		Act: act, Eps: eps, Run: r.Layers, PostNorm: f.postNorm, QKVBias: true}
	if f.kind == intern {
		switch {
		case r.QKNorm:
			return errors.New("use_qk_norm true is not supported")
		case r.NormType != "" && r.NormType != "layer_norm":
			return fmt.Errorf("norm_type %q is not supported", r.NormType)
		case r.Absolute != nil && !*r.Absolute:
			return errors.New("use_absolute_position_embeddings false is not supported")
		}
		c.Vision.QKVBias = r.AttentionBias
		c.Vision.PostNorm = r.MeanPooling != nil && !*r.MeanPooling
	}
	return nil
}

// qwen2 reads what Qwen2-VL names differently. A frame is a still picture to it, the same twice in time; pictures are resized to
// image_size, 448 unless the config adds one.
func (c *Config) qwen2(r *rawVision) error {
	c.Projector = &Projector{Dim: r.Hidden, Act: compute.GELU}
	c.Merge = 2
	if r.MergeSize != nil {
		c.Merge = *r.MergeSize
	}
	if err := errors.Join(between("hidden_size", r.Hidden, maxDim), between("spatial_merge_size", c.Merge, 16), between("embed_dim", r.EmbedDim, maxDim)); err != nil {
		return err
	}
	if r.MLPRatio == 0 {
		r.MLPRatio = 4
	}
	if !(r.MLPRatio > 0 && r.MLPRatio <= 64) {
		return fmt.Errorf("mlp_ratio %g is out of range", r.MLPRatio)
	}
	if t := string(r.Temporal); t != "" && t != "2" {
		return fmt.Errorf("temporal_patch_size %s is not supported, want 2", t)
	}
	if r.ImageSize == nil {
		r.ImageSize = json.RawMessage("448")
	}
	if r.InChans2 != nil {
		r.InChans = r.InChans2
	}
	r.Hidden, r.Layers, r.Heads, r.MLP, r.Channels = r.EmbedDim, r.Depth, r.NumHeads, int(float64(r.EmbedDim)*r.MLPRatio), r.InChans
	c.Projector.Inner = r.Hidden * c.Merge * c.Merge
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
	if raw.Pool != nil && c.Merge > 1 {
		return fmt.Errorf("vision_pool %v is not supported with patches that merge", raw.Pool)
	}
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
	return Size{g.H / c.Pool.H / c.Merge, g.W / c.Pool.W / c.Merge}
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
