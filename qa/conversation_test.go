package qa

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/llm"
	"afterimage/llm/chat"
	"afterimage/memorybank"
)

func TestFollowUps(t *testing.T) {
	asked := epoch.Add(time.Hour)
	for _, c := range []struct{ before, answer, follow, want string }{
		// it
		{"Did a car pass?", "Yes, a red car passed.", "and what colour was it?", "What colour was the car?"},
		{"Did a car pass?", "Yes, a red car passed.", "Which way did it go?", "Which way did the red car go?"},
		{"Who came last?", "A person in blue walked to the left.", "When did they come?", "When did the person in blue come?"},
		{"Which vehicle parked?", "A white van parked.", "Is it still there?", "Is the white van still there?"},
		{"Is anyone there?", "Yes, a person in red.", "What are they doing?", "What is the person in red doing?"},
		{"How many dogs did you see?", "Two dogs.", "Where did they go?", "Where did the dogs go?"},
		{"Is the door open?", "Yes.", "Since when is it open?", "Since when is the door open?"},
		{"What colour was the first car?", "The first car was red.", "Where did it go?", "Where did the first car go?"},
		{"Is there a parcel at the door?", "Yes.", "Who brought it?", "Who brought it?"}, // two things: the parcel or the door
		{"What happened?", "Nothing.", "Was it red?", "Was it red?"},
		{"Did a car pass?", "Yes.", "Is it raining?", "Is it raining?"},
		{"Did a car pass?", "Yes.", "Did the van stop before it left?", "Did the van stop before it left?"},
		{"Did a car pass?", "Yes, a red car passed.", "Was there another one?", "Was there another car?"},
		{"Did a dog come?", "Yes, a brown dog.", "Who was its owner?", "Who was the brown dog's owner?"},
		// what about
		{"When did the red car pass?", "At 14:03.", "What about the blue car?", "When did the blue car pass?"},
		{"When did the red car pass?", "At 14:03.", "And the blue one?", "When did the blue car pass?"},
		{"Is the door open?", "No.", "how about the gate", "Is the gate open?"},
		{"Is the door open?", "No.", "What about the lamp?", "Is the lamp on?"},
		{"Is the light off?", "No.", "And the gate?", "Is the gate closed?"},
		{"Is the door open?", "No.", "And the person?", "And the person?"},
		{"Did a car come on the street?", "No.", "And a van?", "Did a van come on the street?"},
		{"Did the car come before the van?", "No.", "What about the bus?", "What about the bus?"},
		// times
		{"What happened in the last five minutes?", "A car passed.", "And in the last hour?", "What happened in the last hour?"},
		{"How many cars passed at 14:03?", "One.", "What about 14:10?", "How many cars passed at 14:10?"},
		{"What happened between 14:00 and 14:10?", "A car passed.", "and between 14:10 and 14:20?", "What happened between 14:10 and 14:20?"},
		{"What happened today?", "A car passed.", "And yesterday?", "What happened yesterday?"},
		// bare words
		{"Did the van leave?", "Yes.", "When?", "When did the van leave?"},
		{"Was the door opened?", "Yes.", "When was that?", "When was the door opened?"},
		{"Did a car pass?", "Yes, a red car.", "What colour?", "What colour was the car?"},
		{"Who came last?", "A person in blue.", "Which way?", "Which way did the person in blue go?"},
		{"What happened?", "Nothing.", "Why?", "Why?"},
		// whole ones
		{"Did a car pass?", "Yes.", "Is the door open?", "Is the door open?"},
		{"Did a car pass?", "Yes.", "And is the door open?", "Is the door open?"},
		{"Did a car pass?", "Yes.", "  ", "  "},
		{"Did a car pass?", "Yes.", "and?", "and?"},
	} {
		assert.Equal(t, c.want, whole(c.follow, []Exchange{{Question: c.before, Answer: c.answer}}, asked), "%s | %s", c.before, c.follow)
	}
	assert.Equal(t, "Where is it?", whole("Where is it?", nil, asked))
	history := []Exchange{{Question: "Did a car pass?", Answer: "Yes, a red car passed."}, {Question: "When?", Answer: "At 14:03."}}
	assert.Equal(t, "Which way did the car go?", whole("Which way did it go?", history, asked), "through a follow-up")
}

