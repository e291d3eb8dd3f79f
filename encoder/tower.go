package encoder

import (
	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// tower is the vision transformer, pool and projector on a device: weights, and buffers for batch frames at once.
type tower struct {
	c     *Config
	batch int
	act   compute.DType  // of all buffers
	round bool           // attention may round its operands, as products do
	patch compute.Weight // [hidden, columns of patches]
	// embed is what every frame's rows start from before the patches are added: position embeddings, with the class
	// embedding in row 0 and the patch bias already added where the family has them.
	embed          compute.Tensor
	zeros          compute.Tensor // [batch, hidden]
	turns          compute.Tensor // [patches, head size]: see Config.axes
	preW, preB     compute.Tensor
	layers         []layer
	postW, postB   compute.Tensor
	mergeW, mergeB compute.Tensor
	proj1, proj2   compute.Weight
	projB1         compute.Tensor
	projB2         compute.Tensor
	patches        compute.Tensor // [batch*patches, 3*patch*patch, and zeros up to a multiple of 8 where that is faster]
	x, h, qkv, up  compute.Tensor // [batch*seq, hidden | hidden | 3*hidden | mlp]
	pooled, mid    compute.Tensor // [batch*cells, hidden | dim]
	out            compute.Tensor // [batch*cells, dim]
}

type layer struct {
	norm1W, norm1B, norm2W, norm2B compute.Tensor
	qkv, out, fc1, fc2             compute.Weight
	qkvB, outB, fc1B, fc2B         compute.Tensor
	scale1, scale2                 compute.Tensor
}

// load asks l for every tensor and buffer; they are there once l.Finish returned.
func (t *tower) load(l *weights.Loader, ck *weights.Checkpoint, as compute.DType) {
	v, f, at := t.c.Vision, t.c.family, checkpoints[t.c.family.kind]
	t.round = as != compute.F32
	p := at.prefixes[0]
	for _, try := range at.prefixes {
		if ck.Has(try + at.patch + ".weight") {
			p = try
			break
		}
	}
	t.patch = l.Pack(t.widen(t.patchKernel(l, p+at.patch+".weight")), as)
	t.loadEmbedding(l, p, at)

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
		if b != nil {
			l.Vector(b, bs...)
		}
		return l.Weight(as, in, ws...)
	}
	if f.preNorm {
		norm(&t.preW, &t.preB, at.preNorm)
	}
	t.layers = make([]layer, v.Run)
	for i := range t.layers {
		n, a := &t.layers[i], layerName(at, i)
		norm(&n.norm1W, &n.norm1B, a+at.norm1)
		qkvB := &n.qkvB
		if !v.QKVBias {
			qkvB = nil
		}
		if at.qkv != "" {
			n.qkv = linear(qkvB, v.Hidden, 3*v.Hidden, a+at.qkv)
		} else {
			n.qkv = linear(qkvB, v.Hidden, v.Hidden, a+at.q, a+at.k, a+at.v)
		}
		n.out = linear(&n.outB, v.Hidden, v.Hidden, a+at.out)
		norm(&n.norm2W, &n.norm2B, a+at.norm2)
		n.fc1 = linear(&n.fc1B, v.Hidden, v.MLP, a+at.fc1)
		n.fc2 = linear(&n.fc2B, v.MLP, v.Hidden, a+at.fc2)
		if at.scale1 != "" {
			l.Vector(&n.scale1, weights.Part{Name: p + a + at.scale1, Rows: v.Hidden})
			l.Vector(&n.scale2, weights.Part{Name: p + a + at.scale2, Rows: v.Hidden})
		}
	}
	if v.PostNorm {
		norm(&t.postW, &t.postB, at.postNorm)
	}
	if at.mergeNorm != "" {
		norm(&t.mergeW, &t.mergeB, at.mergeNorm)
	}

	g, cells := t.c.patchGrid(), t.cells()
	seq := t.seq()
	if f.class && t.act == compute.BF16 {
		l.Room(&t.zeros, t.batch, v.Hidden, t.act)
	}
	l.Room(&t.patches, t.batch*g.H*g.W, t.patchColumns(), t.act)
	l.Room(&t.x, t.batch*seq, v.Hidden, t.act)
	l.Room(&t.h, t.batch*seq, v.Hidden, t.act)
	l.Room(&t.qkv, t.batch*seq, 3*v.Hidden, t.act)
	l.Room(&t.up, t.batch*seq, v.MLP, t.act)
	l.Room(&t.pooled, t.batch*cells, v.Hidden, t.act)
	if pr := t.c.Projector; pr != nil {
		if at.projPrefix != "" {
			p = at.projPrefix
		}
		t.proj1 = linear(&t.projB1, v.Hidden*t.c.Merge*t.c.Merge, pr.Inner, at.projector1)
		t.proj2 = linear(&t.projB2, pr.Inner, pr.Dim, at.projector2)
		l.Room(&t.mid, t.batch*cells, pr.Inner, t.act)
		l.Room(&t.out, t.batch*cells, pr.Dim, t.act)
	}
}

