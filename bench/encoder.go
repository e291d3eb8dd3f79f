package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"afterimage/ingest"
	"afterimage/qa"
)

// TimedEncoder is an encoder with what its rows are called after and the operations that it takes.
type TimedEncoder struct {
	qa.Encoder
	Name  string
	FLOPs func(w, h int) float64 // of a unit of frames of such pictures; nil: not known
	W, H  int                    // of the pictures that need no resizing
	// Tower times passes of units of frames that the device has already, nothing being brought back.
	Tower func(ctx context.Context, units, reps int) (time.Duration, error)
}

// EncoderOptions say how Encoder times. The zero value of a field means its default.
type EncoderOptions struct {
	Batches     []int // 1, 8, 32: frames encoded together, or units of more than one
	Repetitions int   // 7
	Progress    func(what string)
}

// Encoder times the tower by itself, and the whole way of pictures from host memory to rows in host memory: at the tower's own size
// and, for the largest batch, from 1280x720.
func Encoder(ctx context.Context, e TimedEncoder, top Ceilings, o EncoderOptions) ([]Row, error) {
	if len(o.Batches) == 0 {
		o.Batches = []int{1, 8, 32}
	}
	if o.Repetitions <= 0 {
		o.Repetitions = 7
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	var rows []Row
	unit := e.Unit()
	add := func(what, shape string, rate float64, w, h int) {
		r := Row{What: what, Shape: shape, Value: figures(rate), Unit: unitFrames}
		if e.FLOPs != nil {
			r.Ceiling = figures(top.FLOPs / e.FLOPs(w, h) * float64(unit))
		}
		rows = append(rows, r)
	}
	whole := func(shape string, w, h, batch int) error {
		o.Progress(shape)
		rate, err := frameRate(ctx, e, noise(w, h, batch*unit), o.Repetitions)
		if err != nil {
			return fmt.Errorf("bench: %s: %w", shape, err)
		}
		add("encoding pictures", shape, rate, w, h)
		return nil
	}
	largest := 0
	for _, n := range o.Batches {
		shape := fmt.Sprintf("%s batch %d", e.Name, n)
		if unit > 1 {
			shape += fmt.Sprintf("x%d", unit)
		}
		if e.Tower != nil {
			o.Progress(shape)
			t, err := e.Tower(ctx, n, max(1, 64/n))
			if err != nil {
				return rows, fmt.Errorf("bench: %s: %w", shape, err)
			}
			add("encoding", shape, float64(n*unit)/t.Seconds(), e.W, e.H)
		}
		if err := whole(shape, e.W, e.H, n); err != nil {
			return rows, err
		}
		largest = max(largest, n)
	}
	return rows, whole(fmt.Sprintf("%s batch %d of 1280x720", e.Name, largest), 1280, 720, largest)
}

func frameRate(ctx context.Context, e qa.Encoder, frames []ingest.Frame, repetitions int) (float64, error) {
	var spent []float64
	for i := range repetitions + 2 { // the first ones warm up
		start := time.Now()
		if _, err := e.Encode(ctx, frames...); err != nil {
			return 0, err
		}
		if i >= 2 {
			spent = append(spent, time.Since(start).Seconds())
		}
	}
	return float64(len(frames)) / median(spent), nil
}

// noise makes pictures that no cache or compression could make easier.
func noise(w, h, n int) []ingest.Frame {
	rng := rand.New(rand.NewPCG(1, 2))
	frames := make([]ingest.Frame, n)
	for i := range frames {
		pix := make([]byte, 3*w*h)
		for j := range pix {
			pix[j] = byte(rng.Uint32())
		}
		frames[i] = ingest.Frame{Index: int64(i), W: w, H: h, Pix: pix}
	}
	return frames
}
