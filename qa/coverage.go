package qa

import (
	"fmt"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"
)

// A namedTime is a time that a question names, held against the coverage map.
type namedTime struct {
	when
	verdict looked
	span    ingest.Span // where it was seen, both ends included; zero where it may be any time
	at      time.Time   // of a moment
	only    bool        // nothing else may be shown: the asker's own bounds
}

// namedTimes finds the times that a question names and whether anyone was watching then. Without a coverage map, as when a bank
// was filled by other means, there is nothing to hold them against and none is returned.
func namedTimes(question string, e Evidence, snap *memorybank.Snapshot, c *ingest.Coverage) []namedTime {
	if snap.Version == 0 || len(e.Coverage) == 0 {
		return nil
	}
	var list []namedTime
	whens, _ := timesIn(question, e.Asked)
	for _, w := range whens {
		verdict, span := w.look(e, c)
		t := namedTime{when: w, verdict: verdict, span: span}
		if w.moment && !span.From.IsZero() {
			t.at = span.From.Add(w.length() / 2)
		}
		list = append(list, t)
	}
	return list
}

// fromCoverage decides, before the model speaks, the questions that only the coverage map can answer: nothing was watched at
// all, or the question names a time and nobody was watching then. It returns a sentence that says so, and what was watched.
// When in doubt it leaves the question to the model.
func fromCoverage(times []namedTime, e Evidence, snap *memorybank.Snapshot) (sentence string, decided bool) {
	switch {
	case snap.Version == 0 && len(e.Coverage) == 0:
		return "I have not watched anything yet: " + sourceWords(e.State) + ".", true
	case snap.Version == 0:
		return "I have nothing in memory yet, though pictures have arrived. " + watchedWords(e), true
	case len(times) == 0:
		return "", false
	}
	var missed, future []string
	for _, t := range times {
		switch t.verdict {
		case seen:
			return "", false
		case notYet:
			future = append(future, t.words)
		case notSeen:
			missed = append(missed, t.words)
		}
	}
	if len(missed) > 0 {
		return "I was not watching " + strings.Join(append(missed, future...), " or ") + ". " + watchedWords(e), true
	}
	return fmt.Sprintf("It is %s now, so I cannot know about what happens %s yet. %s",
		e.Asked.Format(time.TimeOnly), strings.Join(future, " or "), watchedWords(e)), true
}

type looked uint8

const (
	seen looked = iota
	notSeen
	notYet
)

// mostDays bounds the days that a time without a date is looked for on, backwards from the day of the question.
const mostDays = 62

// look finds out whether any moment of w was watched, on any day that it could mean, and if so from when to when it reaches on the
// latest such day. The span is zero where w may mean two stretches of that day.
func (w when) look(e Evidence, c *ingest.Coverage) (looked, ingest.Span) {
	if w.doubt {
		return seen, ingest.Span{}
	}
	// one looks at one stretch, to exclusive.
	one := func(from, to time.Time) (looked, ingest.Span) {
		if from.After(e.Asked) {
			return notYet, ingest.Span{}
		}
		to = earlier(to.Add(-1), e.Asked)
		if len(c.Within(from, to)) > 0 || c.Watched(from) {
			return seen, ingest.Span{From: from, To: to}
		}
		return notSeen, ingest.Span{From: from, To: to}
	}
	if !w.span.From.IsZero() {
		return one(w.span.From, w.span.To)
	}
	days := []time.Time{w.day}
	if w.day.IsZero() {
		days = days[:0]
		for back := range mostDays + 1 {
			days = append(days, midnightOf(e.Asked, -back))
			if midnightOf(e.Asked, 1-back).Before(e.Coverage[0].From) {
				break
			}
		}
	}
	shifts := []time.Duration{0}
	if w.ambiguous {
		shifts = append(shifts, halfDay)
	}
	past := false
	for i, d := range days {
		var found []ingest.Span
		for _, shift := range shifts {
			switch verdict, span := one(w.on(d, shift)); {
			case verdict == seen:
				found = append(found, span)
			// A day before watching began says nothing about a time that has yet to come today.
			case verdict == notSeen && (i == 0 || span.To.After(e.Coverage[0].From)):
				past = true
			}
		}
		switch len(found) {
		case 1:
			return seen, found[0]
		case 2:
			return seen, ingest.Span{}
		}
	}
	if past {
		return notSeen, ingest.Span{}
	}
	return notYet, ingest.Span{}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func sourceWords(s ingest.State) string {
	switch s {
	case ingest.Connecting:
		return "I am still connecting to the source"
	case ingest.Live:
		return "the first picture is still on its way"
	case ingest.Stalled:
		return "the source is connected but sends no pictures"
	case ingest.Frozen:
		return "the source sends the same picture over and over, so I take it for frozen"
	case ingest.Ended:
		return "the source has ended"
	}
	return "the source is offline"
}

// nowSlack is how old the newest frame may be for watching to go on "until now".
const nowSlack = 3 * time.Second

// watchedWords says what was watched, the newest three stretches in words and the rest in number.
func watchedWords(e Evidence) string {
	const most = 3
	spans := e.Coverage
	var parts []string
	if n := len(spans) - most; n > 0 {
		parts, spans = append(parts, fmt.Sprintf("during %d earlier stretches", n)), spans[n:]
	}
	for i, s := range spans {
		to := "to " + timeWords(s.To, e.Asked)
		if last := i == len(spans)-1; last && !s.To.After(e.Asked) && e.Asked.Sub(s.To) <= nowSlack {
			to = "until now (" + e.Asked.Format(time.TimeOnly) + ")"
		}
		parts = append(parts, "from "+timeWords(s.From, e.Asked)+" "+to)
	}
	if n := len(parts); n > 1 {
		return "I have watched " + strings.Join(parts[:n-1], ", ") + " and " + parts[n-1] + "."
	}
	return "I have watched " + parts[0] + "."
}

// timeWords gives the date only where it is not today's.
func timeWords(t, today time.Time) string {
	t = t.In(today.Location())
	if t.Format(time.DateOnly) == today.Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}
