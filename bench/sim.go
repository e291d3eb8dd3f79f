package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"afterimage/ingest/simcam"
	"afterimage/qa"
)

// SimOptions say which simulated streams to watch and how to ask about them.
type SimOptions struct {
	Seeds     []uint64
	Length    time.Duration // of each stream
	PerMinute int           // questions a minute of stream, asked together at one moment of it
	Strategy  string        // its name, for the report
	Codec     string        // "none" or "h264", for the report
	Baseline  string        // "", "blind" or "newest"
	Camera    Camera
	Log       string // a .jsonl with every question; also what Resume reads; "" keeps none
	Resume    bool   // take finished seeds from Log
	// Progress is told of every finished piece of work, from 0 to total; nil: nobody is.
	Progress func(done, total int, what string)
}

// SimReport is what a simulated benchmark found.
type SimReport struct {
	Benchmark    string          `json:"benchmark"` // "sim"
	Strategy     string          `json:"strategy"`
	Baseline     string          `json:"baseline,omitempty"`
	Codec        string          `json:"codec"`
	Minutes      float64         `json:"minutes"`
	PerMinute    int             `json:"questions_per_minute"`
	Seeds        []uint64        `json:"seeds"`
	Questions    int             `json:"questions"`
	VisualTokens int             `json:"visual_tokens"` // the most that any question was given
	Closed       Rate            `json:"closed"`        // yes/no, colour, count, direction, which
	Types        map[string]Rate `json:"types"`
	Order        Order           `json:"order"` // ordered narratives
	Attention    *Attention      `json:"attention,omitempty"`
	FirstTokenMS float64         `json:"first_token_ms_median"`
	Seconds      float64         `json:"seconds"` // spent watching and answering, resumed seeds not counted
	Machine      Machine         `json:"machine"`
}

// Order says how well ordered narratives were told.
type Order struct {
	Rate
	Kendall float64 `json:"kendall"` // mean of Kendall's tau
}

// Record is one question with all that came of it.
type Record struct {
	Seed         uint64  `json:"seed"`
	ID           string  `json:"id"`
	Type         string  `json:"type"`
	Form         string  `json:"form"`
	AtMS         int64   `json:"at_ms"`
	FromMS       int64   `json:"from_ms"`
	ToMS         int64   `json:"to_ms"`
	Closed       bool    `json:"closed"`
	Question     string  `json:"question"`
	Truth        string  `json:"truth"`
	Short        string  `json:"short"`
	Answer       string  `json:"answer"`
	Canonical    string  `json:"canonical"`
	Exact        bool    `json:"exact"`
	Tau          float64 `json:"tau"`
	FromCoverage bool    `json:"from_coverage,omitempty"`
	VisualTokens int     `json:"visual_tokens"`
	PromptTokens int     `json:"prompt_tokens"`
	CachedTokens int     `json:"cached_tokens"`
	Generated    int     `json:"generated"`
	QueuedMS     float64 `json:"queued_ms"`      // behind the other questions of its moment
	FirstTokenMS float64 `json:"first_token_ms"` // after that
	TotalMS      float64 `json:"total_ms"`       // after that

	// Of the moments that it was shown, how many there were and how many hold some of its evidence; and whether the one does that got the
	// largest share of the attention, and the one that is nearest to the question. nil: not known.
	Shown      int   `json:"shown,omitempty"`
	Holders    int   `json:"holders,omitempty"`
	ShareHolds *bool `json:"share_holds,omitempty"`
	MatchHolds *bool `json:"match_holds,omitempty"`
}

