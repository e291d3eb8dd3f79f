package ingest

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// Options tune a Supervisor. The zero value of a field means its default.
type Options struct {
	Live         bool          // restart for ever and drop rather than block; else a file, unless the Source has a method Live() bool that says true
	OpenTimeout  time.Duration // 20 s: for the Opener
	FirstTimeout time.Duration // 20 s: from opened to the first frame (a camera's next key frame)
	StallTimeout time.Duration // 10 s: without a frame, a live source is closed and opened again
	// FreezeTimeout is after how long without a picture that is new, to the last bit, a live source is Frozen, which a camera that hangs is and a night without
	// noise may be. Frames of a frozen picture are not passed on: they would be remembered, and stamped, as if something had been seen.
	// 0 means never.
	FreezeTimeout time.Duration
	Queue         int              // 4: frames waiting for Next
	MinBackoff    time.Duration    // 1 s: the first wait is anything up to this
	MaxBackoff    time.Duration    // 60 s
	ResetAfter    time.Duration    // 30 s: of good frames, after which the back-off starts over
	Gap           time.Duration    // 3 s: a longer hole is a gap in Coverage
	Log           *slog.Logger     // nil logs nothing
	Now           func() time.Time // time.Now
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.OpenTimeout, 20*time.Second)
	def(&o.FirstTimeout, 20*time.Second)
	def(&o.StallTimeout, 10*time.Second)
	def(&o.MinBackoff, time.Second)
	def(&o.MaxBackoff, time.Minute)
	def(&o.ResetAfter, 30*time.Second)
	o.MaxBackoff = max(o.MaxBackoff, o.MinBackoff)
	if o.Queue <= 0 {
		o.Queue = 4
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Supervisor keeps a Source alive. It is itself a Source whose frames have an Index, a PTS and a Wall that only grow, over
// all restarts: after one, PTS has advanced by the time that passed. A live source is never waited for nor made to wait.
type Supervisor struct {
	open     Opener
	o        Options
	coverage *Coverage
	cancel   context.CancelFunc
	done     chan struct{} // closed when run has returned and the source is closed
	queue    *frameQueue

	// Owned by run.
	live  bool // Options.Live, or a source said so
	stamp stamper
	drops throttle
	still stillness

	mu          sync.Mutex
	status      Status
	lost        string            // why the last session ended, in one word
	reconnects  map[string]uint64 // times the source came back, by why it was gone
	subscribers map[chan Status]struct{}
}

// Supervise starts watching what open opens; the caller must Close it.
func Supervise(open Opener, o Options) *Supervisor {
	o = o.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	s := &Supervisor{
		open: open, o: o, live: o.Live, cancel: cancel,
		coverage:    NewCoverage(o.Gap, 0),
		done:        make(chan struct{}),
		queue:       newFrameQueue(o.Queue),
		status:      Status{State: Connecting, Since: o.Now()},
		reconnects:  make(map[string]uint64),
		subscribers: make(map[chan Status]struct{}),
	}
	go s.run(ctx)
	return s
}

// Next returns the next frame in order. It waits, for ever if the camera stays away, until there is one, ctx is done, or the
// source has ended: io.EOF after a file's last frame and after Close, or what broke the file. One goroutine calls it.
func (s *Supervisor) Next(ctx context.Context) (Frame, error) {
	f, err := s.queue.pop(ctx)
	if err != nil {
		return Frame{}, err
	}
	s.coverage.Mark(f.Wall) // here, not on arrival: a dropped frame was not watched
	return f, nil
}

// Coverage is the map of the frames that Next returned. It stays valid after Close.
func (s *Supervisor) Coverage() *Coverage { return s.coverage }

// Status is the present condition.
func (s *Supervisor) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Reconnects counts the times that the source came back, by why it had been gone: "stall", "credentials", "end" or "failure".
func (s *Supervisor) Reconnects() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.reconnects)
}

// Subscribe returns a channel that holds the newest Status: the present one at once, then one at each change of State or Err.
// A reader that is slow misses the older ones, never the last. The channel is closed after Ended, or by the returned function.
func (s *Supervisor) Subscribe() (<-chan Status, func()) {
	ch := make(chan Status, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	ch <- s.status
	if s.status.State == Ended {
		close(ch)
		return ch, func() {}
	}
	s.subscribers[ch] = struct{}{}
	return ch, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, ok := s.subscribers[ch]; ok {
			delete(s.subscribers, ch)
			close(ch)
		}
	}
}

