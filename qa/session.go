package qa

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

	History  []Exchange // earlier questions and answers of this conversation, oldest first
	From, To time.Time  // answer from this stretch only, To exclusive; zero: without that end
	AsOf     time.Time  // answer as if it were then; zero: now
	Deadline time.Time  // by when to be done, on the machine's clock; zero: whenever
}

// Answer is what was answered, from what.
type Answer struct {
	ID           string
	Asked        string // the question as it was put to the model: a follow-up made whole, without the time that chose what it was shown
	Text         string // what emit was given, joined
	Version      uint64 // of the snapshot
	FromCoverage bool   // decided by the coverage map; the model was not asked
	Evidence     Evidence
	Stats        llm.Stats
}

// ErrQuestion is wrapped by errors that the question itself causes.
var ErrQuestion = errors.New("bad question")

var errDeadline = errors.New("the deadline has passed")

// FinishDeadline is the Stats.Finish of an answer that its Deadline ended.
const FinishDeadline = "deadline"

// Ask is a question's walk: a snapshot of the moment it is asked (see KeepWarm), what the conversation makes of it, the coverage map, the times
// and events it names, Select, the prompt, Generate. emit is called with each piece of the answer as it comes, from this goroutine; its error ends
// the answer. Watching goes on meanwhile and changes nothing here. With an error, the Answer holds what there was until then. A Deadline that
// passes is no error: the Answer has what was said by then, and Evidence.Cut says so.
func (s *Session) Ask(ctx context.Context, q Question, emit func(string) error) (Answer, error) {
	defer s.asking.begin(0)() // before it takes a snapshot: see Forget
	began := s.now()
	a := Answer{ID: q.ID}
	if !q.Deadline.IsZero() {
		limited, stop := context.WithDeadlineCause(ctx, q.Deadline, errDeadline)
		defer stop()
		ctx = limited
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
	err := s.answer(ctx, q, began, &a, say)
	if err != nil && errors.Is(context.Cause(ctx), errDeadline) {
		a.Stats.Finish = FinishDeadline
		a.Evidence.Cut = append(a.Evidence.Cut, "the answer ends where its deadline was")
		err = nil
	}
	if a.Stats.Total == 0 {
		a.Stats.Total = s.now().Sub(began)
	}
	if err != nil {
		return a, fmt.Errorf("qa: ask: %w", err)
	}
	return a, nil
}

// answer is Ask without the deadline.
func (s *Session) answer(ctx context.Context, q Question, began time.Time, a *Answer, say func(string) error) error {
	l, err := s.look(ctx, q, began, a, s.share(1))
	if err != nil {
		return err
	}
	if l.decided != "" {
		if err := ctx.Err(); err != nil {
			return err
		}
		return say(l.decided)
	}
	if err := say(l.head); err != nil {
		return err
	}
	prompt, err := l.reading.memory(ctx, &s.joined, l.view, l.entries)
	if err != nil {
		return err
	}
	prompt = append(prompt, l.reading.question(l.history, l.question, l.view.Wall(l.view.Now))...)
	a.Stats, err = s.model.Generate(ctx, prompt, q.options(), func(t llm.Token) error { return say(t.Text) })
	a.Evidence.shared(prompt, a.Stats.Shares, func(it EvidenceItem) uint64 { return it.ID })
	a.Stats = after(l.before, a.Stats)
	if err != nil {
		return err
	}
	return say(l.tail)
}

// options are the model's.
func (q Question) options() llm.Options {
	return llm.Options{MaxTokens: q.MaxTokens, Temperature: q.Temperature, TopP: q.TopP, Seed: q.Seed, Shares: true}
}

// share is the Reading of a prompt that n cameras share.
func (s *Session) share(n int) Reading {
	r := s.Reading
	if r.Room > 0 {
		r.Room = max(1, r.Room/n)
	}
	return r
}

// found is what a question is answered from, found before the model speaks.
type found struct {
	decided string // the whole answer, where the coverage map has it

	reading    Reading
	view       *memorybank.Snapshot
	entries    []memorybank.Entry // of the view, in prompt order
	history    []Exchange
	question   string    // as it is put
	head, tail string    // said around the answer
	before     llm.Stats // of looking for an event
}

// look is a question's walk up to the model's answer. a gets the evidence.
func (s *Session) look(ctx context.Context, q Question, began time.Time, a *Answer, reading Reading) (l found, err error) {
	asked := began
	if !q.AsOf.IsZero() {
		asked = q.AsOf
	}
	snap := s.snapshot(q)
	a.Version = snap.Version
	a.Evidence = gather(began, snap, s.watched)
	if err := q.check(began); err != nil {
		return l, err
	}
	if !q.AsOf.IsZero() {
		if snap, err = s.asOf(ctx, snap, &a.Evidence, asked); err != nil {
			return l, err
		}
	}
	decide := func(sentence string) (found, error) {
		a.FromCoverage, a.Stats.Finish = true, "stop"
		l.decided = l.head + sentence
		return l, nil
	}
	e := &a.Evidence
	if snap == nil {
		return decide("I remember nothing of the time until " + timeWords(asked, began.In(asked.Location())) + ". " + watchedIn(*e))
	}
	asking := s.understand(q, e.Asked, snap)
	if asking.note != "" {
		e.Note = joinNotes(e.Note, asking.note)
	}
	budget := s.budget(q)
	if h, ok := happeningIn(asking.text); ok && snap.Version > 0 && len(e.Coverage) > 0 {
		at, seen, st, err := s.find(ctx, h, snap, *e, budget, q.Seed)
		a.Stats, l.before = st, st
		if err != nil {
			return l, err
		}
		if seen {
			asking.text = h.rest
			asking.within(h.around(at))
			l.tail = fmt.Sprintf(" (%s %s: I take that to be at %s.)", upper(h.how), h.what, at.From.Format(time.TimeOnly))
		} else {
			e.Note = joinNotes(e.Note, "when "+h.what+" was not found")
			l.head = "I did not find when " + h.what + ". Of all that I remember: "
		}
	}
	a.Asked = asking.text

	times := namedTimes(asking.text, *e, snap, s.watched.Coverage())
	times = asking.limit(times, *e, snap, s.watched.Coverage())
	if sentence, decided := fromCoverage(times, *e, snap); decided {
		return decide(sentence)
	}
	view, question, query, err := s.focus(ctx, asking.text, times, e, snap, budget)
	if err != nil {
		return l, err
	}
	if view == nil {
		return decide("I remember nothing of that time. " + watchedWords(*e))
	}
	history, size := asking.history()
	if reading.Room > 0 {
		reading.Room = max(1, reading.Room-size)
	}
	budget = reading.Fit(view, budget)
	entries := view.Select(query, budget)
	if slices.ContainsFunc(times, func(t namedTime) bool { return t.only }) {
		entries = inside(entries, e.Focus.From.Sub(snap.Epoch), e.Focus.To.Sub(snap.Epoch))
	}
	if err := within(entries, budget); err != nil {
		return l, err
	}
	if q.MaxVisualTokens > 0 {
		if all := len(view.Select(query, 0)); all > len(entries) {
			e.Cut = append(e.Cut, fmt.Sprintf("%d of %d moments were shown: the budget is %d visual tokens", len(entries), all, q.MaxVisualTokens))
		}
	}
	e.Items = items(entries, snap, query)
	if !e.Focus.From.IsZero() {
		e.of(e.Focus, s.watched.Coverage())
	}
	if question != asking.text { // it is put in that moment's present tense, and so will the answer be
		l.tail += fmt.Sprintf(" (As of %s.)", view.Wall(view.Now).Format(time.TimeOnly))
	}
	a.Asked = question
	l.reading, l.view, l.entries, l.history, l.question = reading, view, entries, history, question
	return l, nil
}

// inside are the entries that have something of a stretch: what stands for a coarse moment may lie beyond. Where none has, all do.
func inside(entries []memorybank.Entry, from, to time.Duration) []memorybank.Entry {
	var list []memorybank.Entry
	for _, e := range entries {
		if e.End >= from && e.Start <= to {
			list = append(list, e)
		}
	}
	if len(list) == 0 {
		return entries
	}
	return list
}

// check refuses what a question cannot be.
func (q Question) check(now time.Time) error {
	switch {
	case strings.TrimSpace(q.Text) == "":
		return fmt.Errorf("%w: it is empty", ErrQuestion)
	case q.MaxVisualTokens < 0:
		return fmt.Errorf("%w: a budget of %d visual tokens", ErrQuestion, q.MaxVisualTokens)
	case q.AsOf.After(now):
		return fmt.Errorf("%w: as of %s, which is yet to come", ErrQuestion, q.AsOf.Format(time.RFC3339))
	case !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To):
		return fmt.Errorf("%w: from %s to %s", ErrQuestion, q.From.Format(time.RFC3339), q.To.Format(time.RFC3339))
	}
	return nil
}

// after is what an answer of two steps took in all; how it ended and its words are the second's.
func after(first, second llm.Stats) llm.Stats {
	if first.Total == 0 {
		return second
	}
	if second.FirstToken > 0 {
		second.FirstToken += first.Total
	}
	second.Total += first.Total
	second.Queued += first.Queued
	second.PromptTokens += first.PromptTokens
	second.VisualTokens += first.VisualTokens
	second.CachedTokens += first.CachedTokens
	return second
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
