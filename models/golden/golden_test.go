// Package golden_test walks from pictures to words with every family of public checkpoints, as a program does: encode, join, lay out the
// prompt, generate. What comes out on the way is compared with transformers' (README.md). The packages' own tests compare what lies
// between: pixels in encoder, logits in llm.
package golden_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/encoder"
	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
	"afterimage/internal/weights"
	"afterimage/llm"
	"afterimage/llm/chat"
	"afterimage/llm/tokenizer"
)

// devices are what all is computed on; other files of this test add those that need a C compiler.
var devices = map[string]func() (compute.Device, error){
	"reference": func() (compute.Device, error) { return computetest.Open(), nil },
}

// tolerance is of float32 weights. On CPUs all are within 1e-5.
const tolerance = 1e-4

// pixels is the most of a picture of any size: just those of the goldens, since Flash-VStream-Qwen enlarges small pictures up to the limit.
const pixels = 32 * 48

// golden is what a family's checkpoint computes.
type golden struct {
	files   fs.FS
	tensors *weights.Checkpoint
	Unit    int
	Late    bool
	Grid    [2]int
	Dim     int
	Advance int32
	Image   []turn `json:"image_turns"`
	Video   []turn `json:"video_turns"`
	Greedy  string
	After   string `json:"video_greedy"`
}

type turn struct {
	Role  string
	Parts []struct {
		Text, Visual string
		From, Rows   int
		Grid         [3]int
		Positions    string // a tensor: where the rows stand, if the grid does not say
	}
}

func read(t *testing.T, family string) *golden {
	g := &golden{files: os.DirFS("testdata/" + family)}
	data, err := fs.ReadFile(g.files, "golden.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, g))
	data, err = fs.ReadFile(g.files, "golden.safetensors")
	require.NoError(t, err)
	g.tensors, err = weights.Open(fstest.MapFS{weights.Single: {Data: data}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.tensors.Close()) })
	return g
}

func (g *golden) has(name string) bool {
	_, ok := g.tensors.Shape(name)
	return ok
}

// matrix reads a tensor as rows of its last dimension.
func (g *golden) matrix(t *testing.T, name string) compute.Matrix {
	shape, ok := g.tensors.Shape(name)
	require.True(t, ok, name)
	data, err := g.tensors.Floats(name, shape...)
	require.NoError(t, err)
	cols := shape[len(shape)-1]
	return compute.Matrix{Rows: len(data) / cols, Cols: cols, Data: data}
}

func (g *golden) ids(t *testing.T, name string) []int32 {
	var ids []int32
	for _, v := range g.matrix(t, name).Data {
		ids = append(ids, int32(v))
	}
	return ids
}

func (g *golden) frames(t *testing.T) []ingest.Frame {
	shape, ok := g.tensors.Shape("frames")
	require.True(t, ok)
	n, h, w := shape[0], shape[1], shape[2]
	values := g.matrix(t, "frames").Data
	out := make([]ingest.Frame, n)
	for i := range out {
		out[i] = ingest.Frame{Index: int64(i), W: w, H: h, Pix: make([]byte, 3*h*w)}
		for j := range out[i].Pix {
			out[i].Pix[j] = byte(values[i*3*h*w+j])
		}
	}
	return out
}

// near compares rows with a golden tensor's.
func (g *golden) near(t *testing.T, name string, have compute.Matrix) {
	t.Helper()
	want := g.matrix(t, name)
	if !assert.Equal(t, [2]int{want.Rows, want.Cols}, [2]int{have.Rows, have.Cols}, name) {
		return
	}
	var worst float64
	for i, w := range want.Data {
		worst = max(worst, float64(max(w-have.Data[i], have.Data[i]-w)))
	}
	assert.LessOrEqual(t, worst, tolerance, name)
}

