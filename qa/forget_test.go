package qa

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/llm"
	"afterimage/memorybank"
)

// forgetful is a fakeWarmer that is asked to forget, too.
type forgetful struct {
	fakeWarmer
	forgot []bool // whether this stream's entry 256, another one's, and none's were asked for, call after call
}

func (m *forgetful) Forget(match func(id uint64) bool) {
	m.forgot = append(m.forgot, match(256^3<<streamShift), match(256^4<<streamShift), match(256))
}

func TestForget(t *testing.T) {
	dir := t.TempDir()
	store, err := memorybank.OpenStore(dir, memorybank.StoreOptions{Strategy: memorybank.Flash{Synopsis: 4, Detail: 2}, Epoch: epoch, Wait: true})
	require.NoError(t, err)
	defer store.Close()
	bank := store.Bank()
	w := &fakeWatched{state: ingest.Live}
	w.mark(0, 60)
	for s := range 61 {
		addFrame(bank, s)
	}
	model := &forgetful{fakeWarmer: fakeWarmer{fakeModel: fakeModel{words: []string{"yes"}}, begun: make(chan llm.Prompt), leave: make(chan error)}}
	s := NewSession(bank, Shared(model, 3), w, at(60))
	ctx, cancel := context.WithCancel(t.Context())
	warming := make(chan error)
	go func() { warming <- s.KeepWarm(ctx, time.Hour) }()
	<-model.begun
	model.leave <- nil
	require.Eventually(t, func() bool { return s.warm.snap.Load() != nil }, 10*time.Second, time.Millisecond)

	from, to := epoch.Add(20*time.Second), epoch.Add(40*time.Second)
	evidence := func(text string) []EvidenceItem {
		a, err := s.Ask(t.Context(), Question{Text: text}, nil)
		require.NoError(t, err)
		return a.Evidence.Items
	}
	overlaps := func(items []EvidenceItem) bool {
		for _, item := range items {
			if item.From.Before(to) && !item.To.Before(from) {
				return true
			}
		}
		return false
	}
	require.True(t, overlaps(evidence("Is the gate open?")))
	did, err := s.Forget(t.Context(), from, to)
	require.NoError(t, err)
	require.Positive(t, did.Entries)
	require.Positive(t, did.Cold)
	require.False(t, overlaps(evidence("Is the gate open?")), "nor from what was warm")
	require.Equal(t, []bool{true, false, false, true, false, false}, model.forgot)
	require.Len(t, w.Coverage().Spans(), 2)
	a, err := s.Ask(t.Context(), Question{Text: "Was the gate open at 14:00:30?"}, nil)
	require.NoError(t, err)
	require.True(t, a.FromCoverage)
	require.Contains(t, a.Text, "I was not watching at 14:00:30.")

	// A question that began before is waited for.
	<-model.begun
	cancel()
	<-warming
	end := s.asking.begin(0)
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	_, err = s.Forget(short, from, to)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "still being answered")
	done := make(chan error)
	go func() {
		_, err := s.Forget(t.Context(), from, to)
		done <- err
	}()
	require.Eventually(t, func() bool { s.asking.mu.Lock(); defer s.asking.mu.Unlock(); return s.asking.ended != nil }, 10*time.Second, time.Millisecond)
	end()
	require.NoError(t, <-done)
	_, err = s.Forget(t.Context(), to, from)
	require.True(t, errors.Is(err, ErrStretch))
}
