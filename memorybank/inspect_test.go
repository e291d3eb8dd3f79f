package memorybank

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestInspectForkLoadDiff(t *testing.T) {
	dir := t.TempDir()
	o := storeOptions(t, Flash{Synopsis: 5, Detail: 2})
	s, w := openStore(t, dir, o), newWalk(1)
	for range 40 {
		s.Bank().Add(w.next())
	}
	require.NoError(t, s.Sync(t.Context()))
	for range 8 {
		s.Bank().Add(w.next())
	}
	require.NoError(t, s.do(t.Context(), s.flush))
	in, err := Inspect(dir)
	require.NoError(t, err)
	require.True(t, in.IsStore)
	require.Equal(t, origin, in.Origin)
	require.Equal(t, "memorybank.Flash{Synopsis:5, Detail:2, Compat:false}", in.Strategy)
	require.EqualValues(t, 40, in.Snapshot.Version)
	require.Equal(t, 8, in.Tail)
	require.Equal(t, 48, in.Cold.Entries)
	require.Equal(t, map[uint8]int{0: 5, 1: 5}, in.Snapshot.Levels())
	require.Empty(t, in.Broken)
	require.ErrorIs(t, CopyStore(dir, filepath.Join(t.TempDir(), "x")), ErrInUse)
	require.NoError(t, s.Close())

	fork := filepath.Join(t.TempDir(), "fork")
	require.NoError(t, CopyStore(dir, fork))
	require.ErrorContains(t, CopyStore(dir, fork), "is not empty")
	a, b := openStore(t, dir, o), openStore(t, fork, o)
	require.Equal(t, a.Bank().Snapshot().Hash(), b.Bank().Snapshot().Hash())
	require.Equal(t, a.Stats().Entries, b.Stats().Entries)
	d := Diff(a.Bank().Snapshot(), b.Bank().Snapshot())
	require.Equal(t, Difference{Common: 6}, d)
	b.Bank().Add(newWalk(3).next())
	d = Diff(a.Bank().Snapshot(), b.Bank().Snapshot())
	require.NotEmpty(t, d.OnlyB)
	require.NotEmpty(t, d.OnlyA)
	e := w.next()
	e.At = 0
	a.Bank().Add(e)
	require.NotEmpty(t, Diff(a.Bank().Snapshot(), b.Bank().Snapshot()).Changed)

	// A saved bank becomes a store that goes on.
	file := filepath.Join(t.TempDir(), "bank.safetensors")
	f, err := os.Create(file)
	require.NoError(t, err)
	require.NoError(t, in.Snapshot.Save(f, in.Origin))
	require.NoError(t, f.Close())
	one, err := Inspect(file)
	require.NoError(t, err)
	require.Equal(t, in.Snapshot.Hash(), one.Snapshot.Hash())
	require.Equal(t, in.Strategy, one.Strategy)
	loaded := filepath.Join(t.TempDir(), "loaded")
	require.ErrorContains(t, LoadStore(file, loaded, Origin{"e2", "c1"}), `it was made with encoder "e1", this is "e2"`)
	require.NoError(t, LoadStore(file, loaded, origin))
	require.Equal(t, in.Snapshot.Hash(), openStore(t, loaded, o).Bank().Snapshot().Hash())

	_, err = Inspect(t.TempDir())
	require.ErrorContains(t, err, "not a memory's directory")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	_, err = Inspect(file)
	require.Error(t, err)
}

// Held lists what Levels counts, and the newest frame.
func TestHeld(t *testing.T) {
	b, w := New(time.Unix(0, 0), Flash{Synopsis: 5, Detail: 2}), newWalk(1)
	require.Empty(t, b.Snapshot().Held())
	for range 40 {
		b.Add(w.next())
	}
	snap := b.Snapshot()
	levels, seen := map[uint8]int{}, map[uint64]bool{}
	for _, e := range snap.Held() {
		require.NotZero(t, e.Tokens.Rows)
		seen[e.ID] = true
		levels[e.Level]++
	}
	require.True(t, seen[snap.Newest.ID])
	want := snap.Levels()
	require.Len(t, levels, len(want))
	for level, n := range want {
		require.GreaterOrEqual(t, levels[level], n, "level %d", level)
		require.LessOrEqual(t, levels[level], n+1, "level %d: the newest frame may come on top", level)
	}
	require.EqualValues(t, 40, uint64(len(snap.Entries))+b.Evicted(), "what came in is held, or was let go of")
}
