package encoder

import (
	"fmt"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// tower is the vision transformer and its join on a device: weights, and buffers for a pass.
type tower struct {
	c     *Config
	batch int            // units of the usual size in a pass
	rows  int            // patches in a pass, of however many units
	act   compute.DType  // of all buffers
	round bool           // attention may round its operands, as products do
	patch compute.Weight // [hidden, columns of patches]
	// embed is what every unit's rows start from before the patches are added: position embeddings, with the class
	// embedding in row 0 and the patch bias already added where the family has them.
	embed         compute.Tensor
	zeros         compute.Tensor // [batch, hidden]
	turns         compute.Tensor // [patches, head size]: see Config.axes
	turned        Size           // the patches that turns, blocks and spans are for
	blocks        []block        // where most layers attend within windows
	spans         []span
	preW, preB    compute.Tensor
	layers        []layer
	postW, postB  compute.Tensor
	joinW, joinB  compute.Tensor // the join's norm
	proj1, proj2  compute.Weight
	projB1        compute.Tensor
	projB2        compute.Tensor
	halfQ, halfK  compute.Tensor // see halving
	halfHead      int
	patches       compute.Tensor // [rows, columns of patches and zeros up to a multiple of 8 where that is faster]
	x, h, qkv, up compute.Tensor // [rows and classes, hidden | hidden | 3*hidden | mlp, or 2*mlp where gated]
	gated         compute.Tensor // [rows, mlp]
	pooled        compute.Tensor // [cells, hidden]
	mid, halved   compute.Tensor // [cells, inner]
	out           compute.Tensor // [cells, dim]
}

type layer struct {
	norm1W, norm1B, norm2W, norm2B compute.Tensor
	qkv, out, fc1, fc2             compute.Weight // fc1 is gate and up where gated
	qkvB, outB, fc1B, fc2B         compute.Tensor
	scale1, scale2                 compute.Tensor
	full                           bool // attends to all patches, windows or not
}

// load asks l for every tensor and buffer; they are there once l.Finish returned. largest is the largest picture's patches.
func (t *tower) load(l *weights.Loader, ck *weights.Checkpoint, as compute.DType, largest Size) {
	c := t.c
	v, f, at := c.Vision, c.family, c.family.names
	t.round = as != compute.F32
	p := where(ck, at.prefixes, at.patch+".weight")
	t.patch = l.Pack(t.widen(t.patchKernel(l, p+at.patch+".weight")), as)
	t.loadEmbedding(l, p, at, largest)

	norm := func(w, b *compute.Tensor, name string, width int) {
		l.Vector(w, weights.Part{Name: name + ".weight", Rows: width})
		if !v.RMS {
			l.Vector(b, weights.Part{Name: name + ".bias", Rows: width})
		}
	}
	linear := func(b *compute.Tensor, in, out int, names ...string) compute.Weight {
		var ws, bs []weights.Part
		for _, n := range names {
			ws = append(ws, weights.Part{Name: n + ".weight", Rows: out})
			bs = append(bs, weights.Part{Name: n + ".bias", Rows: out})
		}
		if b != nil {
			l.Vector(b, bs...)
		}
		return l.Weight(as, in, ws...)
	}
	if f.preNorm {
		norm(&t.preW, &t.preB, p+at.preNorm, v.Hidden)
	}
	t.layers = make([]layer, v.Run)
	for i := range t.layers {
		n, a := &t.layers[i], fmt.Sprintf("%s%s%d.", p, at.layer, i)
		norm(&n.norm1W, &n.norm1B, a+at.norm1, v.Hidden)
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
		norm(&n.norm2W, &n.norm2B, a+at.norm2, v.Hidden)
		if v.Gated {
			t.loadGated(l, n, a, as)
		} else {
			n.fc1 = linear(&n.fc1B, v.Hidden, v.MLP, a+at.fc1)
			n.fc2 = linear(&n.fc2B, v.MLP, v.Hidden, a+at.fc2)
		}
		if at.scale1 != "" {
			l.Vector(&n.scale1, weights.Part{Name: a + at.scale1, Rows: v.Hidden})
			l.Vector(&n.scale2, weights.Part{Name: a + at.scale2, Rows: v.Hidden})
		}
	}
	if v.Window > 0 {
		for _, i := range v.Full {
			if i < len(t.layers) {
				t.layers[i].full = true
			}
		}
	}
	if v.PostNorm {
		norm(&t.postW, &t.postB, p+at.postNorm, v.Hidden)
	}

	seqs := t.rows // with a class token each
	if f.class {
		seqs += t.batch
		if t.act == compute.BF16 {
			l.Room(&t.zeros, t.batch, v.Hidden, t.act)
		}
	}
	l.Room(&t.patches, t.rows, t.patchColumns(), t.act)
	l.Room(&t.x, seqs, v.Hidden, t.act)
	l.Room(&t.h, seqs, v.Hidden, t.act)
	l.Room(&t.qkv, seqs, 3*v.Hidden, t.act)
	if v.Gated {
		l.Room(&t.up, seqs, 2*t.mlpColumns(), t.act)
		l.Room(&t.gated, seqs, t.mlpColumns(), t.act)
	} else {
		l.Room(&t.up, seqs, v.MLP, t.act)
	}
	if c.Pool != (Size{1, 1}) {
		l.Room(&t.pooled, t.rows/(c.Pool.H*c.Pool.W), v.Hidden, t.act)
	}
	j := c.Join
	if j == nil {
		return
	}
	if !j.names.tower {
		p = where(ck, j.names.prefixes, j.names.first+".weight")
	}
	cells, in := t.cells(), c.width()*j.Merge*j.Merge
	if j.Norm {
		width := c.width()
		if j.names.tower {
			width = v.Hidden
		}
		norm(&t.joinW, &t.joinB, p+j.names.norm, width)
	}
	b1, b2 := &t.projB1, &t.projB2
	if !j.Bias {
		b1, b2 = nil, nil
	}
	l.Room(&t.out, cells, j.Dim, t.act)
	if j.Inner == 0 {
		t.proj1 = linear(b1, in, j.Dim, p+j.names.first)
		return
	}
	t.proj1 = linear(b1, in, j.Inner, p+j.names.first)
	t.proj2 = linear(b2, j.Inner, j.Dim, p+j.names.second)
	l.Room(&t.mid, cells, j.Inner, t.act)
	if j.Half && t.proj2 != nil { // else an error is waiting in l
		t.loadHalving(l, cells)
	}
}

// loadGated makes gate and up one product. Its columns and the next one's rows are padded with zeros where patchColumns' are.
func (t *tower) loadGated(l *weights.Loader, n *layer, a string, as compute.DType) {
	v, at, wide := t.c.Vision, t.c.family.names, t.mlpColumns()
	gate, up := l.Floats(a+at.gate+".weight", v.MLP, v.Hidden), l.Floats(a+at.up+".weight", v.MLP, v.Hidden)
	gateB, upB := l.Floats(a+at.gate+".bias", v.MLP), l.Floats(a+at.up+".bias", v.MLP)
	down := compute.Matrix{Rows: v.Hidden, Cols: v.MLP, Data: l.Floats(a+at.down+".weight", v.Hidden, v.MLP)}
	if down.Data == nil { // an error is waiting in l
		return
	}
	m, b := compute.NewMatrix(2*wide, v.Hidden), compute.NewMatrix(1, 2*wide)
	copy(m.Data, gate)
	copy(m.Data[wide*v.Hidden:], up)
	copy(b.Data, gateB)
	copy(b.Data[wide:], upB)
	n.fc1 = l.Pack(m, as)
	l.Put(&n.fc1B, b)
	n.fc2 = l.Pack(padded(down, wide), as)
	l.Vector(&n.fc2B, weights.Part{Name: a + at.down + ".bias", Rows: v.Hidden})
}

func (t *tower) loadHalving(l *weights.Loader, cells int) {
	j, g := t.c.Join, t.c.patchGrid(t.c.Vision.Image)
	if t.halfHead = headFor(j.Inner, g.H+g.W); t.halfHead == 0 {
		l.Fail(fmt.Errorf("encoder: a join of %d columns cannot halve %dx%d patches", j.Inner, g.H, g.W))
		return
	}
	q, k := halving(g, t.halfHead, j.Inner/t.halfHead)
	l.PutAs(&t.halfQ, q, t.act)
	l.PutAs(&t.halfK, k, t.act)
	l.Room(&t.halved, cells, j.Inner, t.act)
}

// patchKernel fetches the convolution that embeds patches as [hidden, columns of a patch].
func (t *tower) patchKernel(l *weights.Loader, name string) compute.Matrix {
	v := t.c.Vision
	m := compute.Matrix{Rows: v.Hidden, Cols: t.c.patchValues()}
	if v.Pair {
		m.Data = l.Floats(name, v.Hidden, 3, 2, v.PatchSize, v.PatchSize)
	} else {
		m.Data = l.Floats(name, v.Hidden, 3, v.PatchSize, v.PatchSize)
	}
	return m
}

func (t *tower) loadEmbedding(l *weights.Loader, p string, at names, largest Size) {
	c := t.c
	h, g := c.Vision.Hidden, c.patchGrid(c.Vision.Image)
	if at.position == "" { // heads turn instead
		l.Room(&t.turns, largest.H*largest.W, h/c.Vision.Heads, compute.F32)
		return
	}
	seq := t.seq(g)
	first := seq - g.H*g.W
	shape := []int{seq, h}
	if c.family.kind == intern {
		shape = []int{1, seq, h}
	}
	given := l.Floats(p+at.position, shape...)
	if given == nil { // an error is waiting in l
		return
	}
	embed := compute.NewMatrix(seq, h)
	copy(embed.Data, given[:first*h])
	for r := range g.H * g.W {
		y, x := c.place(g, r)
		copy(embed.Row(first+r), given[(first+y*g.W+x)*h:][:h])
	}
	add := func(row int, data []float32) {
		for i, v := range data {
			embed.Row(row)[i] += v
		}
	}
	if c.family.class {
		shape := []int{h}
		if c.family.kind == intern {
			shape = []int{1, 1, h}
		}
		add(0, l.Floats(p+at.class, shape...))
	}
	if c.family.patchBias {
		bias := l.Floats(p+at.patch+".bias", h)
		for r := first; r < seq; r++ {
			add(r, bias)
		}
	}
	l.Put(&t.embed, embed)
}

// cells is how many rows a pass may bring to the join.
func (t *tower) cells() int {
	return t.rows / (t.c.Pool.H * t.c.Pool.W * t.c.square() * t.c.square())
}

// seq is the rows that a unit of g patches has inside the transformer.
func (t *tower) seq(g Size) int {
	if t.c.family.class {
		return g.H*g.W + 1
	}
	return g.H * g.W
}

// fits is how many units of g patches go into a pass.
func (t *tower) fits(g Size) int {
	if !t.c.Vision.Dynamic {
		return t.batch
	}
	return t.rows / (g.H * g.W)
}

// patchValues is how many numbers a patch has.
func (c *Config) patchValues() int {
	n := 3 * c.Vision.PatchSize * c.Vision.PatchSize
	if c.Vision.Pair {
		n *= 2
	}
	return n
}

// patchColumns is how long the rows of patches are; mlpColumns those of a gated MLP.
func (t *tower) patchColumns() int { return t.columns(t.c.patchValues()) }
func (t *tower) mlpColumns() int   { return t.columns(t.c.Vision.MLP) }

// columns is n, or more where products want it: in bfloat16, rows that start on 16 bytes.
func (t *tower) columns(n int) int {
	if t.act == compute.BF16 {
		n = (n + 7) / 8 * 8
	}
	return n
}

// widen pads the rows of a patch kernel with zeros to those of patches.
func (t *tower) widen(m compute.Matrix) compute.Matrix { return padded(m, t.patchColumns()) }

// padded is m with zeros up to cols columns.
func padded(m compute.Matrix, cols int) compute.Matrix {
	if m.Data == nil || m.Cols == cols {
		return m
	}
	wide := compute.NewMatrix(m.Rows, cols)
	for r := range m.Rows {
		copy(wide.Row(r), m.Row(r))
	}
	return wide
}

// forward encodes n units of g patches and returns their rows as Encode leaves them, [n*cells, dim], valid until the next call. fill
// writes the units' patches, [n*patches, values of a patch].
func (t *tower) forward(ops compute.Ops, n int, g Size, fill func(ops compute.Ops, dst compute.Tensor)) compute.Tensor {
	c := t.c
	v, seq, np := c.Vision, t.seq(g), g.H*g.W
	x, h, qkv := t.x.Slice(0, n*seq), t.h.Slice(0, n*seq), t.qkv.Slice(0, n*seq)
	fill(ops, t.patches.Slice(0, n*np).Columns(0, c.patchValues()))
	if v.Dynamic {
		t.turn(ops, g)
	}
	t.embedPatches(ops, n, g)
	if !t.preW.None() {
		t.norm(ops, x, x, t.preW, t.preB)
	}

	attention := compute.AttentionArgs{Heads: v.Heads, KVHeads: v.Heads, HeadDim: v.Hidden / v.Heads, Rounded: t.round}
	for i := range t.layers {
		l := &t.layers[i]
		t.norm(ops, h, x, l.norm1W, l.norm1B)
		ops.Linear(qkv, h, l.qkv, compute.LinearArgs{Bias: l.qkvB})
		if !t.turns.None() {
			ops.Rotate(qkv.Columns(0, 2*v.Hidden), t.turns.Slice(0, np), attention.HeadDim)
		}
		if l.full || len(t.spans) == 0 {
			t.attend(ops, h, qkv, attention, seq)
		} else {
			t.attendWindows(ops, h, qkv, attention, n, np)
		}
		ops.Linear(x, h, l.out, compute.LinearArgs{Bias: l.outB, Scale: l.scale1, Residual: x})
		t.norm(ops, h, x, l.norm2W, l.norm2B)
		up := t.up.Slice(0, n*seq)
		if v.Gated {
			ops.Linear(up, h, l.fc1, compute.LinearArgs{Bias: l.fc1B})
			gateUp := up
			up = t.gated.Slice(0, n*seq)
			ops.SwiGLU(up, gateUp)
		} else {
			ops.Linear(up, h, l.fc1, compute.LinearArgs{Bias: l.fc1B, Act: v.Act})
		}
		ops.Linear(x, up, l.fc2, compute.LinearArgs{Bias: l.fc2B, Scale: l.scale2, Residual: x})
	}
	if v.PostNorm {
		t.norm(ops, x, x, t.postW, t.postB)
	}

	rows := x
	if seq != np { // the class row is not a place in the picture
		rows = h.Slice(0, n*np)
		ops.Copy(rows.Fold(np), x.Fold(seq).Columns(v.Hidden, seq*v.Hidden))
	}
	if len(t.blocks) > 0 {
		c.moveWindows(ops, h, x, n, g, t.blocks, true)
		rows = h
	}
	if c.Pool != (Size{1, 1}) {
		pooled := t.pooled.Slice(0, rows.Rows/(c.Pool.H*c.Pool.W))
		ops.AvgPool(pooled, rows, g.H, g.W, c.Pool.H, c.Pool.W)
		rows = pooled
	}
	rows = rows.Fold(c.Shuffle * c.Shuffle)
	if c.Join == nil || c.Late {
		return rows
	}
	return t.join(ops, rows, n)
}

// norm is the tower's kind of norm.
func (t *tower) norm(ops compute.Ops, dst, x, w, b compute.Tensor) {
	if t.c.Vision.RMS {
		ops.RMSNorm(dst, x, w, t.c.Vision.Eps)
	} else {
		ops.LayerNorm(dst, x, w, b, t.c.Vision.Eps)
	}
}

// attend has rows attend within segments.
func (t *tower) attend(ops compute.Ops, dst, qkv compute.Tensor, a compute.AttentionArgs, segment int) {
	h := t.c.Vision.Hidden
	a.Segment = segment
	ops.Attention(dst, qkv.Columns(0, h), qkv.Columns(h, 2*h), qkv.Columns(2*h, 3*h), a)
}

// attendWindows has the patches of n units attend within windows: in one call where all windows are alike, else in one for every size
// and unit.
func (t *tower) attendWindows(ops compute.Ops, dst, qkv compute.Tensor, a compute.AttentionArgs, n, np int) {
	if len(t.spans) == 1 {
		t.attend(ops, dst, qkv, a, t.spans[0].segment)
		return
	}
	for f := range n {
		for _, s := range t.spans {
			t.attend(ops, dst.Slice(f*np+s.from, f*np+s.to), qkv.Slice(f*np+s.from, f*np+s.to), a, s.segment)
		}
	}
}

// turn prepares for pictures of g patches.
func (t *tower) turn(ops compute.Ops, g Size) {
	if t.turned == g {
		return
	}
	ops.Upload(t.turns.Slice(0, g.H*g.W), t.c.axes(g))
	t.turned = g
	if t.c.Vision.Window > 0 {
		t.blocks, t.spans = t.c.windows(g)
	}
}

// join brings rows of n grids to the language model's space: rows is [.., width], square by square where they merge, and is lost.
func (t *tower) join(ops compute.Ops, rows compute.Tensor, n int) compute.Tensor {
	j := t.c.Join
	switch {
	case j.Norm && t.c.Vision.RMS:
		ops.RMSNorm(rows, rows, t.joinW, j.Eps)
	case j.Norm:
		ops.LayerNorm(rows, rows, t.joinW, t.joinB, j.Eps)
	}
	rows = rows.Fold(j.Merge * j.Merge)
	if j.Inner == 0 {
		out := t.out.Slice(0, rows.Rows)
		ops.Linear(out, rows, t.proj1, compute.LinearArgs{Bias: t.projB1})
		return out
	}
	mid := t.mid.Slice(0, rows.Rows)
	ops.Linear(mid, rows, t.proj1, compute.LinearArgs{Bias: t.projB1, Act: j.Act})
	if j.Half {
		mid = t.halve(ops, mid, n)
	}
	out := t.out.Slice(0, mid.Rows)
	ops.Linear(out, mid, t.proj2, compute.LinearArgs{Bias: t.projB2})
	return out
}

func (t *tower) halve(ops compute.Ops, mid compute.Tensor, n int) compute.Tensor {
	from, to := t.halfK.Rows, t.halfQ.Rows
	heads := mid.Cols / t.halfHead
	for i := range n {
		ops.Attention(t.halved.Slice(i*to, (i+1)*to), t.halfQ, t.halfK, mid.Slice(i*from, (i+1)*from),
			compute.AttentionArgs{Heads: heads, KVHeads: heads, HeadDim: t.halfHead, Scale: 1})
	}
	return t.halved.Slice(0, n*to)
}

// embedPatches makes the rows of x of the first n units from their patches.
func (t *tower) embedPatches(ops compute.Ops, n int, g Size) {
	seq, hidden, np := t.seq(g), t.c.Vision.Hidden, g.H*g.W
	in, x := t.patches.Slice(0, n*np), t.x.Slice(0, n*seq)
	switch {
	case len(t.blocks) > 0:
		h := t.h.Slice(0, n*np)
		ops.Linear(h, in, t.patch, compute.LinearArgs{})
		t.c.moveWindows(ops, x, h, n, g, t.blocks, false)
	case t.embed.None():
		ops.Linear(x, in, t.patch, compute.LinearArgs{})
	case t.act == compute.BF16:
		// One product for all units, however their rows lie in x: many small ones would leave most of the device idle.
		rows := x
		if seq != np {
			rows = t.h.Slice(0, n*np)
		}
		ops.Linear(rows, in, t.patch, compute.LinearArgs{})
		if seq != np {
			units := x.Fold(seq) // a row a unit
			ops.Copy(units.Columns(hidden, seq*hidden), rows.Fold(np))
			ops.Copy(units.Columns(0, hidden), t.zeros.Slice(0, n))
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
