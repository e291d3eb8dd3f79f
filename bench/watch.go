package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"afterimage/ingest/simcam"
	"afterimage/qa"
)

// WatchOptions say which standing questions to put to which simulated streams.
type WatchOptions struct {
	Seeds   []uint64      // what is reported
	Tune    []uint64      // other ones, on which threshold, hysteresis and hold are chosen first; none: those of Spec are taken
	Length  time.Duration // of each stream
	Spec    qa.WatchSpec  // what all questions have in common
	Camera  Camera
	OnlyAll bool // leaves out the second run, with OnChange
	// Together is how many streams are watched at once, on one engine; 1. Checks then also wait for other streams', and say so in their time.
	Together int
	// Progress is told of every minute watched; nil: nobody is.
	Progress func(done, total int, what string)
}

// standingQuestion is one with its truth.
type standingQuestion struct {
	Name, Ask string
	truth     func(*simcam.Script) []simcam.Span
}

// standingQuestions are what is asked of every street.
var standingQuestions = []standingQuestion{
	{"door", "Is the door open?", func(s *simcam.Script) []simcam.Span { return periods(s.On[simcam.Door]) }},
	{"gate", "Is the gate open?", func(s *simcam.Script) []simcam.Span { return periods(s.On[simcam.Gate]) }},
	{"lamp", "Is the lamp on?", func(s *simcam.Script) []simcam.Span { return periods(s.On[simcam.Lamp]) }},
	{"parcel", "Is there a parcel at the door?", func(s *simcam.Script) []simcam.Span { return periods(s.Parcel) }},
	{"parked", "Is a vehicle parked?", func(s *simcam.Script) []simcam.Span {
		return episodes(s, func(e simcam.Episode) (from, to time.Duration) {
			if e.Action != simcam.Park {
				return 0, 0
			}
			return e.Mid, e.Leave
		})
	}},
	{"person", "Is anyone there?", func(s *simcam.Script) []simcam.Span {
		return episodes(s, func(e simcam.Episode) (from, to time.Duration) {
			switch {
			case e.Category != simcam.Person:
				return 0, 0
			case e.Action == simcam.Enter:
				return e.Start, e.Mid + 600*time.Millisecond
			case e.Action == simcam.Exit:
				return e.Start + 400*time.Millisecond, e.End
			}
			return e.Start, e.End
		})
	}},
}

func periods(list []simcam.Period) (out []simcam.Span) {
	for _, p := range list {
		out = append(out, simcam.Span{From: p.From, To: p.To})
	}
	return joinedSpans(out)
}

// episodes are the stretches that of gives, joined; an empty one is none.
func episodes(s *simcam.Script, of func(simcam.Episode) (from, to time.Duration)) (out []simcam.Span) {
	for _, e := range s.Episodes {
		if from, to := of(e); from < to {
			out = append(out, simcam.Span{From: from, To: to})
		}
	}
	return joinedSpans(out)
}

func joinedSpans(list []simcam.Span) (out []simcam.Span) {
	slices.SortFunc(list, func(a, b simcam.Span) int { return int(a.From - b.From) })
	for _, s := range list {
		if n := len(out); n > 0 && s.From <= out[n-1].To {
			out[n-1].To = max(out[n-1].To, s.To)
			continue
		}
		out = append(out, s)
	}
	return out
}

// holds reports whether one of the stretches has something of [from, to].
func holds(truth []simcam.Span, from, to time.Duration) bool {
	return slices.ContainsFunc(truth, func(s simcam.Span) bool { return s.From <= to && s.To > from })
}

// WatchReport is what standing questions found on simulated streams.
type WatchReport struct {
	Benchmark string       `json:"benchmark"` // "watch"
	Minutes   float64      `json:"minutes"`
	Seeds     []uint64     `json:"seeds"`
	Tune      []uint64     `json:"tuning_seeds"`
	Spec      qa.WatchSpec `json:"spec"` // common to all, as chosen
	Grid      []WatchTried `json:"tried,omitempty"`
	Rows      []WatchRow   `json:"rows"`                // every check
	OnChange  []WatchRow   `json:"on_change,omitempty"` // checks where the picture changed
	Together  int          `json:"streams_at_once"`
	Seconds   float64      `json:"seconds"`
	Machine   Machine      `json:"machine"`
}

// WatchTried is a setting that was tried on the tuning seeds.
type WatchTried struct {
	Threshold  float64 `json:"threshold"`
	Hysteresis float64 `json:"hysteresis"`
	HoldS      float64 `json:"hold_s"`
	Precision  float64 `json:"precision"`
	Recall     float64 `json:"recall"`
	F1         float64 `json:"f1"`
	DelayS     float64 `json:"delay_s_median"`
}

