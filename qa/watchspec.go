package qa

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// WatchSpec is a standing question: what is asked of a stream again and again, and when somebody is told. Zero fields mean the defaults that
// are named; where none is meant instead, a duration is negative.
type WatchSpec struct {
	Name   string // for people and metrics: letters, digits, - and _, at most 64
	Stream string
	Ask    string // the question, about now unless it names a time or Look says otherwise

	Choices []string // what the model chooses among: 2 to 16 answers as it would begin them; yes and no
	Fire    []string // which of them count; the first. Their probabilities add up

	Threshold  float64       // from which probability on the answer counts, 0.5 to 1; DefaultThreshold
	Hysteresis float64       // it ceases to count below Threshold - Hysteresis; DefaultHysteresis
	Every      time.Duration // between two checks, in the stream's time; DefaultEvery, at least 100 ms
	OnChange   bool          // checks only where the picture changed since the last check, but every tenth time anyway
	Hold       time.Duration // for how long it must count before it fires, and not count before it clears; DefaultHold
	Cooldown   time.Duration // from a firing to the next, at least; DefaultCooldown
	Deadline   time.Duration // without a firing for so long, an error says so once; 0: none

	Look    Look   // what the model is shown
	Webhook string // https URL that is told too; "" is none
	Paused  bool   // kept, not checked
}

// Look is what the model is shown for a standing question.
type Look string

// A question about now is put to the newest picture alone, which a small model reads best and which many questions share. One about what
// has happened is put to the whole memory, or to the stretch of time that it names.
const (
	LookAuto   Look = ""       // Memory where the question names a time, else Now
	LookNow    Look = "now"    //
	LookMemory Look = "memory" //
)

// What zero fields of a WatchSpec mean. "afterimage bench watch" found this hold best on streams that its report does not use, and no difference
// between thresholds of 0.5 and 0.8 there; models that are less sure of what they see are better off with the higher one.
const (
	DefaultThreshold  = 0.8
	DefaultHysteresis = 0.4
	DefaultEvery      = time.Second
	DefaultHold       = 2 * time.Second
	DefaultCooldown   = time.Minute
)

// Bounds of a WatchSpec.
const (
	maxAsk     = 500 // bytes
	maxChoices = 16
	maxChoice  = 80 // bytes
	leastEvery = 100 * time.Millisecond
	mostWait   = 30 * 24 * time.Hour // of every duration
	maxWebhook = 2048
	everyTenth = 10
	choicesYes = "yes"
	choicesNo  = "no"
)

// ErrWatch is wrapped by errors that a WatchSpec itself causes; errors.As finds a *WatchError.
var ErrWatch = errors.New("bad standing question")

// WatchError says which field of a WatchSpec is wrong, by its JSON name, and why.
type WatchError struct{ Field, Why string }

func (e *WatchError) Error() string { return fmt.Sprintf("%v: %s: %s", ErrWatch, e.Field, e.Why) }

// Unwrap returns ErrWatch.
func (e *WatchError) Unwrap() error { return ErrWatch }

var watchName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// Complete returns s with its defaults filled in, or a *WatchError. It does not know which streams there are.
func (s WatchSpec) Complete() (WatchSpec, error) {
	bad := func(field, why string, args ...any) (WatchSpec, error) {
		return s, &WatchError{field, fmt.Sprintf(why, args...)}
	}
	s.Choices, s.Fire = slices.Clone(s.Choices), slices.Clone(s.Fire)
	s.Ask = strings.TrimSpace(s.Ask)
	if len(s.Choices) == 0 {
		s.Choices = []string{choicesYes, choicesNo}
	}
	if len(s.Fire) == 0 {
		s.Fire = s.Choices[:1:1]
	}
	if s.Threshold == 0 {
		s.Threshold = DefaultThreshold
	}
	if s.Hysteresis == 0 {
		s.Hysteresis = DefaultHysteresis
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&s.Every, DefaultEvery)
	def(&s.Hold, DefaultHold)
	def(&s.Cooldown, DefaultCooldown)

	switch {
	case !watchName.MatchString(s.Name):
		return bad("name", "want letters, digits, - and _, at most 64")
	case !watchName.MatchString(s.Stream):
		return bad("stream", "want the name of a stream")
	case s.Ask == "":
		return bad("ask", "there is no question")
	case len(s.Ask) > maxAsk || !plainText(s.Ask):
		return bad("ask", "want one line of at most %d bytes", maxAsk)
	case len(s.Choices) < 2 || len(s.Choices) > maxChoices:
		return bad("choices", "want 2 to %d", maxChoices)
	case !(s.Threshold >= .5 && s.Threshold <= 1):
		return bad("threshold", "want 0.5 to 1")
	case !(s.Hysteresis > 0 && s.Hysteresis < s.Threshold):
		return bad("hysteresis", "want more than 0 and less than the threshold, or it would never clear")
	case s.Every < leastEvery || s.Every > mostWait:
		return bad("every", "want %s to %s", leastEvery, mostWait)
	case s.Hold > mostWait:
		return bad("hold", "want at most %s", mostWait)
	case s.Cooldown > mostWait:
		return bad("cooldown", "want at most %s", mostWait)
	case s.Deadline < 0 || s.Deadline > mostWait:
		return bad("deadline", "want 0 to %s", mostWait)
	case s.Look != LookAuto && s.Look != LookNow && s.Look != LookMemory:
		return bad("look", "want now or memory")
	}
	for i, c := range s.Choices {
		switch {
		case strings.TrimSpace(c) != c || c == "" || len(c) > maxChoice || !plainText(c):
			return bad("choices", "want one line each of at most %d bytes, without spaces around it", maxChoice)
		case slices.ContainsFunc(s.Choices[:i], func(o string) bool { return strings.EqualFold(o, c) }):
			return bad("choices", "%q is named twice", c)
		}
	}
	for i, f := range s.Fire {
		if !slices.Contains(s.Choices, f) || slices.Contains(s.Fire[:i], f) {
			return bad("fire", "%q is not one of the choices, or named twice", f)
		}
	}
	if len(s.Fire) == len(s.Choices) {
		return bad("fire", "all of the choices would always fire")
	}
	if err := checkWebhook(s.Webhook); err != nil {
		return bad("webhook", "%v", err)
	}
	return s, nil
}

