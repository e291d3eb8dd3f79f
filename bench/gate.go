package bench

import (
	"context"
	"time"

	"afterimage/ingest"
)

// gate lets a source through and stops it at moments of stream time, when everything before has been remembered, until stop
// returns. A stream that is read faster than real time so answers each question from exactly what a live one had seen.
type gate struct {
	src     ingest.Source
	moments []time.Duration                            // ascending
	caught  func(upTo time.Duration) bool              // whether the memory has reached a frame's time
	stop    func(context.Context, time.Duration) error // called at each moment
	frame   func(ingest.Frame)                         // told of each frame let through; nil: nobody

	last time.Duration // of the frame let through last
	any  bool
}

// Next passes frames on and runs the stops that are due before them.
func (g *gate) Next(ctx context.Context) (ingest.Frame, error) {
	f, err := g.src.Next(ctx)
	if err != nil {
		return f, err
	}
	for len(g.moments) > 0 && f.PTS > g.moments[0] {
		if err := g.settle(ctx); err != nil {
			return ingest.Frame{}, err
		}
		at := g.moments[0]
		g.moments = g.moments[1:]
		if err := g.stop(ctx, at); err != nil {
			return ingest.Frame{}, err
		}
	}
	g.last, g.any = f.PTS, true
	if g.frame != nil {
		g.frame(f)
	}
	return f, nil
}

// settle waits until every frame let through is in the memory.
func (g *gate) settle(ctx context.Context) error {
	for g.any && !g.caught(g.last) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// Close closes the source.
func (g *gate) Close() error { return g.src.Close() }
