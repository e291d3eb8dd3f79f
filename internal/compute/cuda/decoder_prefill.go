//go:build cuda

package cuda

import (
	"errors"

	"afterimage/internal/compute"
)

// prefillBuffers are what passes of many rows work in.
type prefillBuffers struct {
	rows              int
	x                 devptr // f32 [rows][hidden], the residual stream
	h, att            devptr // bf16 [rows][hidden], [rows][q]
	qkv               devptr // bf16 [rows][qkv]
	mid               devptr // bf16 [rows][mlp]
	ids, place        devptr // int32 [rows]; [2][rows] rows of turns, then slots
	pick              devptr // int32 [stepRows]
	unpacked, unwoven devptr // bf16, the layer's largest matrix; where weights are not held dense

	hostIDs, hostPlace []int32
	attention          *prefillPlan
}

func (m *decoder) prefillSizes(b *prefillBuffers, rows int) map[*devptr]int64 {
	n := int64(rows)
	sizes := map[*devptr]int64{
		&b.x: n * int64(m.hidden) * 4, &b.h: n * int64(m.hidden) * 2, &b.att: n * int64(m.q) * 2, &b.qkv: n * int64(m.qkv) * 2,
		&b.mid: n * int64(m.mlp) * 2, &b.ids: n * 4, &b.place: 2 * n * 4, &b.pick: stepRows * 4,
	}
	if m.layers[0].qkv.dense == 0 {
		sizes[&b.unwoven] = int64(2*m.mlp) * int64(m.hidden) * 2
		sizes[&b.unpacked] = max(sizes[&b.unwoven], int64(m.qkv)*int64(m.hidden)*2)
	}
	return sizes
}

func (m *decoder) prefillBytes(rows int) (bytes int64) {
	for _, n := range m.prefillSizes(&prefillBuffers{}, rows) {
		bytes += n
	}
	return bytes
}

// newPrefill takes the buffers. Without a kernel for attention of many rows on this GPU there are none, and every pass goes through the
// kernels for few rows, 32 rows at a time.
func (m *decoder) newPrefill(rows int) error {
	b := &m.prefill
	*b = prefillBuffers{rows: rows}
	plan, err := m.d.newPrefillPlan(prefillShape{heads: m.heads, kvHeads: m.kvHeads, headDim: m.headDim, causal: true})
	if errors.Is(err, errNoPrefill) {
		return nil
	}
	if err != nil {
		return err
	}
	b.attention, b.hostIDs, b.hostPlace = plan, make([]int32, rows), make([]int32, 2*rows)
	for to, bytes := range m.prefillSizes(b, rows) {
		if *to, err = m.alloc(bytes); err != nil {
			return err
		}
	}
	return nil
}

// runPrefill runs a pass of any number of rows, none of them in trees. Beyond the last layer's keys and values only the wanted rows
// go on, through the kernels for few rows.
func (m *decoder) runPrefill(s *stream, pass []compute.Segment) error {
	rows := m.placeRows(s, pass)
	b := &m.prefill
	segs, pages := pagedPrefill(pass)
	if err := b.attention.set(s, segs, pages); err != nil {
		return err
	}
	for i := range m.layers {
		l := &m.layers[i]
		s.passNorm(b.h, b.x, l.norm1, rows, m.hidden, m.eps)
		s.gemm(gemm{rows: rows, out: m.qkv, in: m.hidden, x: b.h, ldx: m.hidden, w: m.dense(s, l.qkv, m.qkv, m.hidden), ldw: m.hidden,
			dst: b.qkv, ldd: m.qkv, as: compute.BF16, bias: l.bias})
		s.passRope(passRopeArgs{qkv: b.qkv, k: m.pool(i, 0), v: m.pool(i, 1), table: m.turns.table, position: b.place,
			slot: b.place + devptr(4*b.rows), rows: int32(rows), stride: int32(m.qkv), heads: int32(m.heads), kvHeads: int32(m.kvHeads),
			headDim: int32(m.headDim)})
		if i == len(m.layers)-1 {
			break
		}
		head, page := int64(compute.PageRows*m.headDim), int64(m.pageBytes/2)
		b.attention.run(s, prefillCall{
			q: prefillTensor{b.qkv, int64(m.qkv), int64(m.headDim), 0}, out: prefillTensor{b.att, int64(m.q), int64(m.headDim), 0},
			k: prefillTensor{m.pool(i, 0), int64(m.headDim), head, page}, v: prefillTensor{m.pool(i, 1), int64(m.headDim), head, page},
			kvRows: compute.PageRows, kvSegs: m.limits.Pages, scale: float64(m.scale),
		})
		s.gemm(gemm{rows: rows, out: m.hidden, in: m.q, x: b.att, ldx: m.q, w: m.dense(s, l.out, m.hidden, m.q), ldw: m.q,
			dst: b.x, ldd: m.hidden, as: compute.F32, add: true})
		s.passNorm(b.h, b.x, l.norm2, rows, m.hidden, m.eps)
		s.gemm(gemm{rows: rows, out: 2 * m.mlp, in: m.hidden, x: b.h, ldx: m.hidden, w: m.denseGateUp(s, l.gateUp), ldw: m.hidden,
			dst: b.mid, ldd: m.mlp, as: compute.BF16, swiglu: true})
		s.gemm(gemm{rows: rows, out: m.hidden, in: m.mlp, x: b.mid, ldx: m.mlp, w: m.dense(s, l.down, m.hidden, m.mlp), ldw: m.mlp,
			dst: b.x, ldd: m.hidden, as: compute.F32, add: true})
	}
	return m.drawWanted(s, pass)
}