func FuzzFollowUps(f *testing.F) {
	f.Add("Did a car pass?", "Yes, a red car.", "and what colour was it?")
	f.Add("What happened at 14:03?", "İ", "what about 9 to half past?")
	f.Add("", "the first", "another one")
	f.Fuzz(func(t *testing.T, before, answer, question string) {
		got := whole(question, []Exchange{{Question: before, Answer: answer}}, epoch)
		require.True(t, strings.TrimSpace(question) == "" || strings.TrimSpace(got) != "", "a question stays one")
		require.LessOrEqual(t, len(got), 4*(len(question)+len(before)+len(answer))+4096)
		happeningIn(question)
		rest, found := sinceAsked(question)
		require.True(t, !found || rest != "")
	})
}

func TestRecentExchangesAreBounded(t *testing.T) {
	var long []Exchange
	for range 40 {
		long = append(long, Exchange{Question: "What is it?", Answer: strings.Repeat("é", 1000)})
	}
	list, size := recent(long)
	require.Len(t, list, 2)
	require.LessOrEqual(t, size, mostHistoryBytes)
	list, _ = recent(append(long, Exchange{Question: "Why?"}, Exchange{Question: "When?", Answer: "At two."}))
	require.Equal(t, "When?", list[len(list)-1].Question)
	require.NotContains(t, list, Exchange{Question: "Why?"}, "what was not answered tells nothing")
}

func TestHappenings(t *testing.T) {
	for question, want := range map[string]happening{
		"What happened before the van left?":                      {"before", "the van left", "When did the van leave?", "What happened?"},
		"Did anyone come after the red car parked at the kerb":    {"after", "the red car parked at the kerb", "When did the red car park at the kerb?", "Did anyone come?"},
		"After the van left, did anyone come?":                    {"after", "the van left", "When did the van leave?", "Did anyone come?"},
		"What has happened since a parcel was delivered?":         {"after", "a parcel was delivered", "When was the parcel delivered?", "What happened?"},
		"Who was there just before the dog came?":                 {"just before", "the dog came", "When did the dog come?", "Who was there?"},
		"Was the lamp on when the person in blue arrived?":        {"when", "the person in blue arrived", "When did the person in blue arrive?", "Was the lamp on?"},
		"Did the red car come before the van?":                    {},
		"What happened before 14:03?":                             {},
		"When did the car leave?":                                 {},
		"When was it that, before the van left":                   {"before", "the van left", "When did the van leave?", "When was it that?"},
		"What did the person do after that?":                      {},
		"Did you see a van that left?":                            {},
		"What happened before the end of the world as we know it": {},
	} {
		got, ok := happeningIn(question)
		assert.Equal(t, want, got, question)
		assert.Equal(t, want != happening{}, ok, question)
	}
}

func TestSinceAsked(t *testing.T) {
	for question, want := range map[string]string{
		"What has happened since I last asked?":           "What happened?",
		"Since I last asked, did anyone come?":            "did anyone come?",
		"Anything new since my last question?":            "What happened?",
		"Has a car passed since the last time I asked":    "Has a car passed",
		"Did anyone come since we asked you last?":        "Did anyone come?",
		"What has happened since yesterday?":              "",
		"When did the last car pass?":                     "",
		"Did anyone come since the last car passed here?": "",
	} {
		rest, found := sinceAsked(question)
		assert.Equal(t, want != "", found, question)
		if found {
			assert.Equal(t, want, strings.TrimLeft(rest, ", "), question)
		}
	}
}

// scripted answers each prompt by what its question is.
type scripted struct {
	answers map[string]string
	asked   []string
	prompts []llm.Prompt
}

func (m *scripted) Generate(ctx context.Context, p llm.Prompt, _ llm.Options, emit func(llm.Token) error) (llm.Stats, error) {
	m.prompts = append(m.prompts, p)
	q := p[len(p)-2].Text
	m.asked = append(m.asked, q)
	st := llm.Stats{Finish: "stop", Generated: 1, FirstToken: time.Second, Total: 2 * time.Second}
	answer, ok := m.answers[q]
	if !ok {
		answer = "Nothing."
	}
	return st, emit(llm.Token{Text: answer})
}

