package llm

import (
	"fmt"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// recallMemories is how many of the newest segments' memories the bridge looks back at.
const recallMemories = 32

// bridge is VideoLLaMB's bridge: one layer over memory tokens and a segment's frames, and attention from the newest memory to those before
// it, which says what the next segment begins with.
type bridge struct {
	tower
	layer  block
	memory compute.Matrix // [SummaryRows, Hidden], host: what memory tokens are before anything was seen
	frame  compute.Matrix // [BridgeFrames, Hidden], host: added to all rows of a segment's frame by its place
	out    compute.Weight // [Hidden, Hidden]

	norm         compute.Tensor
	q, k, v, mix compute.Weight // [Hidden, Hidden]
	cache        compute.Tensor // [recallMemories*SummaryRows, Hidden], and what is made of it:
	query        compute.Tensor // [SummaryRows, Hidden]
	keys, values compute.Tensor // like cache
	host         compute.Matrix // results, as the tower's rows
}

func (b *bridge) load(l *weights.Loader, c *RecallConfig) {
	const at = "memory.bridge."
	const recall = at + "recall."
	rows, cached := (1+c.BridgeFrames)*c.SummaryRows, recallMemories*c.SummaryRows
	b.tower = tower{heads: c.BridgeHeads, kvHeads: c.BridgeHeads, headDim: c.Hidden / c.BridgeHeads, mlp: c.BridgeMLP, eps: c.Eps}
	b.tower.load(l, c.Hidden, rows)
	b.block(l, c.Hidden, &b.layer, blockNames{norm1: at + "norm1", q: at + "q_proj", k: at + "k_proj", v: at + "v_proj", out: at + "o_proj",
		norm2: at + "norm2", gate: at + "gate_proj", up: at + "up_proj", down: at + "down_proj"})
	b.memory = l.Matrix(c.Hidden, weights.Part{Name: at + "memory", Rows: c.SummaryRows})
	b.frame = l.Matrix(c.Hidden, weights.Part{Name: at + "frame_pos", Rows: c.BridgeFrames})
	square := func(name string) compute.Weight {
		return l.Weight(compute.F32, c.Hidden, weights.Part{Name: name + ".weight", Rows: c.Hidden})
	}
	b.out = square(at + "out")
	l.Vector(&b.norm, weights.Part{Name: recall + "norm.weight", Rows: c.Hidden})
	b.q, b.k, b.v, b.mix = square(recall+"q_proj"), square(recall+"k_proj"), square(recall+"v_proj"), square(recall+"o_proj")
	l.Room(&b.query, c.SummaryRows, c.Hidden, compute.F32)
	for _, t := range []*compute.Tensor{&b.cache, &b.keys, &b.values} {
		l.Room(t, cached, c.Hidden, compute.F32)
	}
	b.host = compute.NewMatrix(rows, c.Hidden)
}

// Segment carries memory over one segment as VideoLLaMB does. frames are the segment's frames in order, each the encoder's grid averaged 2x2
// [SummaryRows, Hidden]; of more than BridgeFrames that many are looked at, spread evenly. past are the memories of the segments
// before, the newest last: the last one asks and the newest 32, itself among them, answer what this segment's memory tokens begin with. memory
// [SummaryRows, Hidden] is the segment's own, for past; rows[i] is frames[i] as the decoder is shown the newest segment
// [SummaryRows, Hidden], the zero Matrix for a frame that was not looked at.
func (r *Recall) Segment(past, frames []compute.Matrix) (memory compute.Matrix, rows []compute.Matrix, err error) {
	c := &r.Config
	fail := func(err error) (compute.Matrix, []compute.Matrix, error) {
		return compute.Matrix{}, nil, fmt.Errorf("llm: segment: %w", err)
	}
	if len(frames) == 0 {
		return fail(fmt.Errorf("no frames"))
	}
	if err := c.checkFrames(frames); err != nil {
		return fail(err)
	}
	past = past[max(len(past)-recallMemories, 0):]
	for i, m := range past {
		if err := c.checkRows(m); err != nil {
			return fail(fmt.Errorf("memory %d: %w", i, err))
		}
	}
	looked := make([]compute.Matrix, 0, c.BridgeFrames)
	at := spread(len(frames), c.BridgeFrames)
	for _, i := range at {
		looked = append(looked, frames[i])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b := &r.bridge
	b.n = 0
	mean := meanFrame(looked)
	b.put(mean.Data...)
	add(b.rows, b.memory)
	for j, f := range looked {
		b.put(f.Data...)
		place := b.frame.Row(j)
		for row := b.n - f.Rows; row < b.n; row++ {
			add(matrixRows(b.rows, row, row+1), compute.Matrix{Data: place})
		}
	}
	out := matrixRows(b.host, 0, b.n)
	if err := r.run("segment", func(ops compute.Ops) {
		b.upload(ops)
		if len(past) > 0 {
			b.recall(ops, past)
		}
		b.run(ops, &b.layer, b.n)
		y := b.h.Slice(0, b.n)
		ops.Linear(y, b.x.Slice(0, b.n), b.out, compute.LinearArgs{})
		ops.Download(out, y)
	}); err != nil {
		return compute.Matrix{}, nil, err
	}
	if !finite(out.Data) {
		return fail(errNoNumbers)
	}
	memory, rows = mean, make([]compute.Matrix, len(frames))
	add(memory, matrixRows(out, 0, c.SummaryRows))
	for j, i := range at {
		own := compute.NewMatrix(c.SummaryRows, c.Hidden)
		copy(own.Data, frames[i].Data)
		add(own, matrixRows(out, (1+j)*c.SummaryRows, (2+j)*c.SummaryRows))
		rows[i] = own
	}
	return memory, rows, nil
}

// recall adds to the memory tokens in x what the newest memory finds in all of past.
func (b *bridge) recall(ops compute.Ops, past []compute.Matrix) {
	each := past[0].Rows
	n := len(past) * each
	cache, keys, values := b.cache.Slice(0, n), b.keys.Slice(0, n), b.values.Slice(0, n)
	for i, m := range past {
		ops.Upload(cache.Slice(i*each, (i+1)*each), m)
	}
	ops.RMSNorm(cache, cache, b.norm, b.eps)
	ops.Linear(b.query, cache.Slice(n-each, n), b.q, compute.LinearArgs{})
	ops.Linear(keys, cache, b.k, compute.LinearArgs{})
	ops.Linear(values, cache, b.v, compute.LinearArgs{})
	found := b.h.Slice(0, each)
	ops.Attention(found, b.query, keys, values, compute.AttentionArgs{Heads: b.heads, KVHeads: b.kvHeads, HeadDim: b.headDim})
	memory := b.x.Slice(0, each)
	ops.Linear(memory, found, b.mix, compute.LinearArgs{Residual: memory})
}

// spread returns at most k of 0 to n-1, evenly: the middle one of each k-th.
func spread(n, k int) []int {
	k = min(n, k)
	at := make([]int, k)
	for i := range at {
		at[i] = (2*i + 1) * n / (2 * k)
	}
	return at
}
