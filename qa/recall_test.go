package qa

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/memorybank"
)

// storedBank has ten minutes, a frame a second, in a few coarse entries and on disk.
func storedBank(t *testing.T, s memorybank.Strategy) (*memorybank.Bank, *fakeWatched, string) {
	t.Helper()
	dir := t.TempDir() + "/memory"
	store, err := memorybank.OpenStore(dir, memorybank.StoreOptions{
		Origin: memorybank.Origin{Encoder: "e", Config: "c"}, Strategy: s, Epoch: epoch, Wait: true, NoSync: true,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() }) // a test may have taken its directory away
	for i := range 600 {
		m := compute.NewMatrix(4, 3)
		for j := range m.Data {
			m.Data[j] = float32(i%50) + float32(j)
		}
		store.Bank().Add(memorybank.Entry{At: time.Duration(i) * time.Second, Grid: memorybank.Grid{H: 2, W: 2}, Tokens: m})
	}
	require.NoError(t, store.Sync(t.Context()))
	w := &fakeWatched{state: ingest.Live}
	w.mark(0, 600)
	return store.Bank(), w, dir
}

// What memory holds coarsely, or has forgotten, is read from the disk for the stretch that a question names, within the budget.
func TestAskRecallsFromDisk(t *testing.T) {
	for _, s := range []memorybank.Strategy{memorybank.Flash{Synopsis: 4, Detail: 1}, memorybank.Recent{N: 2}} {
		bank, w, _ := storedBank(t, s)
		for _, c := range []struct {
			question         string
			budget, from, to int // seconds
			items            int
		}{
			{"What happened between 14:02:00 and 14:02:09?", 0, 120, 130, 10},
			{"What happened between 14:02:00 and 14:02:09?", 9, 120, 130, 0},
			{"What was the first thing at 14:03?", 16, 180, 240, 0},
			{"Was the gate open at 14:05:07?", 0, 307, 307, 1},
			{"What happened five minutes ago?", 0, 200, 400, 0},
		} {
			session := NewSession(bank, &fakeModel{words: []string{"yes"}}, w, at(600))
			a, err := session.Ask(t.Context(), Question{Text: c.question, MaxVisualTokens: c.budget}, nil)
			require.NoError(t, err, c.question)
			require.Empty(t, a.Evidence.Note)
			require.False(t, a.Evidence.Focus.From.IsZero(), c.question)
			require.NotEmpty(t, a.Evidence.Items, c.question)
			if c.items > 0 {
				require.Len(t, a.Evidence.Items, c.items, "%#v %s", s, c.question)
			}
			if c.budget > 0 {
				require.LessOrEqual(t, a.Stats.VisualTokens, c.budget)
			}
			for _, e := range a.Evidence.Items {
				require.False(t, e.From.Before(epoch.Add(time.Duration(c.from)*time.Second)), "%#v %s: %s", s, c.question, e.From)
				require.False(t, e.To.After(epoch.Add(time.Duration(c.to)*time.Second)), "%#v %s: %s", s, c.question, e.To)
			}
		}
	}
}

// A disk that is gone costs the finer entries, not the answer.
func TestAskWithoutTheDisk(t *testing.T) {
	bank, w, dir := storedBank(t, memorybank.Flash{Synopsis: 4, Detail: 1})
	require.NoError(t, os.Rename(dir, dir+".gone"))
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	model := &fakeModel{words: []string{"yes"}}
	session := NewSession(bank, model, w, at(600))
	var warned []error
	session.Warn = func(err error) { warned = append(warned, err) }
	for _, question := range []string{"What happened between 14:02:00 and 14:02:09?", "Was the gate open at 14:05:07?"} {
		a, err := session.Ask(t.Context(), Question{Text: question}, nil)
		require.NoError(t, err)
		require.Contains(t, a.Text, "yes")
		require.Equal(t, "finer memories of that time could not be read from the disk", a.Evidence.Note)
		require.NotEmpty(t, a.Evidence.Items)
	}
	require.Len(t, warned, 2)
	require.ErrorContains(t, warned[0], "from the disk: open "+dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := session.Ask(ctx, Question{Text: "What happened between 14:02:00 and 14:02:09?"}, nil)
	require.ErrorIs(t, err, context.Canceled)
}
