package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
	"afterimage/qa"
)

// rememberingFake is a fake with a real memory, and counters.
type rememberingFake struct {
	*fakeStream
	bank *memorybank.Bank
}

var epoch = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func newRemembering(name string, frames int) *rememberingFake {
	strategy := memorybank.Recent{N: 6}
	f := &rememberingFake{newFake(name), memorybank.New(epoch, strategy)}
	for i := range frames {
		f.bank.Add(memorybank.Entry{At: time.Duration(i) * time.Second, Grid: memorybank.Grid{H: 2, W: 2},
			Tokens: compute.Matrix{Rows: 4, Cols: 3, Data: slices.Repeat([]float32{float32(i), 1, 2}, 4)}, Thumb: thumbOf(i)})
	}
	return f
}

func (f *rememberingFake) Snapshot() *memorybank.Snapshot { return f.bank.Snapshot() }
func (f *rememberingFake) Evicted() uint64                { return f.bank.Evicted() }
func (f *rememberingFake) Progress() qa.Progress          { return qa.Progress{Failed: 3} }
func (f *rememberingFake) Reconnects() map[string]uint64  { return map[string]uint64{"stall": 2} }
func (f *rememberingFake) SaveSnapshot(w io.Writer, snap *memorybank.Snapshot) error {
	return snap.Save(w, memorybank.Origin{})
}

// parse reads the text format that Prometheus reads.
func parseMetrics(t *testing.T, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(text))
	require.NoError(t, err)
	return families
}

// value is a metric's, with labels as name=value.
func value(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	f := families["afterimage_"+name]
	require.NotNil(t, f, name)
	for _, m := range f.Metric {
		matches := 0
		for _, l := range m.Label {
			if slices.Contains(labels, l.GetName()+"="+l.GetValue()) {
				matches++
			}
		}
		if matches != len(labels) {
			continue
		}
		switch f.GetType() {
		case dto.MetricType_HISTOGRAM:
			return float64(m.Histogram.GetSampleCount())
		case dto.MetricType_COUNTER:
			return m.Counter.GetValue()
		}
		return m.Gauge.GetValue()
	}
	t.Fatalf("%s has no %v: %v", name, labels, f)
	return 0
}

func TestMetrics(t *testing.T) {
	yard := newRemembering("yard", 20)
	yard.show(time.Second)
	yard.set(ingest.Live, "")
	fail := false
	say := yard.ask
	yard.ask = func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		if fail {
			return qa.Answer{}, errors.New("the device is lost")
		}
		return say(ctx, q, emit)
	}
	m := NewMetrics()
	counters := llm.Counters{Active: 2, Waiting: 1, Refused: 4, Drafted: 30, Accepted: 12, Bytes: 100, WeightBytes: 60, KVBytes: 30, Pages: 10, FreePages: 4, CachedPages: 1}
	counters.AcceptedAt[0], counters.AcceptedAt[2] = 9, 3
	s, err := New(Config{Metrics: m, Engines: func() []Engine { return []Engine{{"embedded", counters}, {"embedded", counters}} }}, []Stream{yard, newFake("door")})
	require.NoError(t, err)
	base := serving(t, s)
	of := m.Stream("yard")
	of.Decode.Observe(0.004)
	meter := qa.Meter{Encode: of.Encode, Batch: of.Batch, Update: of.Update, Behind: of.Behind}
	frames := &someFrames{n: 5}
	require.NoError(t, qa.Watch(context.Background(), frames, fakeEncoder{}, memorybank.New(epoch, memorybank.Recent{N: 6}), &meter))
	ask := `{"model":"stream://yard","messages":[{"role":"user","content":"What?"}]}`
	post(t, base+"/v1/chat/completions", ask)
	post(t, base+"/v1/chat/completions", ask)
	fail = true
	post(t, base+"/v1/chat/completions", ask)

	status, h, text := get(t, base+"/metrics")
	require.Equal(t, 200, status)
	assert.Contains(t, h.Get("Content-Type"), "text/plain")
	got := parseMetrics(t, text)
	for name, want := range map[string]float64{
		"stream_up": 1, "stream_state state=live": 1, "stream_state state=offline": 0, "frames_received_total": 1, "frames_dropped_total reason=encode": 3,
		"frames_dropped_total reason=overload": 0, "reconnects_total reason=stall": 2, "stalls_total": 0, "memory_slots level=0": 6, "memory_tokens": 800, "memory_bytes": 3_412_000,
		"memory_evictions_total": 14, "decode_seconds": 1, "ingest_lag_seconds": 5, "memory_update_seconds": 5,
		"requests_total finish_reason=stop": 2, "requests_total finish_reason=failed": 1, "time_to_first_token_seconds": 2,
		"e2e_request_latency_seconds": 3, "inter_token_latency_seconds": 2 * 17, "prompt_tokens_total": 1680, "visual_tokens_total": 1600, "generation_tokens_total": 36,
	} {
		labels := strings.Fields(name)
		assert.Equal(t, want, value(t, got, labels[0], append(labels[1:], "stream=yard")...), name)
	}
	assert.Positive(t, value(t, got, "encode_seconds", "stream=yard"))
	assert.Positive(t, value(t, got, "last_frame_timestamp_seconds", "stream=yard"))
	for name, want := range map[string]float64{
		"requests_running": 4, "requests_waiting": 2, "requests_refused_total": 8, "spec_decode_draft_tokens_total": 60, "spec_decode_accepted_tokens_total": 24,
		"spec_decode_accepted_tokens_per_pos_total position=2": 6, "gpu_memory_bytes kind=weights": 120, "gpu_memory_bytes kind=buffers": 20, "kv_cache_usage_ratio": 0.5,
	} {
		labels := strings.Fields(name)
		assert.Equal(t, want, value(t, got, labels[0], append(labels[1:], "model=embedded")...), name)
	}
	// Only labels of which there are few: an address, a peer or a session in one would make ever more series.
	allowed := []string{"stream", "model", "strategy", "reason", "watch", "state", "level", "finish_reason", "position", "kind"}
	for name, f := range got {
		if !strings.HasPrefix(name, "afterimage_") {
			continue
		}
		assert.NotEmpty(t, f.GetHelp(), name)
		for _, m := range f.Metric {
			for _, l := range m.Label {
				assert.Contains(t, allowed, l.GetName(), name)
			}
		}
	}
	assert.Contains(t, got, "go_goroutines")

	require.NoError(t, s.SetStreams([]Stream{newFake("door")}))
	_, _, text = get(t, base+"/metrics")
	assert.NotContains(t, string(text), "yard", "what is no longer served leaves no series behind")
}