// WatchRow is one question on all streams; "all" is all of them.
type WatchRow struct {
	Name      string  `json:"name"`
	Ask       string  `json:"ask,omitempty"`
	Truths    int     `json:"truths"`         // stretches in which the answer was yes
	Expected  int     `json:"expected"`       // firings of a question that knows the truth, with the same hold and cooldown
	Firings   int     `json:"firings"`        // that there were
	Right     int     `json:"right"`          // of those, the first of a stretch in which the answer was yes
	Found     int     `json:"found"`          // of the expected ones, those whose stretch had a firing
	Precision Rate    `json:"precision"`      // right of firings
	Recall    Rate    `json:"recall"`         // found of expected
	DelayS    float64 `json:"delay_s_median"` // from when the answer became yes to the firing, hold included, of those found
	DelayP95  float64 `json:"delay_s_p95"`
	Repeats   int     `json:"repeats_in_cooldown"` // pairs of firings of one stream's question closer than the cooldown
	Pictures  Rate    `json:"pictures"`            // checks whose likelier answer was the truth
	Checks    int     `json:"checks"`
	Unchanged uint64  `json:"unchanged"` // checks left out because the picture had not changed
	CheckMS   float64 `json:"check_ms"`  // of a round, divided among the questions checked together
	Prompt    float64 `json:"prompt_tokens_per_check"`
	Cached    float64 `json:"cached_tokens_per_check"`

	delays []float64
	cost   qa.WatchCost
	same   int
}

// watchRun is one question on one stream.
type watchRun struct {
	question int
	truth    []simcam.Span
	samples  []qa.WatchSample
	fired    []time.Duration
	cost     qa.WatchCost
}

// tolerance is how far off a firing may be beside the hold: a frame or two at both ends of what is half in view.
const tolerance = 2 * time.Second

// Watch puts standing questions to simulated streams, through the code that a served stream's go through, and holds what fires against the script's
// truth.
func Watch(ctx context.Context, rig Rig, o WatchOptions) (*WatchReport, error) {
	switch {
	case len(o.Seeds) == 0:
		return nil, errors.New("bench: no seeds")
	case o.Length < time.Minute:
		return nil, errors.New("bench: want streams of at least one minute")
	case slices.ContainsFunc(o.Tune, func(s uint64) bool { return slices.Contains(o.Seeds, s) }):
		return nil, errors.New("bench: a seed is both to choose settings on and to be reported")
	}
	progress := o.Progress
	if progress == nil {
		progress = func(int, int, string) {}
	}
	runs := len(o.Tune) + len(o.Seeds)
	if !o.OnlyAll {
		runs += len(o.Seeds)
	}
	minutes := int(o.Length / time.Minute)
	number := uint16(0)
	var mu sync.Mutex
	done := 0
	watch := func(seeds []uint64, spec qa.WatchSpec, what string) ([]watchRun, error) {
		all := make([][]watchRun, len(seeds))
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(max(o.Together, 1))
		for i, seed := range seeds {
			number++
			n := number
			g.Go(func() (err error) {
				all[i], err = watchStream(ctx, rig, o, spec, seed, n, func() {
					mu.Lock()
					defer mu.Unlock()
					done++
					progress(done, runs*minutes, what)
				})
				if err != nil {
					return fmt.Errorf("bench: seed %d: %w", seed, err)
				}
				return nil
			})
		}
		err := g.Wait()
		return slices.Concat(all...), err
	}
	start := time.Now()
	spec := o.Spec
	spec.Name, spec.Stream, spec.Ask = "bench", "street", "?"
	spec, err := spec.Complete()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	r := &WatchReport{Benchmark: "watch", Minutes: o.Length.Minutes(), Seeds: o.Seeds, Tune: o.Tune, Machine: rig.Machine, Together: max(o.Together, 1)}
	if len(o.Tune) > 0 {
		all, err := watch(o.Tune, spec, "choosing settings")
		if err != nil {
			return nil, err
		}
		spec, r.Grid = tune(spec, all)
	}
	r.Spec = spec
	all, err := watch(o.Seeds, spec, "every check")
	if err != nil {
		return nil, err
	}
	r.Rows = watchRows(spec, all)
	if !o.OnlyAll {
		spec.OnChange = true
		if all, err = watch(o.Seeds, spec, "on change"); err != nil {
			return nil, err
		}
		r.OnChange = watchRows(spec, all)
	}
	r.Seconds = round3(time.Since(start).Seconds())
	return r, nil
}

