package encoder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"afterimage/internal/compute"
)

// Size is height and width, in pixels or patches.
type Size struct{ H, W int }

// Config is a checked config.json: what shapes the weights have and how a picture becomes rows.
type Config struct {
	Vision    Vision
	Pool      Size       // average pool over patches; 1x1 for none
	Shuffle   int        // squares of Shuffle x Shuffle patches leave the tower side by side in one row (pixel shuffle); 1 for none
	Join      *Join      // nil: rows leave in the vision tower's own space
	Late      bool       // the memory is kept before the join
	Mean, Std [3]float32 // of pixel/255, where the processor's file does not say
	model     string     // model_type, "" for a tower alone
	aspect    string     // image_aspect_ratio
	family    family
}

// Vision is a pre-norm vision transformer.
type Vision struct {
	Hidden, Layers, Heads, MLP int
	PatchSize                  int
	Image                      Size // the tower's picture; where Dynamic, one of a usual size
	Dynamic                    bool // pictures keep their shape and, within limits, their size
	Coarse                     bool // where Dynamic: a side is a multiple of two rows' worth of patches, not of one's
	Pair                       bool // a unit is two pictures: one row of patches looks at both
	Act                        compute.Activation
	Gated                      bool // the MLP is silu(gate) * up
	RMS                        bool // norms are RMSNorm
	Eps                        float32
	Run                        int  // layers to run: fewer than Layers when an earlier hidden state is taken
	PostNorm                   bool // post_layernorm after the last layer run
	QKVBias                    bool
	Window                     int   // patches along a side of the squares within which most layers attend; 0: all layers attend to all
	Full                       []int // with Window: the layers that attend to all
}

// Join maps rows of the vision tower to the language model's space: [norm,] linear, activation, linear, or one linear alone.
type Join struct {
	Dim   int // of the language model
	Inner int // width between the two products; 0: there is one product
	Act   compute.Activation
	Bias  bool
	Merge int  // squares of Merge x Merge rows become one, side by side, after the norm; 1 for none
	Norm  bool // of every row first, with Eps
	Eps   float32
	Half  bool // the grid shrinks to half, bilinearly, between the activation and the second product (with which that commutes)
	names joinNames
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

	// InternVL's own: the first four as transformers has them, then as OpenGVLab published them.
	AttentionBias bool   `json:"attention_bias"`
	QKNorm        bool   `json:"use_qk_norm"`
	MeanPooling   *bool  `json:"use_mean_pooling"`
	Absolute      *bool  `json:"use_absolute_position_embeddings"`
	NormType      string `json:"norm_type"`
	QKVBias       *bool  `json:"qkv_bias"`
	QKNormalize   bool   `json:"qk_normalization"`

	// Qwen2-VL's own, whose hidden_size is the language model's width, and Qwen2.5-VL's, which has out_hidden_size for that.
	Depth     int             `json:"depth"`
	EmbedDim  int             `json:"embed_dim"`
	NumHeads  int             `json:"num_heads"`
	MLPRatio  float64         `json:"mlp_ratio"`
	InChans   *int            `json:"in_channels"`
	InChans2  *int            `json:"in_chans"`
	MergeSize *int            `json:"spatial_merge_size"`
	Temporal  json.RawMessage `json:"temporal_patch_size"`
	OutHidden int             `json:"out_hidden_size"`
	Window    int             `json:"window_size"`
	Full      []int           `json:"fullatt_block_indexes"`
	Rope      struct {
		Theta *float64 `json:"rope_theta"`
	} `json:"rope_parameters"`
}

