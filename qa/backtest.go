package qa

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"
)

// Backtest is what a standing question would have done.
type Backtest struct {
	Spec     WatchSpec // complete
	From, To time.Time // the stretch that was looked at
	Watched  time.Duration
	Gaps     []ingest.Span // of the stretch, when nobody was watching; the newest 64
	Checks   int           // pictures that the question was put to
	Coarse   int           // of those, ones that memory has only as an average over a span
	Events   []WatchEvent  // fired and cleared, in time order, without IDs; the first 256
	Firings  int           // of all
	Samples  []WatchSample // probabilities over time, at most 1024, evenly chosen
	Cost     WatchCost     //
	Last     WatchState    // where it stood at the end
	Sparse   time.Duration // the largest distance of two checks while somebody was watching: memory has no more pictures
}

// WatchSample is the probability that a check found.
type WatchSample struct {
	At          time.Time
	Probability float64
}

// ErrBacktest is wrapped by errors about a stretch that cannot be looked at; ErrBacktestBusy says that another back-test is under way.
var (
	ErrBacktest     = errors.New("no back-test")
	ErrBacktestBusy = errors.New("another back-test is under way")
)

const (
	backtestEvents  = 256
	backtestSamples = 1024
	backtestChecks  = 200_000          // of one back-test
	backtestWindow  = 16 * time.Second // that is read from disk at once
	wholeWindow     = 1 << 30          // visual tokens: all of it as whole pictures
)

// Backtest puts spec to the pictures that memory has of [from, to), on disk too, as it would have been put to them when they were the newest, and
// returns what would have happened. Zero times mean everything that was watched. It takes turns with questions and live checks, tells progress (if
// given) how many checks are done of about how many, and ends with ctx. One runs at a time.
func (s *Standing) Backtest(ctx context.Context, spec WatchSpec, from, to time.Time, progress ...func(done, total int)) (Backtest, error) {
	s.mu.Lock()
	c := s.streams[spec.Stream]
	s.mu.Unlock()
	if spec.Name == "" {
		spec.Name = "backtest"
	}
	spec, err := spec.Complete()
	if err != nil {
		return Backtest{}, err
	}
	if c == nil {
		return Backtest{}, ErrNoStream
	}
	select {
	case s.backtest <- struct{}{}:
	default:
		return Backtest{}, ErrBacktestBusy
	}
	defer func() { <-s.backtest }()
	return c.session.Backtest(ctx, spec, from, to, progress...)
}

// Backtest is Standing.Backtest of a complete spec on this session's memory.
func (s *Session) Backtest(ctx context.Context, spec WatchSpec, from, to time.Time, progress ...func(done, total int)) (b Backtest, err error) {
	fail := func(err error) (Backtest, error) { return b, fmt.Errorf("qa: back-test: %w", err) }
	snap, coverage := s.bank.Snapshot(), s.watched.Coverage()
	spans := coverage.Spans()
	if snap.Version == 0 || len(spans) == 0 {
		return fail(fmt.Errorf("%w: nothing was watched yet", ErrBacktest))
	}
	if newest := snap.Wall(snap.Now); to.IsZero() || to.After(newest) {
		to = newest.Add(1)
	}
	if from.IsZero() || from.Before(spans[0].From) {
		from = spans[0].From
	}
	if !from.Before(to) {
		return fail(fmt.Errorf("%w: nothing was watched from %s to %s", ErrBacktest, from.Format(time.RFC3339), to.Format(time.RFC3339)))
	}
	if spec.looksBack(from) {
		if times, _ := timesIn(spec.Ask, from); len(times) == 0 {
			return fail(fmt.Errorf(`%w: a question about the whole memory cannot be put to the past, as memory was then is not kept: let it name a time ("in the last five minutes")`, ErrBacktest))
		}
	}
	if n := to.Sub(from) / spec.Every; n > backtestChecks {
		return fail(fmt.Errorf("%w: %d checks, at most %d at once: a shorter stretch, or a longer interval", ErrBacktest, n, backtestChecks))
	}
	b.Spec, b.From, b.To = spec, from.In(snap.Epoch.Location()), to.In(snap.Epoch.Location())
	b.Gaps = coverage.Gaps(from, to)
	if n := len(b.Gaps); n > maxSpans {
		b.Gaps = b.Gaps[n-maxSpans:]
	}
	watched := coverage.Within(from, to)
	for _, w := range watched {
		b.Watched += w.To.Sub(w.From)
	}
	total := max(int(b.Watched/spec.Every), 1)

	r := replay{spec: &b.Spec, out: &b, turns: turnstile{State: WatchIdle, Armed: from}}
	for _, w := range watched {
		for at := w.From; !at.After(w.To) && at.Before(to); at = at.Add(backtestWindow) {
			end := earlier(earlier(at.Add(backtestWindow), w.To.Add(1)), to)
			moments, err := s.moments(ctx, snap, at, end)
			if err != nil {
				return fail(err)
			}
			for len(moments) > 0 {
				var group []*glance
				if group, moments = r.next(moments); len(group) == 0 {
					break
				}
				if err := r.run(ctx, s, group, coverage); err != nil {
					return fail(err)
				}
				for _, p := range progress {
					p(min(b.Checks, total), total)
				}
			}
		}
	}
	b.Last = r.turns.State
	b.Samples = thinned(b.Samples, backtestSamples)
	for _, p := range progress {
		p(total, total)
	}
	return b, nil
}

