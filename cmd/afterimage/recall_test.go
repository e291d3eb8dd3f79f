package main

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
	"afterimage/qa"
)

// A model with a learned memory: its frames have indicators, its questions select, and the strategies that need one work.
func TestLearnedMemory(t *testing.T) {
	clean(t)
	dir := t.TempDir()
	model := addRandomRecall(t, randomModel(t))
	code, _, errs := command(t, t.Context(), "simcam", "--out", filepath.Join(dir, "street.mp4"), "--length", "20s", "--fps", "4", "--seed", "900205")
	require.Zero(t, code, errs)
	for _, strategy := range []string{"propagated", "bridge:segment=clips", "composite"} {
		code, out, errs := command(t, t.Context(), "--model", model, "ask", filepath.Join(dir, "street.mp4"), "What happened?", "--max-tokens", "4",
			"--max-visual-tokens", "128", "--strategy", strategy)
		require.Zero(t, code, errs)
		assert.Contains(t, out, "as of ")
		assert.NotContains(t, errs, "learned memory", strategy)
	}

	a := &app{Settings: Settings{Model: model, Device: "cpu"}, log: quiet}
	m, err := loadMachine(a, place{})
	require.NoError(t, err)
	defer m.close(quiet)
	enc, ok := qa.Encoder(m.encoder).(qa.Indicator)
	require.True(t, ok)
	rows := compute.NewMatrix(32, 384)
	for i := range rows.Data {
		rows.Data[i] = float32(i%7) - 3
	}
	for _, v := range [][]float32{enc.Indicate(rows), m.query(quiet)("What happened?")} {
		require.Len(t, v, 128)
		var sum float64
		for _, x := range v {
			sum += float64(x) * float64(x)
		}
		require.InDelta(t, 1, sum, 1e-3)
	}
	rows.Data[0] = float32(math.NaN())
	assert.Nil(t, enc.Indicate(rows), "nothing is said of what is no picture")

	// Half of a learned memory is a broken model, not one without.
	require.NoError(t, os.Remove(filepath.Join(model, llm.RecallFile)))
	code, _, errs = command(t, t.Context(), "--model", model, "ask", filepath.Join(dir, "street.mp4"), "What happened?")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "memory.safetensors")
}

func TestModelWithoutLearnedMemory(t *testing.T) {
	m, err := loadMachine(&app{Settings: Settings{Model: randomModel(t), Device: "cpu"}, log: quiet}, place{})
	require.NoError(t, err)
	defer m.close(quiet)
	assert.Nil(t, m.query(quiet))
	_, ok := qa.Encoder(m.encoder).(qa.Indicator)
	assert.False(t, ok)
}

// What KeepWarm showed the engine is there when a question comes, whatever the question selects.
func TestWarmMemoryIsFound(t *testing.T) {
	m, err := loadMachine(&app{Settings: Settings{Model: addRandomRecall(t, randomModel(t)), Device: "cpu"}, log: quiet}, place{})
	require.NoError(t, err)
	defer m.close(quiet)
	epoch := time.Date(2026, 5, 2, 10, 0, 0, 0, time.UTC)
	for _, memory := range []MemoryConfig{{Strategy: "composite", Options: map[string]any{"unit": 4, "past": 60}}, {Strategy: "flash"}} {
		strategy, err := memory.open(m, quiet)
		require.NoError(t, err)
		bank := memorybank.New(epoch, strategy)
		r := rand.New(rand.NewPCG(3, 4))
		for i := range 80 {
			rows := compute.NewMatrix(32, 384)
			for j := range rows.Data {
				rows.Data[j] = r.Float32() - .5
			}
			bank.Add(memorybank.Entry{At: time.Duration(i) * time.Second, Grid: memorybank.Grid{H: 4, W: 8}, Tokens: rows,
				Indicator: memorybank.NewIndicator(m.encoder.(qa.Indicator).Indicate(rows))})
		}
		watched := ingest.NewCoverage(0, 0)
		model := &warmed{Model: m.share(), done: make(chan struct{}, 1)}
		s := qa.NewSession(bank, model, watchedThen{watched}, func() time.Time { return epoch.Add(80 * time.Second) })
		s.Query, s.VisualTokens = m.query(quiet), 300
		ctx, cancel := context.WithCancel(t.Context())
		warm := make(chan error)
		go func() { warm <- s.KeepWarm(ctx, 0) }()
		<-model.done
		rows := 0
		for _, e := range bank.Snapshot().Prefix(300) {
			if memory.Strategy != "flash" || e.Role == memorybank.Detail { // Flash selects its synopsis by the question
				rows += e.Tokens.Rows
			}
		}
		require.Greater(t, rows, 50, memory)
		a, err := s.Ask(t.Context(), qa.Question{Text: "What was the first thing that came?", MaxTokens: 1}, nil)
		require.NoError(t, err)
		assert.LessOrEqual(t, a.Stats.VisualTokens, 300)
		assert.GreaterOrEqual(t, a.Stats.CachedTokens, rows, "%v: of %d rows shown ahead", memory, rows)
		cancel()
		require.ErrorIs(t, <-warm, context.Canceled)
	}
}

// warmed is a model that says when it was warmed.
type warmed struct {
	qa.Model
	done chan struct{}
}

func (w *warmed) Warm(ctx context.Context, p llm.Prompt) error {
	err := w.Model.(qa.Warmer).Warm(ctx, p)
	w.done <- struct{}{}
	return err
}

type watchedThen struct{ coverage *ingest.Coverage }

func (w watchedThen) Status() ingest.Status      { return ingest.Status{State: ingest.Live} }
func (w watchedThen) Coverage() *ingest.Coverage { return w.coverage }
