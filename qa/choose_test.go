package qa

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/llm"
)

func TestSayings(t *testing.T) {
	for _, tt := range []struct {
		prompt llm.Prompt
		texts  []string
	}{
		{llm.Prompt{{Text: "Is it?"}, {Control: "<|assistant|>"}}, []string{"yes", "Yes", "no", "No", "2 cars", "éh", "Éh"}},
		{llm.Prompt{{Text: "Is it?\nAssistant:"}}, []string{" yes", " Yes", " no", " No", " 2 cars", " éh", " Éh"}},
		{llm.Prompt{{Text: "<start>assistant\n"}}, []string{"yes", "Yes", "no", "No", "2 cars", "éh", "Éh"}},
	} {
		texts, of := sayings(tt.prompt, []string{"yes", "No", "2 cars", "éh"})
		require.Equal(t, tt.texts, texts)
		require.Equal(t, []int{0, 0, 1, 1, 2, 3, 3}, of)
	}
}

func TestHint(t *testing.T) {
	require.Equal(t, "Is it open? Answer with yes or no only.", Chat{}.hint("Is it open?", []string{"yes", "no"}))
	require.Equal(t, "Which? Answer with red, blue or none only.", Chat{}.hint("Which?", []string{"red", "blue", "none"}))
}

func TestMoved(t *testing.T) {
	m := func(rows ...[]float32) compute.Matrix {
		out := compute.NewMatrix(len(rows), 2)
		for i, r := range rows {
			copy(out.Row(i), r)
		}
		return out
	}
	a := m([]float32{1, 0}, []float32{1, 1})
	require.InDelta(t, 0, moved(a, a), 1e-9)
	require.InDelta(t, 0, moved(a, m([]float32{3, 0}, []float32{.5, .5})), 1e-6, "brighter all over")
	require.InDelta(t, 1, moved(a, m([]float32{0, 1}, []float32{1, 1})), 1e-6, "one cell")
	require.InDelta(t, 1-1/math.Sqrt2, moved(a, m([]float32{1, 0}, []float32{0, 2})), 1e-6)
	require.Equal(t, 2., moved(a, m([]float32{1, 0})), "another grid")
	require.Equal(t, 2., moved(a, m([]float32{0, 0}, []float32{1, 1})))
	require.InDelta(t, 0, moved(m([]float32{0, 0}), m([]float32{0, 0})), 1e-9)
}
