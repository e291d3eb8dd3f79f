// Package encoder turns pictures into rows of numbers that a language model reads as if they were words. There is one type that
// matters, an Encoder: a vision transformer, pool and projector on a device. A Frame is encoded once, when it arrives.
package encoder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// batch is the frames of one pass: enough rows to keep a device busy, few enough that a language model sharing it waits briefly.
// wideBatch is that of a device which computes in bfloat16, and so has thousands of units to keep busy.
const (
	batch     = 4
	wideBatch = 32
)

// Encoder is safe for concurrent use: frames that wait, of whichever callers, share passes in the order they came. It has device
// memory, so it must be closed, before its device.
type Encoder struct {
	c   *Config
	p   *processor
	dev compute.Device

	mu      sync.Mutex // guards waiting
	waiting []*request // that have frames no pass took yet, oldest first

	turn  chan struct{} // holding its one slot is owning all below
	arena compute.Arena // nil once closed
	t     tower
}

// request is one Encode call. Whoever holds the turn works on it; its caller reads it once done is closed.
type request struct {
	ctx    context.Context
	frames []ingest.Frame
	rows   compute.Matrix // [len(frames)*cells, dim]; made by the first pass that fills any of it
	next   int            // first frame that no pass took yet
	left   int            // frames that no pass has ended with
	err    error
	done   chan struct{}
}

// share is what one pass takes of a request.
type share struct {
	r        *request
	from, to int
}

// Load reads a Hugging Face directory and prepares the model on dev with weights held as the given type.
func Load(dir string, dev compute.Device, as compute.DType) (*Encoder, error) {
	return LoadFS(os.DirFS(dir), dev, as)
}

// LoadFS is Load from any file system, such as one embedded in the program.
func LoadFS(fsys fs.FS, dev compute.Device, as compute.DType) (_ *Encoder, err error) {
	c, err := ReadConfig(fsys)
	if err != nil {
		return nil, err
	}
	p, err := readProcessor(fsys, c.target())
	if err != nil {
		return nil, err
	}
	ck, err := weights.Open(fsys)
	if err != nil {
		return nil, fmt.Errorf("encoder: %w", err)
	}
	defer func() { err = errors.Join(err, ck.Close()) }()
	e := &Encoder{c: c, p: p, dev: dev, t: tower{c: c, batch: batch, act: dev.Activations(as)}, turn: make(chan struct{}, 1)}
	if e.t.act == compute.BF16 {
		e.t.batch = wideBatch
	}
	l := weights.NewLoader(ck, dev)
	e.t.load(l, ck, as)
	if e.arena, err = l.Finish(context.Background()); err != nil {
		return nil, fmt.Errorf("encoder: load: %w", err)
	}
	return e, nil
}

// Grid returns the height and width of the rows of one frame; Dim their length.
func (e *Encoder) Grid() (h, w int) { g := e.c.grid(); return g.H, g.W }

// Dim returns the length of a row.
func (e *Encoder) Dim() int { return e.c.dim() }

// Encode returns one matrix [gridH*gridW, Dim] a frame, row-major over the grid, new memory that the caller owns. Frames may be of
// any size; they are resized without keeping their aspect. A malformed frame is an error and nothing is encoded. ctx is
// looked at between passes. A pass that fails is an error to every caller with a frame in it.
func (e *Encoder) Encode(ctx context.Context, frames ...ingest.Frame) ([]compute.Matrix, error) {
	for _, f := range frames {
		if err := e.p.check(f); err != nil {
			return nil, fmt.Errorf("encoder: frame %d: %w", f.Index, err)
		}
	}
	cells := e.t.cells()
	r := &request{ctx: ctx, frames: frames, left: len(frames), done: make(chan struct{})}
	if len(frames) > 0 {
		e.mu.Lock()
		e.waiting = append(e.waiting, r)
		e.mu.Unlock()
	} else {
		close(r.done)
	}
	for done := false; !done; {
		select {
		case <-r.done:
			done = true
		case e.turn <- struct{}{}:
			select {
			case <-r.done: // a pass of someone else's had room
			default:
				e.pass()
			}
			<-e.turn
		}
	}
	if r.err != nil {
		return nil, fmt.Errorf("encoder: %w", r.err)
	}
	out := make([]compute.Matrix, len(frames))
	for i := range out {
		out[i] = rows(r.rows, i*cells, (i+1)*cells)
	}
	return out, nil
}

// take returns the frames of the next pass and forgets requests that failed or whose callers no longer wait.
func (e *Encoder) take() (shares []share, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.waiting) > 0 && n < e.t.batch {
		r := e.waiting[0]
		if r.err == nil {
			r.err = r.ctx.Err()
		}
		if r.err == nil {
			s := share{r, r.next, min(r.next+e.t.batch-n, len(r.frames))}
			shares, n, r.next = append(shares, s), n+s.to-s.from, s.to
		} else {
			r.end(len(r.frames) - r.next)
			r.next = len(r.frames)
		}
		if r.next == len(r.frames) {
			e.waiting = e.waiting[1:]
		}
	}
	return shares, n
}

// end counts frames of r as ended. Its caller holds the turn.
func (r *request) end(frames int) {
	if r.left -= frames; r.left == 0 {
		close(r.done)
	}
}

// pass encodes what waits, at most a batch. Its caller holds the turn.
func (e *Encoder) pass() {
	shares, n := e.take()
	if n == 0 {
		return
	}
	err := errors.New("closed")
	if e.arena != nil {
		err = e.encode(shares, n)
	}
	for _, s := range shares {
		if err != nil && s.r.err == nil {
			s.r.err = err
			if e.arena != nil {
				s.r.err = fmt.Errorf("frame %d: %w", s.r.frames[s.from].Index, err)
			}
		}
		s.r.end(s.to - s.from)
	}
}

func (e *Encoder) encode(shares []share, n int) error {
	cells := e.t.cells()
	frames := make([]ingest.Frame, 0, n)
	for _, s := range shares {
		frames = append(frames, s.r.frames[s.from:s.to]...)
	}
	fill, err := e.p.patches(frames)
	if err != nil {
		return err
	}
	// No one caller's ctx: the pass is everybody's.
	return e.dev.Run(context.Background(), func(ops compute.Ops) {
		out := e.t.forward(ops, n, fill)
		at := 0
		for _, s := range shares {
			k := s.to - s.from
			if s.r.rows.Data == nil { // while the device is busy: clearing so much memory takes a while
				s.r.rows = compute.NewMatrix(len(s.r.frames)*cells, e.Dim())
			}
			ops.Download(rows(s.r.rows, s.from*cells, s.to*cells), out.Slice(at*cells, (at+k)*cells))
			at += k
		}
	})
}

// Close frees the device memory after the current pass. A second Close does nothing.
func (e *Encoder) Close() error {
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	if e.arena == nil {
		return nil
	}
	err := e.arena.Close()
	e.arena = nil
	return err
}

func rows(m compute.Matrix, from, to int) compute.Matrix {
	return compute.Matrix{Rows: to - from, Cols: m.Cols, Data: m.Data[from*m.Cols : to*m.Cols : to*m.Cols]}
}
