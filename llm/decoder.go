package llm

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"afterimage/internal/compute"
)

// Limits of a decoder built from Ops: eight rows have the bits on every device that each has alone, and a prefill pass of 512 keeps
// its buffers in the caches of a CPU.
const (
	opsStepRows  = 8
	opsChunkRows = 512
	opsShares    = 1024     // ranges of rows that a row's attention is told by
	opsPoolBytes = 48 << 20 // of K/V, unless one context takes more or four take less
)

// opsDecoder is a compute.Decoder for devices that have none of their own. K and V of a layer are pools of pages [pages*pageRows,
// KVHeads*HeadDim].
type opsDecoder struct {
	c      compute.DecoderConfig
	dev    compute.Device
	limits compute.DecoderLimits
	arena  compute.Arena

	embed  compute.Weight // [Vocab, Hidden]
	head   compute.Weight // [Vocab, Hidden], the same as embed when tied and the precision is right for both
	norm   compute.Tensor
	layers []layer

	x, h, qkv, att, up, mid compute.Tensor // a pass, opsChunkRows rows
	logits                  compute.Tensor // [opsStepRows, Vocab]
	shares                  compute.Tensor // [opsStepRows*Layers, opsShares], a segment's layers one after another
	turns                   compute.Tensor // [chunk rows, HeadDim], see rotate; none where RoPE does

	out    compute.Matrix // logits on the host
	sample sampler

	// The arguments of the pass under way: fields, so that handing run to the device allocates nothing.
	segments  []compute.Segment
	pos       []int32        // of every row; where turns is none
	turn      compute.Matrix // what becomes turns
	to, from  []int32
	run, copy func(compute.Ops)
}

type layer struct {
	norm1, norm2          compute.Tensor
	qkv, out, gateUp, mlp compute.Weight
	qkvB                  compute.Tensor
	k, v                  compute.Tensor
}

// newOpsDecoder makes a decoder from the device's Ops. w is asked for everything here and not kept.
func newOpsDecoder(ctx context.Context, dev compute.Device, c compute.DecoderConfig, w compute.DecoderWeights) (compute.Decoder, error) {
	d := &opsDecoder{c: c, dev: dev, layers: make([]layer, c.Layers)}
	least := pagesFor(c.Context)
	switch {
	case c.Pages == 0 && c.Lean:
		c.Pages = least
	case c.Pages == 0:
		c.Pages = max(least, min(4*least, int(opsPoolBytes/d.pageBytes())))
	}
	if c.Pages < least {
		return nil, fmt.Errorf("%d pages of K/V are less than the %d of one context", c.Pages, least)
	}
	if err := c.CheckTurns(); err != nil {
		return nil, err
	}
	chunk := min(opsChunkRows, c.Context)
	d.limits = compute.DecoderLimits{Pages: c.Pages, StepRows: opsStepRows, ChunkRows: max(chunk, opsStepRows), Segments: opsStepRows}
	if err := d.load(ctx, w); err != nil {
		return nil, err
	}
	d.out = compute.NewMatrix(opsStepRows, c.Vocab)
	if d.tabled() {
		d.turn = compute.NewMatrix(d.limits.ChunkRows, c.HeadDim)
	} else {
		d.pos = make([]int32, 0, d.limits.ChunkRows)
	}
	d.run, d.copy = d.pass, d.copyPages
	return d, nil
}

// tabled tells that rows turn by a table made for every pass, not by RoPE: always or never, so that a row has the same bits in every pass.
func (d *opsDecoder) tabled() bool { return d.c.Axes() == 3 || d.c.Turn != 0 && d.c.Turn != 1 }

// place is a tensor of the decoder's arena; without data it stays zero.
type place struct {
	to         *compute.Tensor
	rows, cols int
	data       []float32
}

