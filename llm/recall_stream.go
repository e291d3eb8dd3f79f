package llm

import (
	"fmt"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// segmentToken begins a clip, and what is remembered of a span in a prompt.
const segmentToken = "<|segment|>"

// queryTokens is how many tokens of a question are looked at: the first ones.
const queryTokens = 256

// clockRows is room for a time of day in six digits: three tokens of the embedded tokenizer, six of one that splits all digits, and two
// that such a one may put around them.
const clockRows = 8

// stream is the stream tower: a small causal decoder that reads frames, times and questions in the big one's embedding space and is
// read out at slots after them.
type stream struct {
	tower
	layers    []block
	norm      compute.Tensor
	slots     compute.Matrix // [SummaryRows, Hidden], host: added to the mean frame, where the summary is read
	mark      []float32      // [Hidden], host: where the indicator is read
	out, proj compute.Weight // [Hidden, Hidden], [IndicatorDim, Hidden]

	summary, point compute.Tensor // results
}

func (s *stream) load(l *weights.Loader, c *RecallConfig) {
	const at = "memory.stream."
	s.tower = tower{heads: c.Heads, kvHeads: c.KVHeads, headDim: c.HeadDim, mlp: c.MLP, eps: c.Eps, invFreq: c.InvFreq}
	s.tower.load(l, c.Hidden, max(2*(1+clockRows)+(2+c.ClipFrames)*c.SummaryRows, queryTokens)+1)
	s.layers = make([]block, c.Layers)
	for i := range s.layers {
		of := fmt.Sprintf("%slayers.%d.", at, i)
		attn, mlp := of+"self_attn.", of+"mlp."
		s.block(l, c.Hidden, &s.layers[i], blockNames{norm1: of + "input_layernorm", q: attn + "q_proj", k: attn + "k_proj", v: attn + "v_proj",
			out: attn + "o_proj", norm2: of + "post_attention_layernorm", gate: mlp + "gate_proj", up: mlp + "up_proj", down: mlp + "down_proj"})
	}
	l.Vector(&s.norm, weights.Part{Name: at + "norm.weight", Rows: c.Hidden})
	s.slots = l.Matrix(c.Hidden, weights.Part{Name: at + "slots", Rows: c.SummaryRows})
	s.mark = l.Floats(at+"mark", 1, c.Hidden)
	s.out = l.Weight(compute.F32, c.Hidden, weights.Part{Name: at + "out.weight", Rows: c.Hidden})
	s.proj = l.Weight(compute.F32, c.Hidden, weights.Part{Name: at + "proj.weight", Rows: c.IndicatorDim})
	l.Room(&s.summary, c.SummaryRows, c.Hidden, compute.F32)
	l.Room(&s.point, 1, c.IndicatorDim, compute.F32)
}

// read passes the input through the tower and reads it out: its last row into point, and the rows before that into summary, if any
// are wanted.
func (s *stream) read(ops compute.Ops, summary, point compute.Matrix) {
	keep := summary.Rows + 1
	s.upload(ops)
	for i := range s.layers {
		b := &s.layers[i]
		if i == len(s.layers)-1 {
			s.run(ops, b, keep)
		} else {
			s.run(ops, b, s.n)
		}
	}
	h := s.h.Slice(0, keep)
	ops.RMSNorm(h, s.x.Slice(s.n-keep, s.n), s.norm, s.eps)
	if summary.Rows > 0 {
		ops.Linear(s.summary, h.Slice(0, summary.Rows), s.out, compute.LinearArgs{})
		ops.Download(summary, s.summary)
	}
	ops.Linear(s.point, h.Slice(keep-1, keep), s.proj, compute.LinearArgs{})
	ops.Download(point, s.point)
}

// Query puts a question's words in the space of the indicators: a unit vector of IndicatorDim components, nil for a question without
// words. It is VideoStreaming's question indicator without the memory H_K before the words, so that it is the same whatever was seen and
// fits the indicators of every strategy. Of a very long question the first 256 tokens count.
func (r *Recall) Query(question string) ([]float32, error) {
	ids := r.tok.Encode(question)
	if len(ids) == 0 {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.stream
	s.n = 0
	r.words(ids[:min(len(ids), queryTokens)])
	s.put(s.mark...)
	v := make([]float32, r.Config.IndicatorDim)
	if err := r.run("query", func(ops compute.Ops) {
		s.read(ops, compute.Matrix{}, compute.Matrix{Rows: 1, Cols: len(v), Data: v})
	}); err != nil {
		return nil, err
	}
	return unit("query", v)
}

// words appends tokens to the stream's input.
func (r *Recall) words(ids []int32) {
	for _, id := range ids {
		r.stream.put(r.table.Row(int(id))...)
	}
}

// Clip sums a clip up as VideoStreaming does: summary [SummaryRows, Hidden] is rows to show the decoder in its place and to hand in with the
// next clip; point is the clip's indicator, a unit vector of IndicatorDim components. frames are a clip's 1 to ClipFrames frames in
// order, each the encoder's grid averaged 2x2 [SummaryRows, Hidden], and start is the first one's time of day in six digits
// (HHMMSS). prev is the summary of the clip before, empty for the first one, and since the time of day at which what it sums up began.
func (r *Recall) Clip(prev compute.Matrix, since, start string, frames []compute.Matrix) (summary compute.Matrix, point []float32, err error) {
	c := &r.Config
	fail := func(err error) (compute.Matrix, []float32, error) {
		return compute.Matrix{}, nil, fmt.Errorf("llm: clip: %w", err)
	}
	if len(frames) == 0 || len(frames) > c.ClipFrames {
		return fail(fmt.Errorf("%d frames, want 1 to %d", len(frames), c.ClipFrames))
	}
	if err := c.checkFrames(frames); err != nil {
		return fail(err)
	}
	if prev.Rows > 0 {
		if err := c.checkRows(prev); err != nil {
			return fail(fmt.Errorf("the summary before: %w", err))
		}
		if err := checkClock(since); err != nil {
			return fail(err)
		}
	}
	if err := checkClock(start); err != nil {
		return fail(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.stream
	s.n = 0
	if prev.Rows > 0 {
		r.clock(since)
		s.put(prev.Data...)
	}
	r.clock(start)
	for _, f := range frames {
		s.put(f.Data...)
	}
	mean := meanFrame(frames)
	at := s.n
	s.put(mean.Data...)
	add(matrixRows(s.rows, at, s.n), s.slots)
	s.put(s.mark...)
	summary, point = compute.NewMatrix(c.SummaryRows, c.Hidden), make([]float32, c.IndicatorDim)
	if err := r.run("clip", func(ops compute.Ops) {
		s.read(ops, summary, compute.Matrix{Rows: 1, Cols: len(point), Data: point})
	}); err != nil {
		return compute.Matrix{}, nil, err
	}
	add(summary, mean)
	if !finite(summary.Data) {
		return fail(errNoNumbers)
	}
	point, err = unit("clip", point)
	return summary, point, err
}

// clock appends the beginning of a clip, or of a summary, at a time of day.
func (r *Recall) clock(hhmmss string) {
	r.stream.put(r.table.Row(int(r.segment))...)
	ids := r.tok.Encode(hhmmss)
	r.words(ids[:min(len(ids), clockRows)])
}

// checkClock takes six digits.
func checkClock(hhmmss string) error {
	ok := len(hhmmss) == 6
	for i := 0; ok && i < 6; i++ {
		ok = hhmmss[i] >= '0' && hhmmss[i] <= '9'
	}
	if !ok {
		return fmt.Errorf("time of day %q, want six digits", hhmmss)
	}
	return nil
}

// checkFrames takes frames averaged 2x2.
func (c *RecallConfig) checkFrames(frames []compute.Matrix) error {
	for i, f := range frames {
		if err := c.checkRows(f); err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
	}
	return nil
}

func (c *RecallConfig) checkRows(m compute.Matrix) error {
	if m.Rows != c.SummaryRows || m.Cols != c.Hidden || len(m.Data) != m.Rows*m.Cols {
		return fmt.Errorf("rows %s with %d values, want [%d %d]", m.Shape(), len(m.Data), c.SummaryRows, c.Hidden)
	}
	return nil
}

// meanFrame averages frames row by row.
func meanFrame(frames []compute.Matrix) compute.Matrix {
	m := compute.NewMatrix(frames[0].Rows, frames[0].Cols)
	for _, f := range frames {
		add(m, f)
	}
	by := 1 / float32(len(frames))
	for i := range m.Data {
		m.Data[i] *= by
	}
	return m
}

// add writes dst += m.
func add(dst, m compute.Matrix) {
	for i, v := range m.Data {
		dst.Data[i] += v
	}
}
