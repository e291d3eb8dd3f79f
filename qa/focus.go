package qa

import (
	"regexp"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"
)

// focus turns the times that a question names into what the model is shown and asked. "Was the door open at 14:03:10" is asked of
// the memory as of that moment, in the present tense; any other question with times ("between 14:00 and 14:10", "before 9") of the
// entries that hold something of them. A small model reads one moment, or ten minutes, far better than it finds them among hours,
// and the evidence is just what the question is about. Without times, or where memory holds nothing of them, all of it is shown.
func focus(question string, times []namedTime, e *Evidence, snap *memorybank.Snapshot) (view *memorybank.Snapshot, text string) {
	var span ingest.Span
	for _, t := range times {
		if t.verdict != seen {
			continue
		}
		if span.From.IsZero() || t.span.From.Before(span.From) {
			span.From = t.span.From
		}
		if t.span.To.After(span.To) {
			span.To = t.span.To
		}
	}
	if span.From.IsZero() {
		return snap, question
	}
	from, to := span.From.Sub(snap.Epoch), span.To.Sub(snap.Epoch)
	if now, ok := inPresentTense(question); ok && len(times) == 1 && to-from <= time.Minute {
		if view = snap.At(from + (to-from)/2); view != nil {
			e.Focus = span
			return view, now
		}
	}
	if view = snap.Between(from, to); view == nil {
		return snap, question
	}
	e.Focus = span
	return view, question
}

var stateThen = regexp.MustCompile(`(?i)^\s*(was|were)(\s.*\S)\s+at\s+\S*\d\S*(?:\s*[ap]\.?m\.?)?\s*[?.!]*\s*$`)

// inPresentTense returns what "was ... at TIME" asks of that time's own now, and whether the question is of that kind.
func inPresentTense(question string) (string, bool) {
	m := stateThen.FindStringSubmatch(question)
	if m == nil {
		return "", false
	}
	verb := map[string]string{"was": "Is", "were": "Are"}[strings.ToLower(m[1])]
	return verb + m[2] + "?", true
}