// minutes is a session about ten minutes from 14:00:00 on, a frame a second, asked at 14:10:00.
func minutes(model Model) *Session {
	w := &fakeWatched{state: ingest.Live}
	w.mark(0, 599)
	return NewSession(filledBank(memorybank.Flash{Synopsis: 100, Detail: 4}, 600), model, w, at(600))
}

func TestFollowUpIsPutWhole(t *testing.T) {
	m := &scripted{answers: map[string]string{"What colour was the car?": "Red."}}
	a, err := minutes(m).Ask(t.Context(), Question{Text: "and what colour was it?", History: []Exchange{{Question: "Did a car pass?", Answer: "Yes, a car passed."}}}, nil)
	require.NoError(t, err)
	require.Equal(t, "Red.", a.Text)
	require.Equal(t, "What colour was the car?", a.Asked)
}

func TestAConversationIsShownToModelsThatReadOne(t *testing.T) {
	template, err := chat.For("qwen2_vl")
	require.NoError(t, err)
	m := &scripted{}
	s := minutes(m)
	s.Reading.Layout = Chat{Template: template}
	history := []Exchange{{Question: "Did a car pass?", Answer: "Yes."}, {Question: "Which?", Answer: "A red one."}}
	a, err := s.Ask(t.Context(), Question{Text: "and where is it?", History: history}, nil)
	require.NoError(t, err)
	require.Equal(t, "and where is it?", a.Asked, "it is asked as it is")
	var said strings.Builder
	p := m.prompts[0]
	for i := len(p) - 1; i >= 0 && p[i].Visual.Rows == 0; i-- {
		said.Reset()
		for _, part := range p[i:] {
			said.WriteString(part.Control + part.Text)
		}
	}
	require.Equal(t, "<|vision_end|>\n\nDid a car pass?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nWhich?<|im_end|>\n"+
		"<|im_start|>assistant\nA red one.<|im_end|>\n<|im_start|>user\nIt is 14:09:59 now. and where is it?<|im_end|>\n<|im_start|>assistant\n", said.String())
}

func TestAnEventBoundsWhatIsShown(t *testing.T) {
	m := &scripted{answers: map[string]string{"When did the van leave?": "The van left at 14:04.", "What happened?": "A car passed."}}
	a, err := minutes(m).Ask(t.Context(), Question{Text: "What happened before the van left?"}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"When did the van leave?", "What happened?"}, m.asked)
	require.Equal(t, "A car passed. (Before the van left: I take that to be at 14:04:00.)", a.Text)
	require.Equal(t, epoch, a.Evidence.Focus.From)
	require.Equal(t, "14:04:59", a.Evidence.Focus.To.Format(time.TimeOnly))
	for _, it := range a.Evidence.Items {
		require.False(t, it.From.After(a.Evidence.Focus.To))
	}
	require.Equal(t, 3*time.Second, a.Stats.FirstToken, "the search before it counts")
	require.Equal(t, 4*time.Second, a.Stats.Total)

	m = &scripted{answers: map[string]string{"When did the van leave?": "I did not see a van.", "What happened?": "A car passed."}}
	a, err = minutes(m).Ask(t.Context(), Question{Text: "What happened before the van left?"}, nil)
	require.NoError(t, err)
	require.Equal(t, "I did not find when the van left. Of all that I remember: Nothing.", a.Text)
	require.Equal(t, "when the van left was not found", a.Evidence.Note)
	require.True(t, a.Evidence.Focus.From.IsZero())
}

func TestSinceThisConversationLastAsked(t *testing.T) {
	m := &scripted{}
	history := []Exchange{{Question: "Is anyone there?", Answer: "No.", At: epoch.Add(8 * time.Minute)}}
	a, err := minutes(m).Ask(t.Context(), Question{Text: "What has happened since I last asked?", History: history}, nil)
	require.NoError(t, err)
	require.Equal(t, "What happened?", a.Asked)
	require.Equal(t, "14:08:00", a.Evidence.Focus.From.Format(time.TimeOnly))
	a, err = minutes(m).Ask(t.Context(), Question{Text: "What has happened since I last asked?"}, nil)
	require.NoError(t, err)
	require.Contains(t, a.Evidence.Note, "not known")
}

