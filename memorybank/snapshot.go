package memorybank

import (
	"cmp"
	"time"
)

// Snapshot is the bank at one instant. It never changes and may be kept as long as anyone likes.
type Snapshot struct {
	Version uint64        // grows with every frame, by one, and with every Forget; 0 is the bank that nothing was added to
	Epoch   time.Time     // what entries' times count from
	Now     time.Duration // the newest frame's time
	Entries []Entry       // the strategy's, in its own order; read-only
	Newest  Entry         // the newest frame, Role Newest; the zero Entry when the bank is empty or the frame was forgotten
	Prefer  Order         // which of several fitting moments Select takes where not all fit; AnyTime in a Bank's snapshots

	strategy Strategy
	archive  *Store // what is on disk; nil: nothing is
	narrowed bool   // by Between: entries may reach beyond the stretch that was asked for
}

// Select returns what a prompt about this snapshot shows, in prompt order: never more than budget visual tokens (rows of Tokens);
// 0 means as many as the strategy likes. query is the question's embedding, nil when there is none. An empty bank gives nothing.
func (s *Snapshot) Select(query []float32, budget int) []Entry {
	if s.empty() {
		return nil
	}
	return s.strategy.Select(s, query, max(budget, 0))
}

// empty reports whether nothing is remembered: nothing was added, or all was forgotten.
func (s *Snapshot) empty() bool { return len(s.Entries) == 0 && s.Newest.Tokens.Rows == 0 }

// prefixer is a Strategy whose prompts about the whole of a memory begin alike, whatever is asked.
type prefixer interface {
	Prefix(s *Snapshot, budget int) []Entry
}

// Prefix returns what every prompt about this snapshot within budget begins with, to be prefilled ahead of questions: for strategies that
// select by question, that part which does not depend on it; for others, all.
func (s *Snapshot) Prefix(budget int) []Entry {
	if p, ok := s.strategy.(prefixer); ok && !s.empty() {
		return p.Prefix(s, max(budget, 0))
	}
	return s.Select(nil, budget)
}

// Wall returns the wall-clock time of an entry's time.
func (s *Snapshot) Wall(d time.Duration) time.Time { return s.Epoch.Add(d) }

// reach is how far outside its span an entry still answers for a moment: frames come every half second or so, and a live
// camera loses some.
const reach = 2 * time.Second

// Between returns the part of s that is about [from, to): the entries that hold anything of it, and the newest frame if it lies
// there. nil when there is nothing.
func (s *Snapshot) Between(from, to time.Duration) *Snapshot {
	part := &Snapshot{Version: s.Version, Epoch: s.Epoch, Now: s.Now, Prefer: s.Prefer, strategy: s.strategy, archive: s.archive, narrowed: true}
	for _, e := range s.Entries {
		if e.Start < to && e.End+reach > from {
			part.Entries = append(part.Entries, e)
		}
	}
	if s.Newest.At >= from && s.Newest.At < to {
		part.Newest = s.Newest
	}
	if len(part.Entries) == 0 {
		return nil
	}
	return part
}

// At returns s as of t, as far as one picture tells: the frame that stands for the entry that knows most of that moment is its
// newest. That is the finest one whose span holds t, or ends last before it; nil when none does within a few seconds.
func (s *Snapshot) At(t time.Duration) *Snapshot {
	var best *Entry
	var bestGap time.Duration
	for i := range s.Entries {
		e := &s.Entries[i]
		gap := max(t-e.End, 0)
		if e.Start > t {
			gap = e.Start - t + reach // only where nothing was there before
		}
		if e.Start > t+reach || gap > 2*reach || e.Start <= t && gap > reach {
			continue
		}
		if best == nil || knowsMore(e, gap, best, bestGap, t) {
			best, bestGap = e, gap
		}
	}
	if best == nil {
		return nil
	}
	frame := best.frame()
	if frame.Level == 0 {
		frame.Role = Newest
	}
	return &Snapshot{Version: s.Version, Epoch: s.Epoch, Now: frame.At, Newest: frame, strategy: moment{frame}}
}

// Present returns s as far as its newest frame tells; nil when that is forgotten or nothing was added.
func (s *Snapshot) Present() *Snapshot {
	if s.Newest.Tokens.Rows == 0 {
		return nil
	}
	return &Snapshot{Version: s.Version, Epoch: s.Epoch, Now: s.Newest.At, Newest: s.Newest, strategy: moment{s.Newest}}
}

// knowsMore reports whether a tells more of the moment t than b does. The gaps are how far their spans are from it.
func knowsMore(a *Entry, gapA time.Duration, b *Entry, gapB time.Duration, t time.Duration) bool {
	fa, fb := a.frame(), b.frame()
	return cmp.Or(
		cmp.Compare(fa.Level, fb.Level),
		cmp.Compare(gapA, gapB),
		cmp.Compare(a.End-a.Start, b.End-b.Start),
		cmp.Compare((fa.At-t).Abs(), (fb.At-t).Abs()),
	) < 0
}

// frame is the one frame that stands for e: its exemplar, or e itself.
func (e *Entry) frame() Entry {
	if e.exemplar != nil {
		return e.exemplar.frame
	}
	return *e
}

// moment shows one frame, whatever strategy remembered it.
type moment struct{ frame Entry }

// Update is never called: nothing is added to a moment.
func (m moment) Update(old []Entry, _ Entry) []Entry { return old }

// Select implements Strategy.
func (m moment) Select(_ *Snapshot, _ []float32, budget int) []Entry {
	if left := newBudget(budget); !left.take(m.frame) {
		return nil
	}
	return []Entry{m.frame}
}