// Close stops watching, and returns when the source is closed. Frames that were not taken are lost.
func (s *Supervisor) Close() error {
	s.cancel()
	<-s.done
	s.queue.clear()
	return nil
}

// setState publishes a change. It never blocks: every channel has room for one Status, and only the holder of mu writes.
func (s *Supervisor) setState(state State, cause string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.State == state && s.status.Err == cause {
		return
	}
	if s.status.State != state {
		now := s.o.Now()
		if s.status.State == Frozen {
			s.status.FrozenFor += now.Sub(s.status.Since)
		}
		s.status.Since = now
		if state == Stalled {
			s.status.Stalls++
		}
	}
	s.status.State, s.status.Err = state, cause
	for ch := range s.subscribers {
		select {
		case <-ch:
		default:
		}
		ch <- s.status
		if state == Ended {
			delete(s.subscribers, ch)
			close(ch)
		}
	}
}

// run is the supervisor's one owner: it runs sessions one after the other, each with one fresh source.
func (s *Supervisor) run(ctx context.Context) {
	defer close(s.done)
	wait := backoff{min: s.o.MinBackoff, max: s.o.MaxBackoff}
	for {
		s.setState(Connecting, s.Status().Err)
		good, err := s.session(ctx)
		switch {
		case ctx.Err() != nil || !s.live && errors.Is(err, io.EOF):
			s.ended(io.EOF)
			return
		case !s.live:
			s.o.Log.Error("source ended", "err", err)
			s.ended(err)
			return
		}
		if good >= s.o.ResetAfter {
			wait.reset()
		}
		pause := wait.next(errors.Is(err, ErrCredentials))
		s.gone(err)
		s.setState(Offline, cause(err))
		s.o.Log.Warn("source offline", "err", err, "retry_in", pause.Round(time.Millisecond))
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			s.ended(io.EOF)
			return
		}
	}
}

// ended publishes the final state. A consumer that comes later finds err after the frames that are left.
func (s *Supervisor) ended(err error) {
	text := ""
	if !errors.Is(err, io.EOF) {
		text = err.Error()
	}
	s.queue.end(err)
	s.setState(Ended, text)
}

// errStall marks the error of a session that was ended because no frame came in time.
type errStall struct{ error }

// gone notes why the source went away, for Reconnects.
func (s *Supervisor) gone(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch stall := (errStall{}); {
	case errors.As(err, &stall):
		s.lost = "stall"
	case errors.Is(err, ErrCredentials):
		s.lost = "credentials"
	case errors.Is(err, io.EOF):
		s.lost = "end"
	default:
		s.lost = "failure"
	}
}

func cause(err error) string {
	if errors.Is(err, io.EOF) {
		return "the source ended the stream"
	}
	return err.Error()
}

// event is what a session's reader tells: opened (neither frame nor err), a frame, or the error that ends it.
type event struct {
	live  bool // with opened: the source has no end
	frame *Frame
	err   error
}

// session opens one source and passes its frames on until it fails. good is how long frames came.
// The time-outs are kept here and not in the reader, which may hang inside a decoder: the state is then right all the same,
// and the next session starts only once the hanging call has returned, so that no call is ever left behind.
func (s *Supervisor) session(ctx context.Context) (good time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := make(chan event)
	go s.read(ctx, events)
	watchdog := time.NewTimer(s.o.OpenTimeout)
	defer watchdog.Stop()
	late, limit, lateState := "opening took longer than", s.o.OpenTimeout, Offline
	var first time.Time
	s.stamp.restart()
	for {
		select {
		case e, open := <-events:
			switch {
			case !open:
				return good, err
			case ctx.Err() != nil: // a late event of a session that is being ended; err says why already
			case e.err != nil:
				err = e.err
			case e.frame == nil:
				s.live = s.live || e.live
				late, limit, lateState = "no frame within", s.o.FirstTimeout, Stalled
				watchdog.Reset(limit)
			default:
				now := s.o.Now()
				if first.IsZero() {
					first = now
					s.arrived(true, now)
					s.o.Log.Info("source live", "width", e.frame.W, "height", e.frame.H)
				} else {
					s.arrived(false, now)
				}
				good = now.Sub(first)
				late, limit = "no frame for", s.o.StallTimeout
				if s.live && s.still.frozen(e.frame.Pix, now, s.o.FreezeTimeout) {
					s.mu.Lock()
					s.status.Changed = s.still.since
					s.mu.Unlock()
					s.setState(Frozen, fmt.Sprintf("the picture has not changed for %v", s.o.FreezeTimeout))
					watchdog.Reset(limit)
					continue
				}
				s.setState(Live, "")
				s.deliver(ctx, s.stamp.stamp(*e.frame, now, s.live))
				watchdog.Reset(limit) // after deliver: a file's consumer may take its time
			}
		case <-watchdog.C:
			timeout := errStall{fmt.Errorf("%s %v", late, limit)}
			s.setState(lateState, timeout.Error())
			if lateState == Stalled && !s.live {
				continue // a slow disk or a long picture; nothing better would come of starting over
			}
			if err == nil {
				err = timeout
			}
			cancel()
		}
	}
}

