// Package encoder turns pictures into rows of numbers that a language model reads as if they were words. There is one type that
// matters, an Encoder: a vision transformer, pool and join on a device. A Frame is encoded once, when it arrives.
package encoder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"sync"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// batch is the units of one pass: enough rows to keep a device busy, few enough that a language model sharing it waits briefly.
// wideBatch is that of a device which computes in bfloat16, and so has thousands of units to keep busy. Where pictures are of any size,
// so many of DefaultPixels are meant: a pass is more of smaller ones and fewer of larger ones.
const (
	batch     = 4
	wideBatch = 32
)

// Encoder is safe for concurrent use: frames that wait, of whichever callers, share passes in the order they came. It has device
// memory, so it must be closed, before its device.
type Encoder struct {
	c       *Config
	p       *processor
	dev     compute.Device
	largest Size           // most patches of a picture; of what shape does not matter
	newline compute.Matrix // see Newline

	mu      sync.Mutex // guards waiting
	waiting []unit     // that no pass took yet, oldest first

	turn  chan struct{} // holding its one slot is owning all below
	arena compute.Arena // nil once closed
	t     tower
}

// unit is some consecutive frames of a request that become one matrix.
type unit struct {
	r       *request
	i       int  // which of its units
	picture Size // that its frames become
}

func (u unit) frames(n int) []ingest.Frame { return u.r.frames[u.i*n : (u.i+1)*n] }

// request is one Encode call. Whoever holds the turn works on it; its caller reads it once done is closed.
type request struct {
	ctx    context.Context
	frames []ingest.Frame
	grids  []Size           // of its units' rows
	out    []compute.Matrix // of its units, one after another in memory; made by the first pass that fills any of it
	left   int              // units that no pass has ended with
	err    error
	done   chan struct{}
}

// Options are what can be chosen when an encoder is loaded.
type Options struct {
	Weights compute.DType
	Pixels  int // most pixels of one picture for towers of dynamic size (Qwen2-VL); 0: DefaultPixels
	// Lean makes passes small on every device: for a model that nearly fills a GPU's memory. More streams then wait longer.
	Lean bool
}

// DefaultPixels is 448 x 448: 256 rows of Qwen2-VL, and what Flash-VStream was trained with.
const DefaultPixels = 448 * 448

// maxPixels keeps buffers within reason: Qwen2-VL's own limit.
const maxPixels = 16384 * 28 * 28

// Load reads a Hugging Face directory and prepares the model on dev with weights held as the given type.
func Load(dir string, dev compute.Device, as compute.DType) (*Encoder, error) {
	return LoadFS(os.DirFS(dir), dev, as)
}

// LoadFS is Load from any file system, such as one embedded in the program.
func LoadFS(fsys fs.FS, dev compute.Device, as compute.DType) (*Encoder, error) {
	return LoadWith(fsys, dev, Options{Weights: as})
}

// LoadWith is LoadFS with everything that can be chosen.
func LoadWith(fsys fs.FS, dev compute.Device, o Options) (_ *Encoder, err error) {
	c, err := ReadConfig(fsys)
	if err != nil {
		return nil, err
	}
	e := &Encoder{c: c, dev: dev, t: tower{c: c, batch: batch, act: dev.Activations(o.Weights)}, turn: make(chan struct{}, 1)}
	if e.t.act == compute.BF16 && !o.Lean {
		e.t.batch = wideBatch
	}
	if o.Pixels == 0 {
		o.Pixels = DefaultPixels
	}
	if e.p, err = readProcessor(fsys, c.target(o.Pixels)); err != nil {
		return nil, err
	}
	if err := e.size(o.Pixels); err != nil {
		return nil, fmt.Errorf("encoder: %w", err)
	}
	ck, err := weights.Open(fsys)
	if err != nil {
		return nil, fmt.Errorf("encoder: %w", err)
	}
	defer func() { err = errors.Join(err, ck.Close()) }()
	l := weights.NewLoader(ck, dev)
	e.t.load(l, ck, o.Weights, e.largest)
	if j := c.Join; j != nil && j.names.newline != "" {
		name := where(ck, j.names.prefixes, j.names.newline) + j.names.newline
		e.newline = compute.Matrix{Rows: 1, Cols: j.Dim, Data: l.Floats(name, j.Dim)}
	}
	if e.arena, err = l.Finish(context.Background()); err != nil {
		return nil, fmt.Errorf("encoder: load: %w", err)
	}
	return e, nil
}

