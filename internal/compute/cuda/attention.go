//go:build cuda

package cuda

import (
	"fmt"
	"math"

	"afterimage/internal/compute"
)

// The arguments of attention.cu.
type attentionArgs struct {
	dst, q, k, v view
	pages        devptr
	heads        uint32
	kvHeads, dim uint32
	keys         uint32
	past, causal uint32
	segment      uint32
	scale        float32
}

// plainHeadDim is the largest head that attention.cu has registers for.
const plainHeadDim = 256

// attention is Ops.Attention.
func (s *stream) attention(dst, q, k, v view, c compute.AttentionArgs) {
	if s.attentionTiled(dst, q, k, v, c) {
		return
	}
	scale := float64(c.Scale)
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(c.HeadDim))
	}
	if c.HeadDim > plainHeadDim {
		s.fail(fmt.Errorf("cuda: Attention: heads of %d, the largest are of %d", c.HeadDim, plainHeadDim))
		return
	}
	a := attentionArgs{
		dst: dst, q: q, k: k, v: v, heads: uint32(c.Heads), kvHeads: uint32(c.KVHeads), dim: uint32(c.HeadDim), keys: k.rows,
		past: uint32(c.Past), segment: uint32(c.Segment), scale: float32(scale * math.Log2E),
	}
	if c.Causal {
		a.causal = 1
		a.keys = a.past + q.rows
	}
	if c.Pages != nil {
		a.pages = s.scratch(scratchTable, int64(4*len(c.Pages)))
		s.upload(a.pages, bytesOf(c.Pages))
	}
	const warps, rows, keys = 4, 4, 32
	span := int(q.rows)
	if c.Segment > 0 {
		span = c.Segment
	}
	grid := [3]uint32{blocks(span, warps*rows) * uint32(int(q.rows)/max(span, 1)), uint32(c.Heads), 1}
	shared := 4 * (warps*rows*c.HeadDim + keys*(c.HeadDim|1) + keys*c.HeadDim)
	start(s, "attention", grid, [3]uint32{32 * warps, 1, 1}, uint32(shared), &a, 0)
}