// watchStream watches one stream through with all questions standing.
func watchStream(ctx context.Context, rig Rig, o WatchOptions, spec qa.WatchSpec, seed uint64, number uint16, minute func()) ([]watchRun, error) {
	epoch, script := Epoch(seed), simcam.NewScript(seed, o.Length)
	src, err := o.Camera(ctx, seed, o.Length, epoch)
	if err != nil {
		return nil, err
	}
	var moments []time.Duration
	for at := time.Duration(0); at < o.Length; at += spec.Every {
		moments = append(moments, at)
	}
	stream := newSimStream(rig, src, epoch, number, moments)
	standing, err := qa.NewStanding(qa.StandingOptions{Now: stream.now})
	if err != nil {
		return nil, err
	}
	round := standing.AttachManually("street", stream.Session)
	events, end := standing.Subscribe("")
	defer end()
	runs := make([]watchRun, len(standingQuestions))
	ids, of := make([]string, len(runs)), map[string]int{}
	for i, q := range standingQuestions {
		w := spec
		w.Name, w.Stream, w.Ask = q.Name, "street", q.Ask
		info, err := standing.Create(ctx, w)
		if err != nil {
			return nil, err
		}
		runs[i], ids[i], of[info.ID] = watchRun{question: i, truth: q.truth(script)}, info.ID, i
	}
	err = stream.run(ctx, rig, func(ctx context.Context, at time.Duration) error {
		if err := round(ctx); err != nil {
			return err
		}
		for i, id := range ids {
			info, err := standing.Get(id)
			if err != nil {
				return err
			}
			if info.Error != "" {
				return fmt.Errorf("%s: %s", info.Spec.Name, info.Error)
			}
			if n := len(runs[i].samples); n == 0 || runs[i].samples[n-1].At != info.Checked {
				runs[i].samples = append(runs[i].samples, qa.WatchSample{At: info.Checked, Probability: info.Probability})
			}
			runs[i].cost = info.Cost
		}
		for len(events) > 0 {
			if e := <-events; e.Kind == qa.Fired {
				i := of[e.Watch.ID]
				runs[i].fired = append(runs[i].fired, e.At.Sub(epoch))
			}
		}
		if (at+spec.Every)/time.Minute > at/time.Minute {
			minute()
		}
		return nil
	})
	for i := range runs { // from here on, times are the stream's
		for j := range runs[i].samples {
			runs[i].samples[j].At = time.Time{}.Add(runs[i].samples[j].At.Sub(epoch))
		}
	}
	return runs, errors.Join(err, standing.Close())
}

// firings are when a question fires on samples.
func firings(spec qa.WatchSpec, samples []qa.WatchSample) (at []time.Duration) {
	for _, t := range spec.Firings(samples) {
		at = append(at, t.Sub(time.Time{}))
	}
	return at
}

// score holds what fired against the truth.
func (r *watchRun) score(spec qa.WatchSpec, fired []time.Duration, into *WatchRow) {
	known := slices.Clone(r.samples)
	for i := range known {
		at := known[i].At.Sub(time.Time{})
		is := holds(r.truth, at, at)
		if is == (known[i].Probability >= .5) {
			into.same++
		}
		known[i].Probability = 0
		if is {
			known[i].Probability = 1
		}
	}
	expected := firings(spec, known)
	hold := max(spec.Hold, 0)
	used := map[int]bool{}
	stretch := func(fired time.Duration) int { // whose firing it may be: the latest's
		for i := len(r.truth) - 1; i >= 0; i-- {
			if s := r.truth[i]; s.From-tolerance <= fired && fired <= s.To+hold+tolerance {
				return i
			}
		}
		return -1
	}
	into.Truths += len(r.truth)
	into.Expected += len(expected)
	into.Firings += len(fired)
	into.Checks += len(r.samples)
	for i, t := range fired {
		if k := stretch(t); k >= 0 && !used[k] {
			used[k] = true
			into.Right++
		}
		if i > 0 && t-fired[i-1] < max(spec.Cooldown, 0) {
			into.Repeats++
		}
	}
	for _, t := range expected {
		k := stretch(t)
		if k < 0 {
			continue
		}
		for _, f := range fired {
			if stretch(f) == k {
				into.Found++
				into.delays = append(into.delays, (f - r.truth[k].From).Seconds())
				break
			}
		}
	}
}

func (w *WatchRow) finish() {
	w.Precision, w.Recall, w.Pictures = NewRate(w.Right, w.Firings), NewRate(w.Found, w.Expected), NewRate(w.same, w.Checks)
	w.DelayS, w.DelayP95 = round3(median(w.delays)), round3(percentile(w.delays, .95))
	w.Unchanged = w.cost.Unchanged
	if n := float64(w.cost.Checks); n > 0 {
		w.CheckMS, w.Prompt, w.Cached = ms(w.cost.PerCheck()), round3(float64(w.cost.PromptTokens)/n), round3(float64(w.cost.CachedTokens)/n)
	}
}

