package llm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// chosen is how probable the model thinks that an answer begins with text.
func chosen(t *testing.T, e *Engine, p Prompt, text string) float64 {
	_, s, err := e.Choose(context.Background(), p, []string{text})
	require.NoError(t, err)
	return s.Chosen
}

func TestChooseGolden(t *testing.T) {
	onDevices(t, func(t *testing.T, dev compute.Device) {
		g, e := readVLM(t), openEngine(t, dev, nil)
		row := g.logits.Row(g.logits.Rows - 1)
		sum := 0.0
		for _, v := range row {
			sum += math.Exp(float64(v))
		}
		one := func(text string) (int32, float64) {
			ids := e.tok.EncodeAt(text, append(slices.Clone(g.prompt), Part{Text: text}).place(len(g.prompt), e.tok))
			require.Len(t, ids, 1, text)
			return ids[0], math.Exp(float64(row[ids[0]])) / sum
		}
		_, a := one("a")
		_, b := one("x")
		p, s, err := e.Choose(context.Background(), g.prompt, []string{"a", "x"})
		require.NoError(t, err)
		assert.InDelta(t, a/(a+b), p[0], 1e-4)
		assert.InDelta(t, 1, p[0]+p[1], 1e-12)
		assert.InDelta(t, a+b, s.Chosen, 1e-4*(a+b))
		assert.Equal(t, g.logits.Rows, s.PromptTokens)
		assert.Equal(t, 9, s.VisualTokens)

		// An answer of several tokens is as probable as its first and then its rest, each read from a pass of its own.
		for _, text := range []string{"ax", "xa", "axa", "aaxx"} {
			want := 1.0
			for i := range text {
				before := g.prompt
				if i > 0 {
					before = append(slices.Clone(g.prompt), Part{Text: text[:i]})
				}
				want *= chosen(t, e, before, text[i:i+1])
			}
			assert.InEpsilon(t, want, chosen(t, e, g.prompt, text), 1e-3, text)
		}
		// "a" is what begins with it and does not go on as "ax" or "axa"; what is said twice counts once.
		all, s, err := e.Choose(context.Background(), g.prompt, []string{"a", "axa", "ax", "x", "ax"})
		require.NoError(t, err)
		pa, pax, paxa, px := chosen(t, e, g.prompt, "a"), chosen(t, e, g.prompt, "ax"), chosen(t, e, g.prompt, "axa"), chosen(t, e, g.prompt, "x")
		assert.InEpsilon(t, pa+px, s.Chosen, 1e-3)
		for i, want := range []float64{pa - pax, paxa, (pax - paxa) / 2, px, (pax - paxa) / 2} {
			assert.InEpsilon(t, want/(pa+px), all[i], 1e-3, i)
		}
	})
}

// TestChooseTogether has many choose at once, beside answers: each finds what it finds alone, and passes are shared.
func TestChooseTogether(t *testing.T) {
	onDevices(t, func(t *testing.T, dev compute.Device) {
		load := func() *Engine {
			e, err := LoadWith(os.DirFS("testdata/vlm"), dev, LoadOptions{Weights: compute.F32, Drafter: Lookup{Most: 1, Least: 1}})
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, e.Close()) })
			return e
		}
		alone, e := load(), load()
		choices := []string{"yes", "no", "a van", "a car"}
		prompt := func(i int) Prompt {
			return Prompt{{Control: "<|user|>"}, {Text: fmt.Sprint(i, "?")}, {Visual: noise(3+i, 24), ID: uint64(1 + i)}, {Control: "<|assistant|>"}}
		}
		var all sync.WaitGroup
		for i := range 12 {
			want, _, err := alone.Choose(context.Background(), prompt(i), choices)
			require.NoError(t, err)
			words, _, _ := answer(t, alone, prompt(i), Options{MaxTokens: 9})
			all.Go(func() {
				have, _, err := e.Choose(context.Background(), prompt(i), choices)
				assert.NoError(t, err)
				assert.InDeltaSlice(t, want, have, 1e-6)
			})
			all.Go(func() {
				have, _, _ := answer(t, e, prompt(i), Options{MaxTokens: 9})
				assert.Equal(t, words, have)
			})
		}
		all.Wait()
		c := e.Counters()
		assert.Zero(t, c.Active+c.Waiting)
		assert.Equal(t, c.Pages, c.FreePages+c.CachedPages, "every page came back")
	})
}

func TestChooseRefuses(t *testing.T) {
	g := readVLM(t)
	onDevices(t, func(t *testing.T, dev compute.Device) {
		e := openEngine(t, dev, nil)
		for name, choices := range map[string][]string{"none": nil, "empty": {"a", ""}, "long": {strings.Repeat("xa", 60)}} {
			_, _, err := e.Choose(context.Background(), g.prompt, choices)
			assert.ErrorIs(t, err, ErrPrompt, name)
		}
		_, _, err := e.Choose(context.Background(), Prompt{}, []string{"a"})
		assert.ErrorIs(t, err, ErrPrompt)
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errors.New("not any more"))
		_, s, err := e.Choose(ctx, g.prompt, []string{"a"})
		assert.ErrorContains(t, err, "not any more")
		assert.Equal(t, "cancelled", s.Finish)
		assert.NoError(t, e.Close())
		_, _, err = e.Choose(context.Background(), g.prompt, []string{"a"})
		assert.ErrorIs(t, err, ErrClosed)
	})
}

// TestChooseLeavesRoom: standing questions, of which there may be many, never fill the line that people wait in.
func TestChooseLeavesRoom(t *testing.T) {
	s := &scheduler{maxQueue: 5, wake: make(chan struct{}, 1)} // nobody serves
	for range 3 {
		require.NoError(t, s.submit(&request{limit: 1, choosing: &choosing{}, client: chooseClient}))
	}
	require.ErrorIs(t, s.submit(&request{limit: 1, choosing: &choosing{}, client: chooseClient}), ErrBusy)
	require.NoError(t, s.submit(&request{limit: 1}))
	require.NoError(t, s.submit(&request{limit: 1}))
	require.ErrorIs(t, s.submit(&request{limit: 1}), ErrBusy)
}
