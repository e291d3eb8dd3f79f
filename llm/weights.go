package llm

import (
	"fmt"
	"runtime/debug"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// layout is what a family calls its decoder's tensors: those of a layer behind "layers.N.", and all but the head behind a prefix that
// depends on what surrounds the decoder. Several names are stacked in that order.
type layout struct {
	embed, norm1, norm2, out, down, norm, head string
	qkv, gateUp                                []string
	grouped                                    bool // qkv is one matrix, for every K/V head the queries that share it, the key and the value
}

func llamaLayout() layout {
	return layout{
		embed: "embed_tokens", norm1: "input_layernorm", qkv: []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
		out: "self_attn.o_proj", norm2: "post_attention_layernorm", gateUp: []string{"mlp.gate_proj", "mlp.up_proj"}, down: "mlp.down_proj",
		norm: "norm", head: "lm_head",
	}
}

func phi3Layout() layout {
	l := llamaLayout()
	l.qkv, l.gateUp = []string{"self_attn.qkv_proj"}, []string{"mlp.gate_up_proj"}
	return l
}

func internLM2Layout() layout {
	return layout{
		embed: "tok_embeddings", norm1: "attention_norm", qkv: []string{"attention.wqkv"}, grouped: true, out: "attention.wo",
		norm2: "ffn_norm", gateUp: []string{"feed_forward.w1", "feed_forward.w3"}, down: "feed_forward.w2", norm: "norm", head: "output",
	}
}

// checkpoint hands out a Hugging Face checkpoint's tensors as a decoder asks for them.
type checkpoint struct {
	c            *Config
	ck           *weights.Checkpoint
	prefix, head string    // of the decoder's names, and of its head's
	room, other  []float32 // what matrices are made in, one after another
}

func newCheckpoint(c *Config, ck *weights.Checkpoint) *checkpoint {
	p := &checkpoint{c: c, ck: ck, prefix: "model."}
	for _, v := range []struct{ prefix, head string }{
		{"model.", ""}, // a decoder alone, Qwen2-VL, LLaVA's and Flash-VStream's own
		{"language_model.model.", "language_model."}, // LLaVA, InternVL
		{"model.language_model.", ""},                // either, where transformers 5 saved it
		{"model.text_model.", ""},                    // Idefics3, SmolVLM
	} {
		if ck.Has(v.prefix + c.names.norm + ".weight") {
			p.prefix, p.head = v.prefix, v.head
			break
		}
	}
	return p
}

// hasHead reports whether the checkpoint has an output head of its own.
func (p *checkpoint) hasHead() bool { return p.ck.Has(p.head + p.c.names.head + ".weight") }

// tensor is a matrix of rows, or a vector of rows values, in a checkpoint.
type tensor struct {
	name string
	rows int
}

// Part implements compute.DecoderWeights. A matrix lies where the next one will.
func (p *checkpoint) Part(part compute.DecoderPart, layer int) (compute.Matrix, error) {
	c, n := p.c, &p.c.names
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	at := fmt.Sprintf("%slayers.%d.", p.prefix, layer)
	switch part {
	case compute.PartEmbed:
		return p.matrix(c.Hidden, tensor{p.prefix + n.embed + ".weight", c.Vocab})
	case compute.PartNorm1:
		return p.vector(tensor{at + n.norm1 + ".weight", c.Hidden})
	case compute.PartQKV:
		m, err := p.matrix(c.Hidden, stacked(at, n.qkv, ".weight", q, kv, kv)...)
		if err != nil || !n.grouped {
			return m, err
		}
		return p.ungroup(m), nil
	case compute.PartQKVBias:
		return p.vector(stacked(at, n.qkv, ".bias", q, kv, kv)...)
	case compute.PartOut:
		return p.matrix(q, tensor{at + n.out + ".weight", c.Hidden})
	case compute.PartNorm2:
		return p.vector(tensor{at + n.norm2 + ".weight", c.Hidden})
	case compute.PartGateUp:
		return p.matrix(c.Hidden, stacked(at, n.gateUp, ".weight", c.MLP, c.MLP)...)
	case compute.PartDown:
		return p.matrix(c.MLP, tensor{at + n.down + ".weight", c.Hidden})
	case compute.PartNorm:
		return p.vector(tensor{p.prefix + n.norm + ".weight", c.Hidden})
	case compute.PartHead:
		return p.matrix(c.Hidden, tensor{p.head + n.head + ".weight", c.Vocab})
	}
	return compute.Matrix{}, fmt.Errorf("a decoder has no part %d", part)
}

// stacked names the tensors that rows are in: one for each number of them, or one for all.
func stacked(at string, names []string, suffix string, rows ...int) []tensor {
	if len(names) == 1 {
		sum := 0
		for _, n := range rows {
			sum += n
		}
		rows = []int{sum}
	}
	var out []tensor
	for i, name := range names {
		out = append(out, tensor{at + name + suffix, rows[i]})
	}
	return out
}

// matrix stacks tensors [rows, in].
func (p *checkpoint) matrix(in int, parts ...tensor) (compute.Matrix, error) {
	m := compute.Matrix{Cols: in}
	for _, t := range parts {
		if err := p.ck.Check(t.name, t.rows, in); err != nil { // before there is memory for it
			return compute.Matrix{}, err
		}
		m.Rows += t.rows
	}
	m.Data = p.space(m.Rows * in)
	rest := m.Data
	for _, t := range parts {
		if err := p.ck.Read(rest[:t.rows*in], t.name, t.rows, in); err != nil {
			return compute.Matrix{}, err
		}
		rest = rest[t.rows*in:]
	}
	return m, nil
}

// space is room for n values. What an embedding table took, which comes first and is the largest by far, is given back
// before the layers come to take as much on the device, which may be the same memory.
func (p *checkpoint) space(n int) []float32 {
	if cap(p.room) >= largeRoom && cap(p.room)/4 > n {
		p.room = nil
		debug.FreeOSMemory()
	}
	if cap(p.room) < n {
		p.room = make([]float32, n)
	}
	return p.room[:n]
}

const largeRoom = 16 << 20 // 64 MiB

// ungroup puts the rows of a grouped q, k, v in order: all queries, all keys, all values.
func (p *checkpoint) ungroup(m compute.Matrix) compute.Matrix {
	c := p.c
	share := c.Heads / c.KVHeads
	head := c.HeadDim * m.Cols // values of one head
	if cap(p.other) < len(m.Data) {
		p.other = make([]float32, len(m.Data))
	}
	p.other = p.other[:len(m.Data)]
	from := m.Data
	for g := range c.KVHeads {
		k := (c.Heads + g) * head
		copy(p.other[g*share*head:], from[:share*head])
		copy(p.other[k:], from[share*head:(share+1)*head])
		copy(p.other[k+c.KVHeads*head:], from[(share+1)*head:(share+2)*head])
		from = from[(share+2)*head:]
	}
	m.Data = p.other
	return m
}

// vector joins tensors [rows] in one row of its own.
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
