package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"afterimage/ingest/simcam"
)

// ReadQuestions reads a file of questions about a recorded stream, as "afterimage simcam --questions" writes it: an object with "epoch",
// the wall clock at the stream's start (RFC 3339), and "questions", each a simcam.Truth with times in nanoseconds since that start. id,
// type, answer, closed and evidence may be missing. Questions come back by the time that they are asked at. Errors name the file and
// the question.
func ReadQuestions(file string) (epoch time.Time, questions []simcam.Truth, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return epoch, nil, fmt.Errorf("questions: %w", err)
	}
	fail := func(format string, args ...any) (time.Time, []simcam.Truth, error) {
		return time.Time{}, nil, fmt.Errorf("questions: %s: %w", file, fmt.Errorf(format, args...))
	}
	var doc struct {
		Seed      uint64         `json:"seed"`
		Epoch     string         `json:"epoch"`
		Questions []simcam.Truth `json:"questions"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		at := d.InputOffset()
		var syntax *json.SyntaxError
		var kind *json.UnmarshalTypeError
		switch {
		case errors.As(err, &syntax):
			at = syntax.Offset
		case errors.As(err, &kind):
			at = kind.Offset
		}
		return fail("line %d: %w", 1+bytes.Count(text[:min(int(at), len(text))], []byte("\n")), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fail("more after the end of the object")
	}
	if epoch, err = time.Parse(time.RFC3339, doc.Epoch); err != nil {
		return fail("epoch %q: want the time of the first picture, such as 2026-05-04T12:00:00Z", doc.Epoch)
	}
	if len(doc.Questions) == 0 {
		return fail("no questions")
	}
	ids := map[string]bool{}
	for i := range doc.Questions {
		q := &doc.Questions[i]
		if q.ID == "" {
			q.ID = fmt.Sprintf("%d", i+1)
		}
		if q.Type == "" {
			q.Type = q.Form
		}
		if ids[q.ID] {
			return fail("question %s: its id is another one's too", q.ID)
		}
		ids[q.ID] = true
		if err := checkQuestion(*q); err != nil {
			return fail("question %s: %w", q.ID, err)
		}
	}
	slices.SortStableFunc(doc.Questions, func(a, b simcam.Truth) int { return int(a.At/time.Microsecond - b.At/time.Microsecond) })
	return epoch, doc.Questions, nil
}

func checkQuestion(q simcam.Truth) error {
	switch {
	case strings.TrimSpace(q.Question) == "":
		return errors.New("no question")
	case !slices.Contains(simcam.Forms, q.Form):
		return fmt.Errorf("form %q: want one of %s", q.Form, strings.Join(simcam.Forms, ", "))
	case q.Short == "":
		return errors.New("no short: the answer in the form that it is scored by")
	case q.At <= 0:
		return errors.New("at_ns: want the time of asking, since the start, in nanoseconds")
	case q.From < 0 || q.To < q.From || q.To > q.At || q.To == 0:
		return fmt.Errorf("from_ns, to_ns: want where the evidence lies, 0 <= from <= to <= at; it is %s to %s, asked at %s", q.From, q.To, q.At)
	}
	for _, e := range q.Evidence {
		if e.From < 0 || e.To < e.From || e.To > q.At {
			return fmt.Errorf("evidence from %s to %s: want 0 <= from <= to <= at (%s)", e.From, e.To, q.At)
		}
	}
	if q.Answer != "" {
		if got := simcam.Score(q, q.Answer); !got.Exact {
			return fmt.Errorf("its own answer %q is read as %q, and not as its short, %q", q.Answer, got.Canonical, q.Short)
		}
	}
	return nil
}
