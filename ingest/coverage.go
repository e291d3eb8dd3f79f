package ingest

import (
	"slices"
	"sort"
	"sync"
	"time"
)

// Span is a stretch of wall time, both ends included.
type Span struct{ From, To time.Time }

const (
	defaultGap   = 3 * time.Second
	defaultSpans = 4096
)

// Coverage is the map of what was watched: it turns the wall times of frames into spans, and knows the gaps between them. It
// is what lets "I was not watching then" be decided without asking a model. Safe for concurrent use. Its size is bounded:
// when it is full the smallest gap is forgotten, which Forgotten admits. The zero Coverage is ready, with the default limits.
type Coverage struct {
	mu        sync.Mutex
	gap       time.Duration // a hole longer than this is a gap
	max       int           // spans kept
	spans     []Span        // disjoint, in time order
	forgotten uint64
	longest   time.Duration // of the forgotten gaps
}

// NewCoverage returns an empty map in which a hole longer than gap (3 s when 0) is a gap, of at most max spans (4096 when 0).
func NewCoverage(gap time.Duration, max int) *Coverage {
	return &Coverage{gap: gap, max: max}
}

func (c *Coverage) limits() (time.Duration, int) {
	gap, limit := c.gap, c.max
	if gap <= 0 {
		gap = defaultGap
	}
	if limit <= 0 {
		limit = defaultSpans
	}
	return gap, limit
}

// Mark records that a frame of that wall time was watched. Order does not matter; in time order it costs nothing.
func (c *Coverage) Mark(wall time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark(wall)
}

func (c *Coverage) mark(wall time.Time) {
	gap, limit := c.limits()
	// i is the first span that begins after wall, so only i-1 and i can touch it.
	i := len(c.spans)
	if i > 0 && wall.Before(c.spans[i-1].From) {
		i = sort.Search(len(c.spans), func(j int) bool { return c.spans[j].From.After(wall) })
	}
	joinsLeft := i > 0 && wall.Sub(c.spans[i-1].To) <= gap
	joinsRight := i < len(c.spans) && c.spans[i].From.Sub(wall) <= gap
	switch {
	case joinsLeft && joinsRight:
		c.spans[i-1].To = c.spans[i].To
		c.spans = slices.Delete(c.spans, i, i+1)
	case joinsLeft:
		if wall.After(c.spans[i-1].To) {
			c.spans[i-1].To = wall
		}
	case joinsRight:
		c.spans[i].From = wall
	default:
		c.spans = slices.Insert(c.spans, i, Span{wall, wall})
		if len(c.spans) > limit {
			c.forgetSmallest()
		}
	}
}

// Restore adds stretches that were watched before this map began, as Spans gave them.
func (c *Coverage) Restore(spans []Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range spans {
		if s.To.Before(s.From) {
			continue
		}
		c.mark(s.From)
		// The span that From is in now reaches to To; what lies between is joined.
		i := sort.Search(len(c.spans), func(j int) bool { return c.spans[j].From.After(s.From) }) - 1
		c.spans[i].To = later(c.spans[i].To, s.To)
		gap, _ := c.limits()
		n := i + 1
		for n < len(c.spans) && c.spans[n].From.Sub(c.spans[i].To) <= gap {
			c.spans[i].To = later(c.spans[i].To, c.spans[n].To)
			n++
		}
		c.spans = slices.Delete(c.spans, i+1, n)
	}
}

// Cut takes [from, to) out: nobody watched then, as far as this map knows.
func (c *Coverage) Cut(from, to time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var left []Span
	for _, s := range c.spans {
		if s.To.Before(from) || !s.From.Before(to) {
			left = append(left, s)
			continue
		}
		if s.From.Before(from) {
			left = append(left, Span{s.From, from.Add(-1)})
		}
		if !s.To.Before(to) {
			left = append(left, Span{to, s.To})
		}
	}
	c.spans = left
}

// forgetSmallest closes the smallest gap, the earliest of equals. It claims that a short hole was watched, the smallest untruth
// that keeps the map bounded.
func (c *Coverage) forgetSmallest() {
	if len(c.spans) < 2 {
		return
	}
	best, width := 1, c.spans[1].From.Sub(c.spans[0].To)
	for i := 2; i < len(c.spans); i++ {
		if w := c.spans[i].From.Sub(c.spans[i-1].To); w < width {
			best, width = i, w
		}
	}
	c.spans[best-1].To = c.spans[best].To
	c.spans = slices.Delete(c.spans, best, best+1)
	c.forgotten++
	c.longest = max(c.longest, width)
}

// Spans returns a copy of what was watched, in time order.
func (c *Coverage) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Within returns what was watched between from and to, cut to that window, in time order.
func (c *Coverage) Within(from, to time.Time) []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Span
	for _, s := range c.spans {
		if s.To.Before(from) || s.From.After(to) {
			continue
		}
		out = append(out, Span{later(s.From, from), earlier(s.To, to)})
	}
	return out
}

// Gaps returns the stretches between from and to that nobody watched, cut to that window, in time order. What lies before the
// first frame counts; the time after the newest frame counts once it is longer than a hole may be.
func (c *Coverage) Gaps(from, to time.Time) []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !from.Before(to) {
		return nil
	}
	gap, _ := c.limits()
	var out []Span
	at := from // everything before it is dealt with
	for i, s := range c.spans {
		if s.To.Before(from) {
			if i == len(c.spans)-1 && to.Sub(s.To) <= gap {
				return nil
			}
			continue
		}
		if s.From.After(to) {
			break
		}
		if at.Before(s.From) {
			out = append(out, Span{at, s.From})
		}
		at = s.To
	}
	if n := len(c.spans); n > 0 && at.Equal(c.spans[n-1].To) && to.Sub(at) <= gap {
		return out
	}
	if at.Before(to) {
		out = append(out, Span{at, to})
	}
	return out
}

// Watched reports whether t was watched. The moments after the newest frame count as long as they could still become part
// of its span.
func (c *Coverage) Watched(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	gap, _ := c.limits()
	i := sort.Search(len(c.spans), func(j int) bool { return c.spans[j].From.After(t) }) - 1
	if i < 0 {
		return false
	}
	to := c.spans[i].To
	return !t.After(to) || i == len(c.spans)-1 && t.Sub(to) <= gap
}

// Forgotten says how many gaps were closed to stay within the limit, and how long the longest of them was.
func (c *Coverage) Forgotten() (n uint64, longest time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.forgotten, c.longest
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
