package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"afterimage/ingest"
	"afterimage/ingest/simcam"
	"afterimage/memorybank"
	"afterimage/qa"
)

// Usage is what a process has used so far.
type Usage struct {
	RSS int64         // resident bytes now
	CPU time.Duration // user and system time since the process began
}

// SoakOptions say how long to watch. Every field is needed unless it says otherwise.
type SoakOptions struct {
	Minutes int
	Every   time.Duration // between measurements and questions; zero means a minute
	FPS     float64
	Seed    uint64
	// Open opens the paced camera of Seed; its Wall is the world's clock.
	Open  ingest.Opener
	Usage func() (Usage, error)
	// Progress is told of every measurement; nil: nobody is.
	Progress func(done, total int, what string)
}

// SoakReport is what a stream cost, minute by minute. The slices have one value a minute.
type SoakReport struct {
	Benchmark       string    `json:"benchmark"` // "soak"
	Minutes         float64   `json:"minutes"`
	FPS             float64   `json:"fps"`
	RSSMB           []float64 `json:"rss_mb"` // 10^6 bytes
	CPUCores        float64   `json:"cpu_cores"`
	CoresByMinute   []float64 `json:"cpu_cores_by_minute"`
	FramesByMinute  []uint64  `json:"frames_by_minute"`
	DroppedByMinute []uint64  `json:"dropped_by_minute"`
	FirstTokenMS    []float64 `json:"first_token_ms"` // of the question asked at the minute's end
	Answers         []string  `json:"answers"`
	Machine         Machine   `json:"machine"`
}

// Soak watches a simulated camera in real time, asks a question a minute and measures what the process uses. The picture is
// drawn in this process too, so the figures are an upper bound of what watching costs.
func Soak(ctx context.Context, rig Rig, o SoakOptions) (*SoakReport, error) {
	if o.Minutes < 1 {
		return nil, errors.New("bench: want at least one minute")
	}
	if o.Every <= 0 {
		o.Every = time.Minute
	}
	if o.Progress == nil {
		o.Progress = func(int, int, string) {}
	}
	r := &SoakReport{Benchmark: "soak", Minutes: (time.Duration(o.Minutes) * o.Every).Minutes(), FPS: o.FPS, Machine: rig.Machine}
	sup := ingest.Supervise(o.Open, ingest.Options{Live: true})
	defer sup.Close()
	epoch := time.Now()
	script := simcam.NewScript(o.Seed, time.Duration(o.Minutes+1)*o.Every)
	bank := memorybank.New(epoch, rig.Strategy())
	session := qa.NewSession(bank, rig.Model, sup, nil)
	session.Reading = rig.Reading
	session.Query = rig.Query
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- qa.Watch(ctx, sup, rig.Encoder, bank); close(ended) }()
	defer func() { cancel(); <-ended }()

	before, err := o.Usage()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	start, frames, dropped := before, uint64(0), uint64(0)
	began := time.Now()
	tick := time.NewTicker(o.Every)
	defer tick.Stop()
	for minute := 1; minute <= o.Minutes; minute++ {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case err := <-ended:
			return nil, fmt.Errorf("bench: the stream ended early: %w", errors.Join(errEnded, err))
		case <-tick.C:
		}
		if err := r.question(ctx, session, script, epoch, time.Since(epoch), uint64(minute)); err != nil {
			return nil, err
		}
		now, err := o.Usage()
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		st := sup.Status()
		r.RSSMB = append(r.RSSMB, round3(float64(now.RSS)/1e6))
		r.CoresByMinute = append(r.CoresByMinute, round3((now.CPU-before.CPU).Seconds()/o.Every.Seconds()))
		r.FramesByMinute = append(r.FramesByMinute, st.Frames-frames)
		r.DroppedByMinute = append(r.DroppedByMinute, st.Dropped-dropped)
		before, frames, dropped = now, st.Frames, st.Dropped
		r.CPUCores = round3((now.CPU - start.CPU).Seconds() / time.Since(began).Seconds())
		o.Progress(minute, o.Minutes, fmt.Sprintf("%.0f MB, %.2f cores", r.RSSMB[minute-1], r.CoresByMinute[minute-1]))
	}
	return r, nil
}

var errEnded = errors.New("no more frames")

func (r *SoakReport) question(ctx context.Context, a asker, script *simcam.Script, epoch time.Time, at time.Duration, seed uint64) error {
	truths := script.Questions(epoch, at, 1, seed)
	if len(truths) == 0 { // nothing to ask about yet
		r.FirstTokenMS, r.Answers = append(r.FirstTokenMS, 0), append(r.Answers, "")
		return nil
	}
	record, err := ask(ctx, a, script.Seed, truths[0])
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	r.FirstTokenMS = append(r.FirstTokenMS, record.FirstTokenMS)
	r.Answers = append(r.Answers, record.Question+" "+record.Answer)
	return nil
}