// placeRows makes the residual stream of the pass's inputs and says where their keys and values go. It returns how many there are.
func (m *decoder) placeRows(s *stream, pass []compute.Segment) int {
	b := &m.prefill
	n := 0
	m.turns.begin()
	for i := range pass {
		g := &pass[i]
		at := g.Past
		for _, in := range g.Inputs {
			for r := range in.Rows() {
				b.hostIDs[n] = -1 // given as it is
				if in.IDs != nil {
					b.hostIDs[n] = in.IDs[r]
				}
				b.hostPlace[n] = int32(at)
				if g.Positions != nil {
					b.hostPlace[n] = m.turns.row(g.Positions[at-g.Past])
				}
				b.hostPlace[b.rows+n] = g.Pages[at/compute.PageRows]*compute.PageRows + int32(at%compute.PageRows)
				n, at = n+1, at+1
			}
		}
	}
	s.upload(b.ids, bytesOf(b.hostIDs[:n]))
	s.upload(b.place, bytesOf(b.hostPlace[:n]))
	s.upload(b.place+devptr(4*b.rows), bytesOf(b.hostPlace[b.rows:b.rows+n]))
	m.turns.send(s)
	s.passEmbed(b.x, m.table, 0, b.ids, n, m.hidden)
	n = 0
	for i := range pass {
		for _, in := range pass[i].Inputs {
			if in.IDs == nil {
				m.uploadRows(s, b.x+devptr(n*m.hidden*4), in.Visual)
			}
			n += in.Rows()
		}
	}
	return n
}

// uploadRows brings embeddings to rows of hidden columns.
func (m *decoder) uploadRows(s *stream, dst devptr, rows compute.Matrix) {
	if rows.Cols == m.hidden {
		s.upload(dst, bytesOf(rows.Data[:rows.Rows*rows.Cols]))
		return
	}
	s.zero(dst, int64(rows.Rows)*int64(m.hidden)*4)
	for r := range rows.Rows {
		s.upload(dst+devptr(r*m.hidden*4), bytesOf(rows.Row(r)))
	}
}

// dense is a weight as large products take it: its copy, or unpacked into scratch that the next one overwrites.
func (m *decoder) dense(s *stream, w matrix, out, in int) devptr {
	if w.dense != 0 {
		return w.dense
	}
	s.unpackSkinny(m.prefill.unpacked, in, w.few, 0, out)
	return m.prefill.unpacked
}

// denseGateUp is the same with rows in the order that gemm.swiglu wants.
func (m *decoder) denseGateUp(s *stream, w matrix) devptr {
	if w.dense != 0 {
		return w.dense
	}
	b := &m.prefill
	s.unpackSkinny(b.unwoven, m.hidden, w.few, 0, 2*m.mlp)
	s.passGather(b.unpacked, b.unwoven, m.weave, 2*m.mlp, 2*m.hidden, 2*m.hidden, 2*m.hidden)
	return b.unpacked
}

// drawWanted takes the wanted rows, whose queries in the last layer are in qkv, through what is left of that layer, as many at a time
// as the kernels for few rows take.
func (m *decoder) drawWanted(s *stream, pass []compute.Segment) error {
	var group []compute.Segment // of wanted rows: rows before them are past
	var pick []int32            // their rows in this pass
	flush := func() error {
		if len(pick) == 0 {
			return s.err
		}
		err := m.drawGroup(s, group, pick)
		group, pick = group[:0], pick[:0]
		return err
	}
	first := 0
	for _, g := range pass {
		n := g.Rows()
		for from := n - len(g.Draws); from < n; {
			to := min(n, from+stepRows-len(pick))
			part := cutRows(g, from, to)
			part.Positions = nil                                                     // they have been turned
			part.Inputs = []compute.Input{{Visual: compute.Matrix{Rows: to - from}}} // the rows are on the device
			group = append(group, part)
			for ; from < to; from++ {
				pick = append(pick, int32(first+from))
			}
			if len(pick) == stepRows {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		first += n
	}
	return flush()
}

// drawGroup is drawWanted for rows pick of this pass. Queries have been turned and keys and values stored; the copies of those in
// the attention's plan are read only.
func (m *decoder) drawGroup(s *stream, group []compute.Segment, pick []int32) error {
	p, b := &m.prefill, &m.step
	s.upload(p.pick, bytesOf(pick))
	s.passGather(b.r.x, p.x, p.pick, len(pick), m.hidden*4, m.hidden*4, m.hidden*4)
	s.passGather(b.q, p.qkv, p.pick, len(pick), m.q*2, m.q*2, m.qkv*2)
	key, err := m.makeControl(s, group)
	if err != nil {
		return err
	}
	m.stepRest(s, len(m.layers)-1, key, false)
	m.stepDraw(s, key)
	return m.deliver(s, group, true)
}