type rawConfig struct {
	ModelType string          `json:"model_type"`
	Vision    json.RawMessage `json:"vision_config"`
	Text      *rawText        `json:"text_config"`
	LLM       *rawText        `json:"llm_config"` // InternVL's
	Layer     *int            `json:"vision_feature_layer"`
	Strategy  *string         `json:"vision_feature_select_strategy"`
	Act       string          `json:"projector_hidden_act"`
	Pool      []int           `json:"vision_pool"`
	Mean      []float32       `json:"image_mean"`
	Std       []float32       `json:"image_std"`
	Bias      *bool           `json:"multimodal_projector_bias"`
	Quant     any             `json:"quantization_config"`

	ScaleFactor int `json:"scale_factor"` // SmolVLM's

	// InternVL's.
	Downsample  float64 `json:"downsample_ratio"`
	PS          string  `json:"ps_version"`
	SelectLayer *int    `json:"select_layer"`
	ForceSize   int     `json:"force_image_size"`

	// The older LLaVA's, and Flash-VStream's.
	Hidden       int    `json:"hidden_size"` // of the language model
	MMTower      string `json:"mm_vision_tower"`
	MMHidden     int    `json:"mm_hidden_size"`
	MMLayer      *int   `json:"mm_vision_select_layer"`
	MMFeature    string `json:"mm_vision_select_feature"`
	MMProjector  string `json:"mm_projector_type"`
	CompressType string `json:"compress_type"`
	CompressSize int    `json:"compress_size"`
	Aspect       string `json:"image_aspect_ratio"`
}

type rawText struct {
	ModelType string `json:"model_type"`
	Hidden    int    `json:"hidden_size"`
}

// ReadConfig reads config.json of a model directory: one of the models that family.go lists, or a vision tower alone.
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
	if string(raw.Vision) == "null" {
		raw.Vision = nil
	}
	c := &Config{Pool: Size{1, 1}, Shuffle: 1}
	m, ok := models[raw.ModelType]
	if _, tower := families[raw.ModelType]; tower && (!ok || raw.Vision == nil) {
		if err := c.tower(data, model{}, ""); err != nil {
			return nil, err
		}
		if err := c.whole(); err != nil {
			return nil, err
		}
		return c, c.features(&raw)
	}
	if !ok {
		return nil, fmt.Errorf("model_type %q is not supported", raw.ModelType)
	}
	c.model, c.aspect = raw.ModelType, raw.Aspect
	if err := m.read(c, &raw, m); err != nil {
		return nil, err
	}
	return c, c.features(&raw)
}

// tower reads a vision_config, whose fields have the given prefix in errors, over what m says of fields that are not there.
func (c *Config) tower(data json.RawMessage, m model, prefix string) error {
	r := m.vision
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("%s%w", prefix, err)
	}
	if m.tower != "" && slices.Contains(m.aliases, r.ModelType) {
		r.ModelType = m.tower
	}
	if err := c.vision(&r); err != nil {
		return fmt.Errorf("%s%w", prefix, err)
	}
	return nil
}

func (c *Config) vision(r *rawVision) error {
	f, ok := families[r.ModelType]
	if !ok {
		return fmt.Errorf("model_type %q is not supported", r.ModelType)
	}
	c.family, c.Mean, c.Std = f, f.mean, f.std
	v := &c.Vision
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
	if image.H < patch || image.W < patch {
		return fmt.Errorf("patch_size %d is larger than image_size %dx%d", patch, image.H, image.W)
	}
	if r.Act == "" {
		r.Act = f.act
	}
	act, ok := activations[r.Act]
	if v.Gated {
		ok = r.Act == "silu"
	}
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
	v.Hidden, v.Layers, v.Heads, v.MLP, v.PatchSize, v.Image = r.Hidden, r.Layers, r.Heads, r.MLP, patch, image
	v.Act, v.Eps, v.Run, v.PostNorm, v.QKVBias = act, eps, r.Layers, f.postNorm, true
	switch f.kind {
	case intern:
		return c.intern(r)
	case qwen2:
		if r.Hidden/r.Heads%4 != 0 {
			return fmt.Errorf("heads of %d cannot turn by height and width", r.Hidden/r.Heads)
		}
		if v.Window > 0 {
			side := patch * c.Join.Merge
			if v.Window%side != 0 {
				return fmt.Errorf("window_size %d is not a multiple of %d, which one row covers", v.Window, side)
			}
			v.Window /= patch
		}
	}
	return nil
}