// watchRows counts, a row a question and one for all.
func watchRows(spec qa.WatchSpec, all []watchRun) []WatchRow {
	rows := make([]WatchRow, len(standingQuestions)+1)
	for i := range rows {
		rows[i].Name = "all"
		if i < len(standingQuestions) {
			rows[i].Name, rows[i].Ask = standingQuestions[i].Name, standingQuestions[i].Ask
		}
	}
	for _, r := range all {
		for _, row := range []*WatchRow{&rows[r.question], &rows[len(rows)-1]} {
			r.score(spec, r.fired, row)
			row.cost.Checks += r.cost.Checks
			row.cost.Unchanged += r.cost.Unchanged
			row.cost.Time += r.cost.Time
			row.cost.PromptTokens += r.cost.PromptTokens
			row.cost.CachedTokens += r.cost.CachedTokens
		}
	}
	for i := range rows {
		rows[i].finish()
	}
	return rows
}

// tune tries settings on recorded checks, and takes the one with the best F1; of nearly equal ones, the one that is soonest.
func tune(spec qa.WatchSpec, all []watchRun) (qa.WatchSpec, []WatchTried) {
	var tried []WatchTried
	var specs []qa.WatchSpec
	top := 0.0
	for _, threshold := range []float64{.5, .6, .7, .8, .9, .95, .98} {
		for _, hysteresis := range []float64{.01, .2, .4, .6} {
			for _, hold := range []time.Duration{-1, time.Second, 2 * time.Second, 3 * time.Second, 5 * time.Second} {
				if threshold-hysteresis < .09 {
					continue // it would hardly ever clear
				}
				s := spec
				s.Threshold, s.Hysteresis, s.Hold = threshold, hysteresis, hold
				var row WatchRow
				for _, r := range all {
					r.score(s, firings(s, r.samples), &row)
				}
				row.finish()
				t := WatchTried{Threshold: threshold, Hysteresis: s.Hysteresis, HoldS: max(hold, 0).Seconds(), Precision: row.Precision.Exact, Recall: row.Recall.Exact,
					DelayS: row.DelayS}
				if p := t.Precision + t.Recall; p > 0 {
					t.F1 = 2 * t.Precision * t.Recall / p
				}
				top = max(top, t.F1)
				tried, specs = append(tried, t), append(specs, s)
			}
		}
	}
	best := -1
	for i, t := range tried {
		if t.F1 >= top-.002 && (best < 0 || t.DelayS < tried[best].DelayS) {
			best = i
		}
	}
	return specs[best], tried
}

// Markdown is the report as a table.
func (r *WatchReport) Markdown() string {
	var b strings.Builder
	s := r.Spec
	fmt.Fprintf(&b, "Standing questions on %d simulated streams of %g minutes (seeds %s), checked every %s; threshold %.2f, hysteresis %.2f, hold %s, cooldown %s",
		len(r.Seeds), r.Minutes, seedWords(r.Seeds), s.Every, s.Threshold, s.Hysteresis, max(s.Hold, 0), max(s.Cooldown, 0))
	if len(r.Tune) > 0 {
		fmt.Fprintf(&b, ", chosen on seeds %s", seedWords(r.Tune))
	}
	fmt.Fprintf(&b, ".\n%s, %s, %d threads, model %s; %d of the streams at once, as fast as they can be read.\n", r.Machine.CPU, r.Machine.Device, r.Machine.Threads,
		r.Machine.Model, r.Together)
	table := func(rows []WatchRow) {
		b.WriteString("\n| question | yes | expected | fired | precision | recall | delay (median, p95) | repeats in cooldown | pictures right | checks | ms a check | cached |\n")
		b.WriteString("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
		for _, w := range rows {
			fmt.Fprintf(&b, "| %s | %d | %d | %d | %s | %s | %.1f s, %.1f s | %d | %.1f %% | %d | %.2f | %.0f of %.0f tokens |\n", cmp.Or(w.Ask, w.Name), w.Truths, w.Expected,
				w.Firings, share(w.Precision), share(w.Recall), w.DelayS, w.DelayP95, w.Repeats, 100*w.Pictures.Exact, w.Checks, w.CheckMS, w.Cached, w.Prompt)
		}
	}
	b.WriteString("\nEvery check:\n")
	table(r.Rows)
	if len(r.OnChange) > 0 {
		b.WriteString("\nOnly where the picture changed:\n")
		table(r.OnChange)
	}
	return b.String()
}

// share is a rate in words.
func share(r Rate) string {
	if r.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", 100*r.Exact)
}
