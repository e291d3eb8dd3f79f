package llm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"afterimage/internal/compute"
)

// Config is a checked config.json. Llama, Qwen2 and Phi-3 are settings of one decoder.
type Config struct {
	Hidden, Layers, Heads, KVHeads, HeadDim int
	MLP, Vocab                              int
	Context                                 int // positions a sequence may take, at most maxContext
	Eps                                     float32
	QKVBias                                 bool
	Tied                                    bool // the embedding table is the output head
	Fused                                   bool // checkpoints hold q, k, v as one matrix, and gate and up as one
	InvFreq                                 []float32
	Sections                                [3]int  // of the angles, how many turn by time, height and width (M-RoPE); zero: positions have one axis
	Turn                                    float32 // factor on cosines and sines; 0 is 1
	EOS                                     []int32 // end-of-sequence tokens the config names; the tokenizer may add one
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
	Text        json.RawMessage `json:"text_config"`
	Hidden      int             `json:"hidden_size"`
	Layers      int             `json:"num_hidden_layers"`
	Heads       int             `json:"num_attention_heads"`
	KVHeads     *int            `json:"num_key_value_heads"`
	HeadDim     *int            `json:"head_dim"`
	MLP         int             `json:"intermediate_size"`
	Vocab       int             `json:"vocab_size"`
	Positions   int             `json:"max_position_embeddings"`
	Act         string          `json:"hidden_act"`
	Eps         *float32        `json:"rms_norm_eps"`
	Tied        *bool           `json:"tie_word_embeddings"`
	Bias        bool            `json:"attention_bias"`
	MLPBias     bool            `json:"mlp_bias"`
	Sliding     bool            `json:"use_sliding_window"`
	Window      *int            `json:"sliding_window"` // Phi-3 needs no flag for it
	Partial     *float64        `json:"partial_rotary_factor"`
	TP          *int            `json:"pretraining_tp"`
	Quant       any             `json:"quantization_config"`
	Theta       *float64        `json:"rope_theta"`
	RopeScaling *rawRope        `json:"rope_scaling"`    // transformers 4
	Rope        *rawRope        `json:"rope_parameters"` // transformers 5, theta included
	EOS         json.RawMessage `json:"eos_token_id"`
}

type rawRope struct {
	Type     string   `json:"rope_type"`
	OldType  string   `json:"type"`
	Theta    *float64 `json:"rope_theta"`
	Factor   float64  `json:"factor"`
	Low      float64  `json:"low_freq_factor"`
	High     float64  `json:"high_freq_factor"`
	Original float64  `json:"original_max_position_embeddings"`
}

// ReadConfig reads config.json of a model directory: an afterimage_vlm, or a llama, qwen2 or phi3 alone.
func ReadConfig(fsys fs.FS) (*Config, error) {
	raw, err := fs.ReadFile(fsys, "config.json")
	if err != nil {
		return nil, fmt.Errorf("llm: %w", err)
	}
	c, err := parseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("llm: config.json: %w", err)
	}
	return c, nil
}

func parseConfig(data []byte) (*Config, error) {
	var raw rawConfig
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	prefix, outerEOS := "", raw.EOS
	if raw.ModelType == "afterimage_vlm" {
		if raw.Text == nil {
			return nil, errors.New("text_config must be given")
		}
		if raw.Quant != nil {
			return nil, errors.New("quantization_config is not supported")
		}
		text := raw.Text
		raw, prefix = rawConfig{}, "text_config."
		if err := json.Unmarshal(text, &raw); err != nil {
			return nil, fmt.Errorf("text_config: %w", err)
		}
		if raw.EOS == nil {
			raw.EOS = outerEOS
		}
	}
	c, err := raw.check()
	if err != nil {
		return nil, fmt.Errorf("%s%w", prefix, err)
	}
	return c, nil
}