// stack puts matrices one under another.
func stack(ms ...compute.Matrix) compute.Matrix {
	out := compute.Matrix{Cols: ms[0].Cols}
	for _, m := range ms {
		out.Rows, out.Data = out.Rows+m.Rows, append(out.Data, m.Data...)
	}
	return out
}

// TestFamilies needs no golden on the way: each step works on what the one before it made.
func TestFamilies(t *testing.T) {
	dirs, err := os.ReadDir("testdata")
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for _, d := range dirs {
		for name, open := range devices {
			t.Run(d.Name()+"/"+name, func(t *testing.T) {
				dev, err := open()
				require.NoError(t, err)
				defer dev.Close()
				walk(t, read(t, d.Name()), dev)
			})
		}
	}
}

func walk(t *testing.T, g *golden, dev compute.Device) {
	enc, err := encoder.LoadWith(g.files, dev, encoder.Options{Weights: compute.F32, Pixels: pixels})
	require.NoError(t, err)
	defer enc.Close()
	rows := see(t, g, enc)

	config, err := fs.ReadFile(g.files, "config.json")
	require.NoError(t, err)
	tok, err := tokenizer.Open(g.files)
	require.NoError(t, err)
	template, err := chat.ForConfig(config, func(name string) bool { _, ok := tok.Special(name); return ok })
	require.NoError(t, err)
	engine, err := llm.LoadWith(g.files, dev, llm.LoadOptions{Weights: compute.F32})
	require.NoError(t, err)
	defer engine.Close()
	for prefix, talk := range map[string]struct {
		turns []turn
		want  string
	}{"": {g.Image, g.Greedy}, "video.": {g.Video, g.After}} {
		prompt := template.Prompt(g.conversation(t, talk.turns, rows, engine.Axes()), "")
		g.sameTokens(t, prefix+"ids", prompt, tok)
		ids, text := generate(t, engine, prompt)
		assert.Equal(t, g.ids(t, prefix+"greedy"), ids, prefix)
		assert.Equal(t, talk.want, text, prefix)
	}
}

// generate returns 24 tokens, and the text they are.
func generate(t *testing.T, engine *llm.Engine, prompt llm.Prompt) (ids []int32, text string) {
	var b strings.Builder
	_, err := engine.Generate(t.Context(), prompt, llm.Options{MaxTokens: 24}, func(k llm.Token) error {
		if b.WriteString(k.Text); k.ID >= 0 { // else no token but the end of a character
			ids = append(ids, k.ID)
		}
		return nil
	})
	require.NoError(t, err)
	return ids, b.String()
}

// TestLongContext: beyond the length that it was trained for first, VideoChat-Online needs an engine that was loaded for more.
func TestLongContext(t *testing.T) {
	for name, open := range devices {
		t.Run(name, func(t *testing.T) {
			dev, err := open()
			require.NoError(t, err)
			defer dev.Close()
			g := read(t, "videochat")
			prompt := llm.Prompt{{Tokens: g.ids(t, "long.ids")}}
			short, err := llm.LoadWith(g.files, dev, llm.LoadOptions{Weights: compute.F32})
			require.NoError(t, err)
			defer short.Close()
			_, err = short.Generate(t.Context(), prompt, llm.Options{MaxTokens: 1}, nil)
			assert.ErrorIs(t, err, llm.ErrPrompt)
			long, err := llm.LoadWith(g.files, dev, llm.LoadOptions{Weights: compute.F32, Context: 512})
			require.NoError(t, err)
			defer long.Close()
			ids, _ := generate(t, long, prompt)
			assert.Equal(t, g.ids(t, "long.greedy"), ids)
		})
	}
}

