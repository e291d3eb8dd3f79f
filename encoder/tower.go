package encoder

import (
	"fmt"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// tower is the vision transformer, pool and projector on a device: weights, and buffers for batch frames at once.
type tower struct {
	c     *Config
	batch int
	patch compute.Weight // [hidden, 3*patch*patch]
	// embed is what every frame's rows start from before the patches are added: position embeddings, with the class
	// embedding in row 0 and the patch bias already added where the family has them.
	embed         compute.Tensor
	preW, preB    compute.Tensor
	layers        []layer
	postW, postB  compute.Tensor
	proj1, proj2  compute.Weight
	projB1        compute.Tensor
	projB2        compute.Tensor
	patches       compute.Tensor // [batch*patches, 3*patch*patch]
	x, h, qkv, up compute.Tensor // [batch*seq, hidden | hidden | 3*hidden | mlp]
	pooled, mid   compute.Tensor // [batch*cells, hidden | dim]
	out           compute.Tensor // [batch*cells, dim]
}

type layer struct {
	norm1W, norm1B, norm2W, norm2B compute.Tensor
	qkv, out, fc1, fc2             compute.Weight
	qkvB, outB, fc1B, fc2B         compute.Tensor
}

// prefixes are where checkpoints keep the tower: in a larger model, alone, or alone as newer libraries save it.
var prefixes = []string{"vision_tower.vision_model.", "vision_model.", ""}

// load asks l for every tensor and buffer; they are there once l.Finish returned.
func (t *tower) load(l *weights.Loader, ck *weights.Checkpoint, as compute.DType) {
	v := t.c.Vision
	p := prefixes[0]
	for _, try := range prefixes {
		if ck.Has(try + "embeddings.patch_embedding.weight") {
			p = try
			break
		}
	}
	patchLen := 3 * v.PatchSize * v.PatchSize
	conv := l.Floats(p+"embeddings.patch_embedding.weight", v.Hidden, 3, v.PatchSize, v.PatchSize)
	t.patch = l.Pack(compute.Matrix{Rows: v.Hidden, Cols: patchLen, Data: conv}, as)
	t.loadEmbedding(l, p)

	norm := func(w, b *compute.Tensor, name string) {
		l.Vector(w, weights.Part{Name: p + name + ".weight", Rows: v.Hidden})
		l.Vector(b, weights.Part{Name: p + name + ".bias", Rows: v.Hidden})
	}
	linear := func(b *compute.Tensor, in, out int, names ...string) compute.Weight {
		var ws, bs []weights.Part
		for _, n := range names {
			ws = append(ws, weights.Part{Name: p + n + ".weight", Rows: out})
			bs = append(bs, weights.Part{Name: p + n + ".bias", Rows: out})
		}
		l.Vector(b, bs...)
		return l.Weight(as, in, ws...)
	}
	if t.c.family.class {
		norm(&t.preW, &t.preB, "pre_layrnorm")
	}
	t.layers = make([]layer, v.Run)
	for i := range t.layers {
		n, a := &t.layers[i], fmt.Sprintf("encoder.layers.%d.", i)
		norm(&n.norm1W, &n.norm1B, a+"layer_norm1")
		n.qkv = linear(&n.qkvB, v.Hidden, v.Hidden, a+"self_attn.q_proj", a+"self_attn.k_proj", a+"self_attn.v_proj")
		n.out = linear(&n.outB, v.Hidden, v.Hidden, a+"self_attn.out_proj")
		norm(&n.norm2W, &n.norm2B, a+"layer_norm2")
		n.fc1 = linear(&n.fc1B, v.Hidden, v.MLP, a+"mlp.fc1")
		n.fc2 = linear(&n.fc2B, v.MLP, v.Hidden, a+"mlp.fc2")
	}
	if v.PostNorm {
		norm(&t.postW, &t.postB, "post_layernorm")
	}

	g, cells := t.c.patchGrid(), t.cells()
	seq := t.seq()
	l.Room(&t.patches, t.batch*g.H*g.W, patchLen)
	l.Room(&t.x, t.batch*seq, v.Hidden)
	l.Room(&t.h, t.batch*seq, v.Hidden)
	l.Room(&t.qkv, t.batch*seq, 3*v.Hidden)
	l.Room(&t.up, t.batch*seq, v.MLP)
	l.Room(&t.pooled, t.batch*cells, v.Hidden)
	if pr := t.c.Projector; pr != nil {
		p = "multi_modal_projector."
		t.proj1 = linear(&t.projB1, v.Hidden, pr.Dim, "linear_1")
		t.proj2 = linear(&t.projB2, pr.Dim, pr.Dim, "linear_2")
		l.Room(&t.mid, t.batch*cells, pr.Dim)
		l.Room(&t.out, t.batch*cells, pr.Dim)
	}
}

func (t *tower) loadEmbedding(l *weights.Loader, p string) {
	h, seq := t.c.Vision.Hidden, t.seq()
	embed := compute.Matrix{Rows: seq, Cols: h, Data: l.Floats(p+"embeddings.position_embedding.weight", seq, h)}
	add := func(row int, data []float32) {
		if embed.Data == nil || data == nil { // an error is already waiting in l
			return
		}
		for i, v := range data {
			embed.Row(row)[i] += v
		}
	}
	first := 0
	if t.c.family.class {
		add(0, l.Floats(p+"embeddings.class_embedding", h))
		first = 1
	}
	if t.c.family.patchBias {
		bias := l.Floats(p+"embeddings.patch_embedding.bias", h)
		for r := first; r < seq; r++ {
			add(r, bias)
		}
	}
	l.Put(&t.embed, embed)
}

// cells is the rows a frame leaves with; seq those it has inside the transformer.
func (t *tower) cells() int { g := t.c.grid(); return g.H * g.W }

func (t *tower) seq() int {
	g := t.c.patchGrid()
	if t.c.family.class {
		return g.H*g.W + 1
	}
	return g.H * g.W
}

// forward encodes the first n frames of patches into dst [n*cells, dim].
func (t *tower) forward(ops compute.Ops, dst, patches compute.Matrix, n int) {
	v, g, seq := t.c.Vision, t.c.patchGrid(), t.seq()
	np := g.H * g.W
	in := t.patches.Slice(0, n*np)
	x, h, qkv, up := t.x.Slice(0, n*seq), t.h.Slice(0, n*seq), t.qkv.Slice(0, n*seq), t.up.Slice(0, n*seq)
	ops.Upload(in, patches)
	for f := range n {
		ops.Copy(x.Slice(f*seq, (f+1)*seq), t.embed)
	}
	if seq == np {
		ops.Linear(x, in, t.patch, compute.LinearArgs{Residual: x})
	} else {
		for f := range n {
			rows := x.Slice(f*seq+1, (f+1)*seq)
			ops.Linear(rows, in.Slice(f*np, (f+1)*np), t.patch, compute.LinearArgs{Residual: rows})
		}
		ops.LayerNorm(x, x, t.preW, t.preB, v.Eps)
	}

	attention := compute.AttentionArgs{Heads: v.Heads, KVHeads: v.Heads, HeadDim: v.Hidden / v.Heads, Segment: seq}
	q, k, val := qkv.Columns(0, v.Hidden), qkv.Columns(v.Hidden, 2*v.Hidden), qkv.Columns(2*v.Hidden, 3*v.Hidden)
	for i := range t.layers {
		l := &t.layers[i]
		ops.LayerNorm(h, x, l.norm1W, l.norm1B, v.Eps)
		ops.Linear(qkv, h, l.qkv, compute.LinearArgs{Bias: l.qkvB})
		ops.Attention(h, q, k, val, attention)
		ops.Linear(x, h, l.out, compute.LinearArgs{Bias: l.outB, Residual: x})
		ops.LayerNorm(h, x, l.norm2W, l.norm2B, v.Eps)
		ops.Linear(up, h, l.fc1, compute.LinearArgs{Bias: l.fc1B, Act: v.Act})
		ops.Linear(x, up, l.fc2, compute.LinearArgs{Bias: l.fc2B, Residual: x})
	}
	if v.PostNorm {
		ops.LayerNorm(x, x, t.postW, t.postB, v.Eps)
	}

	rows := x
	if seq != np { // the class row is not a place in the picture
		rows = h.Slice(0, n*np)
		for f := range n {
			ops.Copy(rows.Slice(f*np, (f+1)*np), x.Slice(f*seq+1, (f+1)*seq))
		}
	}
	if t.c.Pool != (Size{1, 1}) {
		pooled := t.pooled.Slice(0, n*t.cells())
		ops.AvgPool(pooled, rows, g.H, g.W, t.c.Pool.H, t.c.Pool.W)
		rows = pooled
	}
	if p := t.c.Projector; p != nil {
		mid, out := t.mid.Slice(0, rows.Rows), t.out.Slice(0, rows.Rows)
		ops.Linear(mid, rows, t.proj1, compute.LinearArgs{Bias: t.projB1, Act: p.Act})
		ops.Linear(out, mid, t.proj2, compute.LinearArgs{Bias: t.projB2})
		rows = out
	}
	ops.Download(dst, rows)
}
