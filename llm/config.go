package llm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"

	"afterimage/internal/compute"
)

// Config is a checked config.json. All decoders are settings of one: Llama's, with what Qwen2, Phi-3 and InternLM2 do otherwise.
type Config struct {
	Hidden, Layers, Heads, KVHeads, HeadDim int
	MLP, Vocab                              int
	Context                                 int // positions a sequence may take, at most maxContext
	Eps                                     float32
	QKVBias                                 bool
	Tied                                    bool // the embedding table is the output head
	InvFreq                                 []float32
	Sections                                [3]int  // of the angles, how many turn by time, height and width (M-RoPE); zero: positions have one axis
	Turn                                    float32 // factor on cosines and sines; 0 is 1
	EOS                                     []int32 // end-of-sequence tokens the config names; the tokenizer may add one

	tiedUnsaid bool // the config does not say Tied: a checkpoint without a head means it
	names      layout
}

// Limits keep a hostile config from asking for memory. maxContext also bounds the KV cache, which is sized at load.
const (
	maxDim     = 1 << 17
	maxLayers  = 1 << 10
	maxVocab   = 1 << 22
	maxContext = 1 << 14
)

type rawConfig struct {
	ModelType   string          `json:"model_type"`
	Hidden      int             `json:"hidden_size"`
	Layers      int             `json:"num_hidden_layers"`
	Heads       int             `json:"num_attention_heads"`
	KVHeads     *int            `json:"num_key_value_heads"`
	HeadDim     *int            `json:"head_dim"`
	MLP         int             `json:"intermediate_size"`
	Vocab       int             `json:"vocab_size"`
	Positions   int             `json:"max_position_embeddings"`
	Original    *int            `json:"original_max_position_embeddings"` // Phi-3's, of longrope
	Act         string          `json:"hidden_act"`
	Eps         float32         `json:"rms_norm_eps"`
	Tied        *bool           `json:"tie_word_embeddings"`
	Bias        bool            `json:"attention_bias"`
	AllBias     bool            `json:"bias"` // InternLM2's
	MLPBias     bool            `json:"mlp_bias"`
	QKNorms     bool            `json:"qk_layer_norms"`
	Interleaved bool            `json:"rope_interleaved"`
	Sliding     bool            `json:"use_sliding_window"`
	Window      *int            `json:"sliding_window"` // Phi-3 needs no flag for it
	LayerTypes  []string        `json:"layer_types"`
	Partial     *float64        `json:"partial_rotary_factor"`
	TP          *int            `json:"pretraining_tp"`
	Quant       any             `json:"quantization_config"`
	Theta       float64         `json:"rope_theta"`
	RopeScaling *rawRope        `json:"rope_scaling"`    // transformers 4
	Rope        *rawRope        `json:"rope_parameters"` // transformers 5, theta included
	EOS         json.RawMessage `json:"eos_token_id"`

	window bool // Window counts
	axes   bool // positions have three axes
	bias   bool // q, k and v have a bias
	names  layout
}

// ReadConfig reads config.json of a model directory as it is published: of a decoder alone (llama, qwen2, phi3, internlm2), or of a model
// with a vision tower beside one (afterimage_vlm, llava, llava_llama, llava_onevision, idefics3, smolvlm, qwen2_vl, qwen2_5_vl,
// flash_vstream_qwen2_vl, vstream, internvl_chat). Anything that this decoder does not do is refused by name.
//
// The context is what the model was made for, at most 16384. Where that needs other rotary frequencies (longrope), it ends where the plain
// ones do; see LoadOptions.Context.
func ReadConfig(fsys fs.FS) (*Config, error) { return readConfig(fsys, 0) }

func readConfig(fsys fs.FS, context int) (*Config, error) {
	raw, err := fs.ReadFile(fsys, "config.json")
	if err != nil {
		return nil, fmt.Errorf("llm: %w", err)
	}
	c, err := parseConfig(raw, context)
	if err != nil {
		return nil, fmt.Errorf("llm: config.json: %w", err)
	}
	return c, nil
}

// whole is what parseConfig reads of a config before it knows where the decoder's is.
type whole struct {
	ModelType string          `json:"model_type"`
	Text      json.RawMessage `json:"text_config"`
	LLM       json.RawMessage `json:"llm_config"`
	Tied      *bool           `json:"tie_word_embeddings"`
	Quant     any             `json:"quantization_config"`
	EOS       json.RawMessage `json:"eos_token_id"`
}

