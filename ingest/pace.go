package ingest

import (
	"context"
	"time"
)

// Pace hands a file's frames out at the speed they were filmed, so that it can stand in for a camera: a frame is held back
// until its PTS has passed since the first one, and its Wall becomes start+PTS. A consumer that is late gets its frames at
// once until it has caught up; nothing is dropped here. Close closes src.
func Pace(src Source) Source { return &paced{Source: src} }

type paced struct {
	Source
	start time.Time // Wall of PTS 0; zero before the first frame
}

func (p *paced) Next(ctx context.Context) (Frame, error) {
	f, err := p.Source.Next(ctx)
	if err != nil {
		return Frame{}, err
	}
	if p.start.IsZero() {
		p.start = time.Now().Add(-f.PTS)
	}
	f.Wall = p.start.Add(f.PTS)
	if wait := time.Until(f.Wall); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return Frame{}, ctx.Err() // the frame is lost; a cancelled source is not read again
		}
	}
	return f, nil
}
