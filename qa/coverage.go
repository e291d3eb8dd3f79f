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
	words   string
	verdict looked
	span    ingest.Span // where it was seen
}

// namedTimes finds the times that a question names and whether anyone was watching then. Without a coverage map, as when a bank
// was filled by other means, there is nothing to hold them against and none is returned.
func namedTimes(question string, e Evidence, snap *memorybank.Snapshot, c *ingest.Coverage) []namedTime {
	if snap.Version == 0 || len(e.Coverage) == 0 {
		return nil
	}
	var list []namedTime
	for _, w := range clockTimes(question, snap.Epoch.Location()) {
		verdict, span := w.look(e, c)
		list = append(list, namedTime{w.words, verdict, span})
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
// latest such day.
func (w when) look(e Evidence, c *ingest.Coverage) (looked, ingest.Span) {
	day := func(back int) time.Time {
		y, m, d := e.Asked.Date()
		return time.Date(y, m, d-back, 0, 0, 0, 0, e.Asked.Location())
	}
	first, last := 0, mostDays
	days := []time.Time{w.day}
	if w.day.IsZero() {
		if w.yesterday {
			first, last = 1, 1
		}
		days = days[:0]
		for back := first; back <= last; back++ {
			days = append(days, day(back))
			if days[len(days)-1].AddDate(0, 0, 1).Before(e.Coverage[0].From) {
				break
			}
		}
	}
	shifts := []time.Duration{0}
	if w.ambiguous {
		shifts = append(shifts, 12*time.Hour)
	}
	past := false
	for _, d := range days {
		for _, shift := range shifts {
			from, to := w.on(d, shift)
			if from.After(e.Asked) {
				continue
			}
			to = to.Add(-1)
			if to.After(e.Asked) {
				to = e.Asked
			}
			if len(c.Within(from, to)) > 0 || c.Watched(from) {
				return seen, ingest.Span{From: from, To: to}
			}
			// A day before watching began says nothing about a time that has yet to come today.
			if d.Equal(day(0)) || !w.day.IsZero() || w.yesterday || to.After(e.Coverage[0].From) {
				past = true
			}
		}
	}
	if past {
		return notSeen, ingest.Span{}
	}
	return notYet, ingest.Span{}
}

func sourceWords(s ingest.State) string {
	switch s {
	case ingest.Connecting:
		return "I am still connecting to the source"
	case ingest.Live:
		return "the first picture is still on its way"
	case ingest.Stalled:
		return "the source is connected but sends no pictures"
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