// text finds the decoder's config: where it is nested, by what path, and what model_type it has if it does not say.
func (w *whole) text(data []byte) (text []byte, prefix, kind string, err error) {
	nested, prefix := w.Text, "text_config"
	switch w.ModelType {
	case "afterimage_vlm", "llava_onevision", "idefics3", "smolvlm":
	case "llava":
		kind = "llama"
	case "qwen2_vl", "qwen2_5_vl", "flash_vstream_qwen2_vl":
		if kind = "qwen2_vl_text"; nested == nil { // as published: one flat config
			return data, "", kind, nil
		}
	case "internvl_chat":
		nested, prefix = w.LLM, "llm_config"
	case "llava_llama", "vstream":
		return data, "", "llama", nil
	default:
		return data, "", w.ModelType, nil
	}
	if nested == nil || string(nested) == "null" {
		return nil, "", "", fmt.Errorf("%s must be given", prefix)
	}
	var inner whole
	if err := json.Unmarshal(nested, &inner); err != nil {
		return nil, "", "", fmt.Errorf("%s: %w", prefix, err)
	}
	if inner.ModelType != "" {
		kind = inner.ModelType
	}
	return nested, prefix + ".", kind, nil
}

// parseConfig reads a config for a context of that many positions, 0 being the default.
func parseConfig(data []byte, context int) (*Config, error) {
	var outer whole
	if err := json.Unmarshal(data, &outer); err != nil {
		return nil, err
	}
	text, prefix, kind, err := outer.text(data)
	if err != nil {
		return nil, err
	}
	if outer.Quant != nil {
		return nil, errors.New("quantization_config is not supported")
	}
	raw, err := defaults(kind)
	if err != nil {
		return nil, fmt.Errorf("%s%w", prefix, err)
	}
	if err := json.Unmarshal(text, raw); err != nil {
		if prefix != "" {
			err = fmt.Errorf("%s: %w", strings.TrimSuffix(prefix, "."), err)
		}
		return nil, err
	}
	if raw.EOS == nil {
		raw.EOS = outer.EOS
	}
	if raw.Tied == nil {
		raw.Tied = outer.Tied
	}
	c, err := raw.check(context)
	if err != nil {
		return nil, fmt.Errorf("%s%w", prefix, err)
	}
	return c, nil
}

// defaults are what a decoder's config means where it says nothing: published ones leave out what is as the model's own code has it.
func defaults(kind string) (*rawConfig, error) {
	r := &rawConfig{Act: "silu", Eps: 1e-6, Theta: 10000, names: llamaLayout()}
	size := func(hidden, layers, heads, mlp, vocab, positions int) {
		r.Hidden, r.Layers, r.Heads, r.MLP, r.Vocab, r.Positions = hidden, layers, heads, mlp, vocab, positions
	}
	kvHeads := func(n int) { r.KVHeads = &n }
	switch kind {
	case "llama":
		size(4096, 32, 32, 11008, 32000, 2048)
	case "qwen2":
		size(4096, 32, 32, 22016, 151936, 32768)
		kvHeads(32)
		r.bias = true
	case "qwen2_vl_text", "qwen2_5_vl_text", "qwen2_vl", "qwen2_5_vl":
		size(8192, 80, 64, 29568, 152064, 32768)
		kvHeads(8)
		r.Eps, r.Theta, r.bias, r.axes = 1e-5, 1e6, true, true
	case "phi3":
		size(3072, 32, 32, 8192, 32064, 4096)
		r.Eps, r.window, r.names = 1e-5, true, phi3Layout()
	case "internlm2":
		size(4096, 32, 32, 11008, 103168, 2048)
		r.AllBias, r.names = true, internLM2Layout()
	default:
		return nil, fmt.Errorf("model_type %q is not supported", kind)
	}
	return r, nil
}