func (d *opsDecoder) load(ctx context.Context, w compute.DecoderWeights) error {
	c := d.c
	var places []place
	var failed error
	large := false // the part before
	part := func(p compute.DecoderPart, layer int) compute.Matrix {
		if failed != nil {
			return compute.Matrix{}
		}
		if large {
			runtime.GC() // else the heap grows to twice what one tensor takes as float32
		}
		m, err := w.Part(p, layer)
		large = len(m.Data) >= 1<<22
		failed = err
		return m
	}
	pack := func(m compute.Matrix, as compute.DType) compute.Weight {
		if failed != nil {
			return nil
		}
		packed, err := d.dev.NewWeight(m, as)
		failed = err
		d.limits.Weights += weightBytes(m, as)
		return packed
	}
	vector := func(to *compute.Tensor, p compute.DecoderPart, layer int) {
		m := part(p, layer)
		places = append(places, place{to, m.Rows, m.Cols, m.Data})
	}
	room := func(to *compute.Tensor, rows, cols int) {
		places = append(places, place{to: to, rows: rows, cols: cols})
	}

	table := part(compute.PartEmbed, 0)
	precise := c.Weights
	if precise > compute.BF16 {
		precise = compute.BF16 // the table is read row by row: small gain, all loss
	}
	d.embed = pack(table, precise)
	switch {
	case c.Tied && precise == c.Weights:
		d.head = d.embed
	case c.Tied:
		d.head = pack(table, c.Weights)
	default:
		d.head = pack(part(compute.PartHead, 0), c.Weights)
	}
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	for i := range d.layers {
		l := &d.layers[i]
		vector(&l.norm1, compute.PartNorm1, i)
		l.qkv = pack(part(compute.PartQKV, i), c.Weights)
		if c.QKVBias {
			vector(&l.qkvB, compute.PartQKVBias, i)
		}
		l.out = pack(part(compute.PartOut, i), c.Weights)
		vector(&l.norm2, compute.PartNorm2, i)
		l.gateUp = pack(part(compute.PartGateUp, i), c.Weights)
		l.mlp = pack(part(compute.PartDown, i), c.Weights)
		room(&l.k, d.limits.Pages*pageRows, kv)
		room(&l.v, d.limits.Pages*pageRows, kv)
	}
	vector(&d.norm, compute.PartNorm, 0)
	rows := d.limits.ChunkRows
	room(&d.x, rows, c.Hidden)
	room(&d.h, rows, c.Hidden)
	room(&d.qkv, rows, q+2*kv)
	room(&d.att, rows, q)
	room(&d.up, rows, 2*c.MLP)
	room(&d.mid, rows, c.MLP)
	room(&d.logits, opsStepRows, c.Vocab)
	room(&d.shares, opsStepRows*c.Layers, opsShares)
	if d.tabled() {
		room(&d.turns, rows, c.HeadDim)
	}
	if failed != nil {
		return failed
	}
	return d.finish(ctx, places)
}

// finish gives every place its memory and values.
func (d *opsDecoder) finish(ctx context.Context, places []place) (err error) {
	var bytes, vectors int64
	for _, p := range places {
		bytes += compute.AllocBytes(p.rows, p.cols)
		if p.data != nil {
			vectors += compute.AllocBytes(p.rows, p.cols)
		}
	}
	if d.arena, err = d.dev.NewArena(bytes); err != nil {
		return err
	}
	for _, p := range places {
		if *p.to, err = d.arena.Alloc(p.rows, p.cols); err != nil {
			return errors.Join(err, d.arena.Close())
		}
	}
	err = d.dev.Run(ctx, func(ops compute.Ops) {
		for _, p := range places {
			if p.data != nil {
				ops.Upload(*p.to, compute.Matrix{Rows: p.rows, Cols: p.cols, Data: p.data})
			}
		}
	})
	if err != nil {
		return errors.Join(err, d.arena.Close())
	}
	d.limits.Bytes = d.limits.Weights + bytes
	d.limits.Weights += vectors
	d.limits.KV = int64(d.limits.Pages) * d.pageBytes()
	return nil
}

// pageBytes is what a page takes in all layers.
func (d *opsDecoder) pageBytes() int64 {
	return int64(d.c.Layers) * 2 * pageRows * int64(d.c.KVHeads*d.c.HeadDim) * 4
}

func weightBytes(m compute.Matrix, as compute.DType) int64 {
	n := int64(m.Rows) * int64(m.Cols)
	return [...]int64{4 * n, 2 * n, n, n / 2}[as]
}

// Limits implements compute.Decoder.
func (d *opsDecoder) Limits() compute.DecoderLimits { return d.limits }

// Close implements compute.Decoder.
func (d *opsDecoder) Close() error { return d.arena.Close() }

// CopyPages implements compute.Decoder.
func (d *opsDecoder) CopyPages(ctx context.Context, to, from []int32) error {
	d.to, d.from = to, from
	return d.dev.Run(ctx, d.copy)
}

func (d *opsDecoder) copyPages(ops compute.Ops) {
	for i, to := range d.to {
		a, b := int(to)*pageRows, int(d.from[i])*pageRows
		for _, l := range d.layers {
			ops.Copy(l.k.Slice(a, a+pageRows), l.k.Slice(b, b+pageRows))
			ops.Copy(l.v.Slice(a, a+pageRows), l.v.Slice(b, b+pageRows))
		}
	}
}

