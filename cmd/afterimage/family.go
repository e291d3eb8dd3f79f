package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"afterimage/encoder"
	"afterimage/internal/compute"
	"afterimage/internal/weights"
	"afterimage/llm"
	"afterimage/llm/chat"
	"afterimage/llm/tokenizer"
	"afterimage/memorybank"
	"afterimage/qa"
)

// A family is what follows from a model's kind besides its layers: how it remembers unless told otherwise, how it reads a memory and at
// what size, and how many positions are enough.
type family struct {
	kind      string // config.json's model_type
	memory    MemoryConfig
	times     qa.Times
	attention bool // the checkpoint has projections for memorybank.Star
}

// embeddedKind is the model_type of models that were trained on memories: the embedded default.
const embeddedKind = "afterimage_vlm"

// Visual tokens that a question is shown of a public model's memory, unless told otherwise: what two cores read in about a second, and what a
// GPU reads in a fraction of one. Never more than this share of the context.
const (
	visualOnCPU  = 1024
	visualOnGPU  = 8192
	contextShare = 0.75
)

// Tokens that a layout puts around every picture, at most: a time in digits, tokens of the family's own.
var wordsAround = [...]int{qa.Spoken: 16, qa.Numbered: 20, qa.Silent: 0}

// roomForAnswer is what a question and its answer are left of the context.
const roomForAnswer = 512

// contextOnCPU bounds positions where K/V takes the machine's own memory.
const contextOnCPU = 4096

func readFamily(files fs.FS) (family, error) {
	raw, err := fs.ReadFile(files, "config.json")
	if err != nil {
		return family{}, fmt.Errorf("model: %w", err)
	}
	var c struct {
		ModelType string `json:"model_type"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return family{}, fmt.Errorf("model: config.json: %w", err)
	}
	f := family{kind: c.ModelType}
	compat := map[string]any{"compat": true}
	switch c.ModelType {
	case "vstream":
		f.memory, f.times, f.attention = MemoryConfig{Strategy: "star"}, qa.Silent, true
	case "flash_vstream_qwen2_vl":
		f.memory, f.times = MemoryConfig{Strategy: "flash", Options: compat}, qa.Silent
	case "internvl_chat":
		f.memory, f.times = MemoryConfig{Strategy: "pyramid"}, qa.Numbered
	}
	return f, nil
}

// public reports whether the model knows nothing of memories.
func (f family) public() bool { return f.kind != embeddedKind }

// context is the positions that an engine is asked for; 0 is the model's own.
func (f family) context(files fs.FS, gpu bool) (int, error) {
	if gpu || !f.public() {
		return 0, nil
	}
	c, err := llm.ReadConfig(files)
	if err != nil {
		return 0, err
	}
	return min(c.Context, contextOnCPU), nil
}

// visual is the budget of a question that has none; 0 is the strategy's own size.
func (f family) visual(context int, gpu bool) int {
	if !f.public() {
		return 0
	}
	most := visualOnCPU
	if gpu {
		most = visualOnGPU
	}
	return min(most, int(float64(context)*contextShare))
}

// reading says how the model reads a memory of what enc encoded and engine answers from.
func (f family) reading(files fs.FS, enc *encoder.Encoder, engine *llm.Engine) (qa.Reading, error) {
	if !f.public() {
		return qa.Reading{}, nil
	}
	raw, err := fs.ReadFile(files, "config.json")
	if err != nil {
		return qa.Reading{}, fmt.Errorf("model: %w", err)
	}
	template, err := chat.ForConfig(raw, func(name string) bool {
		tok, err := tokenizer.Open(files)
		if err != nil {
			return false // the engine says it better
		}
		_, ok := tok.Special(name)
		return ok
	})
	if err != nil {
		return qa.Reading{}, fmt.Errorf("model: %w", err)
	}
	positions := engine.Context()
	r := qa.Reading{
		Layout: qa.Chat{Template: template, Times: f.times, Axes: engine.Axes(), End: enc.Newline()},
		Words:  wordsAround[f.times], Room: max(positions-roomForAnswer, positions/2),
	}
	if enc.Late() {
		r.Merge = enc.Merge()
		r.Join = func(ctx context.Context, entries []memorybank.Entry) ([]compute.Matrix, error) {
			rows := make([]encoder.Rows, len(entries))
			for i, e := range entries {
				rows[i] = encoder.Rows{H: e.Grid.H, W: e.Grid.W, Data: e.Tokens}
			}
			return enc.Join(ctx, rows...)
		}
	}
	return r, nil
}

// starAttention reads the projections that Flash-VStream's first version learned for its abstract memory; nil where there are none.
func (f family) starAttention(files fs.FS) (_ *memorybank.Attention, err error) {
	const at = "model.attention_model."
	if !f.attention {
		return nil, nil
	}
	ck, err := weights.Open(files)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	defer func() { err = errors.Join(err, ck.Close()) }()
	shape, ok := ck.Shape(at + "q_proj.weight")
	if !ok {
		return nil, nil
	}
	if len(shape) != 2 {
		return nil, fmt.Errorf("model: %sq_proj.weight: want a matrix, have %v", at, shape)
	}
	var errs []error
	matrix := func(name string) compute.Matrix {
		m, err := ck.Matrix(at+name+".weight", shape[0], shape[1])
		errs = append(errs, err)
		return m
	}
	bias := func(name string) []float32 {
		if !ck.Has(at + name + ".bias") {
			return nil
		}
		b, err := ck.Floats(at+name+".bias", shape[0])
		errs = append(errs, err)
		return b
	}
	a := &memorybank.Attention{Query: matrix("q_proj"), Key: matrix("k_proj"), QueryBias: bias("q_proj"), KeyBias: bias("k_proj")}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	return a, a.Check()
}
