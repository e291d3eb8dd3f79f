package qa

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/llm"
	"afterimage/memorybank"
)

// frozenCamera shows one picture since a time.
type frozenCamera struct {
	fakeWatched
	since time.Time
}

func (f *frozenCamera) Status() ingest.Status {
	return ingest.Status{State: ingest.Frozen, Since: f.since.Add(time.Minute), Changed: f.since}
}

func TestFrozenIsSaid(t *testing.T) {
	w := &frozenCamera{since: epoch.Add(4 * time.Second)}
	w.mark(0, 9)
	a, err := NewSession(filledBank(memorybank.Recent{}, 10), &fakeModel{words: []string{"Yes."}}, w, at(90)).Ask(t.Context(), Question{Text: "Is the door open?"}, nil)
	require.NoError(t, err)
	assert.Equal(t, ingest.Frozen, a.Evidence.State)
	assert.Equal(t, w.since, a.Evidence.Since, "when the picture last changed, not when that was noticed")
	assert.Equal(t, "the picture has not changed since 14:00:04: the camera may be frozen", a.Evidence.Note)
	assert.Equal(t, 81*time.Second, a.Evidence.Lag)
}

// sharing is a model that tells shares: those of the n-th visual part are n.
type sharing struct {
	fakeModel
	none bool
}

func (m *sharing) Generate(ctx context.Context, p llm.Prompt, o llm.Options, emit func(llm.Token) error) (llm.Stats, error) {
	s, err := m.fakeModel.Generate(ctx, p, o, emit)
	if m.none || !o.Shares {
		return s, err
	}
	s.Shares = make([]float32, len(p))
	n := float32(0)
	for i, part := range p {
		if part.Visual.Rows > 0 {
			s.Shares[i] = n
			n++
		}
	}
	return s, err
}

func TestSharesReachTheirMoments(t *testing.T) {
	w := &fakeWatched{state: ingest.Live}
	w.mark(0, 9)
	s := NewSession(filledBank(memorybank.Flash{Synopsis: 3, Detail: 2}, 10), &sharing{}, w, at(9))
	a, err := s.Ask(t.Context(), Question{Text: "What came?"}, nil)
	require.NoError(t, err)
	require.Len(t, a.Evidence.Items, 6)
	for i, it := range a.Evidence.Items {
		require.NotNil(t, it.Share)
		assert.Equal(t, float32(i), *it.Share)
	}
	s = NewSession(filledBank(memorybank.Flash{Synopsis: 3, Detail: 2}, 10), &sharing{none: true}, w, at(9))
	a, err = s.Ask(t.Context(), Question{Text: "What came?"}, nil)
	require.NoError(t, err)
	for _, it := range a.Evidence.Items {
		assert.Nil(t, it.Share, "never a guess")
	}
}

// Clips are offered where pictures of two moments at least remain, and show those; what was asked about bounds what the evidence says was watched.
func TestEvidenceOfAStretch(t *testing.T) {
	w := &fakeWatched{state: ingest.Live}
	w.mark(0, 20)
	w.mark(40, 59)
	s := NewSession(filledBank(memorybank.Recent{N: 60}, 60), &fakeModel{words: []string{"A van."}}, w, at(60))
	a, err := s.Ask(t.Context(), Question{Text: "What came between 14:00:15 and 14:00:45?"}, nil)
	require.NoError(t, err)
	e := a.Evidence
	second := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }
	require.Equal(t, second(15), e.Focus.From)
	assert.Equal(t, []ingest.Span{{From: second(15), To: second(20)}, {From: second(40), To: e.Focus.To}}, e.Coverage)
	assert.Equal(t, []ingest.Span{{From: second(20), To: second(40)}}, e.Gaps)
	require.NotEmpty(t, e.Items)
	it := e.Items[0]
	assert.Equal(t, ingest.Span{From: it.At.Add(-clipAround), To: it.At.Add(clipAround)}, it.Clip)
	pictures, err := s.Pictures(t.Context(), it.Clip, 100)
	require.NoError(t, err)
	require.Len(t, pictures, 10)
	for i, p := range pictures {
		n := int(p.At.Sub(epoch) / time.Second)
		assert.Equal(t, it.At.Add(time.Duration(i-5)*time.Second), p.At)
		assert.Equal(t, fmt.Sprintf("thumb %d", n), string(p.JPEG))
	}
	one := NewSession(filledBank(memorybank.Recent{}, 1), &fakeModel{words: []string{"A van."}}, w, at(1))
	a, err = one.Ask(t.Context(), Question{Text: "What came?"}, nil)
	require.NoError(t, err)
	require.Len(t, a.Evidence.Items, 1)
	assert.Zero(t, a.Evidence.Items[0].Clip, "one picture is no film")
}

