package bench

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest/simcam"
	"afterimage/qa"
)

func spans(s ...time.Duration) (out []simcam.Span) {
	for i := 0; i < len(s); i += 2 {
		out = append(out, simcam.Span{From: s[i] * time.Second, To: s[i+1] * time.Second})
	}
	return out
}

// TestWatchScore counts firings by hand.
func TestWatchScore(t *testing.T) {
	spec, err := qa.WatchSpec{Name: "n", Stream: "s", Ask: "?", Hold: 2 * time.Second, Cooldown: 20 * time.Second}.Complete()
	require.NoError(t, err)
	r := watchRun{truth: spans(10, 20, 50, 51, 70, 90, 120, 130)}
	for s := range 150 {
		p := 0.0
		if s >= 11 && s < 20 || s >= 72 && s < 91 || s >= 100 && s < 110 {
			p = 1
		}
		r.samples = append(r.samples, qa.WatchSample{At: time.Time{}.Add(time.Duration(s) * time.Second), Probability: p})
	}
	fired := firings(spec, r.samples)
	require.Equal(t, []time.Duration{13 * time.Second, 74 * time.Second, 102 * time.Second}, fired)
	var row WatchRow
	r.score(spec, fired, &row)
	row.finish()
	assert.Equal(t, 4, row.Truths)
	assert.Equal(t, 3, row.Expected, "the second does not hold")
	assert.Equal(t, 3, row.Firings)
	assert.Equal(t, 2, row.Right, "at 102 nothing was")
	assert.Equal(t, 2, row.Found, "that of 120 is missed")
	assert.InDelta(t, 2./3, row.Precision.Exact, 1e-9)
	assert.InDelta(t, 2./3, row.Recall.Exact, 1e-9)
	assert.Equal(t, 3.0, row.DelayS)
	assert.Zero(t, row.Repeats)
	assert.Equal(t, 150-1-1-2-1-10-10, row.same)

	row = WatchRow{}
	r.score(spec, []time.Duration{12 * time.Second, 18 * time.Second}, &row)
	assert.Equal(t, 1, row.Right, "a second firing of one stretch is none of its own")
	assert.Equal(t, 1, row.Repeats)
}

func TestWatchTruths(t *testing.T) {
	s := simcam.NewScript(900_000, time.Hour)
	for _, q := range standingQuestions {
		truth := q.truth(s)
		require.Greater(t, len(truth), 5, q.Name)
		for i, x := range truth {
			require.Less(t, x.From, x.To)
			require.True(t, i == 0 || truth[i-1].To < x.From)
		}
	}
	assert.Equal(t, spans(1, 4, 6, 7), joinedSpans(spans(6, 7, 1, 3, 2, 4)))
}

func TestWatchRefuses(t *testing.T) {
	for _, o := range []WatchOptions{{Length: time.Minute}, {Seeds: []uint64{1}}, {Seeds: []uint64{1}, Tune: []uint64{1}, Length: time.Minute}} {
		_, err := Watch(context.Background(), Rig{}, o)
		assert.Error(t, err)
	}
}