// size settles how many patches a picture and a pass may have.
func (e *Encoder) size(pixels int) error {
	v := e.c.Vision
	e.largest = e.c.patchGrid(v.Image)
	usual := e.largest.H * e.largest.W
	e.t.rows = e.t.batch * usual
	if !v.Dynamic {
		return nil
	}
	if pixels < 0 || pixels > maxPixels {
		return fmt.Errorf("pictures of %d pixels: want at most %d", pixels, maxPixels)
	}
	area := v.PatchSize * v.PatchSize
	if side := e.c.rowSide(); pixels < side*side*area {
		return fmt.Errorf("pictures of %d pixels: one row takes %d", pixels, side*side*area)
	}
	// Pictures that are too small grow, and then their sides are rounded up: those of the narrowest by this much.
	side, least := float64(e.c.rowSide()*v.PatchSize), float64(min(e.p.min, pixels))
	most := max(pixels, int(least+15*side*math.Sqrt(least)+side*side)) / area
	units := min(e.t.batch, max(1, e.t.batch*usual/most))
	e.t.rows = units * most
	if v.Coarse { // the second rounding of sides may go up: a picture may be twice as large at worst, when it is very narrow
		most *= 2
		e.t.rows = max(e.t.rows, most)
	}
	e.largest = Size{1, most}
	return nil
}

// picture is what frames of w x h pixels are made before they are cut into patches.
func (e *Encoder) picture(w, h int) (Size, error) {
	if w < 1 || h < 1 {
		return Size{}, fmt.Errorf("picture of %dx%d", w, h)
	}
	a, err := e.p.args(w, h)
	if err != nil {
		return Size{}, err
	}
	w, h = a.Size()
	if g := e.c.patchGrid(Size{h, w}); g.H*g.W > e.largest.H*e.largest.W {
		return Size{}, fmt.Errorf("picture of %dx%d: %d patches, the limit is %d", w, h, g.H*g.W, e.largest.H*e.largest.W)
	}
	return Size{h, w}, nil
}

// Grid returns height and width of the grid of rows that a unit of frames of w x h pixels becomes; none of pictures that Encode refuses.
func (e *Encoder) Grid(w, h int) (gridH, gridW int) {
	p, err := e.picture(w, h)
	if err != nil {
		return 0, 0
	}
	g := e.c.grid(e.c.patchGrid(p))
	return g.H, g.W
}

// Dim returns the length of a row, as Encode leaves it.
func (e *Encoder) Dim() int { return e.c.dim() }

// Unit is how many frames make one matrix: 2 where rows look at pairs of pictures. A still is the same frame twice.
func (e *Encoder) Unit() int {
	if e.c.Vision.Pair {
		return 2
	}
	return 1
}

// Late reports that rows leave Encode before the join: what is kept of them must go through Join before a language model reads it.
func (e *Encoder) Late() bool { return e.c.Late }

// Merge is how many rows of a memory Join makes one of: 1 for most.
func (e *Encoder) Merge() int {
	if j := e.c.Join; e.c.Late && j != nil {
		return j.Merge * j.Merge
	}
	return 1
}

// Newline is one row of the language model's space that belongs after a video's last row, or after a memory's, where the model has such
// (LLaVA-OneVision); the zero Matrix elsewhere. It is no part of a frame: a memory would average it away.
func (e *Encoder) Newline() compute.Matrix { return e.newline }