func TestEvidenceDoc(t *testing.T) {
	span := func(from, to int) ingest.Span {
		return ingest.Span{From: epoch.Add(time.Duration(from) * time.Second), To: epoch.Add(time.Duration(to) * time.Second)}
	}
	item := func(r memorybank.Role, from, to int) EvidenceItem {
		s := span(from, to)
		return EvidenceItem{ID: 512, Role: r, From: s.From, To: s.To, At: s.From}
	}
	share := float32(0.5)
	e := Evidence{
		AsOf: epoch, Lag: -time.Second, State: ingest.Live, Coverage: []ingest.Span{span(0, 9), span(20, 29), span(40, 49)}, Gaps: []ingest.Span{span(9, 20), span(29, 40)},
		Items: []EvidenceItem{item(memorybank.Synopsis, 0, 9), item(memorybank.Synopsis, 20, 25), item(memorybank.Detail, 22, 22)},
	}
	e.Items[0].Share = &share
	e.Items[2].Stream = "yard"
	doc := e.Doc("door", func(stream string, it EvidenceItem) (string, string) { return stream + "/thumb", "" })
	assert.Equal(t, []string{"coarse", "fine", "none"}, []string{doc.Coverage[0].Level, doc.Coverage[1].Level, doc.Coverage[2].Level})
	text, err := json.Marshal(doc)
	require.NoError(t, err)
	assert.JSONEq(t, `{"as_of":"2026-03-01T14:00:00.000+01:00","lag_ms":0,"stream_state":"live","state_since":null,
		"coverage":[{"from":"2026-03-01T14:00:00.000+01:00","to":"2026-03-01T14:00:09.000+01:00","level":"coarse"},
			{"from":"2026-03-01T14:00:20.000+01:00","to":"2026-03-01T14:00:29.000+01:00","level":"fine"},
			{"from":"2026-03-01T14:00:40.000+01:00","to":"2026-03-01T14:00:49.000+01:00","level":"none"}],
		"gaps":[{"from":"2026-03-01T14:00:09.000+01:00","to":"2026-03-01T14:00:20.000+01:00"},{"from":"2026-03-01T14:00:29.000+01:00","to":"2026-03-01T14:00:40.000+01:00"}],
		"items":[{"stream":"door","from":"2026-03-01T14:00:00.000+01:00","to":"2026-03-01T14:00:09.000+01:00","at":"2026-03-01T14:00:00.000+01:00","role":"synopsis","level":0,"slot":"512","weight":0,"match":null,"share":0.5,"thumb":"door/thumb"},
			{"stream":"door","from":"2026-03-01T14:00:20.000+01:00","to":"2026-03-01T14:00:25.000+01:00","at":"2026-03-01T14:00:20.000+01:00","role":"synopsis","level":0,"slot":"512","weight":0,"match":null,"share":null,"thumb":"door/thumb"},
			{"stream":"yard","from":"2026-03-01T14:00:22.000+01:00","to":"2026-03-01T14:00:22.000+01:00","at":"2026-03-01T14:00:22.000+01:00","role":"detail","level":0,"slot":"512","weight":0,"match":null,"share":null,"thumb":"yard/thumb"}]}`, string(text))
	var back EvidenceDoc
	require.NoError(t, json.Unmarshal(text, &back))
	again, err := json.Marshal(back)
	require.NoError(t, err)
	assert.JSONEq(t, string(text), string(again))
	empty, err := json.Marshal(Evidence{}.Doc("", nil))
	require.NoError(t, err)
	assert.JSONEq(t, `{"as_of":null,"lag_ms":0,"stream_state":"","state_since":null,"coverage":[],"gaps":[],"items":[]}`, string(empty))
}