// Sim watches every seed's stream, asks its questions at their times and scores the answers. When ctx ends early it returns
// ctx's error; what was finished is in the log and Resume goes on from there.
func Sim(ctx context.Context, rig Rig, o SimOptions) (*SimReport, error) {
	switch {
	case len(o.Seeds) == 0:
		return nil, errors.New("bench: no seeds")
	case o.PerMinute < 1:
		return nil, errors.New("bench: want at least one question a minute")
	case o.Length < time.Minute:
		return nil, errors.New("bench: want streams of at least one minute")
	}
	head := simHead{"sim", o.Strategy, o.Baseline, o.Codec, o.Length.Minutes(), o.PerMinute, rig.Machine.Model}
	log, err := openLog[simHead, uint64, Record, struct{}](o.Log, o.Resume, head)
	if err != nil {
		return nil, err
	}
	defer log.close()
	progress := o.Progress
	if progress == nil {
		progress = func(int, int, string) {}
	}
	minutes := int(o.Length / time.Minute)
	total := len(o.Seeds) * minutes
	var all []Record
	start := time.Now()
	for i, seed := range o.Seeds {
		finished, done := log.finished[seed]
		records := finished.records
		if !done {
			if records, err = watchSeed(ctx, rig, o, seed, uint16(i+1), func(minute int) {
				progress(i*minutes+minute, total, fmt.Sprintf("seed %d", seed))
			}); err != nil {
				return nil, fmt.Errorf("bench: seed %d: %w", seed, err)
			}
			if err := log.add(seed, records, struct{}{}); err != nil {
				return nil, err
			}
		}
		all = append(all, records...)
		progress((i+1)*minutes, total, fmt.Sprintf("seed %d", seed))
	}
	r := summarise(o, all)
	r.Seconds, r.Machine = round3(time.Since(start).Seconds()), rig.Machine
	return r, nil
}

// simHead is the first line of Sim's log.
type simHead struct {
	Benchmark string  `json:"benchmark"`
	Strategy  string  `json:"strategy"`
	Baseline  string  `json:"baseline"`
	Codec     string  `json:"codec"`
	Minutes   float64 `json:"minutes"`
	PerMinute int     `json:"questions_per_minute"`
	Model     string  `json:"model"`
}

// Epoch is the wall clock's time at the start of a seed's stream. It differs from seed to seed, so that clock times say nothing
// about stream times, and no stream of up to four hours runs over midnight.
func Epoch(seed uint64) time.Time {
	r := rand.New(rand.NewPCG(seed, 0xc10c))
	return time.Date(2026, 5, 4, 0, 0, r.IntN(20*3600), 0, time.UTC)
}

// watchSeed watches one stream through and returns its questions in the order they were asked.
func watchSeed(ctx context.Context, rig Rig, o SimOptions, seed uint64, number uint16, progress func(minute int)) ([]Record, error) {
	epoch, script := Epoch(seed), simcam.NewScript(seed, o.Length)
	src, err := o.Camera(ctx, seed, o.Length, epoch)
	if err != nil {
		return nil, err
	}
	var records []Record
	stream := newSimStream(rig, src, epoch, number, moments(seed, o.Length))
	err = stream.run(ctx, rig, func(ctx context.Context, at time.Duration) error {
		got, err := askAll(ctx, stream, seed, script.Questions(epoch, at, o.PerMinute, seed^uint64(at)))
		records = append(records, got...)
		progress(int(at / time.Minute))
		return err
	})
	return records, err
}

// moments is one time in every minute of a stream, where that minute's questions are asked. None is within the first 20 s,
// when next to nothing has happened.
func moments(seed uint64, length time.Duration) []time.Duration {
	r := rand.New(rand.NewPCG(seed, 0xa5c))
	var out []time.Duration
	for m := time.Duration(0); m+time.Minute <= length; m += time.Minute {
		out = append(out, m+20*time.Second+time.Duration(r.IntN(39_000))*time.Millisecond)
	}
	return out
}

// askAll asks several questions at once about the same moment.
func askAll(ctx context.Context, a asker, seed uint64, truths []simcam.Truth) ([]Record, error) {
	records, errs := make([]Record, len(truths)), make([]error, len(truths))
	var wg sync.WaitGroup
	for i, t := range truths {
		wg.Go(func() { records[i], errs[i] = ask(ctx, a, seed, t) })
	}
	wg.Wait()
	return records, errors.Join(errs...)
}

// asker is a stream's question side.
type asker interface {
	Ask(context.Context, qa.Question, func(string) error) (qa.Answer, error)
}

func ask(ctx context.Context, a asker, seed uint64, t simcam.Truth) (Record, error) {
	answer, err := a.Ask(ctx, qa.Question{ID: t.ID, Text: t.Question}, func(string) error { return nil })
	if err != nil {
		return Record{}, fmt.Errorf("question %s: %w", t.ID, err)
	}
	r := recordOf(seed, t, answer)
	r.attended(answer.Evidence.Items, t, Epoch(seed))
	return r, nil
}

