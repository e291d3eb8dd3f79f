package encoder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"afterimage/internal/compute"
)

// TowerTime is how long the device takes for one pass of units of frames of the tower's own size (see Vision.Image) whose patches it
// has, with nothing brought back: the median of several rounds of reps passes in a row. More than go into one pass are an error.
func (e *Encoder) TowerTime(ctx context.Context, units, reps int) (time.Duration, error) {
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	g := e.c.patchGrid(e.c.Vision.Image)
	most := e.t.fits(g)
	switch {
	case e.arena == nil:
		return 0, errors.New("encoder: closed")
	case units < 1 || units > most || reps < 1:
		return 0, fmt.Errorf("encoder: %d passes of %d units: a pass takes 1 to %d", reps, units, most)
	}
	const rounds = 5
	var spent []time.Duration
	for range rounds + 1 { // the first warms up
		start := time.Now()
		err := e.dev.Run(ctx, func(ops compute.Ops) {
			for range reps {
				e.t.forward(ops, units, g, func(compute.Ops, compute.Tensor) {})
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
