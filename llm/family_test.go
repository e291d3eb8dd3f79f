package llm

import (
	"encoding/json"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

const goldenFamilies = "../models/golden/testdata"

// families calls test with every family's directory there is.
func families(t *testing.T, test func(t *testing.T, f family)) {
	dirs, err := os.ReadDir(goldenFamilies)
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for _, d := range dirs {
		t.Run(d.Name(), func(t *testing.T) { test(t, readFamily(t, d.Name())) })
	}
}

// family is a tiny checkpoint as published, and what transformers computes with it.
type family struct {
	files        fs.FS
	image, video conversation
	greedy       []int32 // after image
	text         string  // the same
}

// conversation is a prompt as rows: tokens, and pictures where the family's placeholders stood.
type conversation struct {
	prompt    Prompt
	positions [][3]int32 // of every row; nil where they have one axis
	logits    compute.Matrix
}

func readFamily(t *testing.T, name string) family {
	f := family{files: os.DirFS(goldenFamilies + "/" + name)}
	data, err := fs.ReadFile(f.files, "golden.safetensors")
	require.NoError(t, err)
	ck, err := weights.Open(fstest.MapFS{"model.safetensors": {Data: data}})
	require.NoError(t, err)
	defer ck.Close()
	c, err := ReadConfig(f.files)
	require.NoError(t, err)
	type turn struct {
		Parts []struct {
			Visual     string
			From, Rows int
			Grid       [3]int
		}
	}
	var turns struct {
		Image []turn `json:"image_turns"`
		Video []turn `json:"video_turns"`
		Text  string `json:"greedy"`
	}
	require.NoError(t, json.Unmarshal(must(fs.ReadFile(f.files, "golden.json")), &turns))
	shape := func(name string) []int {
		s, ok := ck.Shape(name)
		require.True(t, ok, name)
		return s
	}
	read := func(prefix string, turns []turn) (v conversation) {
		n := shape(prefix + "ids")[0]
		ids := tokens(t, ck, prefix+"ids", n)
		if c.axes() == 3 {
			p, err := ck.Matrix(prefix+"positions", 3, n)
			require.NoError(t, err)
			for i := range n {
				v.positions = append(v.positions, [3]int32{int32(p.Row(0)[i]), int32(p.Row(1)[i]), int32(p.Row(2)[i])})
			}
		}
		for _, turn := range turns {
			for _, p := range turn.Parts {
				if p.Visual == "" {
					continue
				}
				at := run(ids, p.Rows)
				require.GreaterOrEqual(t, at, 0, "placeholders of %d rows", p.Rows)
				all, err := ck.Matrix(p.Visual, shape(p.Visual)[0], c.Hidden)
				require.NoError(t, err)
				m := compute.Matrix{Rows: p.Rows, Cols: c.Hidden, Data: all.Data[p.From*c.Hidden : (p.From+p.Rows)*c.Hidden]}
				v.prompt = append(v.prompt, Part{Tokens: ids[:at]}, Part{Visual: m, ID: uint64(len(v.prompt) + 1), Grid: Grid{p.Grid[0], p.Grid[1], p.Grid[2]}})
				ids = ids[at+p.Rows:]
			}
		}
		v.prompt = append(v.prompt, Part{Tokens: ids})
		v.logits, err = ck.Matrix(prefix+"logits", n, c.Vocab)
		require.NoError(t, err)
		return v
	}
	f.image, f.video = read("", turns.Image), read("video.", turns.Video)
	f.greedy, f.text = tokens(t, ck, "greedy", 24), turns.Text
	return f
}

// run is where n equal tokens follow each other first.
func run(ids []int32, n int) int {
	for from := range len(ids) - n + 1 {
		if !slices.ContainsFunc(ids[from:from+n], func(id int32) bool { return id != ids[from] }) {
			return from
		}
	}
	return -1
}

// stands gives visual parts explicit positions, those of every row of the prompt being known.
func (v conversation) stands() Prompt {
	p := slices.Clone(v.prompt)
	at, begin := 0, int32(0)
	for i := range p {
		if p[i].Tokens != nil {
			at, begin = at+len(p[i].Tokens), begin+int32(len(p[i].Tokens))
			continue
		}
		p[i].Positions = nil
		for _, a := range v.positions[at : at+p[i].Visual.Rows] {
			p[i].Positions = append(p[i].Positions, [3]int32{a[0] - begin, a[1] - begin, a[2] - begin})
		}
		at += p[i].Visual.Rows
		p[i].Advance = v.positions[at][0] - begin
		begin = v.positions[at][0]
	}
	return p
}

func testPositions(t *testing.T, c *Config, v conversation, p Prompt) bool {
	s, err := p.rows(nil, c)
	require.NoError(t, err)
	var have [][3]int32
	for _, k := range s.keys {
		have = append(have, k.at)
	}
	return slices.Equal(v.positions, have)
}

// TestFamilyPositions: a grid is where transformers has its rows. The one exception is that Qwen2.5-VL counts a video's time in steps of a
// fraction of a second; the caller gives those as Positions.
func TestFamilyPositions(t *testing.T) {
	families(t, func(t *testing.T, f family) {
		c, err := ReadConfig(f.files)
		require.NoError(t, err)
		if c.axes() != 3 {
			return
		}
		assert.True(t, testPositions(t, c, f.image, f.image.prompt))
		assert.True(t, testPositions(t, c, f.image, f.image.stands()))
		assert.True(t, testPositions(t, c, f.video, f.video.stands()))
		var outer struct {
			ModelType string `json:"model_type"`
		}
		require.NoError(t, json.Unmarshal(must(fs.ReadFile(f.files, "config.json")), &outer))
		if outer.ModelType == "qwen2_vl" {
			assert.True(t, testPositions(t, c, f.video, f.video.prompt))
		}
	})
}

// TestFamilyLogits compares every row's logits with transformers', in one pass and eight rows at a time.
func TestFamilyLogits(t *testing.T) {
	families(t, func(t *testing.T, f family) {
		onDevices(t, func(t *testing.T, dev compute.Device) {
			for name, v := range map[string]conversation{"image": f.image, "video": f.video} {
				m := testDecoder(t, f.files, dev, compute.F32)
				p := v.prompt
				if v.positions != nil {
					p = v.stands()
				}
				s, err := p.rows(nil, m.c)
				require.NoError(t, err)
				n := len(s.keys)
				near := func(first int, have compute.Matrix) {
					t.Helper()
					for i, l := range have.Data {
						want := v.logits.Data[first*m.c.Vocab+i]
						require.LessOrEqual(t, math.Abs(float64(l-want)), 1e-3, "%s: row %d, token %d", name, first+i/m.c.Vocab, i%m.c.Vocab)
					}
				}
				near(n-opsStepRows, m.rows(t, s, 0, n, opsStepRows))
				for at := 0; at < n; at += opsStepRows {
					k := min(opsStepRows, n-at)
					near(at, m.rows(t, s, at, at+k, k))
				}
			}
		})
	})
}

// TestFamilyRounded is TestFamilyLogits as models are used: with rounded weights and activations, by the device's own decoder where it has one.
func TestFamilyRounded(t *testing.T) {
	families(t, func(t *testing.T, f family) {
		onDevices(t, func(t *testing.T, dev compute.Device) {
			e := openFamily(t, f, dev, LoadOptions{Weights: compute.BF16})
			m := &bare{e.s.dec, e.c, allPages(e.s.dec)} // nobody asks meanwhile
			for name, v := range map[string]conversation{"image": f.image, "video": f.video} {
				p := v.prompt
				if v.positions != nil {
					p = v.stands()
				}
				s, err := p.rows(nil, m.c)
				require.NoError(t, err)
				n := len(s.keys)
				want := v.logits.Data[(n-opsStepRows)*m.c.Vocab:]
				assert.LessOrEqual(t, worst(t, want, m.rows(t, s, 0, n, opsStepRows).Data), 8e-2, "%s, in one pass", name)
				assert.LessOrEqual(t, worst(t, want, m.rows(t, s, n-opsStepRows, n, opsStepRows).Data), 8e-2, "%s, the last rows alone", name)
			}
		})
	})
}

// rows runs rows [from, to) of a prompt where they stand.
func (b *bare) rows(t testing.TB, s *sequence, from, to, want int) compute.Matrix {
	out := compute.NewMatrix(want, b.c.Vocab)
	seg := compute.Segment{Inputs: s.slice(nil, from, to), Past: from, Pages: b.pages, Draws: make([]compute.Draw, want), Drawn: make([]int32, want), Logits: &out}
	if s.axes == 3 {
		for _, k := range s.keys[from:to] {
			seg.Positions = append(seg.Positions, k.at)
		}
	}
	require.NoError(t, b.Forward(t.Context(), []compute.Segment{seg}))
	return out
}

// TestFamilyGreedy: what transformers generates is what comes out, with drafts and without, in chunks, from the cache, and in company.
func TestFamilyGreedy(t *testing.T) {
	families(t, func(t *testing.T, f family) {
		onDevices(t, func(t *testing.T, dev compute.Device) {
			for _, d := range []Drafter{nil, Lookup{Most: 1, Least: 1}, script(func(c []int32, n int) []int32 { return append(f.greedy[:min(3, n):min(3, n)], 1, 2) })} {
				e := openFamily(t, f, dev, LoadOptions{Drafter: d, Pages: 40})
				for range 2 { // nothing cached, and all
					ids, text, _ := answer(t, e, f.image.prompt, Options{MaxTokens: len(f.greedy)})
					assert.Equal(t, f.greedy, ids)
					assert.Equal(t, strings.TrimRight(f.text, "\uFFFD"), text, "but for half a character at the end")
				}
				// The same rows elsewhere are other rows.
				moved := append(Prompt{{Tokens: []int32{5, 6, 7}}}, f.image.prompt...)
				_, _, s := answer(t, e, moved, Options{MaxTokens: 1})
				assert.Zero(t, s.CachedTokens)
				ids, _, _ := answer(t, e, f.image.prompt, Options{MaxTokens: len(f.greedy)})
				assert.Equal(t, f.greedy, ids)
			}
		})
	})
}

func openFamily(t *testing.T, f family, dev compute.Device, o LoadOptions) *Engine {
	e, err := LoadWith(f.files, dev, o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, e.Close()) })
	return e
}
