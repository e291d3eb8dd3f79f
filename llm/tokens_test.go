package llm

import (
	"os"
	"testing"

	"afterimage/internal/compute"
	"afterimage/llm/tokenizer"

	"github.com/stretchr/testify/require"
)

// The tokens of a prompt are those of its rows, and texts know what stands beside them.
func TestPromptTokens(t *testing.T) {
	tok, err := tokenizer.Load(must(os.ReadFile("tokenizer/testdata/phi3.tokenizer.json")))
	require.NoError(t, err)
	special := func(name string) int32 {
		id, ok := tok.Special(name)
		require.True(t, ok)
		return id
	}
	rows := compute.Matrix{Rows: 2, Cols: 3, Data: make([]float32, 6)}
	p := Prompt{{Control: "<s>"}, {Text: "At"}, {Control: "<|user|>"}, {Text: " \n two"}, {Text: "words "}, {Visual: rows}, {Text: "x"}, {Tokens: []int32{9}}, {Text: "y"}}
	got, err := p.Tokens(tok)
	require.NoError(t, err)
	want := []int32{special("<s>")}
	want = append(want, tok.Encode("At")...)
	want = append(append(want, special("<|user|>")), tok.Encode("two")...) // <|user|> takes the white space behind it
	want = append(want, tok.EncodeAt("words ", tokenizer.Place{Inside: true})...)
	want = append(append(want, -1, -1), tok.Encode("x")...) // after a picture a text begins anew
	want = append(append(want, 9), tok.EncodeAt("y", tokenizer.Place{Inside: true})...)
	require.Equal(t, want, got)
	s, err := p.rows(tok, &Config{Hidden: 3, Vocab: tok.VocabSize(), Context: 100})
	require.NoError(t, err)
	require.Equal(t, want, s.tokens)
	_, err = Prompt{{Control: "<|nobody|>"}}.Tokens(tok)
	require.ErrorIs(t, err, ErrPrompt)
}
