package ingest

import (
	"bytes"
	"context"
	"fmt"
	"math"
)

// Mask is a rectangle of the picture that nobody may see, in shares of its width and height from the left and the top, 0 to 1.
type Mask struct{ Left, Top, Right, Bottom float64 }

// Masked is open with the masks black in every frame, every pixel that a mask touches. It goes around what decodes, so that nothing that
// follows, such as the encoder, a thumbnail or the live picture, is ever given what was there.
func Masked(open Opener, masks []Mask) Opener {
	if len(masks) == 0 {
		return open
	}
	return func(ctx context.Context) (Source, error) {
		src, err := open(ctx)
		if err != nil {
			return nil, err
		}
		return &masked{src, masks}, nil
	}
}

type masked struct {
	Source
	masks []Mask
}

// Next implements Source.
func (m *masked) Next(ctx context.Context) (Frame, error) {
	f, err := m.Source.Next(ctx)
	if err != nil {
		return Frame{}, err
	}
	if f.W <= 0 || f.H <= 0 || len(f.Pix) != 3*f.W*f.H {
		return Frame{}, fmt.Errorf("a frame of %dx%d with %d bytes", f.W, f.H, len(f.Pix))
	}
	f.Pix = bytes.Clone(f.Pix) // the source may keep its own
	for _, r := range m.masks {
		x0, x1 := edges(r.Left, r.Right, f.W)
		y0, y1 := edges(r.Top, r.Bottom, f.H)
		for y := y0; y < y1; y++ {
			clear(f.Pix[3*(y*f.W+x0) : 3*(y*f.W+x1)])
		}
	}
	return f, nil
}

// Live says what the source below does.
func (m *masked) Live() bool {
	l, ok := m.Source.(interface{ Live() bool })
	return ok && l.Live()
}

// edges are the pixels of n that lie between two shares, those that are cut included.
func edges(from, to float64, n int) (first, end int) {
	first, end = int(math.Floor(from*float64(n))), int(math.Ceil(to*float64(n)))
	return min(max(first, 0), n), min(max(end, 0), n)
}
