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
const batch = 4

// Encoder is safe for concurrent use; calls take turns. It has device memory, so it must be closed, before its device.
type Encoder struct {
	c   *Config
	dev compute.Device

	mu      sync.Mutex // owns all below
	arena   compute.Arena
	t       tower
	resize  *resizer       // for the size of the last frame
	staging compute.Matrix // patches of a batch, on the host
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
	ck, err := weights.Open(fsys)
	if err != nil {
		return nil, fmt.Errorf("encoder: %w", err)
	}
	defer func() { err = errors.Join(err, ck.Close()) }()
	e := &Encoder{c: c, dev: dev, t: tower{c: c, batch: batch}}
	l := weights.NewLoader(ck, dev)
	e.t.load(l, ck, as)
	if e.arena, err = l.Finish(context.Background()); err != nil {
		return nil, fmt.Errorf("encoder: load: %w", err)
	}
	g, ps := c.patchGrid(), c.Vision.PatchSize
	e.staging = compute.NewMatrix(batch*g.H*g.W, 3*ps*ps)
	return e, nil
}

// Grid returns the height and width of the rows of one frame; Dim their length.
func (e *Encoder) Grid() (h, w int) { g := e.c.grid(); return g.H, g.W }

// Dim returns the length of a row.
func (e *Encoder) Dim() int { return e.c.dim() }

// Encode returns one matrix [gridH*gridW, Dim] a frame, row-major over the grid, new memory that the caller owns. Frames may be of
// any size; they are resized without keeping their aspect. A malformed frame is an error and nothing is encoded. ctx is
// looked at between passes.
func (e *Encoder) Encode(ctx context.Context, frames ...ingest.Frame) ([]compute.Matrix, error) {
	for _, f := range frames {
		if err := checkFrame(f); err != nil {
			return nil, fmt.Errorf("encoder: frame %d: %w", f.Index, err)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.arena == nil {
		return nil, errors.New("encoder: closed")
	}
	cells, dim := e.t.cells(), e.Dim()
	all := compute.NewMatrix(len(frames)*cells, dim)
	for from := 0; from < len(frames); from += batch {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("encoder: %w", err)
		}
		if err := e.pass(ctx, all, frames, from, min(from+batch, len(frames))); err != nil {
			return nil, fmt.Errorf("encoder: frame %d: %w", frames[from].Index, err)
		}
	}
	out := make([]compute.Matrix, len(frames))
	for i := range out {
		out[i] = rows(all, i*cells, (i+1)*cells)
	}
	return out, nil
}

func (e *Encoder) pass(ctx context.Context, all compute.Matrix, frames []ingest.Frame, from, to int) error {
	cells := e.t.cells()
	per := e.staging.Rows / batch
	for i, f := range frames[from:to] {
		if e.resize == nil || e.resize.srcW != f.W || e.resize.srcH != f.H {
			e.resize = newResizer(f.W, f.H, e.c.Vision.Image.W, e.c.Vision.Image.H)
		}
		e.resize.patches(rows(e.staging, i*per, (i+1)*per).Data, f, e.c)
	}
	return e.dev.Run(ctx, func(ops compute.Ops) {
		e.t.forward(ops, rows(all, from*cells, to*cells), rows(e.staging, 0, (to-from)*per), to-from)
	})
}

// Close frees the device memory after the current pass. A second Close does nothing.
func (e *Encoder) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
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
