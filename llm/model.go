package llm

import (
	"context"
	"fmt"
	"math"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

const (
	chunk    = 512 // rows of one prefill pass: cancellation is looked at between passes
	maxDraft = 7   // tokens a drafter may propose at once: up to eight rows, devices give each the bits it has alone
)

// model is the decoder on a device: weights, buffers for one pass, and the KV cache of one sequence. The engine's owner of the
// moment is its only user.
type model struct {
	c     *Config
	dev   compute.Device
	arena compute.Arena

	embed  compute.Weight // [vocab, hidden]
	head   compute.Weight // [vocab, hidden], the same as embed when tied and the precision is right for both
	norm   compute.Tensor
	layers []layer

	x, h, qkv, att, up, mid compute.Tensor // a pass, chunk rows
	logits                  compute.Tensor // [maxDraft+1, vocab]

	out compute.Matrix // logits on the host
	pos []int32        // 0, 1, 2 … Context

	// The arguments of the pass under way: fields, so that handing run to the device allocates nothing.
	rows []span
	past int
	want int // logits of the last want rows
	run  func(compute.Ops)
}

type layer struct {
	norm1, norm2          compute.Tensor
	qkv, out, gateUp, mlp compute.Weight
	qkvB                  compute.Tensor
	k, v                  compute.Tensor // the KV cache, [Context, KVHeads*HeadDim]
}

// span is consecutive rows of input: token IDs, or rows that are embeddings already.
type span struct {
	ids    []int32
	visual compute.Matrix
}

func (s span) len() int {
	if s.ids != nil {
		return len(s.ids)
	}
	return s.visual.Rows
}

// newModel loads the decoder from ck. as is the precision of the products; the embedding table is never held as int8.
func newModel(ctx context.Context, c *Config, ck *weights.Checkpoint, dev compute.Device, as compute.DType) (*model, error) {
	m := &model{c: c, dev: dev}
	l := weights.NewLoader(ck, dev)
	p := "model."
	headName := "lm_head.weight"
	if ck.Has("language_model.model.norm.weight") {
		p, headName = "language_model.model.", "language_model.lm_head.weight"
	}
	m.loadTables(l, p, headName, as)
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	l.Vector(&m.norm, weights.Part{Name: p + "norm.weight", Rows: c.Hidden})
	m.layers = make([]layer, c.Layers)
	for i := range m.layers {
		n, a := &m.layers[i], fmt.Sprintf("%slayers.%d.", p, i)
		l.Vector(&n.norm1, weights.Part{Name: a + "input_layernorm.weight", Rows: c.Hidden})
		l.Vector(&n.norm2, weights.Part{Name: a + "post_attention_layernorm.weight", Rows: c.Hidden})
		s := a + "self_attn."
		n.qkv = l.Weight(as, c.Hidden, weights.Part{Name: s + "q_proj.weight", Rows: q}, weights.Part{Name: s + "k_proj.weight", Rows: kv}, weights.Part{Name: s + "v_proj.weight", Rows: kv})
		if c.QKVBias {
			l.Vector(&n.qkvB, weights.Part{Name: s + "q_proj.bias", Rows: q}, weights.Part{Name: s + "k_proj.bias", Rows: kv}, weights.Part{Name: s + "v_proj.bias", Rows: kv})
		}
		n.out = l.Weight(as, q, weights.Part{Name: s + "o_proj.weight", Rows: c.Hidden})
		n.gateUp = l.Weight(as, c.Hidden, weights.Part{Name: a + "mlp.gate_proj.weight", Rows: c.MLP}, weights.Part{Name: a + "mlp.up_proj.weight", Rows: c.MLP})
		n.mlp = l.Weight(as, c.MLP, weights.Part{Name: a + "mlp.down_proj.weight", Rows: c.Hidden})
		l.Room(&n.k, c.Context, kv)
		l.Room(&n.v, c.Context, kv)
	}
	rows := min(chunk, c.Context)
	l.Room(&m.x, rows, c.Hidden)
	l.Room(&m.h, rows, c.Hidden)
	l.Room(&m.qkv, rows, q+2*kv)
	l.Room(&m.att, rows, q)
	l.Room(&m.up, rows, 2*c.MLP)
	l.Room(&m.mid, rows, c.MLP)
	l.Room(&m.logits, maxDraft+1, c.Vocab)
	var err error
	if m.arena, err = l.Finish(ctx); err != nil {
		return nil, err
	}
	m.out = compute.NewMatrix(maxDraft+1, c.Vocab)
	m.pos = make([]int32, c.Context)
	for i := range m.pos {
		m.pos[i] = int32(i)
	}
	m.run = m.pass
	return m, nil
}

func (m *model) loadTables(l *weights.Loader, p, headName string, as compute.DType) {
	c := m.c
	table := l.Matrix(c.Hidden, weights.Part{Name: p + "embed_tokens.weight", Rows: c.Vocab})
	precise := as
	if as == compute.I8 {
		precise = compute.BF16
	}
	m.embed = l.Pack(table, precise)
	switch {
	case c.Tied && precise == as:
		m.head = m.embed
	case c.Tied:
		m.head = l.Pack(table, as)
	default:
		m.head = l.Weight(as, c.Hidden, weights.Part{Name: headName, Rows: c.Vocab})
	}
}

// forward runs rows, at most chunk of them, after the past rows already in the KV cache, and returns the logits of the last want
// rows (want 0: none are computed). The matrix is valid until the next forward.
func (m *model) forward(ctx context.Context, rows []span, past, want int) (compute.Matrix, error) {
	m.rows, m.past, m.want = rows, past, want
	if err := m.dev.Run(ctx, m.run); err != nil {
		return compute.Matrix{}, err
	}
	return compute.Matrix{Rows: want, Cols: m.out.Cols, Data: m.out.Data[:want*m.out.Cols]}, nil
}

// pass is one forward pass, top to bottom.
func (m *model) pass(ops compute.Ops) {
	c := m.c
	n := 0
	for _, s := range m.rows {
		into := m.x.Slice(n, n+s.len())
		if s.ids != nil {
			ops.Embed(into, m.embed, s.ids)
		} else {
			ops.Upload(into, s.visual)
		}
		n += s.len()
	}
	q, kv, end := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim, m.past+n
	attention := compute.AttentionArgs{Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, Past: m.past, Causal: true}
	x, h, qkv := m.x.Slice(0, n), m.h.Slice(0, n), m.qkv.Slice(0, n)
	for i := range m.layers {
		l := &m.layers[i]
		ops.RMSNorm(h, x, l.norm1, c.Eps)
		ops.Linear(qkv, h, l.qkv, compute.LinearArgs{Bias: l.qkvB})
		ops.RoPE(qkv.Columns(0, q+kv), c.HeadDim, m.pos[m.past:end], c.InvFreq) // queries and keys lie side by side
		ops.Copy(l.k.Slice(m.past, end), qkv.Columns(q, q+kv))
		ops.Copy(l.v.Slice(m.past, end), qkv.Columns(q+kv, q+2*kv))
		if i == len(m.layers)-1 && m.want < n { // past the last layer's keys and values only the wanted rows matter
			if m.want == 0 {
				return
			}
			skip := n - m.want
			x, h, qkv = x.Slice(skip, n), h.Slice(skip, n), qkv.Slice(skip, n)
			attention.Past += skip
			n = m.want
		}
		att, up, mid := m.att.Slice(0, n), m.up.Slice(0, n), m.mid.Slice(0, n)
		ops.Attention(att, qkv.Columns(0, q), l.k.Slice(0, end), l.v.Slice(0, end), attention)
		ops.Linear(x, att, l.out, compute.LinearArgs{Residual: x})
		ops.RMSNorm(h, x, l.norm2, c.Eps)
		ops.Linear(up, h, l.gateUp, compute.LinearArgs{})
		ops.SwiGLU(mid, up)
		ops.Linear(x, mid, l.mlp, compute.LinearArgs{Residual: x})
	}
	ops.RMSNorm(h, x, m.norm, c.Eps)
	logits := m.logits.Slice(0, m.want)
	ops.Linear(logits, h, m.head, compute.LinearArgs{})
	ops.Download(compute.Matrix{Rows: m.want, Cols: c.Vocab, Data: m.out.Data[:m.want*c.Vocab]}, logits)
}

// finite says whether a row of logits can be sampled from.
func finite(row []float32) bool {
	for _, v := range row {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return false
		}
	}
	return true
}

func (m *model) close() error { return m.arena.Close() }
