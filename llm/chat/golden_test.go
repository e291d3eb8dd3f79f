package chat

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
	"afterimage/llm"
	"afterimage/llm/tokenizer"

	"github.com/stretchr/testify/require"
)

// TestGoldenCheckpoints lays out the conversations of the golden checkpoints and compares the tokens with what transformers, or the
// family's own code, made of the same: see models/golden.
func TestGoldenCheckpoints(t *testing.T) {
	const root = "../../models/golden/testdata"
	dirs, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("the golden checkpoints are not there")
	}
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for _, d := range dirs {
		t.Run(d.Name(), func(t *testing.T) {
			fsys := os.DirFS(filepath.Join(root, d.Name()))
			tok, err := tokenizer.Open(fsys)
			require.NoError(t, err)
			config, err := fs.ReadFile(fsys, "config.json")
			require.NoError(t, err)
			tmpl, err := ForConfig(config, func(name string) bool { _, ok := tok.Special(name); return ok })
			require.NoError(t, err)
			var g struct {
				Image []goldenTurn `json:"image_turns"`
				Video []goldenTurn `json:"video_turns"`
				Line  bool         `json:"newline"` // a row of its own ends every video
			}
			raw, err := fs.ReadFile(fsys, "golden.json")
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(raw, &g))
			raw, err = fs.ReadFile(fsys, "golden.safetensors")
			require.NoError(t, err)
			ck, err := weights.Open(fstest.MapFS{"model.safetensors": {Data: raw}})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, ck.Close()) })
			for name, turns := range map[string][]goldenTurn{"ids": g.Image, "video.ids": g.Video} {
				more := 0
				if g.Line {
					more = 1
				}
				got, err := tmpl.Prompt(conversation(turns, more), "").Tokens(tok)
				require.NoError(t, err)
				want, err := ck.Floats(name, len(got))
				require.NoError(t, err)
				for i, id := range got {
					if id >= 0 { // a picture's rows hold the family's placeholder there
						require.EqualValues(t, want[i], id, "%s[%d]", name, i)
					}
				}
			}
		})
	}
}

type goldenTurn struct {
	Role  string
	Parts []struct {
		Text   string
		Visual string
		Rows   int
	}
}

// conversation returns the turns with pictures of as many rows, and of some more.
func conversation(turns []goldenTurn, more int) []Turn {
	var out []Turn
	for _, t := range turns {
		turn := Turn{Role: t.Role}
		for _, p := range t.Parts {
			part := llm.Part{Text: p.Text}
			if p.Visual != "" {
				part.Visual = compute.Matrix{Rows: p.Rows + more, Cols: 1, Data: make([]float32, p.Rows+more)}
			}
			turn.Parts = append(turn.Parts, part)
		}
		out = append(out, turn)
	}
	return out
}

// TestGoldenTemplates compares with the published templates: see testdata/make_golden.py.
func TestGoldenTemplates(t *testing.T) {
	var cases []struct {
		Family, Tokenizer, Answer string
		Turns                     []struct {
			Role  string
			Parts []*string
		}
		IDs []int32
	}
	read(t, "golden.json", func(b []byte) error { return json.Unmarshal(b, &cases) })
	require.Greater(t, len(cases), 300)
	tokenizers := map[string]*tokenizer.Tokenizer{}
	for _, name := range []string{"bytes", "runes"} {
		read(t, name+".tokenizer.json", func(b []byte) (err error) {
			tokenizers[name], err = tokenizer.Load(b)
			return err
		})
	}
	for _, c := range cases {
		tmpl, err := For(c.Family)
		require.NoError(t, err)
		var turns []Turn
		for _, turn := range c.Turns {
			out := Turn{Role: turn.Role}
			for _, p := range turn.Parts {
				part := llm.Part{Visual: compute.Matrix{Rows: 1, Cols: 1, Data: []float32{1}}}
				if p != nil {
					part = llm.Part{Text: *p}
				}
				out.Parts = append(out.Parts, part)
			}
			turns = append(turns, out)
		}
		p := tmpl.Prompt(turns, c.Answer)
		ids, err := p.Tokens(tokenizers[c.Tokenizer])
		require.NoError(t, err)
		require.Equal(t, c.IDs, ids, "%s: %q", c.Family, render(p))
	}
}

func read(t *testing.T, name string, into func([]byte) error) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	require.NoError(t, into(b))
}
