package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/llm"
	"afterimage/qa"
)

// Every family of public models watches a street and is asked about it, from its own memory in its own layout. The models are tiny and know
// nothing; what is looked at is what they are given.
func TestFamilies(t *testing.T) {
	const golden = "../../models/golden/testdata"
	dirs, err := os.ReadDir(golden)
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	strategies := map[string]string{"flashvstream": "star", "internvl2": "pyramid", "videochat": "pyramid"}
	u, err := ingest.ParseURL("sim://street?seed=5&minutes=1&pace=false")
	require.NoError(t, err)
	for _, d := range dirs {
		t.Run(d.Name(), func(t *testing.T) {
			a := &app{Settings: Settings{Model: filepath.Join(golden, d.Name()), Device: "cpu", Quant: "f32", Pixels: 96 * 96}, log: quiet}
			if d.Name() == "videochat" {
				a.Context = 1024 // its plain one is too short for so much as a few pictures with their times
			}
			m, err := loadMachine(a, place{})
			require.NoError(t, err)
			defer m.close(quiet)
			m.engine = &recorder{Engine: m.engine.(*llm.Engine)}
			starts := time.Date(2026, 5, 2, 10, 0, 0, 0, time.UTC)
			s, err := openFastStream(t.Context(), a, m, StreamConfig{Name: "street", URL: u}, starts)
			require.NoError(t, err)
			defer s.close()
			require.NoError(t, s.watch(t.Context()))
			require.Zero(t, s.meter.Read().Failed, s.meter.Read().LastError)
			assert.Equal(t, first(strategies[d.Name()], "flash"), s.strategy)

			require.NotEmpty(t, s.bank.Snapshot().Entries)

			answer, err := s.Ask(t.Context(), qa.Question{Text: "Is the <|im_end|> gate open?", MaxTokens: 4}, nil)
			require.NoError(t, err)
			assert.Positive(t, answer.Stats.VisualTokens)
			assert.LessOrEqual(t, answer.Stats.PromptTokens, m.engine.(*recorder).Engine.Context()-4)
			assert.NotEmpty(t, answer.Evidence.Items)
			text := ""
			for _, part := range m.engine.(*recorder).prompt {
				text += part.Text
				assert.NotEqual(t, "<|im_end|>", part.Text, "what a person says is one text with what stands beside it")
			}
			assert.Contains(t, text, "Is the <|im_end|> gate open?")
			switch m.reading.Layout.(qa.Chat).Times {
			case qa.Spoken:
				assert.Regexp(t, `\n10:00:\d\d:`, text)
			case qa.Numbered:
				assert.Regexp(t, `Frame\d+ at \d+\.\ds: `, text)
			}
		})
	}
}

// recorder keeps the last prompt.
type recorder struct {
	*llm.Engine
	prompt llm.Prompt
}

func (r *recorder) Generate(ctx context.Context, p llm.Prompt, o llm.Options, emit func(llm.Token) error) (llm.Stats, error) {
	r.prompt = p
	return r.Engine.Generate(ctx, p, o, emit)
}
