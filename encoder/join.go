package encoder

import (
	"context"
	"errors"
	"fmt"

	"afterimage/internal/compute"
)

// Rows are a grid of rows as Encode left them, or averaged since.
type Rows struct {
	H, W int
	Data compute.Matrix // [H*W, Dim], row-major over the grid
}

// Join maps grids to the language model's space, one matrix for each, in new memory that the caller owns: [H*W, width], or fewer rows
// where squares of them become one (Flash-VStream-Qwen, whose grids must have even sides). Where Late is false they are there already
// and are returned as they are. A call takes as many passes as it needs; others' frames are encoded between them.
func (e *Encoder) Join(ctx context.Context, grids ...Rows) ([]compute.Matrix, error) {
	out := make([]compute.Matrix, len(grids))
	var pieces []piece
	for i, g := range grids {
		if err := e.checkRows(g); err != nil {
			return nil, fmt.Errorf("encoder: join: grid %d: %w", i, err)
		}
		if out[i] = g.Data; !e.c.Late {
			continue
		}
		to := e.c.joined(Size{g.H, g.W})
		out[i] = compute.NewMatrix(to.H*to.W, e.c.Join.Dim)
		pieces = append(pieces, piece{e.c.squares(g), out[i]})
	}
	for len(pieces) > 0 {
		select {
		case e.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("encoder: join: %w", ctx.Err())
		}
		var err error
		pieces, err = e.joinSome(ctx, pieces)
		<-e.turn
		if err != nil {
			return nil, fmt.Errorf("encoder: join: %w", err)
		}
	}
	return out, nil
}

func (e *Encoder) checkRows(g Rows) error {
	m := g.Data
	merge := 1
	if e.c.Late {
		merge = e.c.Join.Merge
	}
	switch {
	case g.H < 1 || g.W < 1 || m.Rows/g.H != g.W || m.Rows%g.H != 0:
		return fmt.Errorf("%d rows of %dx%d", m.Rows, g.H, g.W)
	case m.Cols != e.Dim() || len(m.Data) != m.Rows*m.Cols:
		return fmt.Errorf("rows of %d in %d values, want %d each", m.Cols, len(m.Data), e.Dim())
	case g.H%merge != 0 || g.W%merge != 0:
		return fmt.Errorf("%dx%d rows: squares of %dx%d become one", g.H, g.W, merge, merge)
	}
	return nil
}

// squares puts the rows of a grid into the order in which the join merges them.
func (c *Config) squares(g Rows) compute.Matrix {
	m := c.Join.Merge
	if m == 1 {
		return g.Data
	}
	out := compute.NewMatrix(g.Data.Rows, g.Data.Cols)
	r := 0
	for y := 0; y < g.H; y += m {
		for x := 0; x < g.W; x += m {
			for i := range m * m {
				copy(out.Row(r), g.Data.Row((y+i/m)*g.W+x+i%m))
				r++
			}
		}
	}
	return out
}

// piece is rows that are to be joined, and where they go.
type piece struct{ in, out compute.Matrix }

// joinSome is one pass over the first pieces. It returns what is left of them. Its caller holds the turn.
func (e *Encoder) joinSome(ctx context.Context, pieces []piece) (left []piece, err error) {
	if e.arena == nil {
		return nil, errors.New("closed")
	}
	t := &e.t
	into, ratio := t.x.Slice(0, t.x.Rows/(e.c.Shuffle*e.c.Shuffle)*e.c.Shuffle*e.c.Shuffle).Fold(e.c.Shuffle*e.c.Shuffle), e.c.Join.Merge*e.c.Join.Merge
	room := min(into.Rows/ratio, t.out.Rows)
	var now []piece // of out.Rows, which in.Rows is ratio times
	n := 0
	for len(pieces) > 0 && n < room {
		p := pieces[0]
		k := min(p.out.Rows, room-n)
		now = append(now, piece{rows(p.in, 0, k*ratio), rows(p.out, 0, k)})
		n += k
		if k == p.out.Rows {
			pieces = pieces[1:]
		} else {
			pieces = append([]piece{{rows(p.in, k*ratio, p.in.Rows), rows(p.out, k, p.out.Rows)}}, pieces[1:]...)
		}
	}
	return pieces, e.dev.Run(ctx, func(ops compute.Ops) {
		at := 0
		for _, p := range now {
			ops.Upload(into.Slice(at, at+p.in.Rows), p.in)
			at += p.in.Rows
		}
		out := t.join(ops, into.Slice(0, at), 1)
		at = 0
		for _, p := range now {
			ops.Download(p.out, out.Slice(at, at+p.out.Rows))
			at += p.out.Rows
		}
	})
}
