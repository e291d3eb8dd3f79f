package llm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"sync"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
	"afterimage/llm/tokenizer"
)

// RecallFile holds the learned parts of a memory, beside a model's config.json, which describes them as memory_config.
const RecallFile = "memory.safetensors"

// ErrNoRecall is wrapped by LoadRecall's error for a model that has no learned memory. There is nothing wrong with such a model: only
// what needs one cannot be had with it.
var ErrNoRecall = errors.New("the model has no learned memory (memory_config and " + RecallFile + ")")

// Recall is the learned part of a visual memory. It has three: an indicator says what rows show, as a unit vector for questions to find
// them by; a stream tower (VideoStreaming, arXiv 2405.16009) sums clips up one after another, each with the summary before it, and
// puts questions in the indicators' space; and a bridge (VideoLLaMB, arXiv 2409.01071) carries memory tokens from segment to
// segment. All rows are in the decoder's embedding space, so a decoder reads what comes out as it reads frames.
//
// A Recall is safe for concurrent use: calls take turns. Equal arguments give equal results, to the bit, on the same device. All
// products are float32. It has device memory, so it must be closed, before its device.
type Recall struct {
	Config RecallConfig // not to be changed

	dev     compute.Device
	tok     *tokenizer.Tokenizer
	segment int32          // the token that begins a clip
	table   compute.Matrix // the decoder's token embeddings, on the host: a pass needs a few rows of them

	mu        sync.Mutex // held by whoever uses what follows
	closed    bool
	arena     compute.Arena
	indicator indicator
	stream    stream
	bridge    bridge
}

// indicator(X) = unit(down · max over rows(GELU(up · RMSNorm(x) + bias))).
type indicator struct {
	norm, bias compute.Tensor
	up         compute.Weight // [IndicatorHidden, Hidden]
	down       compute.Matrix // [IndicatorDim, IndicatorHidden], on the host: one row times it is less work than asking a device
	x, h       compute.Tensor // a pass, indicatorRows rows
	host       compute.Matrix // h
}

// indicatorRows is how many rows one pass of the indicator takes; frames of more rows take more passes.
const indicatorRows = 64

// LoadRecall reads the learned memory of the Hugging Face directory fsys (config.json with memory_config, memory.safetensors,
// tokenizer.json, and the token embeddings of the model's own checkpoint) and prepares it on dev. The error wraps ErrNoRecall when the
// model has none at all; half of one is another error.
func LoadRecall(fsys fs.FS, dev compute.Device) (*Recall, error) {
	r, err := loadRecall(fsys, dev)
	if err != nil {
		return nil, fmt.Errorf("llm: %w", err)
	}
	return r, nil
}

func loadRecall(fsys fs.FS, dev compute.Device) (_ *Recall, err error) {
	raw, err := fs.ReadFile(fsys, "config.json")
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(raw, 0)
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	_, missing := fs.Stat(fsys, RecallFile)
	rc, err := parseRecall(raw, c.Hidden)
	switch {
	case err == nil && errors.Is(missing, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: missing, and config.json has a memory_config", RecallFile)
	case errors.Is(err, errNoConfig) && errors.Is(missing, fs.ErrNotExist):
		return nil, ErrNoRecall
	case errors.Is(err, errNoConfig):
		return nil, fmt.Errorf("config.json: %w, and there is a %s", err, RecallFile)
	case err != nil:
		return nil, fmt.Errorf("config.json: %w", err)
	}
	r := &Recall{Config: *rc, dev: dev}
	if err := r.loadText(fsys, c); err != nil {
		return nil, err
	}
	ck, err := weights.OpenFile(fsys, RecallFile)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ck.Close()) }()
	l := weights.NewLoader(ck, dev)
	r.indicator.load(l, rc)
	r.stream.load(l, rc)
	r.bridge.load(l, rc)
	if r.arena, err = l.Finish(context.Background()); err != nil {
		return nil, err
	}
	return r, nil
}

// loadText reads what questions need: the tokenizer and the decoder's table.
func (r *Recall) loadText(fsys fs.FS, c *Config) (err error) {
	if r.tok, err = readTokenizer(fsys, c); err != nil {
		return err
	}
	var ok bool
	if r.segment, ok = r.tok.Special(segmentToken); !ok {
		return fmt.Errorf("tokenizer.json: %s is not a special token", segmentToken)
	}
	ck, err := weights.Open(fsys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ck.Close()) }()
	r.table, err = newCheckpoint(c, ck).Part(compute.PartEmbed, 0)
	return err
}

