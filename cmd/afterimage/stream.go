package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"
	"afterimage/qa"
	"afterimage/web"
)

// stream is one watched source with its memory; it is what the web server shows and the terminal asks.
type stream struct {
	*qa.Session
	*ingest.Supervisor // State, Coverage
	name               string
	url                ingest.URL
	live               bool
	strategy           string
	bank               *memorybank.Bank
	store              *memorybank.Store // nil: the memory ends with the program
	encoder            qa.Encoder
	origin             memorybank.Origin
	meter              qa.Meter
	log                *slog.Logger
	latest             atomic.Pointer[ingest.Frame]
	warm               bool          // the model is shown the memory ahead of questions
	warmAge            time.Duration // see qa.Session.KeepWarm

	stop    context.CancelFunc // of watchInBackground; nil before
	stopped sync.WaitGroup
}

// openStream prepares a stream as it is served: files and simulated cameras at the speed of life.
func openStream(ctx context.Context, a *app, m *machine, c StreamConfig) (*stream, error) {
	o := sourceOptions{Pace: true}
	if a.metrics != nil {
		o.Measure = a.metrics.Stream(c.Name)
	}
	s, err := newStream(ctx, a, m, c, o, time.Now())
	if err != nil {
		return nil, err
	}
	// On the processor, showing the model every change of a full memory takes about as much as watching does, and a question that
	// finds nothing prepared waits a fraction of a second: not worth it unasked.
	switch mode := c.Warm; {
	case mode == "newest", mode == "" && m.level == "cuda":
		s.warm, s.warmAge = true, time.Duration(first(c.WarmAge, duration(2*time.Second)))
	case mode == "wait":
		s.warm = true
	}
	return s, nil
}

// openFastStream prepares a stream for one question: what has an end is watched as fast as it can be. starts is the wall clock's
// time at such a source's first picture, zero means now.
func openFastStream(ctx context.Context, a *app, m *machine, c StreamConfig, starts time.Time) (*stream, error) {
	epoch := first(starts, time.Now())
	return newStream(ctx, a, m, c, sourceOptions{Epoch: epoch}, epoch)
}

func newStream(ctx context.Context, a *app, m *machine, c StreamConfig, o sourceOptions, epoch time.Time) (*stream, error) {
	log := a.log.With("component", "ingest", "stream", c.Name)
	strategy, err := c.Memory.open(m, log)
	if err != nil {
		return nil, err
	}
	o.FPS, o.Transport, o.Stall = c.FPS, c.Transport, time.Duration(c.StallTimeout)
	open, live, err := sourceOpener(ctx, c.URL, o)
	if err != nil {
		return nil, err
	}
	masks, err := c.masks()
	if err != nil {
		return nil, err
	}
	s := &stream{name: c.Name, url: c.URL, live: live, strategy: first(c.Memory.over(m.family.memory).Strategy, defaultStrategy), encoder: m.encoder, log: log}
	s.origin = m.origin
	s.meter.Encode, s.meter.Batch, s.meter.Update, s.meter.Behind = o.Measure.Encode, o.Measure.Batch, o.Measure.Update, o.Measure.Behind
	now := time.Now
	if live {
		epoch = now() // a live picture is as old as its arrival
	} else if !o.Pace {
		now = s.end // a file that was read at once is asked at its end
	}
	if c.dir != "" && live {
		if err := s.keep(c, m.origin, strategy, epoch); err != nil {
			return nil, err
		}
	} else {
		s.bank = memorybank.New(epoch, strategy)
	}
	s.Supervisor = ingest.Supervise(ingest.Masked(open, masks), ingest.Options{
		Live: live, StallTimeout: time.Duration(c.StallTimeout), FreezeTimeout: max(0, time.Duration(c.Freeze)), Log: log,
	})
	if s.store != nil {
		if err := s.remember(ctx); err != nil {
			s.close()
			return nil, err
		}
	}
	s.Session = qa.NewSession(s.bank, m.share(), s.Supervisor, now)
	s.Reading = m.reading
	s.Session.Query, s.Session.VisualTokens = m.query(log), first(c.VisualTokens, m.visual)
	s.Session.Warn = func(err error) { log.Warn("a question was answered without all that is remembered", "err", err) }
	return s, nil
}

// keep opens the stream's memory on disk.
func (s *stream) keep(c StreamConfig, o memorybank.Origin, strategy memorybank.Strategy, epoch time.Time) (err error) {
	s.store, err = memorybank.OpenStore(c.dir, memorybank.StoreOptions{
		Origin: o, Strategy: strategy, Epoch: epoch, Budget: int64(c.DiskBudget), Clip: time.Duration(c.Clip),
		Warn: func(err error) { s.log.Warn("memory on disk", "err", err) },
	})
	if err != nil {
		return err
	}
	s.bank = s.store.Bank()
	if snap := s.bank.Snapshot(); snap.Version > 0 {
		s.log.Info("the memory goes on", "as_of", stamp(snap.Wall(snap.Now)), "frames", snap.Version, "moments_on_disk", s.store.Stats().Entries)
	}
	return nil
}