// see encodes the pictures and joins the rows; what it returns is named as the golden tensors are.
func see(t *testing.T, g *golden, enc *encoder.Encoder) map[string]compute.Matrix {
	assert.Equal(t, g.Unit, enc.Unit())
	assert.Equal(t, g.Late, enc.Late())
	assert.Equal(t, g.Dim, enc.Dim())
	frames := g.frames(t)
	h, w := enc.Grid(frames[0].W, frames[0].H)
	assert.Equal(t, g.Grid, [2]int{h, w})
	encode := func(frames ...ingest.Frame) []compute.Matrix {
		out, err := enc.Encode(t.Context(), frames...)
		require.NoError(t, err)
		return out
	}
	join := func(h, w int, of ...compute.Matrix) compute.Matrix {
		var rows []encoder.Rows
		for _, m := range of {
			rows = append(rows, encoder.Rows{H: h, W: w, Data: m})
		}
		out, err := enc.Join(t.Context(), rows...)
		require.NoError(t, err)
		return stack(out...)
	}
	still := encode([]ingest.Frame{frames[0], frames[0]}[:enc.Unit()]...)
	moving := encode(frames...)
	out := map[string]compute.Matrix{"features": stack(still...), "embeds": join(h, w, still...), "video.embeds": join(h, w, moving...)}
	if g.Late {
		out["video.features"] = stack(moving...)
	}
	if g.has("newline") {
		out["newline"] = enc.Newline()
		out["rows"], out["video.rows"] = stack(out["embeds"], out["newline"]), stack(out["video.embeds"], out["newline"])
	}
	if g.has("pooled.features") {
		out["pooled.features"] = pool(still[0], h, w)
		out["pooled.embeds"] = join(h/2, w/2, out["pooled.features"])
		out["memory.embeds"] = stack(join(h, w, moving[0]), join(h/2, w/2, pool(moving[0], h, w), pool(moving[1], h, w)))
	}
	for name, m := range out {
		g.near(t, name, m)
	}
	return out
}

// pool is the means of 2x2 rows of a grid.
func pool(m compute.Matrix, h, w int) compute.Matrix {
	out := compute.NewMatrix(h/2*(w/2), m.Cols)
	for r := range m.Rows {
		to := out.Row(r/w/2*(w/2) + r%w/2)
		for i, v := range m.Row(r) {
			to[i] += v / 4
		}
	}
	return out
}

// conversation puts our own rows where the golden's pictures stand.
func (g *golden) conversation(t *testing.T, turns []turn, rows map[string]compute.Matrix, axes int) []chat.Turn {
	var out []chat.Turn
	id := uint64(0)
	for _, turn := range turns {
		to := chat.Turn{Role: turn.Role}
		for _, p := range turn.Parts {
			if p.Visual == "" {
				to.Parts = append(to.Parts, llm.Part{Text: p.Text})
				continue
			}
			m, ok := rows[p.Visual]
			require.True(t, ok, p.Visual)
			id++
			part := llm.Part{ID: id, Visual: compute.Matrix{Rows: p.Rows, Cols: m.Cols, Data: m.Data[p.From*m.Cols : (p.From+p.Rows)*m.Cols]}}
			switch {
			case axes == 1:
			case p.Positions != "":
				at := g.matrix(t, p.Positions)
				for i := range at.Cols {
					part.Positions = append(part.Positions, [3]int32{int32(at.Row(0)[i]), int32(at.Row(1)[i]), int32(at.Row(2)[i])})
				}
				part.Advance = g.Advance
			default:
				part.Grid = llm.Grid{T: p.Grid[0], H: p.Grid[1], W: p.Grid[2]}
			}
			to.Parts = append(to.Parts, part)
		}
		out = append(out, to)
	}
	return out
}

// sameTokens compares a prompt with golden ids, in which some token of the family's stands for every visual row.
func (g *golden) sameTokens(t *testing.T, name string, p llm.Prompt, tok *tokenizer.Tokenizer) {
	have, err := p.Tokens(tok)
	require.NoError(t, err)
	want := g.ids(t, name)
	if !assert.Len(t, have, len(want), name) {
		return
	}
	for i, id := range have {
		if id == -1 {
			want[i] = -1
		}
	}
	assert.Equal(t, want, have, name)
}
