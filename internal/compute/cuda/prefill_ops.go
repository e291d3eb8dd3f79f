//go:build cuda

package cuda

import "afterimage/internal/compute"

// prefillKey is what a plan of Ops.Attention without pages depends on.
type prefillKey struct {
	shape            prefillShape
	segments         int
	rows, past, keys int // of each segment
}

// prefillCache keeps the plans of Ops.Attention: the layers of a model, and each batch of frames, ask for the same again.
type prefillCache struct {
	plans map[prefillKey]*prefillPlan
	paged *prefillPlan // made anew each time
}

const prefillPlans = 64 // that are kept

// tensorAligned is whether TMA can read rows of heads: 16 bytes at a time.
func tensorAligned(v view) bool { return v.half != 0 && v.wide() }

// heads is a view of rows as attention's kernels take it, in segments of some rows.
func (v view) heads(dim, segment int) prefillTensor {
	row := (v.stride + 7) &^ 7 // for a single row, whose stride means nothing
	return prefillTensor{p: v.p, row: row, head: int64(dim), seg: row * int64(segment)}
}

// attentionTiled is Ops.Attention on the tensor cores. It does nothing and says so where there is no kernel for it.
func (s *stream) attentionTiled(dst, q, k, v view, c compute.AttentionArgs) bool {
	if len(s.d.prefillsFor(c.HeadDim)) == 0 || !tensorAligned(dst) || !tensorAligned(q) || !tensorAligned(k) || !tensorAligned(v) {
		return false
	}
	shape := prefillShape{heads: c.Heads, kvHeads: c.KVHeads, headDim: c.HeadDim, causal: c.Causal}
	at := prefillKey{shape: shape, segments: 1, rows: int(q.rows), keys: int(k.rows)}
	kvRows := int(k.rows)
	switch {
	case c.Causal:
		at.past, at.keys = c.Past, c.Past+at.rows
		kvRows = at.keys // what is beyond reads as zeros
	case c.Segment > 0:
		at.segments, at.rows, at.keys, kvRows = at.rows/c.Segment, c.Segment, c.Segment, c.Segment
	}
	if c.Pages != nil {
		kvRows = compute.PageRows
	}
	p, err := s.prefillPlan(at, c.Pages)
	if !s.fail(err) {
		return true
	}
	p.run(s, prefillCall{
		q: q.heads(c.HeadDim, int(q.rows)), out: dst.heads(c.HeadDim, int(dst.rows)),
		k: k.heads(c.HeadDim, kvRows), v: v.heads(c.HeadDim, kvRows), kvRows: kvRows, kvSegs: max(int(k.rows)/kvRows, 1), scale: float64(c.Scale),
	})
	return true
}

// prefillPlan finds or makes a plan.
func (s *stream) prefillPlan(at prefillKey, pages []int32) (*prefillPlan, error) {
	cache := &s.prefills
	if p := cache.plans[at]; p != nil && pages == nil {
		p.captured = p.captured || s.capturing
		return p, nil
	}
	p := cache.paged
	if pages == nil || p == nil || p.shape != at.shape {
		var err error
		if p, err = s.d.newPrefillPlan(at.shape); err != nil {
			return nil, err
		}
	}
	segs := make([]prefillSegment, at.segments)
	for i := range segs {
		segs[i] = prefillSegment{rows: at.rows, past: at.past, keys: at.keys, seg: i}
	}
	if err := p.set(s, segs, pages); err != nil {
		p.close()
		return nil, err
	}
	if pages != nil {
		if cache.paged != p {
			cache.paged.close()
		}
		cache.paged = p
		return p, nil
	}
	if len(cache.plans) >= prefillPlans {
		for k, old := range cache.plans {
			if !old.captured { // a graph may run it again
				old.close()
				delete(cache.plans, k)
			}
		}
	}
	if cache.plans == nil {
		cache.plans = map[prefillKey]*prefillPlan{}
	}
	cache.plans[at] = p
	return p, nil
}
