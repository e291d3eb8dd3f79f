//go:build cuda

package cuda

import (
	"context"
	"fmt"
	"math"

	"afterimage/internal/compute"
)

// loader fills a decoder's weights: each matrix is first made in scratch, bf16 and widened, whether from a checkpoint or from noise,
// and from there packed for few rows and copied for large products.
type loader struct {
	m       *decoder
	s       *stream
	w       compute.DecoderWeights // nil: noise
	seed    uint64
	scratch devptr // bf16, of the largest matrix
	weave   devptr // int32 [2*mlp], see gemm.swiglu
	dense   bool
}

// loadWeights loads part by part; cancelling ctx ends it between two.
func (m *decoder) loadWeights(ctx context.Context, s *stream, w compute.DecoderWeights) error {
	free, _, err := memInfo()
	if err != nil {
		return err
	}
	l := &loader{m: m, s: s, w: w, seed: m.c.Seed}
	need, layers, largest, table := m.weightBytes()
	if need+largest > free {
		return fmt.Errorf("cuda: decoder: weights as %v take %d bytes and %d while loading, %d are free: %w",
			m.c.Weights, need, largest, free, compute.ErrNoMemory)
	}
	// A second copy as large products take it spares unpacking a layer in each large pass. Worth it while most memory stays free.
	l.dense = !m.c.Lean && m.c.Weights == compute.BF16 && need+largest+layers < free/2
	defer func() { _ = l.room(0) }()
	if err := l.makeWeave(); err != nil {
		return err
	}
	if err := l.room(table); err != nil {
		return err
	}
	if err := l.loadTables(); err != nil {
		return fmt.Errorf("weights: %w", err)
	}
	if err := l.room(largest); err != nil {
		return err
	}
	m.layers = make([]decoderLayer, m.c.Layers)
	for i := range m.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.loadLayer(i, &m.layers[i]); err != nil {
			return fmt.Errorf("weights of layer %d: %w", i, err)
		}
	}
	return nil
}

// room makes scratch as large as what comes next needs it. It gives back what there was first: a head's beside all layers would be most
// of what loading takes on top of the weights.
func (l *loader) room(bytes int64) (err error) {
	_ = l.s.cu.sync()
	l.m.d.free(l.scratch)
	if l.scratch = 0; bytes == 0 {
		return nil
	}
	if l.scratch, err = l.m.d.alloc(bytes); err != nil {
		return fmt.Errorf("loading weights: %w", err)
	}
	return nil
}

// weightBytes estimates what weights take: all of them packed, the layers' alone in bf16, and in bf16 the largest matrix of a layer and the
// embedding table.
func (m *decoder) weightBytes() (packed, dense, largest, table int64) {
	count := func(out, in int) int64 {
		n := int64(out) * int64(in)
		largest = max(largest, 2*n)
		return n
	}
	words := int64(m.headRows()) * int64(m.hidden)
	layer := count(m.qkv, m.hidden) + count(m.hidden, m.q) + count(2*m.mlp, m.hidden) + count(m.hidden, m.mlp)
	all := layer*int64(m.c.Layers) + words
	switch m.c.Weights {
	case compute.I8:
		packed = all
	case compute.I4:
		packed = all/2 + all/32
	default:
		packed = 2 * all
	}
	return packed + 2*words, 2 * layer * int64(m.c.Layers), largest, 2 * words
}

// headRows is the vocabulary with zeros behind it, as the products like it.
func (m *decoder) headRows() int { return roundUp(m.vocab, 64) }

func (l *loader) makeWeave() (err error) {
	m := l.m
	index := make([]int32, 2*m.mlp)
	for i := range index {
		index[i] = int32(i/8%2*m.mlp + i/16*8 + i%8)
	}
	if l.weave, err = m.alloc(int64(len(index)) * 4); err == nil {
		l.s.upload(l.weave, bytesOf(index))
		m.weave = l.weave
	}
	return err
}

func (l *loader) loadTables() (err error) {
	m := l.m
	if m.table, err = m.alloc(int64(m.headRows()) * int64(m.hidden) * 2); err != nil {
		return fmt.Errorf("embedding table: %w", err)
	}
	shape := place{rows: m.vocab, cols: m.c.Hidden, outRows: m.headRows(), outCols: m.hidden, row: unspread(m.vocab), col: unspread(m.c.Hidden)}
	if err := l.fill(m.table, compute.PartEmbed, 0, shape); err != nil {
		return err
	}
	from := m.table
	if !m.c.Tied {
		if err := l.fill(l.scratch, compute.PartHead, 0, shape); err != nil {
			return err
		}
		from = l.scratch
	}
	if m.head, err = m.d.newSkinny(shape.outRows, shape.outCols, m.c.Weights, rowsPlain, 0); err != nil {
		return fmt.Errorf("head: %w", err)
	}
	l.s.packSkinny(m.head, from, compute.BF16, m.hidden, 0, shape.outRows)
	if m.norm, err = l.vector(compute.PartNorm, 0, m.c.Hidden, m.hidden, unspread(m.c.Hidden), m.normScale); err != nil {
		return err
	}
	return nil
}

