// Package qa is where watching and answering meet. There are only a few types: Watch moves frames from a source through an
// encoder into a bank, a Session answers a Question from a snapshot of that bank with an Answer and its Evidence, and a Meter
// counts what Watch did.
//
// The two walks are each one file: a frame's is watch.go, a question's is session.go. They share nothing but the bank.
package qa

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/memorybank"
)

// Source is where frames come from; io.EOF ends it. An ingest.Supervisor is one.
type Source interface {
	Next(context.Context) (ingest.Frame, error)
}

// Encoder turns pictures into rows, one matrix for every Unit of frames, each of the H*W rows of Grid.
type Encoder interface {
	// Encode takes a multiple of Unit frames; those of one unit are of one size.
	Encode(ctx context.Context, frames ...ingest.Frame) ([]compute.Matrix, error)
	Grid(w, h int) (gridH, gridW int) // of a unit of frames of w x h pixels
	Unit() int                        // frames that make one matrix
}

// Indicator is an Encoder that also says what a frame shows, for questions to find it by: a vector in the space of Session.Query.
type Indicator interface {
	Indicate(rows compute.Matrix) []float32
}

// Memory is what Watch fills; a memorybank.Bank is one.
type Memory interface {
	Snapshot() *memorybank.Snapshot // its Epoch is what times count from
	Add(memorybank.Entry)
}

// waiting is how many frames may wait for the encoder, and how many of them it is given at once when they do.
const waiting = 4

// Watch is a frame's walk: Source.Next, a bounded channel, Encoder.Encode, a thumbnail, Bank.Add. It returns nil when the source
// has ended, ctx's error when that is done, or what the source broke with; by then its goroutine is gone and (unless ctx was
// done) every frame is in the bank. It is the bank's one writer. A frame that cannot be encoded is counted on the meters and left out;
// watching goes on. Where a unit is several frames, it waits for its last and is one entry, at the time of its first; at the end of the
// source, and where the pictures' size changes, the last frame is repeated. When the encoder is slower than the source, Next is simply not called: dropping is the source's policy.
func Watch(ctx context.Context, src Source, enc Encoder, bank Memory, meters ...*Meter) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	frames := make(chan ingest.Frame, waiting)
	var broken error // written by the reader before it closes frames
	go func() {
		defer close(frames)
		for {
			f, err := src.Next(ctx)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					broken = fmt.Errorf("qa: watch: %w", err)
				}
				return
			}
			select {
			case frames <- f:
			case <-ctx.Done():
				broken = fmt.Errorf("qa: watch: %w", ctx.Err())
				return
			}
		}
	}()

	epoch := bank.Snapshot().Epoch
	indicator, indicates := enc.(Indicator)
	add := func(units [][]ingest.Frame) {
		for i, e := range encode(ctx, enc, units, meters) {
			if e.Tokens.Rows == 0 {
				continue // counted
			}
			u := units[i]
			e.At = u[0].Wall.Sub(epoch)
			e.Thumb = thumbnail(u[0])
			if indicates {
				e.Indicator = memorybank.NewIndicator(indicator.Indicate(e.Tokens))
			}
			begun := time.Now()
			bank.Add(e)
			for _, m := range meters {
				m.remembered(time.Since(begun))
			}
			for j, f := range u {
				if j > 0 && f.Index == u[j-1].Index {
					break // repeated
				}
				for _, m := range meters {
					m.added(f.Wall)
				}
			}
		}
	}
	unit := enc.Unit()
	var part []ingest.Frame // of a unit that waits for more
	for f := range frames {
		batch := append(part, f)
		for len(batch) < waiting && len(frames) > 0 {
			batch = append(batch, <-frames)
		}
		if ctx.Err() != nil {
			continue // the reader is about to close the channel
		}
		var whole [][]ingest.Frame
		if whole, part = grouped(batch, unit); len(whole) > 0 {
			add(whole)
		}
	}
	if len(part) > 0 && ctx.Err() == nil {
		add([][]ingest.Frame{fill(part, unit)})
	}
	return broken
}

