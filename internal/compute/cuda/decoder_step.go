//go:build cuda

package cuda

import (
	"fmt"
	"math/bits"
	"unsafe"

	"afterimage/internal/compute"
)

// stepBuffers are what graphs of passes of few rows work in: their addresses are part of the recordings. Everything that changes from
// pass to pass is in control, which one copy brings to the device ahead of the graph.
type stepBuffers struct {
	r           *residual
	q, att, mid devptr // bf16 [stepRows][..]
	logits      devptr // f32 [stepRows][headRows]
	visual      devptr // f32 [stepRows][hidden], rows given as embeddings
	tokens      devptr // int32 [stepRows]
	pieces      devptr
	pairs       devptr // of pages to copy
	control     devptr
	host        []byte // page-locked, control as it is made
	planAt      int    // where the plan is in control
	drawn       []byte // page-locked int32 [stepRows], where the last kernel leaves the tokens
	attention   *decodeAttention
	segs        []decodeSegment
	graphs      map[stepKey]*graph
}

// stepKey is what a recording depends on. Wanted rows are the ones whose logits are needed.
type stepKey struct {
	rows, wanted int  // rounded up to a power of two; wanted may be 0
	pick         bool // wanted rows are not the first ones, or not all in order
	wide         bool // attention takes the kernel for many rows over the same keys
}

// control, in bytes: the counts of rows and of wanted rows, then int32 [stepRows] of each, the draws, the page tables, and behind the
// longest of these the attention's plan.
const (
	controlRows     = 0
	controlWanted   = 4
	controlIDs      = 16
	controlPosition = controlIDs + 4*stepRows
	controlSlot     = controlPosition + 4*stepRows
	controlPick     = controlSlot + 4*stepRows
	controlDraws    = controlPick + 4*stepRows
	controlPages    = controlDraws + sampleDrawBytes*stepRows
)

const copyPairs = 1 << 12

func (b *stepBuffers) copyPairs() int { return copyPairs }

func (m *decoder) newStep() (err error) {
	b := &m.step
	b.graphs = map[stepKey]*graph{}
	if b.r, err = m.d.newResidual(m.hidden); err != nil {
		return err
	}
	if b.attention, err = m.d.newDecodeAttention(m.heads, m.kvHeads, m.headDim, m.c.Context); err != nil {
		return err
	}
	b.planAt = roundUp(controlPages+b.attention.tableBytes(), 256)
	if b.host, err = pinned(b.planAt + b.attention.planBytes()); err != nil {
		return err
	}
	if b.drawn, err = pinned(4 * stepRows); err != nil {
		return err
	}
	for _, v := range []struct {
		to    *devptr
		bytes int
	}{
		{&b.q, stepRows * m.q * 2}, {&b.att, stepRows * m.q * 2}, {&b.mid, stepRows * m.mlp * 2},
		{&b.logits, stepRows * m.headRows() * 4}, {&b.visual, stepRows * m.hidden * 4}, {&b.tokens, stepRows * 4},
		{&b.pieces, int(sampleRoom(stepRows, m.vocab))}, {&b.pairs, 2 * copyPairs * 4}, {&b.control, len(b.host)},
	} {
		if *v.to, err = m.alloc(int64(v.bytes)); err != nil {
			return err
		}
		m.d.stream.zero(*v.to, int64(v.bytes))
	}
	return nil
}

func (b *stepBuffers) close(d *device) {
	for _, g := range b.graphs {
		g.close()
	}
	d.freeResidual(b.r)
	if b.attention != nil {
		b.attention.close()
	}
	freePinned(b.host)
	freePinned(b.drawn)
	*b = stepBuffers{}
}

// runStep runs a pass of at most stepRows rows.
func (m *decoder) runStep(s *stream, pass []compute.Segment) error {
	key, err := m.makeControl(s, pass)
	if err != nil {
		return err
	}
	b := &m.step
	g := b.graphs[key]
	if g == nil {
		if g, err = m.d.capture(func(s *stream) error { m.stepKernels(s, key); return nil }); err != nil {
			return fmt.Errorf("cuda: recording a pass of %d rows: %w", key.rows, err)
		}
		b.graphs[key] = g
	}
	g.launch()
	return m.deliver(s, pass, key.wanted > 0)
}

