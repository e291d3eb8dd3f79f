//go:build cuda

package cuda

import (
	"fmt"
	"unsafe"

	"afterimage/internal/compute"
)

// stepAttention is attention of passes of few rows: planned anew for each, run by recordings from where they expect the plan.
type stepAttention struct {
	m       *decoder
	planner *decodePlanner
	segs    []decodeSegment
	o, lse  devptr // states of chunks, f32 [slot][heads][headDim], [slot][heads]
	count   devptr
}

// stepAttentionArgs mirrors af_decode_args.
type stepAttentionArgs struct {
	out, q, k, v, plan, pages, o, lse, count devptr
	qStride, outStride, rows, heads, kvHeads int32
	scale                                    float32
	_, _                                     int32
}

const (
	attentionSlices = 8 // what decode.cu says
	attentionKeys   = 128
	attentionStages = 4
)

func (m *decoder) newStepAttention() (*stepAttention, error) {
	a := &stepAttention{m: m}
	var err error
	if a.planner, err = newDecodePlanner(m.heads, m.kvHeads, m.d.info.SMs); err != nil {
		return nil, err
	}
	slots := int64(maxDecodeSlots(stepRows, m.c.Context))
	if a.o, err = m.alloc(slots * int64(m.q) * 4); err != nil {
		return nil, fmt.Errorf("states of attention: %w", err)
	}
	if a.lse, err = m.alloc(slots * int64(m.heads) * 4); err != nil {
		return nil, fmt.Errorf("states of attention: %w", err)
	}
	if a.count, err = m.alloc(256); err != nil {
		return nil, err
	}
	m.d.stream.zero(a.count, 256)
	return a, nil
}

// planBytes is the most that a plan can take.
func (a *stepAttention) planBytes() int {
	units := maxDecodeUnits(stepRows, a.m.c.Context, a.m.kvHeads, a.planner.blocks)
	return decodeHeader + (units+1)*a.planner.blocks*int(unsafe.Sizeof(decodeUnit{}))
}

// plan returns the tables of pages and the plan of a pass, valid until the next, and whether it needs the kernel for more than 16
// rows times heads over the same keys.
func (a *stepAttention) plan(pass []compute.Segment) (tables, plan []byte, wide bool, err error) {
	a.segs = a.segs[:0]
	for i := range pass {
		g := &pass[i]
		a.segs = append(a.segs, decodeSegment{past: g.Past, rows: g.Rows(), parents: g.Parents, pages: g.Pages})
	}
	if err := a.planner.plan(a.segs); err != nil {
		return nil, nil, false, err
	}
	return bytesOf(a.planner.pages), a.planner.bytes, a.planner.widest() > 16, nil
}

// run attends for queries q over a layer's K/V.
func (a *stepAttention) run(s *stream, layer int, key stepKey) {
	m, b := a.m, &a.m.step
	tiles, warps := 1, attentionSlices
	if key.wide {
		tiles, warps = 4, 2*attentionSlices
		if m.headDim == 80 {
			warps = attentionSlices
		}
	}
	pitch, rows := 2*m.headDim+16, 16*tiles
	shared := attentionStages*attentionKeys*pitch + rows*(pitch+2*attentionKeys+16+4*attentionSlices+16)
	start(s, fmt.Sprintf("decode_%d_%d", m.headDim, tiles), [3]uint32{uint32(a.planner.blocks), 1, 1}, [3]uint32{uint32(32 * warps), 1, 1},
		uint32(shared), &stepAttentionArgs{
			out: b.att, q: b.q, k: m.pool(layer, 0), v: m.pool(layer, 1), plan: b.control + devptr(b.planAt), pages: b.control + controlPages,
			o: a.o, lse: a.lse, count: a.count, qStride: int32(m.q), outStride: int32(m.q), rows: int32(key.rows), heads: int32(m.heads),
			kvHeads: int32(m.kvHeads), scale: m.scale,
		}, launchPDL)
}