// remember fills the coverage map with what was watched before the program was started.
func (s *stream) remember(ctx context.Context) error {
	watched, err := s.store.Watched(ctx)
	if err != nil {
		return err
	}
	spans := make([]ingest.Span, len(watched))
	for i, w := range watched {
		spans[i].From, spans[i].To = w.Wall(s.bank.Snapshot().Epoch)
	}
	s.Coverage().Restore(spans)
	return nil
}

// Forget implements web.Forgetter.
func (s *stream) Forget(ctx context.Context, from, to time.Time) (memorybank.Forgotten, error) {
	did, err := s.Session.Forget(ctx, from, to)
	if f := s.latest.Load(); f != nil && !f.Wall.Before(from) && f.Wall.Before(to) {
		s.latest.CompareAndSwap(f, nil)
	}
	return did, err
}

// end is the wall clock's time of the newest frame in memory.
func (s *stream) end() time.Time {
	snap := s.bank.Snapshot()
	return snap.Wall(snap.Now)
}

// Next passes the supervisor's frames on to Watch and keeps the newest for whoever wants to see it.
func (s *stream) Next(ctx context.Context) (ingest.Frame, error) {
	f, err := s.Supervisor.Next(ctx)
	if err == nil {
		s.latest.Store(&f)
	}
	return f, err
}

// watch fills the memory until the source ends or ctx does.
func (s *stream) watch(ctx context.Context) error {
	if s.warm {
		ctx, stop := context.WithCancel(ctx)
		var warming sync.WaitGroup
		warming.Go(func() {
			if err := s.KeepWarm(ctx, s.warmAge); ctx.Err() == nil {
				s.log.Warn("questions will wait for the model to read the memory", "err", err)
			}
		})
		defer warming.Wait()
		defer stop()
	}
	err := qa.Watch(ctx, s, s.encoder, s.bank, &s.meter)
	if p := s.meter.Read(); p.Failed > 0 {
		s.log.Warn("frames that could not be encoded", "frames", p.Failed, "last", p.LastError)
	}
	return err
}

// watchInBackground starts watch; close ends it.
func (s *stream) watchInBackground(ctx context.Context) {
	ctx, s.stop = context.WithCancel(ctx)
	s.stopped.Go(func() {
		if err := s.watch(ctx); err != nil && !errors.Is(err, context.Canceled) {
			s.log.Error("watching stopped", "err", err)
		}
	})
}

// close stops watching and waits.
func (s *stream) close() {
	if s.stop != nil {
		s.stop()
	}
	if err := s.Supervisor.Close(); err != nil {
		s.log.Warn("close", "err", err)
	}
	s.stopped.Wait()
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.log.Warn("close", "err", err)
		}
	}
}

// frames is how many are in the memory.
func (s *stream) frames() uint64 { return s.bank.Snapshot().Version }

// Name implements web.Stream.
func (s *stream) Name() string { return s.name }

// Source implements web.Stream.
func (s *stream) Source() string { return s.url.String() }

// LatestFrame implements web.Stream.
func (s *stream) LatestFrame() (ingest.Frame, bool) {
	if f := s.latest.Load(); f != nil {
		return *f, true
	}
	return ingest.Frame{}, false
}

// Progress, Evicted and the supervisor's Reconnects implement web.Measured.
func (s *stream) Progress() qa.Progress { return s.meter.Read() }

// Evicted implements web.Measured.
func (s *stream) Evicted() uint64 { return s.bank.Evicted() }

// Snapshot implements web.Inspected.
func (s *stream) Snapshot() *memorybank.Snapshot { return s.bank.Snapshot() }

// SaveSnapshot implements web.Inspected.
func (s *stream) SaveSnapshot(w io.Writer, snap *memorybank.Snapshot) error {
	return snap.Save(w, s.origin)
}

// MemoryStats implements web.Stream.
func (s *stream) MemoryStats() web.MemoryStats {
	snap := s.bank.Snapshot()
	st := web.MemoryStats{Strategy: s.strategy, Version: snap.Version, Entries: len(snap.Entries)}
	oldest := snap.Now // entries need not be in time order
	for _, e := range snap.Entries {
		oldest = min(oldest, e.Start)
		st.Tokens += e.Tokens.Rows
		st.Bytes += 4*int64(len(e.Tokens.Data)) + int64(len(e.Thumb))
	}
	if len(snap.Entries) > 0 {
		st.Oldest, st.Newest = snap.Wall(oldest), snap.Wall(snap.Now)
	}
	return st
}