func (c *Config) intern(r *rawVision) error {
	switch {
	case r.QKNorm:
		return errors.New("use_qk_norm true is not supported")
	case r.QKNormalize:
		return errors.New("qk_normalization true is not supported")
	case r.NormType != "" && r.NormType != "layer_norm":
		return fmt.Errorf("norm_type %q is not supported", r.NormType)
	case r.Absolute != nil && !*r.Absolute:
		return errors.New("use_absolute_position_embeddings false is not supported")
	}
	c.Vision.QKVBias = r.AttentionBias
	if c.family.published {
		c.Vision.QKVBias = r.QKVBias == nil || *r.QKVBias
	}
	c.Vision.PostNorm = r.MeanPooling != nil && !*r.MeanPooling
	return nil
}

// qwen2 reads what Qwen2-VL and Qwen2.5-VL name differently.
func (c *Config) qwen2(r *rawVision) error {
	j := &Join{Dim: r.Hidden, Act: compute.GELU, Bias: true, Merge: 2, Norm: true, Eps: 1e-6, names: mergerNames}
	c.Join = j
	v := &c.Vision
	v.Dynamic, v.Pair = true, true
	if r.MergeSize != nil {
		j.Merge = *r.MergeSize
	}
	if c.family.windows { // Qwen2.5
		r.EmbedDim, j.Dim, v.Window, v.Full, v.Gated, v.RMS = r.Hidden, r.OutHidden, r.Window, r.Full, true, true
		if err := errors.Join(between("out_hidden_size", j.Dim, maxDim), between("window_size", r.Window, 1<<14)); err != nil {
			return err
		}
		for _, at := range v.Full {
			if at < 0 {
				return fmt.Errorf("fullatt_block_indexes %v: want no negative ones", v.Full)
			}
		}
	} else {
		if r.MLPRatio == 0 {
			r.MLPRatio = 4
		}
		if !(r.MLPRatio > 0 && r.MLPRatio <= 64) {
			return fmt.Errorf("mlp_ratio %g is out of range", r.MLPRatio)
		}
		if err := errors.Join(between("hidden_size", r.Hidden, maxDim), between("embed_dim", r.EmbedDim, maxDim)); err != nil {
			return err
		}
		r.MLP = int(float64(r.EmbedDim) * r.MLPRatio)
	}
	if err := between("spatial_merge_size", j.Merge, 16); err != nil {
		return err
	}
	if t := string(r.Temporal); t != "" && t != "2" {
		return fmt.Errorf("temporal_patch_size %s is not supported, want 2", t)
	}
	if t := r.Rope.Theta; t != nil && *t != rotaryBase {
		return fmt.Errorf("rope_parameters.rope_theta %g is not supported, want %d", *t, rotaryBase)
	}
	if r.InChans2 != nil {
		r.InChans = r.InChans2
	}
	r.ImageSize = json.RawMessage("448")
	r.Hidden, r.Layers, r.Heads, r.Channels = r.EmbedDim, r.Depth, r.NumHeads, r.InChans
	j.Inner = r.Hidden * j.Merge * j.Merge
	return nil
}

// takeLayer ends the tower after a layer in Hugging Face's numbering: 0 is the embedding, -1 the last layer's result, never normalised.
func (c *Config) takeLayer(name string, layer int) error {
	run := layer
	if run < 0 {
		run += c.Vision.Layers + 1
	}
	if run < 0 || run > c.Vision.Layers {
		return fmt.Errorf("%s %d is out of range, the tower has %d layers", name, layer, c.Vision.Layers)
	}
	c.Vision.Run, c.Vision.PostNorm = run, false
	return nil
}

