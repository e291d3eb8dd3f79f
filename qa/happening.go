package qa

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/llm"
	"afterimage/memorybank"
)

// A happening is an event that a question dates itself by: "what happened before the van left". The model is asked for its time first, and
// then the rest of the question about the stretch that it bounds.
type happening struct {
	how  string // before, after or when
	what string // "the van left"
	ask  string // "When did the van leave?"
	rest string // the question without it
}

// basePast are verbs that events are told with; what is not among them is no event that can be looked for.
var basePast = map[string]string{
	"left": "leave", "came": "come", "arrived": "arrive", "passed": "pass", "parked": "park", "stopped": "stop", "went": "go", "drove": "drive",
	"walked": "walk", "ran": "run", "rode": "ride", "opened": "open", "closed": "close", "appeared": "appear", "disappeared": "disappear",
	"entered": "enter", "returned": "return", "started": "start", "fell": "fall", "took": "take", "brought": "bring", "delivered": "deliver",
	"dropped": "drop", "rang": "ring", "knocked": "knock", "departed": "depart", "moved": "move", "turned": "turn", "crossed": "cross",
}

const (
	happened = `((?:the|an?|my|our|his|her|somebody|someone|anybody|anyone|nobody)\b[a-z' -]{0,60}?)\s+(was\s+|were\s+)?` +
		`(left|came|arrived|passed|parked|stopped|went|drove|walked|ran|rode|opened|closed|appeared|disappeared|entered|returned|started|fell|` +
		`took|brought|delivered|dropped|rang|knocked|departed|moved|turned|crossed|gone|taken|moved)\b([a-z' -]{0,60}?)`
	// A clause ends the question, or begins it and ends with a comma.
)

var (
	dated     = regexp.MustCompile(`(?i)^(.*?\S)\s+(?:(right|just|shortly)\s+)?(before|until|after|since|when|while|once)\s+` + happened + `\s*[?.!]*$`)
	datedThen = regexp.MustCompile(`(?i)^(?:(right|just|shortly)\s+)?(before|until|after|since|when|while|once)\s+` + happened + `,\s*(.*\S)$`)
	// asksForIt is a question for the time of the event itself.
	asksForIt = regexp.MustCompile(`(?i)^\s*(?:when|what time|at what time)\s*$`)
	unseen    = regexp.MustCompile(`(?i)\b(?:did not|didn't|not|never|no|cannot|can't|don't|unable)\b`)
)

// happeningIn finds the event that a question dates itself by.
func happeningIn(question string) (h happening, ok bool) {
	question = strings.TrimSpace(question)
	var how, close string
	var g []string // who, was, verb, tail
	if m := dated.FindStringSubmatch(question); m != nil {
		h.rest, close, how, g = strings.TrimRight(m[1], " ,"), m[2], m[3], m[4:8]
	} else if m := datedThen.FindStringSubmatch(question); m != nil {
		close, how, g, h.rest = m[1], m[2], m[3:7], m[7]
	} else {
		return h, false
	}
	who, was, verb, tail := strings.ToLower(g[0]), strings.ToLower(strings.TrimSpace(g[1])), strings.ToLower(g[2]), strings.TrimRight(g[3], " ")
	if asksForIt.MatchString(h.rest) || strings.TrimRight(h.rest, " ?!.") == "" {
		return happening{}, false
	}
	h.what = strings.TrimSpace(spaced(who + " " + was + " " + verb + tail))
	switch base := basePast[verb]; {
	case was != "":
		h.ask = "When " + was + " " + the(who) + " " + verb + tail + "?"
	case base == "":
		return happening{}, false
	default:
		h.ask = "When did " + the(who) + " " + base + tail + "?"
	}
	switch how = strings.ToLower(how); how {
	case "until":
		how = "before"
	case "since", "once":
		how = "after"
	case "while":
		how = "when"
	}
	h.how = how
	if close != "" && how != "when" {
		h.how = "just " + how
	}
	h.rest = withMark(hasHappened.ReplaceAllString(h.rest, "What happened")) // as models are used to be asked
	return h, true
}

// the names somebody's doing as the one that is meant: "a van" becomes "the van".
func the(who string) string {
	for _, article := range []string{"a ", "an "} {
		if rest, ok := strings.CutPrefix(who, article); ok {
			return "the " + rest
		}
	}
	return who
}

// How far around an event "when it happened" and "just before" it reach.
const (
	aroundHappening = 30 * time.Second
	justAround      = 2 * time.Minute
)

// foundTokens bounds the answer to "When did the van leave?".
const foundTokens = 48

// find asks the model when h happened. found is false where it does not name one time that was watched.
func (s *Session) find(ctx context.Context, h happening, snap *memorybank.Snapshot, e Evidence, budget int, seed uint64) (at ingest.Span, found bool, st llm.Stats, err error) {
	var query []float32
	if s.Query != nil {
		query = s.Query(h.ask)
	}
	entries := snap.Select(query, s.Reading.Fit(snap, budget))
	prompt, err := s.Reading.memory(ctx, &s.joined, snap, entries)
	if err != nil {
		return at, false, st, err
	}
	prompt = append(prompt, s.Reading.layout().Question(h.ask, snap.Wall(snap.Now))...)
	var said strings.Builder
	st, err = s.model.Generate(ctx, prompt, llm.Options{MaxTokens: foundTokens, Seed: seed}, func(t llm.Token) error {
		said.WriteString(t.Text)
		return nil
	})
	if err != nil {
		return at, false, st, fmt.Errorf("find when %s: %w", h.what, err)
	}
	if unseen.MatchString(said.String()) {
		return at, false, st, nil
	}
	for _, t := range namedTimes(said.String(), e, snap, s.watched.Coverage()) {
		if t.verdict == seen && !t.span.From.IsZero() {
			return t.span, true, st, nil
		}
	}
	return at, false, st, nil
}

// around is the stretch that h means, once it is known to have happened within at; either end may be zero, for none.
func (h happening) around(at ingest.Span) (from, to time.Time) {
	switch h.how {
	case "before":
		return time.Time{}, at.To
	case "just before":
		return at.From.Add(-justAround), at.To
	case "after":
		return at.From, time.Time{}
	case "just after":
		return at.From, at.To.Add(justAround)
	}
	return at.From.Add(-aroundHappening), at.To.Add(aroundHappening)
}
