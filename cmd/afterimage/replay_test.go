package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"afterimage/ingest"
)

// The same street watched twice by the embedded model gives the same memory, bit for bit, on another day too: how many frames shared a pass of
// the encoder does not matter.
func TestReplayIsDeterministic(t *testing.T) {
	if testing.Short() {
		t.Skip("encodes some hundred pictures with the embedded model")
	}
	clean(t)
	a := &app{log: newLogger(t.Output(), false, "warn", "text"), err: t.Output(), lookup: environment(), Settings: Settings{Device: "cpu"}}
	m, err := openMachine(a)
	require.NoError(t, err)
	defer m.close(a.log)
	u, err := ingest.ParseURL("sim://street?seed=900205&minutes=1&pace=false")
	require.NoError(t, err)
	hashes := map[string]bool{}
	for _, starts := range []time.Time{time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC), time.Date(2026, 6, 9, 3, 0, 0, 0, time.UTC), time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)} {
		sc := StreamConfig{Name: "street", URL: u, Memory: MemoryConfig{Strategy: "flash"}}
		sc.inherit(StreamConfig{})
		s, err := openFastStream(t.Context(), a, m, sc, starts)
		require.NoError(t, err)
		require.NoError(t, s.watch(t.Context()))
		s.close()
		require.Greater(t, s.frames(), uint64(100))
		hashes[s.bank.Snapshot().Hash()] = true
	}
	require.Len(t, hashes, 1)
}
