//go:build cgo

package chat

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"afterimage/internal/compute"
	"afterimage/internal/compute/cpu"
	"afterimage/llm"
	"afterimage/llm/tokenizer"

	"github.com/stretchr/testify/require"
)

// tie is a difference of logits that rounding may turn around, between programs that add in another order.
const tie = 1e-3

// TestSmolLM2 gives published weights the questions that transformers answered with the same: see models/golden/smollm2.py.
func TestSmolLM2(t *testing.T) {
	dir := os.Getenv("AFTERIMAGE_SMOLLM2")
	if dir == "" {
		t.Skip("AFTERIMAGE_SMOLLM2 does not name the directory that models/golden/smollm2.py made")
	}
	raw, err := os.ReadFile(filepath.Join(dir, "answers.json"))
	require.NoError(t, err)
	var answers []struct {
		Prompt, Text string
		IDs, New     []int32
		Gaps         []float64
	}
	require.NoError(t, json.Unmarshal(raw, &answers))
	require.Len(t, answers, 50)
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	tok, err := tokenizer.Open(os.DirFS(dir))
	require.NoError(t, err)
	tmpl, err := ForConfig(config, func(name string) bool { _, ok := tok.Special(name); return ok })
	require.NoError(t, err)
	require.Equal(t, "smollm2", tmpl.Name)
	dev, err := cpu.Open(2, "")
	require.NoError(t, err)
	defer dev.Close()
	e, err := llm.Load(dir, dev, compute.F32, nil)
	require.NoError(t, err)
	defer e.Close()

	equal := 0
	for _, a := range answers {
		prompt := tmpl.Prompt([]Turn{text(User, a.Prompt)}, "")
		ids, err := prompt.Tokens(tok)
		require.NoError(t, err)
		if forged := strings.Contains(a.Prompt, "<|im_end|>"); forged { // which transformers takes for the end of the turn
			require.NotEqual(t, a.IDs, ids, a.Prompt)
			prompt = llm.Prompt{{Tokens: a.IDs}}
		} else {
			require.Equal(t, a.IDs, ids, a.Prompt)
		}
		var got []int32
		var said strings.Builder
		_, err = e.Generate(context.Background(), prompt, llm.Options{MaxTokens: len(a.New)}, func(tk llm.Token) error {
			got = append(got, tk.ID)
			said.WriteString(tk.Text)
			return nil
		})
		require.NoError(t, err)
		if said.String() == a.Text {
			equal++
			continue
		}
		at := 0
		for at < min(len(got), len(a.New)) && got[at] == a.New[at] {
			at++
		}
		t.Logf("%q: %q, transformers says %q; token %d of %d, which won there by %g", a.Prompt, said.String(), a.Text, at, len(a.New), a.Gaps[at])
		require.Less(t, a.Gaps[at], tie, "no near tie")
	}
	t.Logf("%d of %d answers are equal", equal, len(answers))
}
