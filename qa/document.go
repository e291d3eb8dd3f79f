package qa

import (
	"fmt"
	"strconv"
	"time"

	"afterimage/ingest"
)

// Stamp is a time as users see it: RFC 3339 with milliseconds, in the time's own zone (the model's answers speak of that zone too); null
// when unset.
type Stamp time.Time

// MarshalJSON implements json.Marshaler.
func (s Stamp) MarshalJSON() ([]byte, error) {
	t := time.Time(s)
	if t.IsZero() {
		return []byte("null"), nil
	}
	if y := t.Year(); y < 0 || y > 9999 {
		return nil, fmt.Errorf("qa: year %d is outside RFC 3339", y)
	}
	return t.AppendFormat(nil, `"2006-01-02T15:04:05.000Z07:00"`), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *Stamp) UnmarshalJSON(text []byte) error { return (*time.Time)(s).UnmarshalJSON(text) }

// EvidenceDoc is Evidence for programs. It has one shape wherever it goes out: an event of the socket, a chat completion, a line of the
// terminal's.
type EvidenceDoc struct {
	WatchedDoc
	Asked string    `json:"question_as_asked,omitempty"` // as it was put to the model, where whoever sends this says so
	Cut   []string  `json:"cut,omitempty"`               // what budgets and deadlines cut off
	Items []ItemDoc `json:"items"`                       // the moments that the model was given, in prompt order
	// Of a question about several: each one's own. as_of above is the oldest of theirs, lag_ms the longest.
	Streams []StreamDoc `json:"streams,omitempty"`
}

// WatchedDoc is how fresh an answer is, and when anyone was watching.
type WatchedDoc struct {
	AsOf     Stamp      `json:"as_of"` // of the newest picture in memory; null: there was none
	LagMS    int64      `json:"lag_ms"`
	State    string     `json:"stream_state"`
	Since    Stamp      `json:"state_since"`      // when that state began; of a frozen picture, when it last changed; null: not known
	Coverage []CoverDoc `json:"coverage"`         // when was watched: of Focus where there is one, else of all time
	Gaps     []SpanDoc  `json:"gaps"`             // when was not, of the same
	Focus    *SpanDoc   `json:"focus,omitempty"`  // what the times in the question narrowed the memory to
	Prefer   string     `json:"prefer,omitempty"` // "first" or "last", where the question says so
	Note     string     `json:"note,omitempty"`   // what the answer had to do without
}

// StreamDoc is CameraEvidence for programs, without the items.
type StreamDoc struct {
	Stream string `json:"stream"`
	WatchedDoc
}

// ItemDoc is an EvidenceItem for programs.
type ItemDoc struct {
	Stream string   `json:"stream,omitempty"`
	From   Stamp    `json:"from"`
	To     Stamp    `json:"to"`
	At     Stamp    `json:"at"`
	Role   string   `json:"role"`  // synopsis, detail, newest
	Level  uint8    `json:"level"` // times that it was averaged 2x2
	Slot   string   `json:"slot"`
	Weight float32  `json:"weight"`
	Match  *float32 `json:"match"` // how near what it shows is to the question, -1 to 1, as moments are selected; null: not known
	Share  *float32 `json:"share"` // of the model's attention as it began to answer: it was read, which does not prove that it decided; null: not measured
	Thumb  string   `json:"thumb,omitempty"`
	Clip   string   `json:"clip,omitempty"`
}

// SpanDoc is a stretch of time.
type SpanDoc struct {
	From Stamp `json:"from"`
	To   Stamp `json:"to"`
}

// CoverDoc is a stretch that was watched, and how finely the answer was given it: fine, coarse, none.
type CoverDoc struct {
	SpanDoc
	Level string `json:"level"`
}

// Doc describes the evidence of an answer about a stream ("" for no name). link says where an item's picture and clip can be had, "" for
// nowhere; nil: nowhere.
func (e Evidence) Doc(stream string, link func(stream string, it EvidenceItem) (thumb, clip string)) EvidenceDoc {
	d := EvidenceDoc{Cut: e.Cut, Items: make([]ItemDoc, 0, len(e.Items)), WatchedDoc: WatchedDoc{
		AsOf: Stamp(e.AsOf), LagMS: max(0, e.Lag.Milliseconds()), State: string(e.State), Since: Stamp(e.Since),
		Coverage: make([]CoverDoc, 0, len(e.Coverage)), Gaps: make([]SpanDoc, 0, len(e.Gaps)),
		Prefer: e.Prefer.String(), Note: e.Note,
	}}
	span := func(s ingest.Span) SpanDoc { return SpanDoc{Stamp(s.From), Stamp(s.To)} }
	for _, s := range e.Coverage {
		d.Coverage = append(d.Coverage, CoverDoc{span(s), e.Level(s)})
	}
	for _, s := range e.Gaps {
		d.Gaps = append(d.Gaps, span(s))
	}
	if !e.Focus.From.IsZero() {
		f := span(e.Focus)
		d.Focus = &f
	}
	for _, it := range e.Items {
		name := it.Stream
		if name == "" {
			name = stream
		}
		item := ItemDoc{
			Stream: name, From: Stamp(it.From), To: Stamp(it.To), At: Stamp(it.At), Role: it.Role.String(), Level: it.Level,
			Slot: strconv.FormatUint(it.ID, 10), Weight: it.Weight, Match: it.Match, Share: it.Share,
		}
		if link != nil {
			item.Thumb, item.Clip = link(name, it)
		}
		d.Items = append(d.Items, item)
	}
	for _, c := range e.Cameras {
		d.Streams = append(d.Streams, StreamDoc{c.Stream, c.Evidence.Doc(c.Stream, nil).WatchedDoc})
	}
	return d
}