// moments are the pictures that memory has of a stretch, each as the newest of its moment, in time order.
func (s *Session) moments(ctx context.Context, snap *memorybank.Snapshot, from, to time.Time) (list []*glance, err error) {
	defer s.asking.begin(snap.Version)()
	part, err := snap.Recall(ctx, from.Sub(snap.Epoch), to.Sub(snap.Epoch), nil, wholeWindow)
	if part == nil || err != nil {
		return nil, err
	}
	within := func(t time.Time) bool { return !t.Before(from) && t.Before(to) }
	times := map[time.Duration]bool{}
	for _, e := range part.Entries {
		times[e.At] = true
	}
	if part.Newest.Tokens.Rows > 0 {
		times[part.Newest.At] = true
	}
	for at := range times {
		view := part.At(at)
		if at == part.Newest.At && part.Newest.Tokens.Rows > 0 {
			view = part.Present()
		}
		if view != nil && within(view.Wall(view.Newest.At)) {
			list = append(list, glanceAt(snap, view))
		}
	}
	slices.SortFunc(list, func(a, b *glance) int { return a.at.Compare(b.at) })
	return slices.CompactFunc(list, func(a, b *glance) bool { return a.at.Equal(b.at) }), nil
}

// replay is a back-test under way.
type replay struct {
	spec    *WatchSpec
	out     *Backtest
	turns   turnstile
	checked time.Time // the picture before
	planned time.Time // the picture that next chose before
}

// next takes the moments to check together from the front of a list.
func (r *replay) next(list []*glance) (group, rest []*glance) {
	for i, g := range list {
		if !r.planned.IsZero() && g.at.Sub(r.planned) < r.spec.Every-everySlack {
			continue
		}
		group, r.planned = append(group, g), g.at
		if len(group) == backtestTogether {
			return group, list[i+1:]
		}
	}
	return group, nil
}

// backtestTogether is how many moments are checked at once: few, since live checks and people's questions go on.
const backtestTogether = 4

// run checks moments and lets time pass.
func (r *replay) run(ctx context.Context, s *Session, group []*glance, coverage *ingest.Coverage) error {
	checks := make([]duty, len(group))
	start := time.Now()
	done := make(chan struct{})
	for i, g := range group {
		go func() {
			checks[i].v, checks[i].err = s.chooseWhenFree(ctx, g, r.spec)
			done <- struct{}{}
		}()
	}
	for range group {
		<-done
	}
	r.out.Cost.Time += time.Since(start)
	for i, g := range group {
		if err := checks[i].err; err != nil {
			return err
		}
		v := checks[i].v
		r.out.Checks++
		r.out.Cost.Checks++
		r.out.Cost.PromptTokens += uint64(v.stats.PromptTokens)
		r.out.Cost.CachedTokens += uint64(v.stats.CachedTokens)
		if g.view.Newest.Level > 0 || g.view.Newest.Weight > 1 {
			r.out.Coarse++
		}
		gap := !r.checked.IsZero() && missed(coverage, r.checked, g.at)
		if !gap && !r.checked.IsZero() {
			r.out.Sparse = max(r.out.Sparse, g.at.Sub(r.checked))
		}
		r.checked = g.at
		r.out.Samples = append(r.out.Samples, WatchSample{g.at, v.p})
		kind := r.turns.step(r.spec, g.at, v.p, gap)
		if kind == Fired {
			r.out.Firings++
		}
		if kind != "" && len(r.out.Events) < backtestEvents {
			r.out.Events = append(r.out.Events, WatchEvent{Kind: kind, At: g.at, Probability: v.p, Choice: v.best(r.spec), Evidence: v.evidence,
				Watch: WatchInfo{Spec: *r.spec, State: r.turns.State, Since: r.turns.Since, Checked: g.at, Probability: v.p, LastFired: r.turns.Last}})
		}
	}
	return nil
}

// thinned leaves at most n of the samples, evenly chosen, first and last among them.
func thinned(list []WatchSample, n int) []WatchSample {
	if len(list) <= n {
		return list
	}
	out := make([]WatchSample, n)
	for i := range out {
		out[i] = list[i*(len(list)-1)/(n-1)]
	}
	return out
}

// Firings are when s fires on samples of an unbroken stretch, in time order. s is complete.
func (s WatchSpec) Firings(samples []WatchSample) (at []time.Time) {
	var m turnstile
	for _, x := range samples {
		if m.step(&s, x.At, x.Probability, false) == Fired {
			at = append(at, x.At)
		}
	}
	return at
}

// Sentence says in words what would have happened.
func (b *Backtest) Sentence() string {
	times := "once"
	switch b.Firings {
	case 0:
		times = "never"
	case 1:
	case 2:
		times = "twice"
	default:
		times = fmt.Sprintf("%d times", b.Firings)
	}
	first := ""
	shown := 0
	for _, e := range b.Events {
		if e.Kind == Fired && shown < 3 {
			first += []string{": at ", ", ", ", "}[shown] + timeWords(e.At, b.To)
			shown++
		}
	}
	if shown < b.Firings && shown > 0 {
		first += ", …"
	}
	return fmt.Sprintf("It would have fired %s from %s to %s%s.", times, timeWords(b.From, b.To), timeWords(b.To, b.To), first)
}
