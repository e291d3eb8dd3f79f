package llm

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
	"afterimage/internal/weights"
	"afterimage/llm/tokenizer"
)

func openEngine(t *testing.T, dev compute.Device, d Drafter) *Engine {
	e, err := Load("testdata/vlm", dev, compute.F32, d)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, e.Close()) })
	return e
}

type vlmGolden struct {
	prompt Prompt
	logits compute.Matrix
	greedy []int32
	text   string
}

func readVLM(t *testing.T) vlmGolden {
	ck, err := weights.Open(os.DirFS("testdata/vlm/golden"))
	require.NoError(t, err)
	defer ck.Close()
	var picture [2]compute.Matrix
	for i, rows := range []int{6, 3} {
		picture[i], err = ck.Matrix([]string{"picture0", "picture1"}[i], rows, 24)
		require.NoError(t, err)
	}
	tok, err := tokenizer.Load(must(os.ReadFile("testdata/vlm/tokenizer.json")))
	require.NoError(t, err)
	g := vlmGolden{prompt: Prompt{{Control: "<|bos|>"}, {Control: "<|detail|>"}, {Text: "120431"}, {Visual: picture[0], ID: 11}, {Control: "<|segment|>"},
		{Text: "120500"}, {Visual: picture[1], ID: 12}, {Control: "<|user|>"}, {Text: "was the gate open? é"}, {Control: "<|assistant|>"}}}
	s, err := g.prompt.rows(tok, &Config{Hidden: 24, Vocab: 300, Context: 96})
	require.NoError(t, err)
	g.logits, err = ck.Matrix("logits", len(s.keys), tok.VocabSize())
	require.NoError(t, err)
	g.greedy = tokens(t, ck, "greedy", goldenNew)
	g.text = string(must(os.ReadFile("testdata/vlm/golden/text.txt")))
	return g
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// answer generates and joins.
func answer(t *testing.T, e *Engine, p Prompt, o Options) (ids []int32, text string, s Stats) {
	s, err := e.Generate(context.Background(), p, o, func(tok Token) error {
		if text += tok.Text; tok.ID >= 0 {
			ids = append(ids, tok.ID)
		}
		return nil
	})
	require.NoError(t, err)
	return ids, text, s
}

func TestGenerateGolden(t *testing.T) {
	onDevices(t, func(t *testing.T, dev compute.Device) {
		g := readVLM(t)
		for _, d := range []Drafter{nil, Lookup{}, Lookup{Most: 1, Least: 1}} {
			e := openEngine(t, dev, d)
			ids, text, s := answer(t, e, g.prompt, Options{MaxTokens: goldenNew})
			assert.Equal(t, g.greedy, ids)
			assert.Equal(t, strings.TrimRight(g.text, "\uFFFD"), text)
			assert.Equal(t, g.logits.Rows, s.PromptTokens)
			assert.Equal(t, 9, s.VisualTokens)
			assert.Zero(t, s.CachedTokens)
			assert.Equal(t, goldenNew, s.Generated)
			assert.Equal(t, "length", s.Finish)
			assert.Positive(t, s.FirstToken)
			assert.GreaterOrEqual(t, s.Total, s.FirstToken)

			// All but the last row of the prompt is there the second time, and nothing changes.
			again, _, s := answer(t, e, g.prompt, Options{MaxTokens: goldenNew})
			assert.Equal(t, ids, again)
			assert.Equal(t, s.PromptTokens-1, s.CachedTokens)
			require.NoError(t, e.Close())
		}
	})
}

// TestPromptLogits compares the logits of every row of a mixed prompt, prefilled in one go and after a cached prefix of every length.
func TestPromptLogits(t *testing.T) {
	onDevices(t, func(t *testing.T, dev compute.Device) {
		g := readVLM(t)
		e := openEngine(t, dev, nil)
		s, err := g.prompt.rows(e.tok, e.c)
		require.NoError(t, err)
		n := len(s.keys)
		d := &bare{e.s.dec, e.c, allPages(e.s.dec)} // nobody asks meanwhile
		for cached := range n {
			if cached > 0 {
				d.forward(t, s.slice(nil, 0, cached), 0, 0)
			}
			want := min(n-cached, opsStepRows)
			out := d.forward(t, s.slice(nil, cached, n), cached, want)
			for i := range want {
				require.LessOrEqual(t, worst(t, g.logits.Row(n-want+i), out.Row(i)), 2e-5, "row %d after %d cached", n-want+i, cached)
			}
		}
	})
}

func TestPrefixReuse(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	g := readVLM(t)
	e := openEngine(t, dev, nil)
	question := func(memory Prompt, text string) Prompt {
		return append(append(Prompt{}, memory...), Part{Control: "<|user|>"}, Part{Text: text}, Part{Control: "<|assistant|>"})
	}
	memory := g.prompt[:7]
	tok := func(p Prompt) int { return len(must(p.rows(e.tok, e.c)).keys) }
	other := append(Prompt{}, memory...)
	other[6].ID = 99 // another picture in the same place: nothing from here on may be reused
	nobody := append(Prompt{}, memory...)
	nobody[3].ID = 0
	for i, tt := range []struct {
		prompt Prompt
		cached int
	}{
		{question(memory, "was the gate open?"), 0},
		{question(memory, "how many people?"), tok(memory) + 1},
		{question(other, "how many people?"), tok(memory[:6])},
		{question(memory, "how many people?"), tok(question(memory, "how many people?")) - 1}, // the other one did not take its place
		{question(nobody, "how many people?"), tok(memory[:3])},
		{question(nobody, "how many people?"), tok(memory[:3])},
		{question(memory[:3], "?"), tok(memory[:3])},
	} {
		have, _, s := answer(t, e, tt.prompt, Options{MaxTokens: 6})
		assert.Equal(t, tt.cached, s.CachedTokens, "prompt %d", i)
		fresh := openEngine(t, dev, nil)
		want, _, _ := answer(t, fresh, tt.prompt, Options{MaxTokens: 6})
		assert.Equal(t, want, have, "prompt %d", i)
	}
	require.NoError(t, e.Warm(context.Background(), memory))
	_, _, s := answer(t, e, question(memory, "yes?"), Options{MaxTokens: 1})
	assert.Equal(t, tok(memory)+1, s.CachedTokens, "the turn's first token was cached by a question before")

	fresh := openEngine(t, dev, nil)
	require.NoError(t, fresh.Warm(context.Background(), memory))
	_, _, s = answer(t, fresh, question(memory, "yes?"), Options{MaxTokens: 1})
	assert.Equal(t, tok(memory), s.CachedTokens)
}

func TestPromptErrors(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	e := openEngine(t, dev, nil)
	wide := compute.NewMatrix(2, 25)
	for _, tt := range []struct {
		prompt Prompt
		o      Options
		want   string
	}{
		{Prompt{{Control: "<|nobody|>"}}, Options{}, `llm: bad prompt: part 0: unknown control token "<|nobody|>"`},
		{Prompt{{Text: "a"}, {Visual: wide, ID: 1}}, Options{}, `llm: bad prompt: part 1: visual rows of 25 values, the model takes 24`},
		{Prompt{{Text: "a", Control: "<|user|>"}}, Options{}, `llm: bad prompt: part 0 is more than one of control, text, tokens and visual`},
		{Prompt{}, Options{}, `llm: bad prompt: it is empty`},
		{Prompt{{}}, Options{}, `llm: bad prompt: it is empty`},
		{Prompt{{Visual: compute.NewMatrix(96, 24)}}, Options{}, `llm: bad prompt: 96 rows leave no room for an answer in the context of 96`},
		{Prompt{{Text: "a"}}, Options{Temperature: -1}, `llm: bad prompt: options out of range: 256 tokens, temperature -1, top-p 0`},
		{Prompt{{Text: "a"}}, Options{MaxTokens: -1}, `llm: bad prompt: options out of range: -1 tokens, temperature 0, top-p 0`},
	} {
		_, err := e.Generate(context.Background(), tt.prompt, tt.o, func(Token) error { return nil })
		assert.EqualError(t, err, tt.want)
		assert.ErrorIs(t, err, ErrPrompt)
	}
	// Text cannot forge a turn: the token named in it is spelled out.
	s := must(Prompt{{Text: "<|eos|>"}}.rows(e.tok, e.c))
	id, _ := e.tok.Special("<|eos|>")
	assert.Greater(t, len(s.tokens), 1)
	assert.NotContains(t, s.tokens, id)
}

func TestContextEnds(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	e := openEngine(t, dev, Lookup{Most: 1, Least: 1})
	e.eos = nil
	_, _, s := answer(t, e, Prompt{{Visual: compute.NewMatrix(90, 24), ID: 5}}, Options{MaxTokens: 1 << 60})
	assert.Equal(t, "length", s.Finish)
	assert.Equal(t, 96-90+1, s.Generated, "the last token drawn need not be run")
}

func TestCancelAndClose(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	e := openEngine(t, dev, nil)
	e.eos = nil
	p := Prompt{{Control: "<|user|>"}, {Text: "go"}}

	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	s, err := e.Generate(ctx, p, Options{MaxTokens: 50}, func(Token) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, "cancelled", s.Finish)
	assert.Equal(t, 3, s.Generated)

	boom := errors.New("socket gone")
	s, err = e.Generate(context.Background(), p, Options{}, func(Token) error { return boom })
	assert.ErrorIs(t, err, boom)
	assert.Equal(t, "cancelled", s.Finish)
}

// withConfig is testdata/vlm with some keys of its text_config replaced (nil removes one).
func withConfig(t *testing.T, change map[string]any) fstest.MapFS {
	out := fstest.MapFS{}
	for _, name := range []string{"config.json", "model.safetensors", "tokenizer.json"} {
		data, err := os.ReadFile("testdata/vlm/" + name)
		require.NoError(t, err)
		out[name] = &fstest.MapFile{Data: data}
	}
	var c map[string]any
	require.NoError(t, json.Unmarshal(out["config.json"].Data, &c))
	text := c["text_config"].(map[string]any)
	for k, v := range change {
		if text[k] = v; v == nil {
			delete(text, k)
		}
	}
	out["config.json"] = &fstest.MapFile{Data: must(json.Marshal(c))}
	return out
}

func TestLoadRefuses(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	const at = "llm: config.json: text_config."
	for _, tt := range []struct {
		key  string
		val  any
		want string
	}{
		{"model_type", "mamba", at + `model_type "mamba" is not supported`},
		{"hidden_act", "relu", at + `hidden_act "relu" is not supported`},
		{"attention_bias", true, at + `attention_bias true is not supported`},
		{"mlp_bias", true, at + `mlp_bias true is not supported`},
		{"use_sliding_window", true, at + `use_sliding_window true is not supported`},
		{"partial_rotary_factor", 0.5, at + `partial_rotary_factor 0.5 is not supported`},
		{"rope_scaling", map[string]any{"rope_type": "yarn", "factor": 4}, at + `rope_scaling: rope_type "yarn" is not supported`},
		{"rope_scaling", map[string]any{"type": "linear"}, at + `rope_scaling: factor 0 is out of range`},
		{"rope_theta", 0, at + `rope_theta 0 is out of range`},
		{"num_key_value_heads", 2, at + `num_key_value_heads 2 does not divide num_attention_heads 3`},
		{"head_dim", 7, at + `head_dim 7 is odd`},
		{"hidden_size", 1 << 30, at + `hidden_size 1073741824 is out of range 1 to 131072`},
		{"quantization_config", map[string]any{}, at + `quantization_config is not supported`},
		{"eos_token_id", 300, at + `eos_token_id 300: 300 is outside the vocabulary of 300`},
		{"vocab_size", 299, `llm: the tokenizer has 300 tokens, config.json says vocab_size 299`},
		{"num_hidden_layers", 3, `llm: load: weights: model.safetensors: language_model.model.layers.2.input_layernorm.weight: missing`},
		{"intermediate_size", 41, `llm: load: weights: model.safetensors: language_model.model.layers.0.mlp.gate_proj.weight: want [41 24], have [40 24]`},
		{"tie_word_embeddings", false, `llm: load: weights: model.safetensors: language_model.lm_head.weight: missing`},
	} {
		t.Run(tt.want, func(t *testing.T) {
			_, err := LoadFS(withConfig(t, map[string]any{tt.key: tt.val}), dev, compute.F32, nil)
			assert.EqualError(t, err, tt.want)
		})
	}
	missing := withConfig(t, nil)
	delete(missing, "tokenizer.json")
	_, err := LoadFS(missing, dev, compute.F32, nil)
	assert.ErrorIs(t, err, fs.ErrNotExist)
	truncated := withConfig(t, nil)
	truncated["model.safetensors"].Data = truncated["model.safetensors"].Data[:20000]
	_, err = LoadFS(truncated, dev, compute.F32, nil)
	assert.ErrorContains(t, err, "llm: weights: model.safetensors: ")
}

func FuzzConfig(f *testing.F) {
	for _, dir := range []string{"llama", "llama3", "qwen2", "phi3", "vlm"} {
		f.Add(must(os.ReadFile("testdata/" + dir + "/config.json")))
	}
	for _, p := range published {
		f.Add([]byte(p.config))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig(data, 0)
		if err != nil {
			return
		}
		if c.Context < 1 || c.Context > maxContext || c.Heads%c.KVHeads != 0 {
			t.Fatalf("accepted %+v", c)
		}
		if dc := c.decoder(compute.F32, 0); dc.CheckTurns() != nil {
			t.Fatalf("accepted %+v", c)
		}
	})
}
