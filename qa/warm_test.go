package qa

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
)

// fakeWarmer is a fakeModel that says what it is warmed with and waits to be let go.
type fakeWarmer struct {
	fakeModel
	begun chan llm.Prompt
	leave chan error
}

func (m *fakeWarmer) Warm(ctx context.Context, p llm.Prompt) error {
	m.begun <- p
	select {
	case err := <-m.leave:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func addFrame(bank *memorybank.Bank, second int) {
	bank.Add(memorybank.Entry{At: time.Duration(second) * time.Second, Grid: memorybank.Grid{H: 1, W: 1}, Tokens: compute.NewMatrix(1, 3)})
}

func TestKeepWarm(t *testing.T) {
	bank := memorybank.New(epoch, memorybank.Recent{N: 3})
	addFrame(bank, 0)
	model := &fakeWarmer{fakeModel: fakeModel{words: []string{"yes"}}, begun: make(chan llm.Prompt), leave: make(chan error)}
	w := &fakeWatched{state: ingest.Live}
	w.mark(0, 20)
	s := NewSession(bank, Shared(model, 3), w, at(20))
	ask := func(q Question) Answer {
		a, err := s.Ask(t.Context(), q, nil)
		require.NoError(t, err)
		require.Equal(t, epoch.Add(time.Duration(a.Version-1)*time.Second), a.Evidence.AsOf, "evidence is of the snapshot that was used")
		require.Equal(t, a.Evidence.AsOf, a.Evidence.Items[len(a.Evidence.Items)-1].To)
		require.EqualValues(t, 3<<streamShift, model.options[len(model.options)-1].Client)
		return a
	}
	open := Question{Text: "Is the gate open?"}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.KeepWarm(ctx, 2*time.Second) }()

	first := <-model.begun
	require.EqualValues(t, 1, ask(open).Version, "nothing is warm yet")
	addFrame(bank, 1)
	addFrame(bank, 2)
	require.EqualValues(t, 3, ask(open).Version)
	model.leave <- nil
	second := <-model.begun // so the first is published
	require.EqualValues(t, 1, ask(open).Version, "two seconds old")
	past, err := s.Ask(t.Context(), Question{Text: "Was the gate open at 14:00:01?"}, nil)
	require.NoError(t, err)
	require.EqualValues(t, 3, past.Version, "a time is looked for in all that there is")
	require.EqualValues(t, 3, ask(Question{Text: "Is the gate open?", MaxVisualTokens: 1}).Version)
	addFrame(bank, 3)
	require.EqualValues(t, 4, ask(open).Version, "what was warm is too old")
	model.leave <- nil
	third := <-model.begun
	require.EqualValues(t, 3, ask(open).Version)

	// What is shown is the beginning of the question's prompt, under the stream's own IDs; one frame was passed over.
	whole := model.prompts[len(model.prompts)-1]
	require.Equal(t, whole[:len(second)], second)
	require.Len(t, whole, len(second)+3)
	require.Len(t, first, 1+3)
	require.Len(t, third, 1+3*3)

	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.EqualValues(t, 4, ask(open).Version, "nobody keeps it warm any more")

	go func() { done <- s.KeepWarm(t.Context(), 0) }()
	<-model.begun
	addFrame(bank, 4)
	model.leave <- nil
	<-model.begun
	require.EqualValues(t, 5, ask(open).Version, "only the newest will do")
	broken := errors.New("no memory")
	model.leave <- broken
	require.ErrorIs(t, <-done, broken)

	cold := NewSession(bank, Shared(&model.fakeModel, 3), w, at(20))
	require.ErrorIs(t, cold.KeepWarm(t.Context(), 0), errNoWarmer)
}

// What is shown ahead of time is what questions' prompts begin with, whatever they select, within the session's budget.
func TestWarmPromptBeginsEveryPrompt(t *testing.T) {
	for _, strategy := range []memorybank.Strategy{
		memorybank.Flash{Synopsis: 8, Detail: 2}, memorybank.Recent{N: 4}, memorybank.Composite{Past: 40, Unit: 4, Recent: 2},
	} {
		bank := filledBank(strategy, 100)
		w := &fakeWatched{state: ingest.Live}
		w.mark(0, 100)
		for _, budget := range []int{0, 60, 12} {
			model := &fakeModel{}
			s := NewSession(bank, model, w, at(100))
			s.VisualTokens = budget
			selecting := 0
			s.Query = func(question string) []float32 {
				selecting++
				return [][]float32{{1, 0, 0}, {0, 0, 1}}[selecting%2]
			}
			warm, err := s.warmPrompt(t.Context(), bank.Snapshot())
			require.NoError(t, err)
			for _, q := range []string{"Is the gate open?", "What was the first thing that came?"} {
				a, err := s.Ask(t.Context(), Question{Text: q}, nil)
				require.NoError(t, err)
				if budget > 0 {
					require.LessOrEqual(t, a.Stats.VisualTokens, budget)
				}
				prompt := model.prompts[len(model.prompts)-1]
				require.Equal(t, warm, prompt[:len(warm)], "%#v, %d tokens", strategy, budget)
				require.True(t, slices.ContainsFunc(a.Evidence.Items, func(e EvidenceItem) bool { return e.ID == bank.Snapshot().Newest.ID }), "the newest frame is always in")
			}
			require.Equal(t, 2, selecting)
		}
	}
}

func TestBudgetOfTheSession(t *testing.T) {
	bank := filledBank(memorybank.Recent{N: 50}, 50)
	w := &fakeWatched{state: ingest.Live}
	w.mark(0, 50)
	s := NewSession(bank, &fakeModel{}, w, at(50))
	s.VisualTokens = 10
	for _, c := range []struct{ own, want int }{{0, 8}, {5, 4}, {41, 40}} {
		a, err := s.Ask(t.Context(), Question{Text: "What came last?", MaxVisualTokens: c.own}, nil)
		require.NoError(t, err)
		require.Equal(t, c.want, a.Stats.VisualTokens)
		require.Equal(t, memorybank.Latest, a.Evidence.Prefer)
	}
}
