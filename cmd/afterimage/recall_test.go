package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/llm"
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