// Forward implements compute.Decoder.
func (d *opsDecoder) Forward(ctx context.Context, pass []compute.Segment) error {
	rows, draws := 0, 0
	for i := range pass {
		s := &pass[i]
		n := s.Rows()
		switch {
		case s.Parents != nil:
			return errors.New("llm: forward: this device runs chains of rows, not trees")
		case n == 0 || len(s.Draws) > n || len(s.Drawn) < len(s.Draws) || len(s.Pages)*pageRows < s.Past+n || s.Past+n > d.c.Context:
			return fmt.Errorf("llm: forward: segment %d: %d rows after %d in %d pages, %d draws to %d", i, n, s.Past, len(s.Pages), len(s.Draws), len(s.Drawn))
		}
		if err := d.c.CheckPositions(s); err != nil {
			return fmt.Errorf("llm: forward: segment %d: %w", i, err)
		}
		rows, draws = rows+n, draws+len(s.Draws)
	}
	if rows > d.limits.ChunkRows || draws > opsStepRows {
		return fmt.Errorf("llm: forward: %d rows and %d draws in one pass", rows, draws)
	}
	d.stand(pass)
	d.segments = pass
	err := d.dev.Run(ctx, d.run)
	d.segments = nil // rows belong to the caller
	if err != nil {
		return err
	}
	at := 0
	for i := range pass {
		s := &pass[i]
		for j, draw := range s.Draws {
			row := d.out.Row(at)
			s.Drawn[j] = d.sample.draw(row, draw)
			if s.Logits != nil {
				copy(s.Logits.Row(j), row)
			}
			at++
		}
	}
	return nil
}

// stand notes where the rows of a pass stand, as positions or as what turns them.
func (d *opsDecoder) stand(pass []compute.Segment) {
	d.pos = d.pos[:0]
	row := 0
	for i := range pass {
		s := &pass[i]
		for r := range s.Rows() {
			at := int32(s.Past + r)
			switch {
			case !d.tabled():
				d.pos = append(d.pos, at)
			case s.Positions != nil:
				d.c.Turns(d.turn.Row(row), s.Positions[r])
			default:
				d.c.Turns(d.turn.Row(row), [3]int32{at, at, at})
			}
			row++
		}
	}
}

// rotate turns queries and keys, which lie side by side, by where their rows stand.
func (d *opsDecoder) rotate(ops compute.Ops, x compute.Tensor) {
	if d.tabled() {
		ops.Rotate(x, d.turns.Slice(0, x.Rows), d.c.HeadDim)
	} else {
		ops.RoPE(x, d.c.HeadDim, d.pos, d.c.InvFreq)
	}
}

// pass is one forward pass, top to bottom. Products go over the rows of all segments together, attention segment by segment.
func (d *opsDecoder) pass(ops compute.Ops) {
	c := &d.c
	n, want := 0, 0
	for i := range d.segments {
		for _, in := range d.segments[i].Inputs {
			into := d.x.Slice(n, n+in.Rows())
			if in.IDs != nil {
				ops.Embed(into, d.embed, in.IDs)
			} else {
				ops.Upload(into, in.Visual)
			}
			n += in.Rows()
		}
		want += len(d.segments[i].Draws)
	}
	if d.tabled() {
		ops.Upload(d.turns.Slice(0, n), compute.Matrix{Rows: n, Cols: c.HeadDim, Data: d.turn.Data[:n*c.HeadDim]})
	}
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	x, h, qkv, att := d.x.Slice(0, n), d.h.Slice(0, n), d.qkv.Slice(0, n), d.att.Slice(0, n)
	for i := range d.layers {
		l := &d.layers[i]
		ops.RMSNorm(h, x, l.norm1, c.Eps)
		ops.Linear(qkv, h, l.qkv, compute.LinearArgs{Bias: l.qkvB})
		d.rotate(ops, qkv.Columns(0, q+kv))
		d.store(ops, l, qkv.Columns(q, q+kv), qkv.Columns(q+kv, q+2*kv))
		if i == len(d.layers)-1 && want == 0 {
			return
		}
		d.share(ops, i, qkv.Columns(0, q))
		if i == len(d.layers)-1 && want < n { // past the last layer's keys and values only the rows that are drawn from matter
			d.gather(ops, h, x)
			x, h, att = h.Slice(0, want), x.Slice(0, want), att.Slice(0, want)
		}
		d.attend(ops, l, att, qkv.Columns(0, q), x.Rows < n)
		up, mid := d.up.Slice(0, x.Rows), d.mid.Slice(0, x.Rows)
		ops.Linear(x, att, l.out, compute.LinearArgs{Residual: x})
		ops.RMSNorm(h, x, l.norm2, c.Eps)
		ops.Linear(up, h, l.gateUp, compute.LinearArgs{})
		ops.SwiGLU(mid, up)
		ops.Linear(x, mid, l.mlp, compute.LinearArgs{Residual: x})
	}
	ops.RMSNorm(h, x, d.norm, c.Eps)
	logits := d.logits.Slice(0, want)
	ops.Linear(logits, h, d.head, compute.LinearArgs{})
	ops.Download(compute.Matrix{Rows: want, Cols: c.Vocab, Data: d.out.Data[:want*c.Vocab]}, logits)
	d.tell(ops)
}

