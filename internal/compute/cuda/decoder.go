//go:build cuda

package cuda

import (
	"context"
	"errors"
	"fmt"
	"math"

	"afterimage/internal/compute"
)

// decoder is a compute.Decoder. A pass of up to stepRows rows is a recorded graph of kernels made for few rows, whose every result
// depends on its own sequence only; a larger one is large products and prefill attention, launched one by one. Everything is
// allocated when it is made, except what large products need for themselves. What is below is touched on the device's thread only.
type decoder struct {
	d *device
	c compute.DecoderConfig // as given
	decoderShape
	limits compute.DecoderLimits
	memory []devptr // all that free gives back, weights in skinny's own memory aside

	table  devptr // bf16 [vocab][hidden], the embedding
	weave  devptr // int32 [2*mlp], the order of rows of gate and up projections in gemm.swiglu
	turns  turns
	layers []decoderLayer
	norm   devptr // f32 [hidden]
	head   *skinny

	pools devptr // bf16 [layers][k, v][page][kvHeads][64][headDim]

	step    stepBuffers
	prefill prefillBuffers
	closed  bool
}

// decoderShape is what the buffers hold: the config's sizes, widened with zeros to what the kernels want. A widened hidden row has
// the same sum of squares over more columns, so norms' weights and eps are scaled to make up for it.
type decoderShape struct {
	hidden, heads, kvHeads, headDim, mlp, vocab int
	q, kv, qkv                                  int // columns
	eps                                         float32
	normScale                                   float32 // of the norms' weights
	scale                                       float32 // of attention's scores
	pageBytes                                   int64   // a page in one pool
	poolBytes                                   int64
}

type decoderLayer struct {
	norm1, norm2, bias     devptr // f32; bias 0 where there is none
	kv                     decodeKV
	qkv, out, gateUp, down matrix
}

// matrix is a weight twice: packed for few rows and, where memory allowed it, as large products take it.
type matrix struct {
	few   *skinny
	dense devptr // bf16 [out][in]; 0: unpacked into scratch when it is needed
}

const (
	stepRows     = skinnyRows
	maxSegments  = stepRows
	maxTreeRows  = 32
	widen        = 128 // columns are widened to multiples of this: what int4's groups need
	defaultChunk = 16384
	leanChunk    = 2048 // a longer pass hides its reading of the weights no better
	pieceRows    = 16   // of what is recorded: products of 32 rows take more than twice as long as those of 16
	unpackRows   = 128  // passes up to this go through the kernels for few rows where weights are not held dense
)

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// nativeHead is the head size that the kernels compute heads of d as, or 0.
func nativeHead(d int) int {
	for _, n := range []int{64, 80, 96, 128} {
		if d <= n {
			return n
		}
	}
	return 0
}

func newDecoderShape(c compute.DecoderConfig) (decoderShape, error) {
	var s decoderShape
	bad := func(format string, args ...any) (decoderShape, error) {
		return s, fmt.Errorf("cuda: decoder: "+format, args...)
	}
	for _, v := range []struct {
		name string
		n    int
	}{{"hidden size", c.Hidden}, {"layers", c.Layers}, {"heads", c.Heads}, {"K/V heads", c.KVHeads}, {"head size", c.HeadDim},
		{"MLP size", c.MLP}, {"vocabulary", c.Vocab}, {"context", c.Context}} {
		if v.n < 1 || v.n > 1<<24 {
			return bad("%s is %d", v.name, v.n)
		}
	}
	switch {
	case c.Heads%c.KVHeads != 0:
		return bad("%d heads do not share %d K/V heads evenly", c.Heads, c.KVHeads)
	case c.HeadDim%2 != 0 || nativeHead(c.HeadDim) == 0:
		return bad("heads of %d: only even sizes to 128: %w", c.HeadDim, errors.ErrUnsupported)
	case c.Weights != compute.BF16 && c.Weights != compute.I8 && c.Weights != compute.I4:
		return bad("weights as %v: %w", c.Weights, errors.ErrUnsupported)
	case c.Pages < 0 || c.Pages > 1<<24:
		return bad("%d pages", c.Pages)
	}
	if err := c.CheckTurns(); err != nil {
		return bad("%w", err)
	}
	s = decoderShape{
		hidden: roundUp(c.Hidden, widen), heads: c.Heads, kvHeads: c.KVHeads, headDim: nativeHead(c.HeadDim),
		mlp: roundUp(c.MLP, widen), vocab: c.Vocab,
	}
	s.q, s.kv = s.heads*s.headDim, s.kvHeads*s.headDim
	s.qkv = s.q + 2*s.kv
	share := float64(c.Hidden) / float64(s.hidden)
	s.eps, s.normScale = float32(float64(c.Eps)*share), float32(math.Sqrt(share))
	s.scale = float32(1 / math.Sqrt(float64(c.HeadDim)))
	s.pageBytes = int64(s.kv) * compute.PageRows * 2
	return s, nil
}