func (t *tower) loadEmbedding(l *weights.Loader, p string, at names) {
	h, seq := t.c.Vision.Hidden, t.seq()
	if at.position == "" { // heads turn instead
		l.Put(&t.turns, t.c.axes())
		return
	}
	shape := []int{seq, h}
	if t.c.family.kind == intern {
		shape = []int{1, seq, h}
	}
	embed := compute.Matrix{Rows: seq, Cols: h, Data: l.Floats(p+at.position, shape...)}
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
		shape := []int{h}
		if t.c.family.kind == intern {
			shape = []int{1, 1, h}
		}
		add(0, l.Floats(p+at.class, shape...))
		first = 1
	}
	if t.c.family.patchBias {
		bias := l.Floats(p+at.patch+".bias", h)
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

// patchColumns is how long the rows of patches are: products in bfloat16 want rows that start on 16 bytes.
func (t *tower) patchColumns() int {
	n := 3 * t.c.Vision.PatchSize * t.c.Vision.PatchSize
	if t.act == compute.BF16 {
		n = (n + 7) / 8 * 8
	}
	return n
}

// widen pads the rows of a patch kernel with zeros to those of patches.
func (t *tower) widen(m compute.Matrix) compute.Matrix {
	if m.Data == nil || m.Cols == t.patchColumns() {
		return m
	}
	wide := compute.NewMatrix(m.Rows, t.patchColumns())
	for r := range m.Rows {
		copy(wide.Row(r), m.Row(r))
	}
	return wide
}

// forward encodes n frames and returns their rows, [n*cells, dim], valid until the next call. fill writes the frames' patches,
// [n*patches, 3*patch*patch].
func (t *tower) forward(ops compute.Ops, n int, fill func(ops compute.Ops, dst compute.Tensor)) compute.Tensor {
	v, g, seq := t.c.Vision, t.c.patchGrid(), t.seq()
	np := g.H * g.W
	x, h, qkv, up := t.x.Slice(0, n*seq), t.h.Slice(0, n*seq), t.qkv.Slice(0, n*seq), t.up.Slice(0, n*seq)
	fill(ops, t.patches.Slice(0, n*np).Columns(0, 3*v.PatchSize*v.PatchSize))
	t.embedPatches(ops, n)
	if !t.preW.None() {
		ops.LayerNorm(x, x, t.preW, t.preB, v.Eps)
	}

	attention := compute.AttentionArgs{Heads: v.Heads, KVHeads: v.Heads, HeadDim: v.Hidden / v.Heads, Segment: seq, Rounded: t.round}
	q, k, val := qkv.Columns(0, v.Hidden), qkv.Columns(v.Hidden, 2*v.Hidden), qkv.Columns(2*v.Hidden, 3*v.Hidden)
	for i := range t.layers {
		l := &t.layers[i]
		ops.LayerNorm(h, x, l.norm1W, l.norm1B, v.Eps)
		ops.Linear(qkv, h, l.qkv, compute.LinearArgs{Bias: l.qkvB})
		if !t.turns.None() {
			ops.Rotate(qkv.Columns(0, 2*v.Hidden), t.turns, attention.HeadDim)
		}
		ops.Attention(h, q, k, val, attention)
		ops.Linear(x, h, l.out, compute.LinearArgs{Bias: l.outB, Scale: l.scale1, Residual: x})
		ops.LayerNorm(h, x, l.norm2W, l.norm2B, v.Eps)
		ops.Linear(up, h, l.fc1, compute.LinearArgs{Bias: l.fc1B, Act: v.Act})
		ops.Linear(x, up, l.fc2, compute.LinearArgs{Bias: l.fc2B, Scale: l.scale2, Residual: x})
	}
	if v.PostNorm {
		ops.LayerNorm(x, x, t.postW, t.postB, v.Eps)
	}

	rows := x
	if seq != np { // the class row is not a place in the picture
		rows = h.Slice(0, n*np)
		ops.Copy(rows.Fold(np), x.Fold(seq).Columns(v.Hidden, seq*v.Hidden))
	}
	if t.c.Pool != (Size{1, 1}) {
		pooled := t.pooled.Slice(0, n*t.cells())
		ops.AvgPool(pooled, rows, g.H, g.W, t.c.Pool.H, t.c.Pool.W)
		rows = pooled
	}
	if !t.mergeW.None() {
		ops.LayerNorm(h, rows, t.mergeW, t.mergeB, v.Eps)
		rows = h.Fold(t.c.Merge * t.c.Merge)
	}
	if p := t.c.Projector; p != nil {
		mid, out := t.mid.Slice(0, rows.Rows), t.out.Slice(0, rows.Rows)
		ops.Linear(mid, rows, t.proj1, compute.LinearArgs{Bias: t.projB1, Act: p.Act})
		ops.Linear(out, mid, t.proj2, compute.LinearArgs{Bias: t.projB2})
		rows = out
	}
	return rows
}

// embedPatches makes the first n frames' rows of x from their patches.
func (t *tower) embedPatches(ops compute.Ops, n int) {
	g, seq, hidden := t.c.patchGrid(), t.seq(), t.c.Vision.Hidden
	np := g.H * g.W
	in, x := t.patches.Slice(0, n*np), t.x.Slice(0, n*seq)
	switch {
	case t.embed.None():
		ops.Linear(x, in, t.patch, compute.LinearArgs{})
	case t.act == compute.BF16:
		// One product for all frames, however their rows lie in x: many small ones would leave most of the device idle.
		rows := x
		if seq != np {
			rows = t.h.Slice(0, n*np)
		}
		ops.Linear(rows, in, t.patch, compute.LinearArgs{})
		if seq != np {
			frames := x.Fold(seq) // a row a frame
			ops.Copy(frames.Columns(hidden, seq*hidden), rows.Fold(np))
			ops.Copy(frames.Columns(0, hidden), t.zeros.Slice(0, n))
		}
		ops.Add(x, t.embed)
	default:
		for f := range n {
			rows := x.Slice(f*seq, (f+1)*seq)
			ops.Copy(rows, t.embed)
			rows = rows.Slice(seq-np, seq)
			ops.Linear(rows, in.Slice(f*np, (f+1)*np), t.patch, compute.LinearArgs{Residual: rows})
		}
	}
}