// recordOf scores an answer.
func recordOf(seed uint64, t simcam.Truth, answer qa.Answer) Record {
	score, s := simcam.Score(t, answer.Text), answer.Stats
	return Record{
		Seed: seed, ID: t.ID, Type: t.Type, Form: t.Form, AtMS: t.At.Milliseconds(), FromMS: t.From.Milliseconds(), ToMS: t.To.Milliseconds(),
		Closed: t.Closed, Question: t.Question, Truth: t.Answer, Short: t.Short, Answer: answer.Text, Canonical: score.Canonical,
		Exact: score.Exact, Tau: round3(score.Tau), FromCoverage: answer.FromCoverage,
		VisualTokens: s.VisualTokens, PromptTokens: s.PromptTokens, CachedTokens: s.CachedTokens, Generated: s.Generated,
		QueuedMS: ms(s.Queued), FirstTokenMS: ms(s.FirstToken - s.Queued), TotalMS: ms(s.Total - s.Queued),
	}
}

// attended fills in what became of the evidence among the items.
func (r *Record) attended(items []qa.EvidenceItem, t simcam.Truth, epoch time.Time) {
	holds := make([]bool, len(items))
	for i, it := range items {
		for _, span := range t.Evidence {
			holds[i] = holds[i] || shown(it.From.Sub(epoch), it.To.Sub(epoch), span)
		}
		if holds[i] {
			r.Holders++
		}
	}
	r.Shown = len(items)
	largest := func(of func(qa.EvidenceItem) *float32) *bool {
		best := -1
		for i, it := range items {
			if v := of(it); v == nil {
				return nil
			} else if best < 0 || *v > *of(items[best]) {
				best = i
			}
		}
		if best < 0 {
			return nil
		}
		return &holds[best]
	}
	r.ShareHolds = largest(func(it qa.EvidenceItem) *float32 { return it.Share })
	r.MatchHolds = largest(func(it qa.EvidenceItem) *float32 { return it.Match })
}

// Attention says how often the moment that got the largest share of the attention holds what a question is about, of questions where some of
// the moments shown do and some do not; and how often the one does that is nearest to the question, and any one.
type Attention struct {
	Largest Rate    `json:"largest"`
	Nearest Rate    `json:"nearest"`
	Chance  float64 `json:"chance"`
}

// attention is nil where the shares are not known.
func attention(all []Record) *Attention {
	var a Attention
	n, largest, nearest, matched := 0, 0, 0, 0
	for _, r := range all {
		if r.ShareHolds == nil || r.Holders == 0 || r.Holders == r.Shown {
			continue
		}
		n++
		a.Chance += float64(r.Holders) / float64(r.Shown)
		if *r.ShareHolds {
			largest++
		}
		if r.MatchHolds != nil {
			matched++
			if *r.MatchHolds {
				nearest++
			}
		}
	}
	if n == 0 {
		return nil
	}
	a.Largest, a.Nearest, a.Chance = NewRate(largest, n), NewRate(nearest, matched), round3(a.Chance/float64(n))
	return &a
}

// summarise counts.
func summarise(o SimOptions, all []Record) *SimReport {
	r := &SimReport{
		Benchmark: "sim", Strategy: o.Strategy, Baseline: o.Baseline, Codec: o.Codec, Minutes: o.Length.Minutes(), PerMinute: o.PerMinute,
		Seeds: o.Seeds, Questions: len(all), Types: map[string]Rate{},
	}
	type tally struct{ exact, n int }
	types, closed, order, tau := map[string]*tally{}, tally{}, tally{}, 0.0
	count := func(t *tally, exact bool) {
		t.n++
		if exact {
			t.exact++
		}
	}
	var first []float64
	for _, x := range all {
		r.VisualTokens = max(r.VisualTokens, x.VisualTokens)
		first = append(first, x.FirstTokenMS)
		if types[x.Type] == nil {
			types[x.Type] = new(tally)
		}
		count(types[x.Type], x.Exact)
		if x.Closed {
			count(&closed, x.Exact)
		}
		if x.Form == "order" {
			count(&order, x.Exact)
			tau += x.Tau
		}
	}
	for name, t := range types {
		r.Types[name] = NewRate(t.exact, t.n)
	}
	r.Closed, r.FirstTokenMS = NewRate(closed.exact, closed.n), median(first)
	r.Order.Rate = NewRate(order.exact, order.n)
	r.Attention = attention(all)
	if order.n > 0 {
		r.Order.Kendall = round3(tau / float64(order.n))
	}
	return r
}