func (r *rawConfig) check() (*Config, error) {
	switch r.ModelType {
	case "llama", "qwen2", "phi3":
	default:
		return nil, fmt.Errorf("model_type %q is not supported", r.ModelType)
	}
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
	if r.Heads%*r.KVHeads != 0 {
		return nil, fmt.Errorf("num_key_value_heads %d does not divide num_attention_heads %d", *r.KVHeads, r.Heads)
	}
	if *r.HeadDim%2 != 0 {
		return nil, fmt.Errorf("head_dim %d is odd", *r.HeadDim)
	}
	if r.Act != "" && r.Act != "silu" {
		return nil, fmt.Errorf("hidden_act %q is not supported", r.Act)
	}
	for name, on := range map[string]bool{"attention_bias": r.Bias, "mlp_bias": r.MLPBias, "use_sliding_window": r.Sliding} {
		if on {
			return nil, fmt.Errorf("%s true is not supported", name)
		}
	}
	if r.Partial != nil && *r.Partial != 1 {
		return nil, fmt.Errorf("partial_rotary_factor %g is not supported", *r.Partial)
	}
	if r.TP != nil && *r.TP > 1 {
		return nil, fmt.Errorf("pretraining_tp %d is not supported", *r.TP)
	}
	if r.Quant != nil {
		return nil, errors.New("quantization_config is not supported")
	}
	c := &Config{Hidden: r.Hidden, Layers: r.Layers, Heads: r.Heads, KVHeads: *r.KVHeads, HeadDim: *r.HeadDim, MLP: r.MLP,
		Vocab: r.Vocab, Context: min(r.Positions, maxContext), Eps: 1e-6, QKVBias: r.ModelType == "qwen2", Fused: r.ModelType == "phi3",
		Tied: r.Tied != nil && *r.Tied}
	if c.Fused && r.Window != nil {
		if *r.Window < 1 {
			return nil, fmt.Errorf("sliding_window %d is out of range", *r.Window)
		}
		c.Context = min(c.Context, *r.Window) // up to there it hides nothing
	}
	if r.Eps != nil {
		c.Eps = *r.Eps
	}
	if !(c.Eps >= 0 && c.Eps < 1) {
		return nil, fmt.Errorf("rms_norm_eps %g is out of range", c.Eps)
	}
	var err error
	if c.InvFreq, err = r.frequencies(); err != nil {
		return nil, err
	}
	if c.EOS, err = ids(r.EOS, r.Vocab); err != nil {
		return nil, fmt.Errorf("eos_token_id %s: %w", r.EOS, err)
	}
	return c, nil
}

// frequencies returns RoPE's inverse frequencies, scaled as the config says.
func (r *rawConfig) frequencies() ([]float32, error) {
	theta, rope := 10000.0, r.RopeScaling
	name := "rope_scaling"
	if r.Rope != nil {
		rope, name = r.Rope, "rope_parameters"
		if rope.Theta != nil {
			theta = *rope.Theta
		}
	}
	if r.Theta != nil {
		theta = *r.Theta
	}
	if !(theta > 0) || math.IsInf(theta, 0) {
		return nil, fmt.Errorf("rope_theta %g is out of range", theta)
	}
	kind := "default"
	if rope != nil {
		if rope.Type == "" {
			rope.Type = rope.OldType
		}
		if rope.Type != "" {
			kind = rope.Type
		}
	}
	var scale func(freq float64) float64
	switch kind {
	case "default":
		scale = func(f float64) float64 { return f }
	case "linear":
		scale = func(f float64) float64 { return f / rope.Factor }
	case "llama3":
		if !(rope.Low > 0 && rope.High > rope.Low && rope.Original >= 1) {
			return nil, fmt.Errorf("%s: llama3 wants 0 < low_freq_factor < high_freq_factor and original_max_position_embeddings", name)
		}
		scale = rope.llama3
	default:
		return nil, fmt.Errorf("%s: rope_type %q is not supported", name, kind)
	}
	if kind != "default" && !(rope.Factor >= 1) {
		return nil, fmt.Errorf("%s: factor %g is out of range", name, rope.Factor)
	}
	freq := make([]float32, *r.HeadDim/2)
	for j := range freq {
		freq[j] = float32(scale(math.Pow(theta, -2*float64(j)/float64(*r.HeadDim))))
	}
	return freq, nil
}

// llama3 leaves short wavelengths alone, divides long ones by factor and blends in between.
func (r *rawRope) llama3(f float64) float64 {
	turns := r.Original * f / (2 * math.Pi) // full turns within the original context
	switch {
	case turns < r.Low:
		return f / r.Factor
	case turns > r.High:
		return f
	}
	blend := (turns - r.Low) / (r.High - r.Low)
	return (1-blend)*f/r.Factor + blend*f
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