func TestOnlyTheRangeIsShown(t *testing.T) {
	m := &scripted{}
	s := minutes(m)
	minute := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Minute) }
	a, err := s.Ask(t.Context(), Question{Text: "Is a car there now?", From: minute(2), To: minute(4)}, nil)
	require.NoError(t, err)
	require.Equal(t, ingest.Span{From: minute(2), To: minute(4).Add(-1)}, a.Evidence.Focus)
	for _, it := range a.Evidence.Items {
		require.True(t, it.From.Before(minute(4)) && !it.To.Before(minute(2).Add(-2*time.Second)), it)
	}
	a, err = s.Ask(t.Context(), Question{Text: "What happened at 14:03?", From: minute(2), To: minute(4)}, nil)
	require.NoError(t, err)
	require.Equal(t, minute(3), a.Evidence.Focus.From, "a time within the range is narrower")
	a, err = s.Ask(t.Context(), Question{Text: "What happened?", From: minute(20), To: minute(24)}, nil)
	require.NoError(t, err)
	require.True(t, a.FromCoverage)
	require.Contains(t, a.Text, "cannot know about what happens between 14:20:00 and 14:24:00 yet")
	a, err = s.Ask(t.Context(), Question{Text: "What happened?", To: minute(-5)}, nil)
	require.NoError(t, err)
	require.True(t, a.FromCoverage)
	require.Contains(t, a.Text, "I was not watching until 13:55:00")
	_, err = s.Ask(t.Context(), Question{Text: "What happened?", From: minute(4), To: minute(4)}, nil)
	require.ErrorIs(t, err, ErrQuestion)
}

func TestAsOfAPastMoment(t *testing.T) {
	m := &scripted{}
	s := minutes(m)
	then := epoch.Add(5 * time.Minute)
	a, err := s.Ask(t.Context(), Question{Text: "What happened in the last two minutes?", AsOf: then}, nil)
	require.NoError(t, err)
	require.Equal(t, then, a.Evidence.Asked)
	require.False(t, a.Evidence.AsOf.After(then))
	require.Less(t, a.Evidence.Lag, 10*time.Second)
	require.Equal(t, ingest.Live, a.Evidence.State)
	require.Equal(t, then.Add(-2*time.Minute), a.Evidence.Focus.From)
	require.NotEmpty(t, a.Evidence.Items)
	for _, it := range a.Evidence.Items {
		require.False(t, it.To.After(then), "nothing of what came later is shown")
	}
	a, err = s.Ask(t.Context(), Question{Text: "What do you see?", AsOf: epoch.Add(-time.Hour)}, nil)
	require.NoError(t, err)
	require.True(t, a.FromCoverage)
	require.Contains(t, a.Text, "not watching yet")
	_, err = s.Ask(t.Context(), Question{Text: "What do you see?", AsOf: epoch.Add(time.Hour)}, nil)
	require.ErrorIs(t, err, ErrQuestion)
}

func TestDeadline(t *testing.T) {
	m := &fakeModel{words: []string{"A ", "van"}, steps: make(chan struct{}, 1)}
	m.steps <- struct{}{} // the second word never comes
	a, err := minutes(m).Ask(t.Context(), Question{Text: "What?", Deadline: time.Now().Add(20 * time.Millisecond)}, nil)
	require.NoError(t, err)
	require.Equal(t, "A ", a.Text)
	require.Equal(t, FinishDeadline, a.Stats.Finish)
	require.NotEmpty(t, a.Evidence.Cut)

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("gone"))
	_, err = minutes(&fakeModel{words: []string{"A"}, steps: make(chan struct{})}).Ask(ctx, Question{Text: "What?", Deadline: time.Now().Add(time.Hour)}, nil)
	require.ErrorIs(t, err, context.Canceled, "another end is an error as ever")
}

func TestBudgetSaysWhatItCut(t *testing.T) {
	a, err := minutes(&scripted{}).Ask(t.Context(), Question{Text: "What happened?", MaxVisualTokens: 40}, nil)
	require.NoError(t, err)
	require.Len(t, a.Evidence.Cut, 1)
	require.Contains(t, a.Evidence.Cut[0], "the budget is 40 visual tokens")
}
