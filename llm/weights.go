package llm

import (
	"fmt"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// checkpoint hands out a Hugging Face checkpoint's tensors as a decoder asks for them.
type checkpoint struct {
	c      *Config
	ck     *weights.Checkpoint
	prefix string // of the decoder's names
	head   string
}

func newCheckpoint(c *Config, ck *weights.Checkpoint) *checkpoint {
	p := &checkpoint{c: c, ck: ck, prefix: "model.", head: "lm_head.weight"}
	if ck.Has("language_model.model.norm.weight") {
		p.prefix, p.head = "language_model.model.", "language_model.lm_head.weight"
	}
	return p
}

// tensor is a matrix of rows, or a vector of rows values, in a checkpoint.
type tensor struct {
	name string
	rows int
}

// Part implements compute.DecoderWeights.
func (p *checkpoint) Part(part compute.DecoderPart, layer int) (compute.Matrix, error) {
	c := p.c
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	at := fmt.Sprintf("%slayers.%d.", p.prefix, layer)
	attn, mlp := at+"self_attn.", at+"mlp."
	switch part {
	case compute.PartEmbed:
		return p.matrix(c.Hidden, tensor{p.prefix + "embed_tokens.weight", c.Vocab})
	case compute.PartNorm1:
		return p.vector(tensor{at + "input_layernorm.weight", c.Hidden})
	case compute.PartQKV:
		if c.Fused {
			return p.matrix(c.Hidden, tensor{attn + "qkv_proj.weight", q + 2*kv})
		}
		return p.matrix(c.Hidden, tensor{attn + "q_proj.weight", q}, tensor{attn + "k_proj.weight", kv}, tensor{attn + "v_proj.weight", kv})
	case compute.PartQKVBias:
		return p.vector(tensor{attn + "q_proj.bias", q}, tensor{attn + "k_proj.bias", kv}, tensor{attn + "v_proj.bias", kv})
	case compute.PartOut:
		return p.matrix(q, tensor{attn + "o_proj.weight", c.Hidden})
	case compute.PartNorm2:
		return p.vector(tensor{at + "post_attention_layernorm.weight", c.Hidden})
	case compute.PartGateUp:
		if c.Fused {
			return p.matrix(c.Hidden, tensor{mlp + "gate_up_proj.weight", 2 * c.MLP})
		}
		return p.matrix(c.Hidden, tensor{mlp + "gate_proj.weight", c.MLP}, tensor{mlp + "up_proj.weight", c.MLP})
	case compute.PartDown:
		return p.matrix(c.MLP, tensor{mlp + "down_proj.weight", c.Hidden})
	case compute.PartNorm:
		return p.vector(tensor{p.prefix + "norm.weight", c.Hidden})
	case compute.PartHead:
		return p.matrix(c.Hidden, tensor{p.head, c.Vocab})
	}
	return compute.Matrix{}, fmt.Errorf("a decoder has no part %d", part)
}

// matrix stacks tensors [rows, in].
func (p *checkpoint) matrix(in int, parts ...tensor) (compute.Matrix, error) {
	if len(parts) == 1 {
		return p.ck.Matrix(parts[0].name, parts[0].rows, in)
	}
	m := compute.Matrix{Cols: in}
	for _, t := range parts {
		m.Rows += t.rows
	}
	m.Data = make([]float32, 0, m.Rows*in)
	for _, t := range parts {
		one, err := p.ck.Matrix(t.name, t.rows, in)
		if err != nil {
			return compute.Matrix{}, err
		}
		m.Data = append(m.Data, one.Data...)
	}
	return m, nil
}

// vector joins tensors [rows] in one row.
func (p *checkpoint) vector(parts ...tensor) (compute.Matrix, error) {
	m := compute.Matrix{Rows: 1}
	for _, t := range parts {
		one, err := p.ck.Floats(t.name, t.rows)
		if err != nil {
			return compute.Matrix{}, err
		}
		m.Cols, m.Data = m.Cols+t.rows, append(m.Data, one...)
	}
	return m, nil
}
