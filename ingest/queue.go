package ingest

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// frameQueue is a bounded queue with one producer and one consumer.
type frameQueue struct {
	mu     sync.Mutex
	frames []Frame
	limit  int
	err    error         // what pop returns once frames is empty
	ready  chan struct{} // a token: there may be something to pop
	room   chan struct{} // a token: there may be room to push
}

func newFrameQueue(limit int) *frameQueue {
	return &frameQueue{limit: limit, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pushDrop never waits; it reports whether the oldest frame had to go.
func (q *frameQueue) pushDrop(f Frame) (dropped bool) {
	q.mu.Lock()
	if len(q.frames) >= q.limit {
		q.shift()
		dropped = true
	}
	q.frames = append(q.frames, f)
	q.mu.Unlock()
	wake(q.ready)
	return dropped
}

// pushWait waits for room, and gives the frame up when ctx is done.
func (q *frameQueue) pushWait(ctx context.Context, f Frame) {
	for {
		q.mu.Lock()
		if len(q.frames) < q.limit {
			q.frames = append(q.frames, f)
			q.mu.Unlock()
			wake(q.ready)
			return
		}
		q.mu.Unlock()
		select {
		case <-q.room:
		case <-ctx.Done():
			return
		}
	}
}

func (q *frameQueue) pop(ctx context.Context) (Frame, error) {
	for {
		q.mu.Lock()
		if len(q.frames) > 0 {
			f := q.shift()
			q.mu.Unlock()
			wake(q.room)
			return f, nil
		}
		err := q.err
		q.mu.Unlock()
		if err != nil {
			wake(q.ready) // for the next call, and for anybody else who waits
			return Frame{}, err
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
			return Frame{}, ctx.Err()
		}
	}
}

// shift takes the oldest frame out, moving the few others so that no slice keeps a gone picture alive.
func (q *frameQueue) shift() Frame {
	f := q.frames[0]
	n := copy(q.frames, q.frames[1:])
	q.frames[n] = Frame{}
	q.frames = q.frames[:n]
	return f
}

// end makes pop return err after the last frame.
func (q *frameQueue) end(err error) {
	q.mu.Lock()
	q.err = err
	q.mu.Unlock()
	wake(q.ready)
}

func (q *frameQueue) clear() {
	q.mu.Lock()
	clear(q.frames)
	q.frames = q.frames[:0]
	q.mu.Unlock()
}

// stamper makes Index, PTS and Wall grow over restarts, camera clocks that jump, and PTS that wrap.
type stamper struct {
	index     int64
	started   bool // a frame was stamped, so the rest holds
	fresh     bool // the next frame comes from another source than the last
	pts       time.Duration
	wall      time.Time
	arrived   time.Time
	ptsShift  time.Duration // added to the source's PTS
	wallShift time.Duration // added to the source's Wall
}

// ptsSlack is how far a live stream's clock may run ahead of ours between two frames before we take it for a jump.
const ptsSlack = 10 * time.Second

// restart says that the next frame comes from a new source, whose clocks have nothing to do with the old one's.
func (s *stamper) restart() { s.fresh, s.wallShift = true, 0 }

// stamp numbers f, which arrived at now, and moves its times where they would not fit behind the last frame's.
func (s *stamper) stamp(f Frame, now time.Time, live bool) Frame {
	if f.Wall.IsZero() {
		f.Wall = now
	}
	f.PTS += s.ptsShift
	f.Wall = f.Wall.Add(s.wallShift)
	if s.started {
		elapsed := max(now.Sub(s.arrived), time.Microsecond)
		if step := f.PTS - s.pts; s.fresh || step <= 0 || live && step > elapsed+ptsSlack {
			s.ptsShift += s.pts + elapsed - f.PTS
			f.PTS = s.pts + elapsed
		}
		if !f.Wall.After(s.wall) {
			wall := s.wall.Add(elapsed)
			s.wallShift += wall.Sub(f.Wall)
			f.Wall = wall
		}
	}
	f.Index = s.index
	s.index++
	s.started, s.fresh = true, false
	s.pts, s.wall, s.arrived = f.PTS, f.Wall, now
	return f
}

// throttle allows one report a second and counts what happened in between.
type throttle struct {
	last    time.Time
	pending uint64
}

// count adds one and returns how many to report now, or 0.
func (t *throttle) count(now time.Time) uint64 {
	t.pending++
	if !t.last.IsZero() && now.Sub(t.last) < time.Second {
		return 0
	}
	n := t.pending
	t.last, t.pending = now, 0
	return n
}

// backoff is exponential with full jitter, so that twenty cameras behind one switch do not come back in step.
type backoff struct {
	min, max time.Duration
	limit    time.Duration // of the next wait; 0 at the start
}

func (b *backoff) reset() { b.limit = 0 }

// next returns how long to wait; refused credentials go to the longest wait at once.
func (b *backoff) next(credentials bool) time.Duration {
	if credentials {
		b.limit = b.max
		return b.max
	}
	b.limit = min(max(2*b.limit, b.min), b.max)
	return max(rand.N(b.limit)+1, b.min/10) // never a busy loop
}