// Close frees the device memory; every later call is an error.
func (r *Recall) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	return r.arena.Close()
}

// run runs fn on the device and names what failed; mu is held.
func (r *Recall) run(what string, fn func(compute.Ops)) error {
	if r.closed {
		return fmt.Errorf("llm: %s: the memory is closed", what)
	}
	if err := r.dev.Run(context.Background(), fn); err != nil {
		return fmt.Errorf("llm: %s: %w", what, err)
	}
	return nil
}

func (p *indicator) load(l *weights.Loader, c *RecallConfig) {
	const at = "memory.indicator."
	l.Vector(&p.norm, weights.Part{Name: at + "norm.weight", Rows: c.Hidden})
	p.up = l.Weight(compute.F32, c.Hidden, weights.Part{Name: at + "up.weight", Rows: c.IndicatorHidden})
	l.Vector(&p.bias, weights.Part{Name: at + "up.bias", Rows: c.IndicatorHidden})
	p.down = l.Matrix(c.IndicatorHidden, weights.Part{Name: at + "down.weight", Rows: c.IndicatorDim})
	l.Room(&p.x, indicatorRows, c.Hidden, compute.F32)
	l.Room(&p.h, indicatorRows, c.IndicatorHidden, compute.F32)
	p.host = compute.NewMatrix(indicatorRows, c.IndicatorHidden)
}

// Indicate says what rows [any number, Hidden] show: a unit vector of IndicatorDim components, in the space of Query. The order of rows
// does not matter. Rows of another width, none, and rows that are not finite are errors.
func (r *Recall) Indicate(rows compute.Matrix) ([]float32, error) {
	if rows.Rows == 0 || rows.Cols != r.Config.Hidden || len(rows.Data) != rows.Rows*rows.Cols {
		return nil, fmt.Errorf("llm: indicate: rows %s with %d values, want any number of %d", rows.Shape(), len(rows.Data), r.Config.Hidden)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.indicator
	most := make([]float32, r.Config.IndicatorHidden)
	for i := range most {
		most[i] = float32(math.Inf(-1))
	}
	for from := 0; from < rows.Rows; from += indicatorRows {
		part := matrixRows(rows, from, min(from+indicatorRows, rows.Rows))
		out := matrixRows(p.host, 0, part.Rows)
		x, h := p.x.Slice(0, part.Rows), p.h.Slice(0, part.Rows)
		err := r.run("indicate", func(ops compute.Ops) {
			ops.Upload(x, part)
			ops.RMSNorm(x, x, p.norm, r.Config.Eps)
			ops.Linear(h, x, p.up, compute.LinearArgs{Bias: p.bias, Act: compute.GELUTanh})
			ops.Download(out, h)
		})
		if err != nil {
			return nil, err
		}
		for i := range out.Rows {
			for j, v := range out.Row(i) {
				most[j] = max(most[j], v) // keeps what is not a number
			}
		}
	}
	v := make([]float32, r.Config.IndicatorDim)
	for i := range v {
		v[i] = dot(p.down.Row(i), most)
	}
	return unit("indicate", v)
}

// matrixRows returns rows [from, to) of m, sharing memory.
func matrixRows(m compute.Matrix, from, to int) compute.Matrix {
	return compute.Matrix{Rows: to - from, Cols: m.Cols, Data: m.Data[from*m.Cols : to*m.Cols]}
}

// dot has four sums, so that the additions need not wait for each other.
func dot(a, b []float32) float32 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float32
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s0, s1, s2, s3 = s0+a[i]*b[i], s1+a[i+1]*b[i+1], s2+a[i+2]*b[i+2], s3+a[i+3]*b[i+3]
	}
	for ; i < len(a); i++ {
		s0 += a[i] * b[i]
	}
	return (s0 + s1) + (s2 + s3)
}

var errNoNumbers = errors.New("the result is not finite")

// unit scales v to length 1, in place. A zero vector stays what it is.
func unit(what string, v []float32) ([]float32, error) {
	var sum float64
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	if math.IsNaN(sum) || math.IsInf(sum, 0) {
		return nil, fmt.Errorf("llm: %s: %w", what, errNoNumbers)
	}
	if sum > 0 {
		by := 1 / math.Sqrt(sum)
		for i := range v {
			v[i] = float32(float64(v[i]) * by)
		}
	}
	return v, nil
}
