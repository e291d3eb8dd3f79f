package encoder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"afterimage/internal/compute"
)

// TowerTime is how long the device takes for one pass of frames whose patches it has, with nothing brought back: the median of
// several rounds of reps passes in a row. More frames than the device takes in one pass are an error.
func (e *Encoder) TowerTime(ctx context.Context, frames, reps int) (time.Duration, error) {
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	switch {
	case e.arena == nil:
		return 0, errors.New("encoder: closed")
	case frames < 1 || frames > e.t.batch || reps < 1:
		return 0, fmt.Errorf("encoder: %d passes of %d frames: a pass takes 1 to %d", reps, frames, e.t.batch)
	}
	const rounds = 5
	var spent []time.Duration
	for range rounds + 1 { // the first warms up
		start := time.Now()
		err := e.dev.Run(ctx, func(ops compute.Ops) {
			for range reps {
				e.t.forward(ops, frames, func(compute.Ops, compute.Tensor) {})
			}
		})
		if err != nil {
			return 0, fmt.Errorf("encoder: %w", err)
		}
		spent = append(spent, time.Since(start)/time.Duration(reps))
	}
	spent = spent[1:]
	slices.Sort(spent)
	return spent[rounds/2], nil
}