// read opens, reads and closes one source, in one goroutine as Source demands, and closes events when all that is done.
// A panic in a decoder is that source's failure and nobody else's.
func (s *Supervisor) read(ctx context.Context, events chan<- event) {
	defer close(events)
	send := func(e event) bool {
		select {
		case events <- e:
			return true
		case <-ctx.Done():
			return false
		}
	}
	var src Source
	err := s.guard("open", func() (err error) {
		src, err = s.open(ctx)
		return err
	})
	if src != nil {
		defer func() {
			if err := s.guard("close", src.Close); err != nil {
				s.o.Log.Debug("closing the source", "err", err)
			}
		}()
	}
	if err != nil {
		send(event{err: err})
		return
	}
	l, ok := src.(interface{ Live() bool })
	if !send(event{live: ok && l.Live()}) {
		return
	}
	for {
		var f Frame
		err := s.guard("read", func() (err error) {
			f, err = src.Next(ctx)
			if err == nil && (f.W <= 0 || f.H <= 0 || len(f.Pix) != 3*f.W*f.H) {
				err = fmt.Errorf("a frame of %dx%d with %d bytes", f.W, f.H, len(f.Pix))
			}
			return err
		})
		if err != nil {
			send(event{err: err})
			return
		}
		if !send(event{frame: &f}) {
			return
		}
	}
}

// stillness notices a picture that stays the same to the last bit, or that goes round the same few: a camera codes a picture that hangs anew
// at every key frame, and what is decoded goes round once a group of pictures.
type stillness struct {
	seed  maphash.Seed
	seen  [stillRound]uint64 // sums of the latest pictures that were new
	next  int                // in seen
	since time.Time          // of the latest that was new; zero before any
}

// stillRound is how many pictures may go round.
const stillRound = 32

// frozen reports whether no new picture has come for limit, with pix at now.
func (s *stillness) frozen(pix []byte, now time.Time, limit time.Duration) bool {
	if limit <= 0 {
		return false
	}
	if s.since.IsZero() {
		s.seed = maphash.MakeSeed()
	}
	if sum := maphash.Bytes(s.seed, pix); s.since.IsZero() || !slices.Contains(s.seen[:], sum) {
		s.seen[s.next], s.since = sum, now
		s.next = (s.next + 1) % stillRound
	}
	return now.Sub(s.since) >= limit
}

func (s *Supervisor) guard(what string, call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: internal error: %v", what, r)
			s.o.Log.Error("panic in a source", "op", what, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
		}
	}()
	return call()
}

func (s *Supervisor) arrived(first bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first && s.status.Frames > 0 {
		s.status.Reconnects++
		s.reconnects[s.lost]++
	}
	s.status.Frames++
	s.status.LastFrame = now
}

func (s *Supervisor) deliver(ctx context.Context, f Frame) {
	if !s.live {
		s.queue.pushWait(ctx, f)
		return
	}
	if !s.queue.pushDrop(f) {
		return
	}
	s.mu.Lock()
	s.status.Dropped++
	total := s.status.Dropped
	s.mu.Unlock()
	if n := s.drops.count(s.o.Now()); n > 0 {
		s.o.Log.Warn("frames dropped: the consumer is slower than the source", "dropped", n, "total", total)
	}
}
