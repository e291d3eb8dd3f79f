package qa

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"afterimage/llm"
	"afterimage/memorybank"
)

// Warmer is a Model that can be shown a prompt's beginning ahead of the question; an llm.Engine is one.
type Warmer interface {
	Warm(ctx context.Context, p llm.Prompt) error
}

var errNoWarmer = errors.New("the model cannot be warmed")

// warmth is what KeepWarm has got to.
type warmth struct {
	snap atomic.Pointer[memorybank.Snapshot] // the newest that the model was shown whole
	age  atomic.Int64                        // how much older than the newest a question may take it; nanoseconds

	mu    sync.Mutex // over snap's changes
	least uint64     // older versions hold what was forgotten
}

// show makes snap the one that was shown, unless what it holds was forgotten meanwhile.
func (w *warmth) show(snap *memorybank.Snapshot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if snap.Version >= w.least {
		w.snap.Store(snap)
	}
}

// forgotten reports whether a snapshot of that version holds what was forgotten.
func (w *warmth) forgotten(version uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return version < w.least
}

// forget makes sure that no question takes a snapshot from before a version any more.
func (w *warmth) forget(version uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.least = max(w.least, version)
	if snap := w.snap.Load(); snap != nil && snap.Version < version {
		w.snap.Store(nil)
	}
}

// KeepWarm shows the model every new snapshot of the memory before anyone asks, so that a question costs its own words only, and what
// a strategy selects for it. It shows what all questions without a budget of their own begin with (Snapshot.Prefix). While one is shown,
// newer ones replace each other: the newest comes next. Questions go before it.
//
// A question takes the newest snapshot all the same, and waits for the model to see what is new in it; unless maxAge is above zero:
// then it takes the last snapshot that was shown whole, if that is at most so much older than the newest, and the Answer's Version
// and Evidence are that snapshot's. A question that names a time or has a budget of its own is shown something else than the
// whole memory and always takes the newest.
//
// It returns when ctx ends or the model fails, with that error; questions then take the newest snapshot. One KeepWarm a Session.
func (s *Session) KeepWarm(ctx context.Context, maxAge time.Duration) error {
	fail := func(err error) error { return fmt.Errorf("qa: keep warm: %w", err) }
	w, ok := s.model.(Warmer)
	if !ok {
		return fail(errNoWarmer)
	}
	s.warm.age.Store(int64(maxAge))
	defer s.warm.snap.Store(nil)
	for version := uint64(0); ; {
		snap, err := s.bank.Next(ctx, version)
		if err != nil {
			return fail(err)
		}
		version = snap.Version
		end := s.asking.begin(version)
		if s.warm.forgotten(version) {
			end()
			continue
		}
		var p llm.Prompt
		if p, err = s.warmPrompt(ctx, snap); err == nil {
			err = w.Warm(ctx, p)
		}
		if err == nil {
			s.warm.show(snap)
		}
		end()
		if err != nil {
			return fail(err)
		}
	}
}

// warmPrompt is what all prompts about the whole of a snapshot within the usual budget begin with.
func (s *Session) warmPrompt(ctx context.Context, snap *memorybank.Snapshot) (llm.Prompt, error) {
	return s.Reading.memory(ctx, &s.joined, snap, snap.Prefix(s.Reading.Fit(snap, s.usual())))
}

// snapshot is what q is answered from.
func (s *Session) snapshot(q Question) *memorybank.Snapshot {
	newest, warm := s.bank.Snapshot(), s.warm.snap.Load()
	switch {
	case warm == nil, s.budget(q) != s.usual(), !q.From.IsZero(), !q.To.IsZero(), !q.AsOf.IsZero(), newest.Now-warm.Now > time.Duration(s.warm.age.Load()):
		return newest
	}
	if _, ok := happeningIn(q.Text); ok || sinceAskedWords.MatchString(q.Text) {
		return newest
	}
	if times, _ := timesIn(q.Text, s.now().In(newest.Epoch.Location())); len(times) > 0 {
		return newest
	}
	return warm
}