type someFrames struct{ n int }

func (s *someFrames) Next(context.Context) (ingest.Frame, error) {
	if s.n == 0 {
		return ingest.Frame{}, io.EOF
	}
	s.n--
	return ingest.Frame{Index: int64(9 - s.n), Wall: time.Now(), W: 4, H: 4, Pix: make([]byte, 48)}, nil
}

type fakeEncoder struct{}

func (fakeEncoder) Encode(_ context.Context, frames ...ingest.Frame) ([]compute.Matrix, error) {
	out := make([]compute.Matrix, len(frames))
	for i := range out {
		out[i] = compute.Matrix{Rows: 1, Cols: 2, Data: []float32{1, 2}}
	}
	return out, nil
}
func (fakeEncoder) Grid(int, int) (h, w int) { return 1, 1 }
func (fakeEncoder) Unit() int                { return 1 }

func TestMetricsOfStandingQuestions(t *testing.T) {
	now := epoch
	standing, err := qa.NewStanding(qa.StandingOptions{Now: func() time.Time { return now }})
	require.NoError(t, err)
	defer func() { assert.NoError(t, standing.Close()) }()
	yard, watched := newRemembering("yard", 0), &seenAll{}
	round := standing.AttachManually("yard", qa.NewSession(yard.bank, qa.Shared(&yes{}, 1), watched, func() time.Time { return now }))
	m := NewMetrics()
	s, err := New(Config{Watches: standing, Metrics: m}, []Stream{yard})
	require.NoError(t, err)
	base := serving(t, s)
	_, err = standing.Create(t.Context(), qa.WatchSpec{Name: "parcel", Stream: "yard", Ask: "Is a parcel on the step?", Hold: -1})
	require.NoError(t, err)
	m.DeliveryFailed("yard", "parcel")
	// The server listens once it serves, which a request shows.
	get(t, base+"/livez")
	require.Eventually(t, func() bool {
		at := now.Sub(epoch)
		yard.bank.Add(memorybank.Entry{At: at, Grid: memorybank.Grid{H: 1, W: 1}, Tokens: compute.Matrix{Rows: 1, Cols: 3, Data: []float32{1, 2, float32(at.Seconds())}}})
		watched.coverage.Mark(now)
		require.NoError(t, round(t.Context()))
		now = now.Add(2 * time.Minute) // beyond the cooldown; the coverage has a gap there, after which nothing is taken as going on
		_, _, text := get(t, base+"/metrics")
		return strings.Contains(string(text), `afterimage_watch_delay_seconds_count{stream="yard",watch="parcel"}`)
	}, 10*time.Second, 10*time.Millisecond)
	_, _, text := get(t, base+"/metrics")
	got := parseMetrics(t, text)
	for _, name := range []string{"watch_evaluations_total", "watch_fired_total", "watch_delay_seconds", "watch_delivery_failures_total"} {
		assert.Positive(t, value(t, got, name, "stream=yard", "watch=parcel"), name)
	}
}

func TestMetricsNeedATokenForAllStreams(t *testing.T) {
	tokens := []Token{token("prometheus", "prometheus-secret", RoleRead), token("tv", "tv-secret", RoleRead, "yard")}
	base, _ := serve(t, Config{Tokens: func() []Token { return tokens }, FailureDelay: -1}, newFake("yard"), newFake("door"))
	for secret, want := range map[string]int{"prometheus-secret": 200, "tv-secret": 403, "": 401} {
		status, _, _ := get(t, base+"/metrics", "Authorization", "Bearer "+secret)
		assert.Equal(t, want, status, secret)
	}
}
