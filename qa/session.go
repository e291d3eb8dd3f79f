package qa

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/llm"
	"afterimage/memorybank"
)

// Model answers a prompt; an llm.Engine is one.
type Model interface {
	Generate(ctx context.Context, p llm.Prompt, o llm.Options, emit func(llm.Token) error) (llm.Stats, error)
}

// Watched tells what a source is doing and when it was watched; an ingest.Supervisor is one.
type Watched interface {
	Status() ingest.Status
	Coverage() *ingest.Coverage
}

// Session answers questions about one stream. It is safe for concurrent use: every question has its own snapshot.
type Session struct {
	bank    *memorybank.Bank
	model   Model
	watched Watched
	now     func() time.Time
	warm    warmth
	asking  asking
	joined  joined

	// Reading is how the model reads the memory. Set it before the first Ask.
	Reading Reading

	// Query puts a question in the space of the entries' Indicators, as a unit vector or nil; set it before the first Ask. Where it is
	// nil, a memory that does not fit a budget is thinned out evenly.
	Query func(question string) []float32

	// Warn is told what an answer had to do without and why, as when the disk fails; nil: nobody is. Set it before the first Ask.
	Warn func(error)

	// VisualTokens is the budget of a question that has none of its own; 0 is the strategy's own size. Set it before the first Ask
	// and before KeepWarm.
	VisualTokens int
}

// budget is what may be shown for q, in rows of the memory; 0 is the strategy's own size.
func (s *Session) budget(q Question) int {
	if q.MaxVisualTokens > 0 {
		return q.MaxVisualTokens * s.Reading.merge()
	}
	return s.usual()
}

// usual is the budget of a question that has none of its own.
func (s *Session) usual() int { return s.VisualTokens * s.Reading.merge() }

// NewSession returns a Session over a bank that someone else fills. now is the clock that questions are asked by, nil for
// time.Now; frames of a source that is not paced carry another time, and then so must it.
func NewSession(bank *memorybank.Bank, model Model, watched Watched, now func() time.Time) *Session {
	if now == nil {
		now = time.Now
	}
	return &Session{bank: bank, model: model, watched: watched, now: now}
}

// Question is what someone asks.
type Question struct {
	ID              string // the asker's own, returned in the Answer
	Text            string
	MaxTokens       int // of the answer; 0 is the model's default
	MaxVisualTokens int // of the memory shown to the model, never exceeded; 0 is the Session's VisualTokens
	Temperature     float32
	TopP            float32
	Seed            uint64
}

// Answer is what was answered, from what.
type Answer struct {
	ID           string
	Text         string // what emit was given, joined
	Version      uint64 // of the snapshot
	FromCoverage bool   // decided by the coverage map; the model was not asked
	Evidence     Evidence
	Stats        llm.Stats
}

// ErrQuestion is wrapped by errors that the question itself causes.
var ErrQuestion = errors.New("bad question")

// Ask is a question's walk: a snapshot of the moment it is asked (see KeepWarm), the coverage map, the times it names, Select, the prompt, Generate. emit is called
// with each piece of the answer as it comes, from this goroutine; its error ends the answer. Watching goes on meanwhile and changes
// nothing here. With an error, the Answer holds what there was until then.
func (s *Session) Ask(ctx context.Context, q Question, emit func(string) error) (Answer, error) {
	defer s.asking.begin(0)() // before it takes a snapshot: see Forget
	asked := s.now()
	snap := s.snapshot(q)
	a := Answer{ID: q.ID, Version: snap.Version, Evidence: gather(asked, snap, s.watched)}
	fail := func(err error) (Answer, error) { return a, fmt.Errorf("qa: ask: %w", err) }
	switch {
	case strings.TrimSpace(q.Text) == "":
		return fail(fmt.Errorf("%w: it is empty", ErrQuestion))
	case q.MaxVisualTokens < 0:
		return fail(fmt.Errorf("%w: a budget of %d visual tokens", ErrQuestion, q.MaxVisualTokens))
	}

	var text strings.Builder
	say := func(piece string) error {
		if piece == "" {
			return nil
		}
		text.WriteString(piece)
		a.Text = text.String()
		if emit == nil {
			return nil
		}
		return emit(piece)
	}

	times := namedTimes(q.Text, a.Evidence, snap, s.watched.Coverage())
	if sentence, decided := fromCoverage(times, a.Evidence, snap); decided {
		a.FromCoverage = true
		a.Stats.Finish = "stop"
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		if err := say(sentence); err != nil {
			return fail(err)
		}
		a.Stats.Total = s.now().Sub(asked)
		return a, nil
	}

	budget := s.budget(q)
	view, question, query, err := s.focus(ctx, q.Text, times, &a.Evidence, snap, budget)
	if err != nil {
		return fail(err)
	}
	budget = s.Reading.Fit(view, budget)
	entries := view.Select(query, budget)
	if err := within(entries, budget); err != nil {
		return fail(err)
	}
	a.Evidence.Items = items(entries, snap)
	prompt, err := s.Reading.memory(ctx, &s.joined, view, entries)
	if err != nil {
		return fail(err)
	}
	prompt = append(prompt, s.Reading.layout().Question(question, view.Wall(view.Now))...)
	a.Stats, err = s.model.Generate(ctx, prompt,
		llm.Options{MaxTokens: q.MaxTokens, Temperature: q.Temperature, TopP: q.TopP, Seed: q.Seed},
		func(t llm.Token) error { return say(t.Text) })
	if err != nil {
		return fail(err)
	}
	if question != q.Text { // it was put in that moment's present tense, and so is the answer
		if err := say(fmt.Sprintf(" (As of %s.)", view.Wall(view.Now).Format(time.TimeOnly))); err != nil {
			return fail(err)
		}
	}
	return a, nil
}

// within makes sure of the budget, whatever the strategy did.
func within(entries []memorybank.Entry, budget int) error {
	if budget == 0 {
		return nil
	}
	rows := 0
	for _, e := range entries {
		rows += e.Tokens.Rows
	}
	switch {
	case rows > budget:
		return fmt.Errorf("the strategy took %d visual tokens of a budget of %d", rows, budget)
	case rows == 0:
		return fmt.Errorf("%w: nothing in memory fits a budget of %d visual tokens", ErrQuestion, budget)
	}
	return nil
}
