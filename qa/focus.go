package qa

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"
)

// focus turns the times that a question names into what the model is shown and asked. "Was the door open at 14:03:10" is asked of
// the memory as of that moment, in the present tense; any other question with times ("between 14:00 and 14:10", "in the last ten
// minutes") of the entries that hold something of them, with finer ones from the disk where there are. A small model reads one moment, or
// ten minutes, far better than it finds them among hours, and the evidence is just what the question is about. Without times, where
// one of them may be any time, where memory holds nothing of them, and where the question is about now as well, all of it is shown. "The
// first" and "the last" steer what Select takes where not all fits. query is the question that is put to the model, in the space of the
// entries' indicators, and budget is what Select will have. The error is ctx's.
func (s *Session) focus(ctx context.Context, question string, times []namedTime, e *Evidence, snap *memorybank.Snapshot, budget int) (
	view *memorybank.Snapshot, text string, query []float32, err error) {
	if s.Query != nil {
		query = s.Query(question)
	}
	_, rest := timesIn(question, e.Asked)
	if e.Prefer = preference(rest); e.Prefer != memorybank.AnyTime {
		steered := *snap
		steered.Prefer = e.Prefer
		snap = &steered
	}
	if view, text, err = s.narrow(ctx, question, query, times, e, snap, budget); err != nil {
		return nil, "", nil, err
	}
	if text != question {
		e.Prefer = memorybank.AnyTime // there is one picture, whatever the question prefers
	}
	return view, text, query, nil
}

// aroundMoment is how much around a moment is read from the disk to find a picture of it.
const aroundMoment = 3 * time.Second

// narrow is focus without the preference. The view is nil where only what lies in the times may be shown and nothing of them is remembered.
func (s *Session) narrow(ctx context.Context, question string, query []float32, times []namedTime, e *Evidence, snap *memorybank.Snapshot, budget int) (
	view *memorybank.Snapshot, text string, err error) {
	span, ok := spanOf(times)
	only := slices.ContainsFunc(times, func(t namedTime) bool { return t.only })
	if !ok || !only && aboutNow.MatchString(question) && span.To.Before(e.AsOf) {
		return snap, question, nil
	}
	// recall goes on from memory when the disk fails.
	recall := func(from, to time.Duration, query []float32, budget int) (*memorybank.Snapshot, error) {
		part, err := snap.Recall(ctx, from, to, query, budget)
		switch {
		case err == nil:
			return part, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		e.Note = "finer memories of that time could not be read from the disk"
		if s.Warn != nil {
			s.Warn(fmt.Errorf("%s: %w", e.Note, err))
		}
		return snap.Between(from, to), nil
	}
	from, to := span.From.Sub(snap.Epoch), span.To.Sub(snap.Epoch)+1
	if now, ok := inPresentTense(question); ok && len(times) == 1 && times[0].moment && !times[0].at.After(e.Asked) {
		at := times[0].at.Sub(snap.Epoch)
		around, err := recall(at-aroundMoment, at+aroundMoment, nil, 0)
		if err != nil {
			return nil, "", err
		}
		if around != nil {
			view = around.At(at)
		}
		if view == nil {
			view = snap.At(at)
		}
		if view != nil {
			e.Focus = span
			return view, now, nil
		}
	}
	if view, err = recall(from, to, query, budget); err != nil {
		return nil, "", err
	}
	switch {
	case view == nil && only:
		return nil, question, nil
	case view == nil:
		return snap, question, nil
	case isWhole(view, snap) && !only:
		return snap, question, nil
	}
	e.Focus = span
	return view, question, nil
}

// isWhole reports whether a view of snap leaves nothing out and adds nothing.
func isWhole(view, snap *memorybank.Snapshot) bool {
	return view.Newest.ID == snap.Newest.ID && slices.EqualFunc(view.Entries, snap.Entries, func(a, b memorybank.Entry) bool { return a.ID == b.ID })
}

// spanOf is the stretch that all times lie in that were watched. ok is false without any, and where one may be any time.
func spanOf(times []namedTime) (span ingest.Span, ok bool) {
	for _, t := range times {
		switch {
		case t.verdict != seen:
			continue
		case t.span.From.IsZero():
			return span, false
		}
		if !ok || t.span.From.Before(span.From) {
			span.From = t.span.From
		}
		if t.span.To.After(span.To) {
			span.To = t.span.To
		}
		ok = true
	}
	return span, ok
}

// aboutNow is what a question says that asks how something is now: "is the car that came at 14:03 still there".
var aboutNow = regexp.MustCompile(`(?i)\b(?:now|still|currently|at the moment|at present|any ?more|yet)\b|^\s*(?:is|are)\b.*\b(?:that|who|which)\b`)

// stateThen is "was ... at TIME" and "was ... five minutes ago".
var stateThen = regexp.MustCompile(`(?i)^\s*(was|were)(\s.*?\S)\s+(?:at\s+(?:\S*\d\S*(?:\s*[ap]\.?m\.?)?|noon|midday|midnight|(?:half past |quarter past |quarter to )?(?:` + hourWord + `)(?:\s*o\W?clock)?)|` + length + `\s+ago)\s*[?.!]*\s*$`)

// roughlyThen is what may stand before the time.
var roughlyThen = regexp.MustCompile(`(?i)(?:\s+(?:about|around|roughly|approximately|exactly))?\s*$`)

// inPresentTense returns what "was ... at TIME" asks of that time's own now, and whether the question is of that kind.
func inPresentTense(question string) (string, bool) {
	m := stateThen.FindStringSubmatch(question)
	if m == nil {
		return "", false
	}
	verb := map[string]string{"was": "Is", "were": "Are"}[strings.ToLower(m[1])]
	return verb + roughlyThen.ReplaceAllString(dayWord.ReplaceAllString(m[2], ""), "") + "?", true
}

var (
	earliest = regexp.MustCompile(`(?i)\b(?:the|your|its) (?:very )?(?:first|earliest)\b|\b(?:when|what time)\b.*\bfirst\b|\b(?:came|come|comes|appeared|passed|arrived|happened|seen|left) first\s*[?.!]*\s*$`)
	latest   = regexp.MustCompile(`(?i)\b(?:the|your|its) (?:very )?(?:last|latest|most recent|final|newest)\b|\b(?:when|what time)\b.*\blast\b|\b(?:came|come|comes|appeared|passed|arrived|happened|seen|left) last\s*[?.!]*\s*$`)
	// notAnOrder is where these words do not choose among moments: a length of time that is in doubt, names, and verbs.
	notAnOrder = regexp.MustCompile(`(?i)\b(?:first|last|latest|earliest|newest|final|most recent) (?:(?:` + numberWord + `|few|couple of) )?(?:` + unitWord + `|months?|years?|names?|floors?|storey|lad(?:y|ies)|thing in|of all|(?:mon|tues|wednes|thurs|fri|satur|sun)day|january|february|march|april|may|june|july|august|september|october|november|december)\b|\bhow long\b`)
	// choice is "which came first, the car or the van": both have to be seen.
	choice = regexp.MustCompile(`(?i)\bor\b|\bbefore\b|\bafter\b`)
)

// preference is which of several moments a question means, given without its times; AnyTime wherever that is not plain. "The last three
// things" are late ones.
func preference(question string) memorybank.Order {
	first, last := earliest.MatchString(question), latest.MatchString(question)
	switch {
	case first == last, notAnOrder.MatchString(question), choice.MatchString(question):
		return memorybank.AnyTime
	case first:
		return memorybank.Earliest
	}
	return memorybank.Latest
}