func (l *loader) loadLayer(i int, n *decoderLayer) (err error) {
	m, c := l.m, &l.m.c
	heads := spreadHeads(c.HeadDim, m.headDim)
	if n.norm1, err = l.vector(compute.PartNorm1, i, c.Hidden, m.hidden, unspread(c.Hidden), m.normScale); err != nil {
		return err
	}
	if n.norm2, err = l.vector(compute.PartNorm2, i, c.Hidden, m.hidden, unspread(c.Hidden), m.normScale); err != nil {
		return err
	}
	qkv := (c.Heads + 2*c.KVHeads) * c.HeadDim
	if c.QKVBias {
		if n.bias, err = l.vector(compute.PartQKVBias, i, qkv, m.qkv, heads, 1); err != nil {
			return err
		}
	}
	for _, w := range []struct {
		to    *matrix
		part  compute.DecoderPart
		order rowOrder
		at    place
	}{
		{&n.qkv, compute.PartQKV, rowsPaired, place{qkv, c.Hidden, m.qkv, m.hidden, heads, unspread(c.Hidden)}},
		{&n.out, compute.PartOut, rowsPlain, place{c.Hidden, c.Heads * c.HeadDim, m.hidden, m.q, unspread(c.Hidden), heads}},
		{&n.gateUp, compute.PartGateUp, rowsGated, place{2 * c.MLP, c.Hidden, 2 * m.mlp, m.hidden, spreadBlocks(c.MLP, m.mlp), unspread(c.Hidden)}},
		{&n.down, compute.PartDown, rowsPlain, place{c.Hidden, c.MLP, m.hidden, m.mlp, unspread(c.Hidden), unspread(c.MLP)}},
	} {
		if err := l.matrix(w.to, w.part, i, w.order, w.at); err != nil {
			return err
		}
	}
	return nil
}

// place says where the elements of a part go: from [rows, cols] to the wider [outRows, outCols], zeros between.
type place struct {
	rows, cols, outRows, outCols int
	row, col                     spread
}

// matrix loads one into its forms.
func (l *loader) matrix(to *matrix, p compute.DecoderPart, layer int, order rowOrder, at place) (err error) {
	m, s := l.m, l.s
	if err := l.fill(l.scratch, p, layer, at); err != nil {
		return err
	}
	if to.few, err = m.d.newSkinny(at.outRows, at.outCols, m.c.Weights, order, m.headDim); err != nil {
		return err
	}
	s.packSkinny(to.few, l.scratch, compute.BF16, at.outCols, 0, at.outRows)
	if !l.dense {
		return s.err
	}
	bytes := int64(at.outRows) * int64(at.outCols) * 2
	if to.dense, err = m.alloc(bytes); err != nil {
		return err
	}
	if p == compute.PartGateUp {
		s.passGather(to.dense, l.scratch, l.weave, at.outRows, at.outCols*2, at.outCols*2, at.outCols*2)
	} else {
		s.copy(to.dense, l.scratch, bytes)
	}
	return s.err
}

// fill writes a part, widened, to dst bf16.
func (l *loader) fill(dst devptr, p compute.DecoderPart, layer int, at place) error {
	s := l.s
	if l.w == nil {
		// Noise that keeps the size of what goes through it.
		l.seed += 0x9e3779b97f4a7c15
		s.passRandom(dst, int64(at.outRows)*int64(at.outCols), l.seed, 1/math.Sqrt(float64(at.cols)))
		return s.err
	}
	part, err := l.part(p, layer, at.rows, at.cols)
	if err != nil {
		return err
	}
	if at.rows != at.outRows || at.cols != at.outCols {
		s.zero(dst, int64(at.outRows)*int64(at.outCols)*2)
	}
	l.convert(dst, false, part, at, 1)
	return s.err
}

// vector loads a row of float32.
func (l *loader) vector(p compute.DecoderPart, layer, cols, outCols int, col spread, scale float32) (devptr, error) {
	v, err := l.m.alloc(int64(outCols) * 4)
	if err != nil {
		return 0, err
	}
	l.s.zero(v, int64(outCols)*4)
	part := compute.Matrix{}
	if l.w != nil {
		if part, err = l.part(p, layer, 1, cols); err != nil {
			return 0, err
		}
	} else {
		part = compute.NewMatrix(1, cols)
		for i := range part.Data {
			if p != compute.PartQKVBias {
				part.Data[i] = 1
			}
		}
	}
	l.convert(v, true, part, place{1, cols, 1, outCols, unspread(1), col}, scale)
	return v, l.s.err
}

func (l *loader) part(p compute.DecoderPart, layer, rows, cols int) (compute.Matrix, error) {
	part, err := l.w.Part(p, layer)
	if err != nil {
		return part, err
	}
	if part.Rows != rows || part.Cols != cols || len(part.Data) < rows*cols {
		return part, fmt.Errorf("cuda: decoder: part %d of layer %d: want [%d %d], have [%d %d]", p, layer, rows, cols, part.Rows, part.Cols)
	}
	return part, nil
}

// convert brings a part to the device a few rows at a time and writes each to its place in dst.
func (l *loader) convert(dst devptr, wide bool, part compute.Matrix, at place, scale float32) {
	s := l.s
	rows := min(part.Rows, max(1, stagingHalf/4/part.Cols))
	a := passConvertArgs{dst: dst, cols: int32(part.Cols), dstStride: int64(at.outCols), row: at.row, col: at.col, scale: scale}
	if wide {
		a.wide = 1
	}
	for from := 0; from < part.Rows && s.err == nil; from += rows {
		n := min(rows, part.Rows-from)
		a.src = s.scratch(scratchHost, int64(n)*int64(part.Cols)*4)
		s.upload(a.src, bytesOf(part.Data[from*part.Cols:(from+n)*part.Cols]))
		a.rows, a.row0 = int32(n), int32(from)
		start(s, "pass_convert", rowGrid(n), [3]uint32{256, 1, 1}, 0, &a, 0)
	}
}