func (r *rawConfig) check(context int) (*Config, error) {
	if r.KVHeads == nil {
		r.KVHeads = &r.Heads
	}
	if r.HeadDim == nil {
		d := r.Hidden / max(r.Heads, 1)
		r.HeadDim = &d
		if d*r.Heads != r.Hidden {
			return nil, fmt.Errorf("num_attention_heads %d does not divide hidden_size %d", r.Heads, r.Hidden)
		}
	}
	for _, v := range []struct {
		name     string
		val, max int
	}{{"hidden_size", r.Hidden, maxDim}, {"num_hidden_layers", r.Layers, maxLayers}, {"num_attention_heads", r.Heads, maxDim},
		{"num_key_value_heads", *r.KVHeads, maxDim}, {"head_dim", *r.HeadDim, 1024}, {"intermediate_size", r.MLP, 4 * maxDim},
		{"vocab_size", r.Vocab, maxVocab}, {"max_position_embeddings", r.Positions, math.MaxInt32}} {
		if v.val < 1 || v.val > v.max {
			return nil, fmt.Errorf("%s %d is out of range 1 to %d", v.name, v.val, v.max)
		}
	}
	if err := r.supported(); err != nil {
		return nil, err
	}
	c := &Config{Hidden: r.Hidden, Layers: r.Layers, Heads: r.Heads, KVHeads: *r.KVHeads, HeadDim: *r.HeadDim, MLP: r.MLP,
		Vocab: r.Vocab, Context: min(r.Positions, maxContext), Eps: r.Eps, QKVBias: r.bias,
		Tied: r.Tied != nil && *r.Tied, tiedUnsaid: r.Tied == nil, names: r.names}
	if r.window && r.Window != nil {
		if *r.Window < 1 {
			return nil, fmt.Errorf("sliding_window %d is out of range", *r.Window)
		}
		c.Context = min(c.Context, *r.Window) // up to there it hides nothing
	}
	if context < 0 || context > c.Context {
		return nil, fmt.Errorf("max_position_embeddings: a context of %d is out of range 1 to %d", context, c.Context)
	}
	if !(c.Eps >= 0 && c.Eps < 1) {
		return nil, fmt.Errorf("rms_norm_eps %g is out of range", c.Eps)
	}
	if err := r.turns(c, context); err != nil {
		return nil, err
	}
	if context > 0 {
		c.Context = context
	}
	var err error
	if c.EOS, err = ids(r.EOS, r.Vocab); err != nil {
		return nil, fmt.Errorf("eos_token_id %s: %w", r.EOS, err)
	}
	return c, nil
}

// supported refuses what this decoder does not do.
func (r *rawConfig) supported() error {
	if r.Heads%*r.KVHeads != 0 {
		return fmt.Errorf("num_key_value_heads %d does not divide num_attention_heads %d", *r.KVHeads, r.Heads)
	}
	if *r.HeadDim%2 != 0 {
		return fmt.Errorf("head_dim %d is odd", *r.HeadDim)
	}
	if r.Act != "silu" {
		return fmt.Errorf("hidden_act %q is not supported", r.Act)
	}
	for _, v := range []struct {
		name string
		on   bool
	}{{"attention_bias", r.Bias}, {"bias", r.AllBias}, {"mlp_bias", r.MLPBias}, {"use_sliding_window", r.Sliding}, {"qk_layer_norms", r.QKNorms},
		{"rope_interleaved", r.Interleaved}} {
		if v.on {
			return fmt.Errorf("%s true is not supported", v.name)
		}
	}
	for _, t := range r.LayerTypes {
		if t != "full_attention" && !(r.window && t == "sliding_attention") { // the context ends with the window
			return fmt.Errorf("layer_types: %q is not supported", t)
		}
	}
	if r.Partial != nil && *r.Partial != 1 {
		return fmt.Errorf("partial_rotary_factor %g is not supported", *r.Partial)
	}
	if r.TP != nil && *r.TP > 1 {
		return fmt.Errorf("pretraining_tp %d is not supported", *r.TP)
	}
	if r.Quant != nil {
		return errors.New("quantization_config is not supported")
	}
	return nil
}

// ids reads a token ID or a list of them; null is none.
func ids(raw json.RawMessage, vocab int) ([]int32, error) {
	if raw == nil || string(raw) == "null" {
		return nil, nil
	}
	var list []int32
	if err := json.Unmarshal(raw, &list); err != nil {
		var one int32
		if err := json.Unmarshal(raw, &one); err != nil {
			return nil, errors.New("want a number or a list of numbers")
		}
		list = []int32{one}
	}
	for _, id := range list {
		if id < 0 || int(id) >= vocab {
			return nil, fmt.Errorf("%d is outside the vocabulary of %d", id, vocab)
		}
	}
	return list, nil
}

// axes is how many a position has.
func (c *Config) axes() int {
	if c.Sections != [3]int{} {
		return 3
	}
	return 1
}

// decoder says the same to a device.
func (c *Config) decoder(as compute.DType, pages int) compute.DecoderConfig {
	return compute.DecoderConfig{Hidden: c.Hidden, Layers: c.Layers, Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, MLP: c.MLP, Vocab: c.Vocab,
		Context: c.Context, Pages: pages, Eps: c.Eps, QKVBias: c.QKVBias, Tied: c.Tied, InvFreq: c.InvFreq, Sections: c.Sections, Turn: c.Turn, Weights: as}
}
