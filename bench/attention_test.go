package bench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest/simcam"
	"afterimage/qa"
)

func TestAttention(t *testing.T) {
	epoch := Epoch(1)
	second := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }
	item := func(from, to int, share, match float32) qa.EvidenceItem {
		return qa.EvidenceItem{From: second(from), To: second(to), Share: &share, Match: &match}
	}
	truth := simcam.Truth{Evidence: []simcam.Span{{From: 10 * time.Second, To: 12 * time.Second}, {From: 30 * time.Second, To: 33 * time.Second}}}
	record := func(items ...qa.EvidenceItem) (r Record) {
		r.attended(items, truth, epoch)
		return r
	}
	right := record(item(0, 9, .1, .2), item(10, 12, .6, .1), item(31, 31, .2, 0), item(40, 40, .1, .3))
	assert.Equal(t, [2]int{4, 2}, [2]int{right.Shown, right.Holders})
	assert.True(t, *right.ShareHolds)
	assert.False(t, *right.MatchHolds)
	wrong := record(item(0, 9, .6, .2), item(10, 12, .4, .5))
	assert.False(t, *wrong.ShareHolds)
	assert.True(t, *wrong.MatchHolds)
	unknown := record(qa.EvidenceItem{From: epoch, To: epoch}, item(10, 12, .4, .5))
	assert.Nil(t, unknown.ShareHolds, "where one share is not known, there is no largest")
	trivial := record(item(10, 12, 1, 1))

	a := attention([]Record{right, wrong, unknown, trivial, {}})
	require.NotNil(t, a)
	assert.Equal(t, NewRate(1, 2), a.Largest)
	assert.Equal(t, NewRate(1, 2), a.Nearest)
	assert.Equal(t, 0.5, a.Chance)
	assert.Nil(t, attention([]Record{unknown, trivial, {}}))
	r := SimReport{Attention: a}
	assert.Contains(t, r.Markdown(), "Of 2 questions, the moment that got the largest share of the attention holds what is asked about in 50.0 %")
	assert.NotContains(t, (&SimReport{}).Markdown(), "attention")
}