// makeControl sends what is particular to a pass ahead of it, by one copy. (A kernel that reads page-locked memory was tried: some tens
// of kilobytes in pieces of 16 bytes took 100 µs over this bus.) The pass before is over: deliver has waited for it.
func (m *decoder) makeControl(s *stream, pass []compute.Segment) (stepKey, error) {
	b := &m.step
	word := func(at int) []int32 { return unsafe.Slice((*int32)(unsafe.Pointer(&b.host[at])), stepRows) }
	ids, position, slot, pick := word(controlIDs), word(controlPosition), word(controlSlot), word(controlPick)
	draws := unsafe.Slice((*sampleDraw)(unsafe.Pointer(&b.host[controlDraws])), stepRows)
	n, wanted, visual := 0, 0, 0
	m.turns.begin()
	b.segs = b.segs[:0]
	for i := range pass {
		g := &pass[i]
		first := n
		for _, in := range g.Inputs {
			for r := range in.Rows() {
				switch {
				case in.IDs != nil:
					ids[n] = in.IDs[r]
				case in.Visual.Data == nil: // on the device already, see drawGroup
					ids[n] = -1
				default:
					s.upload(b.visual+devptr(visual*m.hidden*4), bytesOf(in.Visual.Row(r)))
					ids[n] = int32(-1 - visual)
					visual++
				}
				at := g.Past + n - first
				slot[n] = g.Pages[at/compute.PageRows]*compute.PageRows + int32(at%compute.PageRows)
				position[n] = int32(at)
				switch {
				case g.Positions != nil:
					position[n] = m.turns.row(g.Positions[n-first])
				case g.Parents != nil:
					position[n] = int32(g.Past)
					if p := g.Parents[n-first]; p >= 0 {
						position[n] = position[first+int(p)] + 1
					}
				}
				n++
			}
		}
		b.segs = append(b.segs, decodeSegment{past: g.Past, rows: n - first, parents: g.Parents, pages: g.Pages})
		for j, d := range g.Draws {
			pick[wanted] = int32(n - len(g.Draws) + j)
			draws[wanted] = sampleDraw{d.Temperature, d.TopP, d.U}
			wanted++
		}
	}
	for i := n; i < stepRows; i++ {
		ids[i], position[i], slot[i] = 0, 0, -1
	}
	for i := wanted; i < stepRows; i++ {
		pick[i], draws[i] = 0, sampleDraw{}
	}
	tables, plan, wide, err := b.attention.plan(b.segs)
	if err != nil {
		return stepKey{}, err
	}
	m.turns.send(s)
	counts := word(controlRows)
	counts[0], counts[1] = int32(n), int32(wanted)
	copy(b.host[controlPages:], tables)
	copy(b.host[b.planAt:], plan)
	if s.err == nil {
		s.fail(copyToDevice(b.control, unsafe.Pointer(&b.host[0]), int64(b.planAt+len(plan)), &s.cu))
	}
	key := stepKey{rows: bucket(n), wanted: bucket(wanted), wide: wide}
	for i := range wanted {
		key.pick = key.pick || pick[i] != int32(i)
	}
	return key, s.err
}

// bucket is n rounded up to a power of two.
func bucket(n int) int {
	if n == 0 {
		return 0
	}
	return 1 << bits.Len(uint(n-1))
}

// stepKernels is the pass, top to bottom.
func (m *decoder) stepKernels(s *stream, key stepKey) {
	b, c := &m.step, m.step.control
	s.passBegin(b.r, m.table, b.visual, c+controlIDs, c+controlRows, m.layers[0].norm1, key.rows)
	for i := range m.layers {
		l := &m.layers[i]
		s.skinnyQKV(l.qkv.few, b.r, skinnyQKVArgs{
			heads: m.heads, kvHeads: m.kvHeads, headDim: m.headDim, rows: key.rows, eps: m.eps, bias: l.bias,
			table: m.turns.table, position: c + controlPosition, slot: c + controlSlot,
			q: b.q, ldq: m.q, k: m.pool(i, 0), v: m.pool(i, 1),
		})
		if i == len(m.layers)-1 && key.wanted == 0 {
			return // the last layer's K/V is all that was asked for
		}
		m.stepRest(s, i, key, true)
	}
	m.stepDraw(s, key)
}

// hostAddress is where the device finds page-locked memory: at the address that the host uses.
func hostAddress(b []byte) devptr { return devptr(uintptr(unsafe.Pointer(&b[0]))) }

// stepRest is a layer from attention on: queries are in q, the residual stream in r. early: the K/V of past rows has been in place since
// before the pass.
func (m *decoder) stepRest(s *stream, i int, key stepKey, early bool) {
	rows := key.rows
	b, l := &m.step, &m.layers[i]
	b.attention.run(s, decodeCall{
		q: b.q, qStride: m.q, out: b.att, outStride: m.q, rows: rows, wide: key.wide, kv: l.kv, tables: b.control + controlPages,
		plan: b.control + devptr(b.planAt), scale: float64(m.scale),
		early: early,
	})
	s.skinnyAdd(l.out.few, b.r, b.att, m.q, l.norm2, rows)
	s.skinnyGated(l.gateUp.few, b.r, m.eps, b.mid, m.mlp, rows)
	next := m.norm
	if i+1 < len(m.layers) {
		next = m.layers[i+1].norm1
	}
	s.skinnyAdd(l.down.few, b.r, b.mid, m.mlp, next, rows)
}

// stepDraw makes logits of the wanted rows and draws from them.
func (m *decoder) stepDraw(s *stream, key stepKey) {
	b, c := &m.step, m.step.control
	pick := devptr(0)
	if key.pick {
		pick = c + controlPick
	}
	s.skinnyLogits(m.head, b.r, m.eps, pick, b.logits, m.headRows(), key.wanted)
	s.sample(sampleArgs{
		logits: b.logits, draws: c + controlDraws, pieces: b.pieces, tokens: b.tokens, host: hostAddress(b.drawn), live: c + controlWanted,
		stride: int64(m.headRows()), rows: int32(key.wanted), vocab: int32(m.vocab),
	})
}

// deliver waits for the pass and hands out what was drawn.
func (m *decoder) deliver(s *stream, pass []compute.Segment, drawn bool) error {
	if s.err != nil {
		return s.err
	}
	if err := s.cu.sync(); err != nil || !drawn {
		return err
	}
	tokens := unsafe.Slice((*int32)(unsafe.Pointer(&m.step.drawn[0])), stepRows)
	row := 0
	for i := range pass {
		g := &pass[i]
		for j := range g.Draws {
			g.Drawn[j] = tokens[row]
			if g.Logits != nil {
				s.download(bytesOf(g.Logits.Row(j)), m.step.logits+devptr(row*m.headRows()*4))
			}
			row++
		}
	}
	return s.err
}