// features reads what follows the tower, and checks the whole.
func (c *Config) features(raw *rawConfig) error {
	if raw.Layer != nil {
		if err := c.takeLayer("vision_feature_layer", *raw.Layer); err != nil {
			return err
		}
	}
	if s := raw.Strategy; s != nil && *s != "default" && (*s != "full" || c.family.class) {
		return fmt.Errorf("vision_feature_select_strategy %q is not supported", *s)
	}
	if raw.Pool != nil && c.square() > 1 {
		return fmt.Errorf("vision_pool %v is not supported with patches that merge", raw.Pool)
	}
	if raw.Pool != nil {
		if len(raw.Pool) != 2 {
			return fmt.Errorf("vision_pool %v: want [height, width]", raw.Pool)
		}
		c.Pool = Size{raw.Pool[0], raw.Pool[1]}
	}
	if v := &c.Vision; v.Dynamic {
		const usual = 448
		side := c.rowSide() * v.PatchSize
		side = max(side, usual/side*side)
		v.Image = Size{side, side}
	}
	g := c.patchGrid(c.Vision.Image)
	if c.Pool.H < 1 || c.Pool.W < 1 || g.H%c.Pool.H != 0 || g.W%c.Pool.W != 0 {
		return fmt.Errorf("vision_pool %dx%d does not divide the %dx%d patches", c.Pool.H, c.Pool.W, g.H, g.W)
	}
	if s := c.square(); !c.Vision.Dynamic && (g.H%s != 0 || g.W%s != 0) {
		return fmt.Errorf("squares of %dx%d do not divide the %dx%d patches", s, s, g.H, g.W)
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

// square is the side of the squares of patches that end in one row side by side.
func (c *Config) square() int {
	if c.Join == nil {
		return c.Shuffle
	}
	return c.Shuffle * c.Join.Merge
}

// whole refuses a picture that is not made of whole patches, which is right where it is an average of the frame.
func (c *Config) whole() error {
	v := c.Vision
	if v.Image.H%v.PatchSize != 0 || v.Image.W%v.PatchSize != 0 {
		return fmt.Errorf("patch_size %d does not divide image_size %dx%d", v.PatchSize, v.Image.H, v.Image.W)
	}
	return nil
}

// target is what a processor must know of the model.
func (c *Config) target(pixels int) target {
	v := c.Vision
	t := target{Model: c.model, Aspect: c.aspect, Image: v.Image, Patch: v.PatchSize, Merge: c.square(), Order: c.side(), Mean: c.Mean, Std: c.Std}
	if v.Pair {
		t.Pair = 2
	}
	if v.Dynamic {
		t.Pixels = pixels
	}
	return t
}

// patchGrid is how many whole patches a picture of the tower has; what is over at its right and bottom is not looked at.
func (c *Config) patchGrid(picture Size) Size {
	return Size{picture.H / c.Vision.PatchSize, picture.W / c.Vision.PatchSize}
}

// grid is how many rows patches become, as Encode leaves them.
func (c *Config) grid(patches Size) Size {
	g := Size{patches.H / c.Pool.H / c.Shuffle, patches.W / c.Pool.W / c.Shuffle}
	if !c.Late {
		g = c.joined(g)
	}
	return g
}

// joined is how many rows a grid is after the join.
func (c *Config) joined(g Size) Size {
	if j := c.Join; j != nil {
		g.H, g.W = g.H/j.Merge, g.W/j.Merge
		if j.Half {
			g.H, g.W = (g.H+1)/2, (g.W+1)/2
		}
	}
	return g
}

// dim is the length of a row as Encode leaves it; width that as the join takes it.
func (c *Config) dim() int {
	if c.Join == nil || c.Late {
		return c.width()
	}
	return c.Join.Dim
}

func (c *Config) width() int { return c.Vision.Hidden * c.Shuffle * c.Shuffle }

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
