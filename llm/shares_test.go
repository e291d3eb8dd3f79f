package llm

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
)

// What a prompt's last row attends to is told by part, whatever of the prompt was cached and whoever else is answered, and asking for it
// changes no token.
func TestShares(t *testing.T) {
	g := readVLM(t)
	var reference []float32 // of the plain Go device
	ask := func(t *testing.T, e *Engine) Stats {
		ids, _, s := answer(t, e, g.prompt, Options{MaxTokens: goldenNew, Shares: true})
		assert.Equal(t, g.greedy, ids, "the tokens are those without shares")
		require.Len(t, s.Shares, len(g.prompt))
		return s
	}
	check := func(t *testing.T, s Stats, within float64) {
		sum := float32(0)
		for i, p := range g.prompt {
			assert.InDelta(t, reference[i], s.Shares[i], within)
			assert.Equal(t, p.Visual.Rows > 0, s.Shares[i] > 0)
			sum += s.Shares[i]
		}
		assert.InDelta(t, 1, sum, 1e-6)
	}
	reference = ask(t, openEngine(t, computetest.Open(), nil)).Shares
	onDevices(t, func(t *testing.T, dev compute.Device) {
		e := openEngine(t, dev, Lookup{})
		if _, own := dev.(compute.Decoders); own {
			ids, _, s := answer(t, e, g.prompt, Options{MaxTokens: goldenNew, Shares: true})
			assert.Equal(t, g.greedy, ids)
			assert.Nil(t, s.Shares, "a decoder that cannot tell says nothing")
			return
		}
		check(t, ask(t, e), 1e-4)
		s := ask(t, e)
		assert.Equal(t, s.PromptTokens-1, s.CachedTokens)
		check(t, s, 1e-4) // of the last row alone, the rest being cached
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				s, err := e.Generate(t.Context(), g.prompt, Options{MaxTokens: 3, Shares: true}, func(Token) error { return nil })
				assert.NoError(t, err)
				check(t, s, 1e-4)
			})
		}
		wg.Wait()
		_, _, s = answer(t, e, g.prompt, Options{MaxTokens: 1})
		assert.Nil(t, s.Shares, "nobody asked")
		_, _, s = answer(t, e, Prompt{{Control: "<|user|>"}, {Text: "why?"}}, Options{MaxTokens: 1, Shares: true})
		assert.Nil(t, s.Shares, "there is nothing visual")
	})
}

func TestSharesOfLayers(t *testing.T) {
	p := Prompt{{Text: "a"}, {Visual: compute.NewMatrix(2, 1)}, {Visual: compute.NewMatrix(1, 1)}}
	layers := compute.Matrix{Rows: 3, Cols: 3, Data: []float32{
		0.9, 0.06, 0.04,
		0.5, 0.1, 0.4,
		1, 0, 0,
	}}
	assert.InDeltaSlice(t, []float64{0, 0.16 / 0.6, 0.44 / 0.6}, toFloat64(shares(p, layers)), 1e-6)
	assert.Nil(t, shares(p, compute.Matrix{}), "a decoder that cannot tell")
	assert.Nil(t, shares(p, compute.Matrix{Rows: 1, Cols: 3, Data: []float32{1, 0, 0}}))
}

func toFloat64(in []float32) (out []float64) {
	for _, v := range in {
		out = append(out, float64(v))
	}
	return out
}