// grouped puts frames together by n of one size. part is what has no n yet.
func grouped(frames []ingest.Frame, n int) (whole [][]ingest.Frame, part []ingest.Frame) {
	for _, f := range frames {
		if len(part) > 0 && (part[0].W != f.W || part[0].H != f.H) {
			whole, part = append(whole, fill(part, n)), nil
		}
		if part = append(part, f); len(part) == n {
			whole, part = append(whole, part), nil
		}
	}
	return whole, part
}

// fill repeats the last frame until there are n.
func fill(part []ingest.Frame, n int) []ingest.Frame {
	for len(part) < n {
		part = append(part, part[len(part)-1])
	}
	return part
}

// encode returns one entry a unit, with rows only, and without rows where that failed. A batch that fails is tried again unit by
// unit, so one bad picture costs only its own.
func encode(ctx context.Context, enc Encoder, batch [][]ingest.Frame, meters []*Meter) []memorybank.Entry {
	start := time.Now()
	rows, err := enc.Encode(ctx, slices.Concat(batch...)...)
	for _, m := range meters {
		m.encoded(time.Since(start), len(batch))
	}
	entries := make([]memorybank.Entry, len(batch))
	if err == nil && len(rows) != len(batch) {
		err = fmt.Errorf("encoder gave %d matrices for %d units of frames", len(rows), len(batch))
	}
	for i := 0; i < len(batch) && err == nil; i++ {
		h, w := enc.Grid(batch[i][0].W, batch[i][0].H)
		entries[i] = memorybank.Entry{Grid: memorybank.Grid{H: h, W: w}, Tokens: rows[i]}
		err = check(rows[i], h*w)
	}
	switch {
	case err != nil && len(batch) > 1:
		for i := range batch {
			entries[i] = encode(ctx, enc, batch[i:i+1], meters)[0]
		}
	case err != nil:
		entries[0] = memorybank.Entry{}
		if ctx.Err() == nil {
			for _, m := range meters {
				m.failed(fmt.Errorf("frame %d: %w", batch[0][0].Index, err))
			}
		}
	}
	return entries
}

// check keeps what is not a picture of anything out of the bank, where an average would carry it on for ever.
func check(m compute.Matrix, cells int) error {
	if m.Rows != cells || m.Rows == 0 || len(m.Data) != m.Rows*m.Cols {
		return fmt.Errorf("encoder gave %d rows for a grid of %d", m.Rows, cells)
	}
	for _, v := range m.Data {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return errors.New("encoder gave values that are not numbers")
		}
	}
	return nil
}

// Meter counts what Watch does. The zero Meter is ready; one Watch writes it, anyone reads it.
type Meter struct {
	Now func() time.Time // nil is time.Now; set before Watch

	// Who is told of each measurement as it is made; nil: nobody. Set before Watch.
	Encode Observer // seconds of a call of the encoder
	Batch  Observer // units of frames in it
	Update Observer // seconds until the memory had taken an entry in
	Behind Observer // seconds from a frame's wall time to when it was in the memory

	mu sync.Mutex
	p  Progress
}

// Observer takes measurements one by one; a Prometheus histogram is one.
type Observer interface{ Observe(float64) }

func observe(o Observer, v float64) {
	if o != nil {
		o.Observe(v)
	}
}

// Progress is what a Meter shows.
type Progress struct {
	Frames    uint64        // in the bank
	Failed    uint64        // frames that could not be encoded
	Encoding  time.Duration // spent in the encoder, all in all
	LastFrame time.Time     // wall time of the newest frame in the bank
	Lag       time.Duration // from that wall time to when it was in the bank
	LastError string        // of the newest frame that could not be encoded; "" if none ever
	ErrorAt   time.Time
}

// Read returns the counters.
func (m *Meter) Read() Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.p
}

func (m *Meter) now() time.Time {
	if m.Now != nil {
		return m.Now()
	}
	return time.Now()
}

func (m *Meter) added(wall time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Frames++
	m.p.LastFrame, m.p.Lag = wall, max(m.now().Sub(wall), 0)
	observe(m.Behind, m.p.Lag.Seconds())
}

func (m *Meter) encoded(d time.Duration, units int) {
	observe(m.Encode, d.Seconds())
	observe(m.Batch, float64(units))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Encoding += d
}

func (m *Meter) remembered(d time.Duration) { observe(m.Update, d.Seconds()) }

func (m *Meter) failed(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Failed++
	m.p.LastError, m.p.ErrorAt = err.Error(), m.now()
}