// plainText reports whether text is one line of UTF-8.
func plainText(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' })
}

// checkWebhook looks at what can be seen of a URL. Where it may lead is decided when it is dialled.
func checkWebhook(raw string) error {
	if raw == "" {
		return nil
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil: // its message has the URL, which may hold a secret
		return errors.New("it is not a URL")
	case len(raw) > maxWebhook:
		return fmt.Errorf("want at most %d bytes", maxWebhook)
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "":
		return errors.New("want an https URL with a host")
	case u.Fragment != "":
		return errors.New("a fragment is never sent")
	}
	return nil
}

// Redacted is a webhook as it may be shown: its scheme and host, and that there is more. Paths and queries often are the secret.
func Redacted(webhook string) string {
	u, err := url.Parse(webhook)
	if webhook == "" || err != nil {
		return ""
	}
	shown := u.Scheme + "://" + u.Host
	if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		shown += "/…"
	}
	return shown
}

// hold and cooldown are what negative durations mean.
func (s *WatchSpec) hold() time.Duration     { return max(s.Hold, 0) }
func (s *WatchSpec) cooldown() time.Duration { return max(s.Cooldown, 0) }

// wire is a WatchSpec in JSON. Durations are as in "1m30s"; "0s" is none.
type wire struct {
	Name       string   `json:"name"`
	Stream     string   `json:"stream"`
	Ask        string   `json:"ask"`
	Choices    []string `json:"choices,omitempty"`
	Fire       []string `json:"fire,omitempty"`
	Threshold  float64  `json:"threshold,omitempty"`
	Hysteresis float64  `json:"hysteresis,omitempty"`
	Every      text     `json:"every,omitempty"`
	OnChange   bool     `json:"on_change,omitempty"`
	Hold       text     `json:"hold,omitempty"`
	Cooldown   text     `json:"cooldown,omitempty"`
	Deadline   text     `json:"deadline,omitempty"`
	Look       Look     `json:"look,omitempty"`
	Webhook    string   `json:"webhook,omitempty"`
	Paused     bool     `json:"paused,omitempty"`
}

// text is a duration as people write it.
type text string

func textOf(d time.Duration) text {
	switch {
	case d == 0:
		return ""
	case d < 0:
		return "0s"
	}
	return text(d.String())
}

func (t text) duration(field string, into *time.Duration) error {
	if t == "" {
		*into = 0
		return nil
	}
	d, err := time.ParseDuration(string(t))
	if err != nil || d < 0 || d > math.MaxInt64/4 {
		return &WatchError{field, `want a duration such as "10s"`}
	}
	if *into = d; d == 0 {
		*into = -1
	}
	return nil
}

// MarshalJSON implements json.Marshaler. The webhook is written whole: what is shown to anybody has Redacted in its place.
func (s WatchSpec) MarshalJSON() ([]byte, error) {
	return json.Marshal(wire{s.Name, s.Stream, s.Ask, s.Choices, s.Fire, s.Threshold, s.Hysteresis, textOf(s.Every), s.OnChange, textOf(s.Hold),
		textOf(s.Cooldown), textOf(s.Deadline), s.Look, s.Webhook, s.Paused})
}

// UnmarshalJSON implements json.Unmarshaler. What is not there stays as it is, so that a part of a WatchSpec changes that part. Unknown names
// are errors; a value that cannot be is a *WatchError.
func (s *WatchSpec) UnmarshalJSON(raw []byte) error {
	w := wire{s.Name, s.Stream, s.Ask, s.Choices, s.Fire, s.Threshold, s.Hysteresis, textOf(s.Every), s.OnChange, textOf(s.Hold),
		textOf(s.Cooldown), textOf(s.Deadline), s.Look, s.Webhook, s.Paused}
	w.Choices, w.Fire = slices.Clone(w.Choices), slices.Clone(w.Fire) // not to be written into
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return &WatchError{wrong.Field, "it is of the wrong type: " + wrong.Value}
		}
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return &WatchError{strings.Trim(name, `"`), "there is no such field"}
		}
		return &WatchError{"", err.Error()}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &WatchError{"", "something follows the object"}
	}
	out := WatchSpec{Name: w.Name, Stream: w.Stream, Ask: w.Ask, Choices: w.Choices, Fire: w.Fire, Threshold: w.Threshold, Hysteresis: w.Hysteresis,
		OnChange: w.OnChange, Look: w.Look, Webhook: w.Webhook, Paused: w.Paused}
	err := errors.Join(w.Every.duration("every", &out.Every), w.Hold.duration("hold", &out.Hold), w.Cooldown.duration("cooldown", &out.Cooldown),
		w.Deadline.duration("deadline", &out.Deadline))
	if err != nil {
		return err
	}
	out.Deadline = max(out.Deadline, 0)
	*s = out
	return nil
}