// Encode returns one matrix [gridH*gridW, Dim] a unit, row-major over the grid, new memory that the caller owns. Frames may be of
// any size, but those of a unit are of one. A malformed frame is an error and nothing is encoded. ctx is looked at between passes. A
// pass that fails is an error to every caller with a frame in it.
func (e *Encoder) Encode(ctx context.Context, frames ...ingest.Frame) ([]compute.Matrix, error) {
	n := e.Unit()
	if len(frames)%n != 0 {
		return nil, fmt.Errorf("encoder: %d frames: want a multiple of %d", len(frames), n)
	}
	r := &request{ctx: ctx, frames: frames, grids: make([]Size, len(frames)/n), left: len(frames) / n, done: make(chan struct{})}
	units := make([]unit, r.left)
	for i, f := range frames {
		err := e.p.check(f)
		if first := frames[i/n*n]; err == nil && (f.W != first.W || f.H != first.H) {
			err = fmt.Errorf("picture of %dx%d: the one before it is of %dx%d", f.W, f.H, first.W, first.H)
		}
		var picture Size
		if err == nil {
			picture, err = e.picture(f.W, f.H)
		}
		if err != nil {
			return nil, fmt.Errorf("encoder: frame %d: %w", f.Index, err)
		}
		units[i/n] = unit{r, i / n, picture}
		r.grids[i/n] = e.c.grid(e.c.patchGrid(picture))
	}
	if len(units) > 0 {
		e.mu.Lock()
		e.waiting = append(e.waiting, units...)
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
	for i := range r.out {
		r.out[i].Data = slices.Clip(r.out[i].Data)
	}
	return r.out, nil
}

// take returns the units of the next pass, whose pictures have one size: the oldest's. It forgets those of requests that failed or whose
// callers no longer wait.
func (e *Encoder) take() []unit {
	e.mu.Lock()
	defer e.mu.Unlock()
	var pass []unit
	room := 1
	later := e.waiting[:0]
	for _, u := range e.waiting {
		if u.r.err == nil {
			u.r.err = u.r.ctx.Err()
		}
		switch {
		case u.r.err != nil:
			u.r.end()
		case len(pass) == 0 || len(pass) < room && u.picture == pass[0].picture:
			if len(pass) == 0 {
				room = e.t.fits(e.c.patchGrid(u.picture))
			}
			pass = append(pass, u)
		default:
			later = append(later, u)
		}
	}
	clear(e.waiting[len(later):])
	e.waiting = later
	return pass
}

// end counts a unit of r as ended. Its caller holds the turn.
func (r *request) end() {
	if r.left--; r.left == 0 {
		close(r.done)
	}
}

// pass encodes what waits, as much as goes into one. Its caller holds the turn.
func (e *Encoder) pass() {
	pass := e.take()
	if len(pass) == 0 {
		return
	}
	err := errors.New("closed")
	if e.arena != nil {
		err = e.encode(pass)
	}
	for _, u := range pass {
		if err != nil && u.r.err == nil {
			u.r.err = err
			if e.arena != nil {
				u.r.err = fmt.Errorf("frame %d: %w", u.frames(e.Unit())[0].Index, err)
			}
		}
		u.r.end()
	}
}

func (e *Encoder) encode(pass []unit) error {
	var frames []ingest.Frame
	for _, u := range pass {
		frames = append(frames, u.frames(e.Unit())...)
	}
	fill, err := e.p.patches(frames)
	if err != nil {
		return err
	}
	return e.run(len(pass), e.c.patchGrid(pass[0].picture), fill, func(ops compute.Ops, out compute.Tensor) {
		cells := out.Rows / len(pass)
		for i := 0; i < len(pass); {
			r, from := pass[i].r, pass[i].i
			k := 1 // units that lie together on both sides
			for i+k < len(pass) && pass[i+k].r == r && pass[i+k].i == from+k {
				k++
			}
			if r.out == nil { // while the device is busy: clearing so much memory takes a while
				r.room(e.Dim())
			}
			to := compute.Matrix{Rows: k * cells, Cols: e.Dim(), Data: r.out[from].Data[:k*cells*e.Dim()]}
			ops.Download(to, out.Slice(i*cells, (i+k)*cells))
			i += k
		}
	})
}

// run is one pass of n units of g patches; use sees what comes out. Its caller holds the turn.
func (e *Encoder) run(n int, g Size, fill func(compute.Ops, compute.Tensor), use func(compute.Ops, compute.Tensor)) error {
	// No one caller's ctx: the pass is everybody's.
	err := e.dev.Run(context.Background(), func(ops compute.Ops) { use(ops, e.t.forward(ops, n, g, fill)) })
	if err != nil {
		e.t.turned = Size{} // who knows what is there
	}
	return err
}

// room makes the matrices of all units in one piece of memory. Their capacity goes on to its end for passes to fill several at once.
func (r *request) room(dim int) {
	rows := 0
	for _, g := range r.grids {
		rows += g.H * g.W
	}
	all := make([]float32, rows*dim)
	r.out = make([]compute.Matrix, len(r.grids))
	for i, g := range r.grids {
		n := g.H * g.W
		r.out[i] = compute.Matrix{Rows: n, Cols: dim, Data: all[:n*dim]}
		all = all[n*dim:]
	}
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
