package qa

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/llm/chat"
	"afterimage/memorybank"
)

// camera is a session about so many seconds from the epoch on, asked at the twentieth; it is one of several on model.
func camera(model Model, stream uint16, from, to int) *Session {
	w := &fakeWatched{state: ingest.Live}
	w.mark(from, to)
	return NewSession(filledBank(memorybank.Flash{Synopsis: 4, Detail: 2}, 20), Shared(model, stream), w, at(20))
}

func TestSeveralAreAskedEach(t *testing.T) {
	m := &fakeModel{words: []string{"A ", "car."}}
	all := Several{map[string]Asker{"door": camera(m, 1, 0, 19), "yard": camera(m, 2, 10, 19)}}
	var pieces []string
	a, err := all.Ask(t.Context(), []string{"door", "yard", "door"}, Question{ID: "q", Text: "What came?", MaxVisualTokens: 16}, func(s string) error {
		pieces = append(pieces, s)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, "door: A car.\nyard: A car.", a.Text)
	require.Equal(t, a.Text, strings.Join(pieces, ""))
	require.Equal(t, "q", a.ID)
	require.Len(t, m.prompts, 2)
	rows := map[string]int{}
	for _, it := range a.Evidence.Items {
		rows[it.Stream] += it.Tokens
	}
	require.Equal(t, map[string]int{"door": 8, "yard": 8}, rows, "each has half of the budget")
	require.Len(t, a.Evidence.Cameras, 2)
	require.Equal(t, "door: 2 of 7 moments were shown: the budget is 8 visual tokens", a.Evidence.Cut[0])

	a, err = all.Ask(t.Context(), []string{"door", "yard"}, Question{Text: "What was there at 14:00:05?"}, nil)
	require.NoError(t, err)
	require.Equal(t, "door: A car.\nyard: I was not watching at 14:00:05. I have watched from 14:00:10 until now (14:00:20).", a.Text)
	require.False(t, a.FromCoverage)
}

func TestSeveralInOnePrompt(t *testing.T) {
	template, err := chat.For("qwen2_vl")
	require.NoError(t, err)
	m := &fakeModel{words: []string{"At the door."}}
	door, yard, gate := camera(m, 1, 0, 19), camera(m, 2, 0, 19), camera(m, 3, 10, 19)
	all := Several{map[string]Asker{"door": door, "yard": yard, "gate": gate}}
	for _, s := range []*Session{door, yard, gate} {
		s.Reading.Layout = Chat{Template: template}
	}
	history := []Exchange{{Question: "Did a car come?", Answer: "Yes."}}
	a, err := all.Ask(t.Context(), []string{"door", "yard"}, Question{Text: "Where?", History: history}, nil)
	require.NoError(t, err)
	require.Equal(t, "At the door.", a.Text)
	require.Len(t, m.prompts, 1)
	var said strings.Builder
	ids := map[uint64]bool{}
	for _, part := range m.prompts[0] {
		said.WriteString(part.Control + part.Text)
		if part.Visual.Rows > 0 {
			require.False(t, ids[part.ID], "an ID names rows of one camera only")
			ids[part.ID] = true
			said.WriteString("▣")
		}
	}
	const picture = ":<|vision_start|>▣<|vision_end|>"
	want := "(?s)user\nThese are moments of what 2 cameras saw, camera by camera, each after the time when it was taken\\.\n\n" +
		"Camera door:\n\n14:00:.*▣<\\|vision_end\\|>\nCamera yard:\n\n14:00:.*▣<\\|vision_end\\|>\n\nDid a car come\\?<\\|im_end\\|>\n.*It is 14:00:19 now. Where\\?<\\|im_end\\|>"
	require.Regexp(t, want, said.String())
	require.Contains(t, said.String(), picture)
	require.NotZero(t, m.options[0].Client)

	a, err = all.Ask(t.Context(), []string{"gate", "door"}, Question{Text: "What was there at 14:00:05?"}, nil)
	require.NoError(t, err)
	require.Equal(t, "gate: I was not watching at 14:00:05. I have watched from 14:00:10 until now (14:00:20).\nAt the door.", a.Text)

	yard.Reading.Layout = Chat{Template: template, Times: Silent}
	door.Reading.Layout = yard.Reading.Layout
	a, err = all.Ask(t.Context(), []string{"door", "yard"}, Question{Text: "Where?"}, nil)
	require.NoError(t, err)
	require.Equal(t, "door: At the door.\nyard: At the door.", a.Text, "without words a model could not tell whose a picture is")
}

func TestSeveralRefuse(t *testing.T) {
	m := &fakeModel{words: []string{"A"}}
	all := Several{map[string]Asker{"door": camera(m, 1, 0, 19), "yard": camera(m, 2, 0, 19)}}
	for _, names := range [][]string{nil, {"door", "attic"}} {
		_, err := all.Ask(t.Context(), names, Question{Text: "What?"}, nil)
		require.ErrorIs(t, err, ErrQuestion)
	}
	_, err := all.Ask(t.Context(), []string{"door", "yard"}, Question{}, nil)
	require.ErrorIs(t, err, ErrQuestion)
	gone := errors.New("gone")
	_, err = all.Ask(t.Context(), []string{"door", "yard"}, Question{Text: "What?"}, func(string) error { return gone })
	require.ErrorIs(t, err, gone)

	waits := &fakeModel{words: []string{"A", "B"}, steps: make(chan struct{}, 2)}
	waits.steps <- struct{}{}
	waits.steps <- struct{}{}
	all = Several{map[string]Asker{"door": camera(waits, 1, 0, 19), "yard": camera(waits, 2, 0, 19)}}
	a, err := all.Ask(t.Context(), []string{"door", "yard"}, Question{Text: "What?", Deadline: time.Now().Add(30 * time.Millisecond)}, nil)
	require.NoError(t, err)
	require.Equal(t, FinishDeadline, a.Stats.Finish)
	require.Contains(t, a.Text, "door: ")
	require.Contains(t, a.Text, "\nyard: ")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = all.Ask(ctx, []string{"door", "yard"}, Question{Text: "What?"}, nil)
	require.ErrorIs(t, err, context.Canceled)
}

// embedding is what cmd's streams are.
type embedding struct{ *Session }

func TestWhatEmbedsASessionIsOne(t *testing.T) {
	template, err := chat.For("qwen2_vl")
	require.NoError(t, err)
	var m Model = &fakeModel{words: []string{"A"}}
	list := map[string]Asker{}
	for i, name := range []string{"door", "yard"} {
		s := camera(m, uint16(i+1), 0, 19)
		s.Reading.Layout = Chat{Template: template}
		list[name] = embedding{s}
	}
	require.Len(t, Several{list}.oneEngine([]string{"door", "yard"}), 2)
	list["yard"].(embedding).model = Shared(&fakeModel{}, 2)
	require.Nil(t, Several{list}.oneEngine([]string{"door", "yard"}), "another machine's engine")
}

// "They" are whom each camera spoke of.
func TestAFollowUpOfSeveralIsEachCamerasOwn(t *testing.T) {
	history := []Exchange{{Question: "Who came last?", Answer: "door: A person in red went home.\nyard: A brown dog ran past."}}
	door, yard := &scripted{}, &scripted{}
	all := Several{map[string]Asker{"door": camera(door, 1, 0, 19), "yard": camera(yard, 2, 0, 19)}}
	a, err := all.Ask(t.Context(), []string{"door", "yard"}, Question{Text: "Which way did they go?", History: history}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"Which way did the person in red go?"}, door.asked)
	require.Equal(t, []string{"Which way did the brown dog go?"}, yard.asked)
	require.Equal(t, time.Second, a.Stats.FirstToken)
}
