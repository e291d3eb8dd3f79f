package qa

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
)

func TestInPresentTense(t *testing.T) {
	for question, want := range map[string]string{
		"Was the door open at 14:03:10?":              "Is the door open?",
		"was the lamp by the door off at 10:02":       "Is the lamp by the door off?",
		"Were the cars there at 2:03 pm?":             "Are the cars there?",
		"Was the door open?":                          "",
		"Was the door open between 14:00 and 14:10?":  "",
		"When was the door open?":                     "",
		"Is the door open at 14:03?":                  "",
		"What was the person doing at 14:03?":         "",
		"Was a parcel left at the door at 14:03?":     "Is a parcel left at the door?",
		"Was the door open five minutes ago?":         "Is the door open?",
		"Was the door open about 30 seconds ago":      "Is the door open?",
		"Was the door open an hour and a half ago?":   "Is the door open?",
		"Was the door open at noon?":                  "Is the door open?",
		"was the gate open at half past nine?":        "Is the gate open?",
		"Was the gate open yesterday at nine o'clock": "Is the gate open?",
		"Was there a car long ago?":                   "",
		"Was somebody at the door?":                   "",
		"Wash the car at 14:03":                       "",
		"Was the gate closed at 10:00:15, do you see": "",
	} {
		got, ok := inPresentTense(question)
		assert.Equal(t, want, got, question)
		assert.Equal(t, want != "", ok, question)
	}
}

func testFocus(t *testing.T, question string, times []namedTime, e *Evidence, snap *memorybank.Snapshot) (*memorybank.Snapshot, string) {
	t.Helper()
	view, text, _, err := new(Session).focus(t.Context(), question, times, e, snap, 0)
	require.NoError(t, err)
	return view, text
}

// A minute of frames, one a second, watched from 10:00:00 with a hole from 10:00:20 to 10:00:30.
func TestFocus(t *testing.T) {
	epoch := time.Date(2026, 5, 2, 10, 0, 0, 0, time.UTC)
	bank := memorybank.New(epoch, memorybank.Flash{Synopsis: 100})
	coverage := ingest.NewCoverage(3*time.Second, 0)
	for s := range 60 {
		if s >= 20 && s < 30 {
			continue
		}
		at := time.Duration(s) * time.Second
		m := compute.NewMatrix(4, 2)
		m.Data[0] = float32(s)
		bank.Add(memorybank.Entry{At: at, Grid: memorybank.Grid{H: 2, W: 2}, Tokens: m})
		coverage.Mark(epoch.Add(at))
	}
	snap := bank.Snapshot()
	e := func() *Evidence {
		return &Evidence{Asked: epoch.Add(time.Minute), AsOf: epoch.Add(59 * time.Second), Coverage: coverage.Spans()}
	}
	for _, c := range []struct {
		question, text string
		first, last    int // seconds of the entries shown
		role           memorybank.Role
	}{
		{"Was the door open at 10:00:07?", "Is the door open?", 7, 7, memorybank.Newest},
		{"What did you see at 10:00:40?", "What did you see at 10:00:40?", 39, 40, memorybank.Detail},
		{"What happened between 10:00 and 10:01?", "What happened between 10:00 and 10:01?", 0, 59, memorybank.Detail},
		{"What happened before 10:00:05?", "What happened before 10:00:05?", 0, 4, memorybank.Detail},
		{"Is the door open?", "Is the door open?", 0, 59, memorybank.Detail},
		{"Was the door open at ten?", "Is the door open?", 30, 30, memorybank.Newest}, // of five minutes either way one was watched
		{"Was the door open fifteen seconds ago?", "Is the door open?", 45, 45, memorybank.Newest},
		{"Was the car that came at 10:00:07 still there?", "Was the car that came at 10:00:07 still there?", 0, 59, memorybank.Detail},
	} {
		evidence := e()
		view, text := testFocus(t, c.question, namedTimes(c.question, *evidence, snap, coverage), evidence, snap)
		assert.Equal(t, c.text, text)
		shown := view.Select(nil, 0)
		assert.Equal(t, c.role, shown[0].Role, c.question)
		first, last := time.Hour, time.Duration(0)
		for _, s := range shown {
			first, last = min(first, s.Start), max(last, s.End)
		}
		assert.Equal(t, time.Duration(c.first)*time.Second, first.Truncate(time.Second), c.question)
		assert.Equal(t, time.Duration(c.last)*time.Second, last.Truncate(time.Second), c.question)
		assert.Equal(t, view != snap, !evidence.Focus.From.IsZero(), c.question)
	}
	// a budget holds for a moment too
	question := "Was the door open at 10:00:07?"
	view, _ := testFocus(t, question, namedTimes(question, *e(), snap, coverage), e(), snap)
	assert.Empty(t, view.Select(nil, 3))
	// memory that has forgotten the time shows what it has
	recent := memorybank.New(epoch, memorybank.Recent{N: 2})
	recent.Add(memorybank.Entry{At: 50 * time.Second, Grid: memorybank.Grid{H: 1, W: 1}, Tokens: compute.NewMatrix(1, 2)})
	view, text := testFocus(t, question, namedTimes(question, *e(), recent.Snapshot(), coverage), e(), recent.Snapshot())
	assert.Equal(t, recent.Snapshot(), view)
	assert.Equal(t, question, text)
}

func TestAnswerAboutAMomentSaysWhich(t *testing.T) {
	epoch := time.Date(2026, 5, 2, 10, 0, 0, 0, time.UTC)
	bank := memorybank.New(epoch, memorybank.Flash{})
	w := &watchedFake{coverage: ingest.NewCoverage(3*time.Second, 0)}
	for s := range 10 {
		at := time.Duration(s) * time.Second
		bank.Add(memorybank.Entry{At: at, Grid: memorybank.Grid{H: 2, W: 2}, Tokens: compute.NewMatrix(4, 2)})
		w.coverage.Mark(epoch.Add(at))
	}
	model := &askedFake{say: "No, the door is closed."}
	s := NewSession(bank, model, w, func() time.Time { return epoch.Add(10 * time.Second) })
	a, err := s.Ask(context.Background(), Question{Text: "Was the door open at 10:00:04?"}, nil)
	require.NoError(t, err)
	assert.Equal(t, "No, the door is closed. (As of 10:00:04.)", a.Text)
	assert.Equal(t, "Is the door open?", model.asked)
	assert.Len(t, a.Evidence.Items, 1)
	a, err = s.Ask(context.Background(), Question{Text: "Is the door open?"}, nil)
	require.NoError(t, err)
	assert.Equal(t, "No, the door is closed.", a.Text)
	assert.True(t, a.Evidence.Focus.From.IsZero())
}

type watchedFake struct{ coverage *ingest.Coverage }

func (w *watchedFake) Status() ingest.Status      { return ingest.Status{State: ingest.Live} }
func (w *watchedFake) Coverage() *ingest.Coverage { return w.coverage }

// askedFake says one thing and remembers the question it was put.
type askedFake struct{ say, asked string }

func (m *askedFake) Generate(_ context.Context, p llm.Prompt, _ llm.Options, emit func(llm.Token) error) (llm.Stats, error) {
	m.asked = p[len(p)-2].Text
	return llm.Stats{Finish: "stop"}, emit(llm.Token{Text: m.say})
}
