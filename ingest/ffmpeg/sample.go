package ffmpeg

import "time"

const (
	// A step forward longer than this in a file is taken for a jump of the clock, not for a pause: a time lapse has minutes
	// between pictures, a wrapped or spliced transport stream jumps by hours.
	maxFileStep = 10 * time.Minute
	// How far a live stream's clock may run ahead of the wall clock in one step.
	maxLiveDrift = 5 * time.Second
)

// A clock turns a stream's raw timestamps into time since its first frame: never backwards, over wraps and jumps.
type clock struct {
	live    bool
	started bool
	raw     time.Duration // the last raw timestamp
	out     time.Duration // what it became
	at      time.Time     // arrival of that frame
	step    time.Duration // the last good step, to bridge a jump with
}

// peek is what advance would return, without moving. ok is false when the timestamp does not follow from the last one.
func (c *clock) peek(raw time.Duration, now time.Time) (t time.Duration, ok bool) {
	if !c.started {
		return 0, true
	}
	d := raw - c.raw
	if c.live {
		// Only a clock that runs ahead of the wall is wrong: one that lags is a stalled network about to catch up.
		ok = d >= 0 && d-now.Sub(c.at) < maxLiveDrift
	} else {
		ok = d >= 0 && d < maxFileStep
	}
	if ok {
		return c.out + d, true
	}
	switch {
	case c.live:
		d = max(now.Sub(c.at), 0) // trust the wall
	default:
		d = c.step
	}
	return c.out + d, false
}

// advance takes the timestamp of the next frame in display order.
func (c *clock) advance(raw time.Duration, now time.Time) time.Duration {
	t, ok := c.peek(raw, now)
	if c.started && ok && t > c.out {
		c.step = t - c.out
	}
	c.started, c.raw, c.out, c.at = true, raw, t, now
	return t
}

// A sampler picks frames on a fixed grid of times, so that the mean rate is exact whatever the stream's own rate is.
type sampler struct {
	every time.Duration // 0 takes every frame
	next  time.Duration // the next place on the grid
	due   time.Duration // from when on a frame is taken
}

func newSampler(fps float64) sampler {
	if fps <= 0 {
		return sampler{}
	}
	return sampler{every: time.Duration(float64(time.Second) / fps)}
}

// take reports whether the frame at t is wanted and, if so, moves on.
func (s *sampler) take(t time.Duration) bool {
	if s.every == 0 {
		return true
	}
	if t < s.due {
		return false
	}
	// A frame may come a little before its place on the grid: a stream at the very rate we sample with must not lose frames to
	// jitter. But after a late frame the next one keeps a distance.
	early := s.every / 8
	s.next = ((t+early)/s.every + 1) * s.every
	s.due = max(s.next-early, t+s.every/2)
	return true
}

// A keyGate notices that key frames alone come often enough, so that nothing else need be decoded.
type keyGate struct {
	every  time.Duration // the sampling interval; 0 never gates
	intra  bool          // every packet stands alone
	banned bool          // tried, and the decoder gave nothing
	last   time.Duration
	run    int // key frames in a row at a useful distance, the first one included
}

// The distances trusted: this many in a row.
const keyRun = 4

// key notes a key packet at t.
func (g *keyGate) key(t time.Duration) {
	// Either at the sampling rate, or at least twice as often: in between, the grid would be hit unevenly.
	d := t - g.last
	if g.run > 0 && (d <= g.every/2 || (d-g.every).Abs() <= g.every/16) {
		g.run++
	} else {
		g.run = 1
	}
	g.last = t
}

// only reports whether key frames alone are enough at t. An overdue one ends that.
func (g *keyGate) only(t time.Duration) bool {
	if g.every == 0 || g.banned {
		return false
	}
	if g.intra {
		return true
	}
	if g.run >= keyRun && t-g.last > 2*g.every {
		g.run = 0
	}
	return g.run >= keyRun
}
