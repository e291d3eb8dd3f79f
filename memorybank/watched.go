package memorybank

import (
	"slices"
	"time"
)

// Stretch is a stretch of time since a bank's epoch, both ends included.
type Stretch struct {
	From time.Duration `json:"from"`
	To   time.Duration `json:"to"`
}

// maxStretches bounds watched, as ingest.Coverage bounds what it holds.
const maxStretches = 4096

// watched is when frames came, in time order: a hole longer than gap is a gap. Bounded as ingest.Coverage is: the smallest gap closes.
type watched struct {
	gap   time.Duration
	spans []Stretch
}

// mark adds a frame, which is no older than those before it.
func (w *watched) mark(at time.Duration) {
	n := len(w.spans)
	if n > 0 && at-w.spans[n-1].To <= w.gap {
		w.spans[n-1].To = max(w.spans[n-1].To, at)
		return
	}
	if w.spans = append(w.spans, Stretch{at, at}); len(w.spans) <= maxStretches {
		return
	}
	best := 1
	for i := 2; i < len(w.spans); i++ {
		if w.spans[i].From-w.spans[i-1].To < w.spans[best].From-w.spans[best-1].To {
			best = i
		}
	}
	w.spans[best-1].To = w.spans[best].To
	w.spans = slices.Delete(w.spans, best, best+1)
}

// cut takes [from, to) out.
func (w *watched) cut(from, to time.Duration) {
	var out []Stretch
	for _, s := range w.spans {
		if s.To < from || s.From >= to {
			out = append(out, s)
			continue
		}
		if s.From < from {
			out = append(out, Stretch{s.From, from - 1})
		}
		if s.To >= to {
			out = append(out, Stretch{to, s.To})
		}
	}
	w.spans = out
}
