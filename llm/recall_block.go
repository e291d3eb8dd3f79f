package llm

import (
	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// block is one pre-norm transformer layer of a Recall: RMSNorm, attention, RMSNorm, SwiGLU.
type block struct {
	norm1, norm2          compute.Tensor
	qkv, out, gateUp, mlp compute.Weight
}

// blockNames are the checkpoint's names of a block's tensors, less ".weight".
type blockNames struct{ norm1, q, k, v, out, norm2, gate, up, down string }

// tower is what blocks of one kind share: their sizes, and room for a pass.
type tower struct {
	heads, kvHeads, headDim, mlp int
	eps                          float32
	invFreq                      []float32 // nil: rows have no positions, and all see all
	pos                          []int32   // 0, 1, ...

	x, h, qkv, att, up, mid compute.Tensor
	rows                    compute.Matrix // what goes in, on the host
	n                       int            // rows put in so far
}

// load makes room for passes of at most rows rows.
func (t *tower) load(l *weights.Loader, hidden, rows int) {
	q, kv := t.heads*t.headDim, t.kvHeads*t.headDim
	l.Room(&t.x, rows, hidden, compute.F32)
	l.Room(&t.h, rows, hidden, compute.F32)
	l.Room(&t.qkv, rows, q+2*kv, compute.F32)
	l.Room(&t.att, rows, q, compute.F32)
	l.Room(&t.up, rows, 2*t.mlp, compute.F32)
	l.Room(&t.mid, rows, t.mlp, compute.F32)
	t.rows = compute.NewMatrix(rows, hidden)
	t.pos = make([]int32, rows)
	for i := range t.pos {
		t.pos[i] = int32(i)
	}
}

func (t *tower) block(l *weights.Loader, hidden int, b *block, n blockNames) {
	q, kv := t.heads*t.headDim, t.kvHeads*t.headDim
	part := func(name string, rows int) weights.Part { return weights.Part{Name: name + ".weight", Rows: rows} }
	l.Vector(&b.norm1, part(n.norm1, hidden))
	b.qkv = l.Weight(compute.F32, hidden, part(n.q, q), part(n.k, kv), part(n.v, kv))
	b.out = l.Weight(compute.F32, q, part(n.out, hidden))
	l.Vector(&b.norm2, part(n.norm2, hidden))
	b.gateUp = l.Weight(compute.F32, hidden, part(n.gate, t.mlp), part(n.up, t.mlp))
	b.mlp = l.Weight(compute.F32, t.mlp, part(n.down, hidden))
}

// put appends rows to the input.
func (t *tower) put(rows ...float32) {
	copy(t.rows.Data[t.n*t.rows.Cols:], rows)
	t.n += len(rows) / t.rows.Cols
}

// upload brings the input to x.
func (t *tower) upload(ops compute.Ops) {
	ops.Upload(t.x.Slice(0, t.n), matrixRows(t.rows, 0, t.n))
}

// run passes x through b in place. Past attention only the last keep rows are worked out: what the others would be is not asked for.
func (t *tower) run(ops compute.Ops, b *block, keep int) {
	n, q, kv := t.n, t.heads*t.headDim, t.kvHeads*t.headDim
	x, h, qkv := t.x.Slice(0, n), t.h.Slice(0, n), t.qkv.Slice(0, n)
	args := compute.AttentionArgs{Heads: t.heads, KVHeads: t.kvHeads, HeadDim: t.headDim}
	ops.RMSNorm(h, x, b.norm1, t.eps)
	ops.Linear(qkv, h, b.qkv, compute.LinearArgs{})
	if t.invFreq != nil {
		args.Causal, args.Past = true, n-keep
		ops.RoPE(qkv.Columns(0, q+kv), t.headDim, t.pos[:n], t.invFreq) // queries and keys lie side by side
	}
	x, h = x.Slice(n-keep, n), h.Slice(n-keep, n)
	att, up, mid := t.att.Slice(0, keep), t.up.Slice(0, keep), t.mid.Slice(0, keep)
	ops.Attention(att, qkv.Slice(n-keep, n).Columns(0, q), qkv.Columns(q, q+kv), qkv.Columns(q+kv, q+2*kv), args)
	ops.Linear(x, att, b.out, compute.LinearArgs{Residual: x})
	ops.RMSNorm(h, x, b.norm2, t.eps)
	ops.Linear(up, h, b.gateUp, compute.LinearArgs{})
	ops.SwiGLU(mid, up)
	ops.Linear(x, mid, b.mlp, compute.LinearArgs{Residual: x})
}
