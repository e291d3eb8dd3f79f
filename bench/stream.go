package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"
	"afterimage/qa"
)

// simStream is one simulated stream under test: watched and asked as a served one is, but on the stream's own clock.
type simStream struct {
	*qa.Session
	gate     *gate
	bank     *memorybank.Bank
	epoch    time.Time
	coverage *ingest.Coverage
	clock    atomic.Int64 // stream time in ns, for Session and Status
	meter    qa.Meter
}

// newSimStream takes src over. number keeps the entries of one stream from being taken for another's in the model's cache.
func newSimStream(rig Rig, src ingest.Source, epoch time.Time, number uint16, moments []time.Duration) *simStream {
	s := &simStream{bank: memorybank.New(epoch, rig.Strategy()), epoch: epoch, coverage: ingest.NewCoverage(0, 0)}
	s.meter.Now = s.now
	s.Session = qa.NewSession(s.bank, qa.Shared(rig.Model, number), s, s.now)
	s.Reading = rig.Reading
	s.Session.Query = rig.Query
	s.gate = &gate{
		src: src, moments: moments,
		caught: func(upTo time.Duration) bool { return s.bank.Snapshot().Now >= upTo || s.meter.Read().Failed > 0 },
		frame:  s.passed,
	}
	return s
}

// run watches the stream to its end, asking at its moments, and closes it.
func (s *simStream) run(ctx context.Context, rig Rig, ask func(context.Context, time.Duration) error) error {
	s.gate.stop = func(ctx context.Context, at time.Duration) error {
		s.clock.Store(int64(at))
		return ask(ctx, at)
	}
	err := qa.Watch(ctx, s.gate, rig.Encoder, s.bank, &s.meter)
	if e := s.gate.Close(); err == nil {
		err = e
	}
	if p := s.meter.Read(); err == nil && p.Failed > 0 {
		err = fmt.Errorf("%d frames could not be encoded: %s", p.Failed, p.LastError)
	}
	return err
}

func (s *simStream) passed(f ingest.Frame) {
	s.clock.Store(int64(f.PTS))
	s.coverage.Mark(f.Wall)
}

func (s *simStream) now() time.Time { return s.epoch.Add(time.Duration(s.clock.Load())) }

// Status implements qa.Watched.
func (s *simStream) Status() ingest.Status {
	return ingest.Status{State: ingest.Live, Since: s.epoch, LastFrame: s.now(), Frames: s.meter.Read().Frames}
}

// Coverage implements qa.Watched.
func (s *simStream) Coverage() *ingest.Coverage { return s.coverage }