// told is a segment's part of shares: its layers, of its ranges; none where it is not asked, or the device cannot tell. i is its place in the pass.
func (d *opsDecoder) told(ops compute.Ops, i int) compute.Tensor {
	s := d.segments[i].Shares
	if s == nil || i >= opsStepRows || s.From < 0 || s.From >= d.c.Layers || len(s.Bounds) < 2 || len(s.Bounds)-1 > opsShares || len(d.segments[i].Draws) == 0 {
		return compute.Tensor{}
	}
	if _, ok := ops.(compute.Sharer); !ok {
		return compute.Tensor{}
	}
	return d.shares.Slice(i*d.c.Layers+s.From, (i+1)*d.c.Layers).Columns(0, len(s.Bounds)-1)
}

// share finds what the last rows of segments that ask for it attend to in a layer, whose keys are stored.
func (d *opsDecoder) share(ops compute.Ops, i int, q compute.Tensor) {
	end := 0
	for n := range d.segments {
		s := &d.segments[n]
		end += s.Rows()
		if s.Shares == nil || i < s.Shares.From {
			continue
		}
		if to := d.told(ops, n); !to.None() {
			at := i - s.Shares.From
			ops.(compute.Sharer).Shares(to.Slice(at, at+1), q.Slice(end-1, end), d.layers[i].k, compute.ShareArgs{
				Heads: d.c.Heads, KVHeads: d.c.KVHeads, HeadDim: d.c.HeadDim, Past: s.Past + s.Rows() - 1, Pages: s.Pages, Bounds: s.Shares.Bounds,
			})
		}
	}
}

// tell hands out what share found.
func (d *opsDecoder) tell(ops compute.Ops) {
	for n := range d.segments {
		if from := d.told(ops, n); !from.None() {
			s := d.segments[n].Shares
			s.Layers = compute.NewMatrix(from.Rows, from.Cols)
			ops.Download(s.Layers, from)
		}
	}
}

// store writes the new rows' keys and values to their pages.
func (d *opsDecoder) store(ops compute.Ops, l *layer, k, v compute.Tensor) {
	at := 0
	for i := range d.segments {
		s := &d.segments[i]
		for from, end := s.Past, s.Past+s.Rows(); from < end; {
			to := min((from/pageRows+1)*pageRows, end)
			first, n := int(s.Pages[from/pageRows])*pageRows+from%pageRows, to-from
			ops.Copy(l.k.Slice(first, first+n), k.Slice(at, at+n))
			ops.Copy(l.v.Slice(first, first+n), v.Slice(at, at+n))
			at, from = at+n, to
		}
	}
}

// attend runs attention for every segment: of all its rows, or only of those that are drawn from, one after another in att.
func (d *opsDecoder) attend(ops compute.Ops, l *layer, att, q compute.Tensor, wanted bool) {
	args := compute.AttentionArgs{Heads: d.c.Heads, KVHeads: d.c.KVHeads, HeadDim: d.c.HeadDim, Causal: true, Rounded: d.c.Weights != compute.F32}
	at, start := 0, 0
	for i := range d.segments {
		s := &d.segments[i]
		skip, n := 0, s.Rows()
		if wanted {
			skip = n - len(s.Draws)
		}
		if skip < n {
			args.Past, args.Pages = s.Past+skip, s.Pages
			ops.Attention(att.Slice(at, at+n-skip), q.Slice(start+skip, start+n), l.k, l.v, args)
		}
		at, start = at+n-skip, start+n
	}
}

// gather copies the rows that are drawn from, one after another.
func (d *opsDecoder) gather(ops compute.Ops, dst, src compute.Tensor) {
	at, end := 0, 0
	for i := range d.segments {
		s := &d.segments[i]
		end += s.Rows()
		n := len(s.Draws)
		ops.Copy(dst.Slice(at, at+n), src.Slice(end-n, end))
		at += n
	}
}
