package bench

import (
	"testing"

	"github.com/stretchr/testify/require"

	"afterimage/memorybank"
)

func TestMonth(t *testing.T) {
	last := 0
	r, err := Month(t.Context(), Machine{}, MonthOptions{
		Days: 2, FPS: 0.02, Names: []string{"flash", "recent"}, Strategies: []memorybank.Strategy{memorybank.Flash{}, memorybank.Recent{}},
		Dir: t.TempDir(), Budget: 32 << 20, Tokens: 512, Usage: func() (Usage, error) { return Usage{RSS: 1e6}, nil },
		Progress: func(done, _ int, _ string) { last = done },
	})
	require.NoError(t, err)
	require.Positive(t, last)
	require.Equal(t, 3456, r.Frames)
	require.Len(t, r.ByDay, 2)
	d := r.ByDay[1]
	require.Positive(t, d.RecallMS)
	require.Positive(t, d.SearchMS)
	require.LessOrEqual(t, d.DiskMB, 33.6)
	require.Zero(t, d.OldestDay)
	require.Zero(t, d.Dropped)
	require.Equal(t, 64, d.Strategies[0].Entries)
	require.Equal(t, 16, d.Strategies[1].Entries)
	require.Contains(t, r.Markdown(), "| 2 | 1 | 64 |")
	_, err = Month(t.Context(), Machine{}, MonthOptions{Days: 0.0001, FPS: 1})
	require.ErrorContains(t, err, "at least a hundred frames")
}