// NewDecoder implements compute.Decoders.
func (d *device) NewDecoder(ctx context.Context, c compute.DecoderConfig, w compute.DecoderWeights) (compute.Decoder, error) {
	shape, err := newDecoderShape(c)
	if err != nil {
		return nil, err
	}
	m := &decoder{d: d, c: c, decoderShape: shape}
	err = d.do(ctx, "decoder", func(s *stream) error {
		err := m.load(ctx, s, w)
		if err == nil {
			err = s.err
		}
		if err != nil {
			_ = s.cu.sync() // nothing may still use what is freed now
			m.free()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// load allocates and fills everything: weights first, then buffers, then K/V out of what is left.
func (m *decoder) load(ctx context.Context, s *stream, w compute.DecoderWeights) error {
	before, _, err := memInfo()
	if err != nil {
		return err
	}
	if err := m.loadWeights(ctx, s, w); err != nil {
		return err
	}
	loaded, _, err := memInfo()
	if err != nil {
		return err
	}
	if err := m.newStep(); err != nil {
		return fmt.Errorf("buffers: %w", err)
	}
	if err := m.newPages(s); err != nil {
		return err
	}
	after, _, err := memInfo()
	if err != nil {
		return err
	}
	m.limits = compute.DecoderLimits{
		Pages: m.limits.Pages, StepRows: stepRows, ChunkRows: m.prefill.rows, Segments: maxSegments, Bytes: before - after,
		Weights: before - loaded, KV: 2 * int64(m.c.Layers) * m.poolBytes,
	}
	return nil
}

// newPages takes K/V and the buffers of large passes. Buffers are for as many rows as take at most a sixteenth of what is free.
func (m *decoder) newPages(s *stream) error {
	free, _, err := memInfo()
	if err != nil {
		return err
	}
	perPage := m.pageBytes * 2 * int64(m.c.Layers)
	one := (m.c.Context + compute.PageRows - 1) / compute.PageRows
	rows := min(roundUp(m.c.Context, compute.PageRows), defaultChunk)
	if m.c.Lean {
		rows = min(rows, leanChunk)
	}
	for rows > 512 && m.prefillBytes(rows) > free/16 {
		rows = roundUp(rows/2, compute.PageRows)
	}
	if err := m.newPrefill(rows); err != nil {
		return fmt.Errorf("buffers of passes of %d rows, %d bytes: %w", rows, m.prefillBytes(rows), err)
	}
	if err := m.newTurns(s, m.prefill.rows); err != nil {
		return fmt.Errorf("rotary table: %w", err)
	}
	pages := m.c.Pages
	if pages == 0 && m.c.Lean {
		pages = one
	}
	if pages == 0 {
		if free, _, err = memInfo(); err != nil {
			return err
		}
		// Others may want memory later; and more than a few dozen full conversations are not worth holding it.
		pages = max(one, min(int(free*6/10/perPage), 32*one))
	}
	m.poolBytes = int64(pages) * m.pageBytes
	if m.pools, err = m.alloc(int64(pages) * perPage); err != nil {
		return fmt.Errorf("K/V of %d pages, %d bytes (one context of %d positions takes %d pages): %w",
			pages, int64(pages)*perPage, m.c.Context, one, err)
	}
	s.zero(m.pools, int64(pages)*perPage) // a kernel may multiply rows that are not there yet by zero
	m.limits.Pages = pages
	for i := range m.layers {
		if m.layers[i].kv, err = m.step.attention.kv(m.pool(i, 0), m.pool(i, 1), pages); err != nil {
			return err
		}
	}
	return nil
}

// alloc is the device's, freed with the decoder.
func (m *decoder) alloc(bytes int64) (devptr, error) {
	p, err := m.d.alloc(bytes)
	if err == nil {
		m.memory = append(m.memory, p)
	}
	return p, err
}

func (m *decoder) pool(layer, kv int) devptr { return m.pools + devptr(int64(2*layer+kv)*m.poolBytes) }

func (m *decoder) Limits() compute.DecoderLimits { return m.limits }

var errDecoderClosed = errors.New("cuda: decoder is closed")

// Forward implements compute.Decoder.
func (m *decoder) Forward(ctx context.Context, pass []compute.Segment) error {
	if err := m.check(pass); err != nil {
		return fmt.Errorf("cuda: Forward: %w", err)
	}
	return m.d.do(ctx, "Forward", func(s *stream) error {
		if m.closed {
			return errDecoderClosed
		}
		return m.forward(s, pass)
	})
}

// forward deals a pass out: trees go with kernels for few rows whatever the size of the pass, and so does everything while that is
// less work than unpacking weights would be.
func (m *decoder) forward(s *stream, pass []compute.Segment) error {
	total := 0
	for i := range pass {
		total += pass[i].Rows()
	}
	var few, many []compute.Segment
	for _, g := range pass {
		if total <= stepRows || g.Parents != nil || m.prefill.attention == nil || m.layers[0].qkv.dense == 0 && total <= unpackRows {
			few = append(few, g)
		} else {
			many = append(many, g)
		}
	}
	for len(few) > 0 {
		part, rest := takeRows(few, pieceRows)
		if len(part) == 0 { // a large tree, which stays whole
			part, rest = few[:1], few[1:]
		}
		if err := m.runStep(s, part); err != nil {
			return err
		}
		few = rest
	}
	if len(many) == 0 {
		return nil
	}
	return m.runPrefill(s, many)
}

// check refuses what would reach outside the buffers.
func (m *decoder) check(pass []compute.Segment) error {
	if len(pass) > maxSegments {
		return fmt.Errorf("%d segments, at most %d", len(pass), maxSegments)
	}
	total := 0
	for i := range pass {
		g := &pass[i]
		n := g.Rows()
		total += n
		if err := m.checkSegment(g, n); err != nil {
			return fmt.Errorf("segment %d: %w", i, err)
		}
	}
	if total > m.limits.ChunkRows {
		return fmt.Errorf("%d rows, at most %d", total, m.limits.ChunkRows)
	}
	return nil
}

func (m *decoder) checkSegment(g *compute.Segment, n int) error {
	switch {
	case n == 0:
		return errors.New("no rows")
	case g.Past < 0 || g.Past+n > m.c.Context:
		return fmt.Errorf("%d rows after %d: the context has %d", n, g.Past, m.c.Context)
	case len(g.Pages)*compute.PageRows < g.Past+n:
		return fmt.Errorf("%d pages for %d rows after %d", len(g.Pages), n, g.Past)
	case len(g.Draws) > n:
		return fmt.Errorf("%d draws of %d rows", len(g.Draws), n)
	case len(g.Drawn) < len(g.Draws):
		return fmt.Errorf("room for %d drawn tokens of %d", len(g.Drawn), len(g.Draws))
	case g.Logits != nil && (g.Logits.Rows != len(g.Draws) || g.Logits.Cols != m.c.Vocab || len(g.Logits.Data) < g.Logits.Rows*g.Logits.Cols):
		return fmt.Errorf("logits [%d %d] for %d rows of %d", g.Logits.Rows, g.Logits.Cols, len(g.Draws), m.c.Vocab)
	case g.Parents != nil && (len(g.Parents) != n || n > maxTreeRows):
		return fmt.Errorf("%d parents of %d rows, of at most %d", len(g.Parents), n, maxTreeRows)
	}
	for _, p := range g.Pages {
		if p < 0 || int(p) >= m.limits.Pages {
			return fmt.Errorf("page %d of %d", p, m.limits.Pages)
		}
	}
	if err := m.c.CheckPositions(g); err != nil {
		return err
	}
	for i, p := range g.Parents {
		if p < -1 || int(p) >= i {
			return fmt.Errorf("row %d follows row %d", i, p)
		}
	}
	for i, d := range g.Draws {
		if !(d.Temperature >= 0) || !(d.U >= 0 && d.U < 1) || d.TopP != d.TopP {
			return fmt.Errorf("draw %d: %+v", i, d)
		}
	}
	for _, in := range g.Inputs {
		if in.IDs == nil {
			if in.Visual.Cols != m.c.Hidden || len(in.Visual.Data) < in.Visual.Rows*in.Visual.Cols {
				return fmt.Errorf("visual rows [%d %d], hidden size %d", in.Visual.Rows, in.Visual.Cols, m.c.Hidden)
			}
			continue
		}
		for _, id := range in.IDs {
			if id < 0 || int(id) >= m.c.Vocab {
				return fmt.Errorf("token %d of %d", id, m.c.Vocab)
			}
		}
	}
	return nil
}

// CopyPages implements compute.Decoder.
func (m *decoder) CopyPages(ctx context.Context, to, from []int32) error {
	if len(to) != len(from) {
		return fmt.Errorf("cuda: CopyPages: %d pages to %d", len(from), len(to))
	}
	touched := map[int32]int{} // 1 read, 2 written
	ordered := false           // a page is met twice: one after the other then
	for i := range to {
		for _, p := range []int32{to[i], from[i]} {
			if p < 0 || int(p) >= m.limits.Pages {
				return fmt.Errorf("cuda: CopyPages: page %d of %d", p, m.limits.Pages)
			}
		}
		ordered = ordered || touched[to[i]] != 0 || touched[from[i]]&2 != 0
		touched[from[i]] |= 1
		touched[to[i]] |= 2
	}
	return m.d.do(ctx, "CopyPages", func(s *stream) error {
		if m.closed {
			return errDecoderClosed
		}
		n := m.step.copyPairs()
		if ordered {
			n = 1
		}
		for ; len(to) > 0; to, from = to[min(n, len(to)):], from[min(n, len(from)):] {
			k := min(n, len(to))
			pairs := m.step.pairs
			s.upload(pairs, bytesOf(to[:k]))
			s.upload(pairs+devptr(4*k), bytesOf(from[:k]))
			s.passCopy(m.pools, pairs, pairs+devptr(4*k), k, int(m.pageBytes), m.poolBytes, 2*m.c.Layers)
		}
		return nil
	})
}

// Close implements compute.Decoder. A lost device has nothing left to give back.
func (m *decoder) Close() error {
	err := m.d.do(context.Background(), "decoder", func(*stream) error {
		if !m.closed {
			m.closed = true
			m.free()
		}
		return nil
	})
	if errors.Is(err, compute.ErrDeviceLost) || errors.Is(err, errClosed) {
		return nil
	}
	return err
}

func (m *decoder) free() {
	m.step.close(m.d)
	if m.prefill.attention != nil {
		m.prefill.attention.close()
	}
	for _, l := range m.layers {
		for _, w := range []matrix{l.qkv, l.out, l.gateUp, l.down} {
			m.d.freeSkinny(w.few)
		}
	}
	m.d.freeSkinny(m.head)
	for _, p := range m.memory {
		m.d.free(p)
	}
	m.memory, m.layers, m.head, m.prefill = nil, nil, nil, prefillBuffers{}
}
