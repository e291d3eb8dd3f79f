package llm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	st "github.com/maruel/safetensors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// tinyRecall is a memory_config in which no two sizes are alike, as far as they need not be.
const tinyRecall = `{"indicator_hidden": 44, "indicator_dim": 20, "layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10,
	"intermediate_size": 52, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "clip_frames": 7, "summary_rows": 6, "bridge_heads": 4,
	"bridge_intermediate": 36, "bridge_memory": 6, "bridge_frames": 5}`

const fullRecall = `{"indicator_hidden": 512, "indicator_dim": 128, "layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64,
	"intermediate_size": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "clip_frames": 8, "summary_rows": 8, "bridge_heads": 6,
	"bridge_intermediate": 1024, "bridge_memory": 8, "bridge_frames": 8}`

// recallVocab is that of the embedded tokenizer, and a few more as checkpoints have.
const recallVocab = 1088

// tensors is a safetensors file to be: values by name.
type tensors map[string]compute.Matrix

func (t tensors) file(shape func(name string, m compute.Matrix) []uint64) []byte {
	var f st.File
	for _, name := range slices.Sorted(maps.Keys(t)) {
		var data []byte
		for _, v := range t[name].Data {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
		f.Tensors = append(f.Tensors, st.Tensor{Name: name, DType: st.F32, Shape: shape(name, t[name]), Data: data})
	}
	var out bytes.Buffer
	if err := f.Serialize(&out); err != nil {
		panic(err) // into memory
	}
	return out.Bytes()
}

// plain gives vectors one dimension.
func plain(_ string, m compute.Matrix) []uint64 {
	if m.Rows == 0 {
		return []uint64{uint64(m.Cols)}
	}
	return []uint64{uint64(m.Rows), uint64(m.Cols)}
}

func readRecall(t testing.TB, config string, hidden int) *RecallConfig {
	c, err := parseRecall([]byte(`{"memory_config":`+config+`}`), hidden)
	require.NoError(t, err)
	return c
}

// randomRecall is a model directory of random numbers, and the tensors of its memory. Of vectors, Rows is 0.
func randomRecall(t testing.TB, config string, hidden int) (fstest.MapFS, tensors, compute.Matrix) {
	c := readRecall(t, config, hidden)
	rng := rand.New(rand.NewPCG(3, 4))
	w := tensors{}
	draw := func(rows, cols int, mean, width float32) compute.Matrix {
		m := compute.Matrix{Rows: rows, Cols: cols, Data: make([]float32, max(rows, 1)*cols)}
		for i := range m.Data {
			m.Data[i] = mean + width*float32(rng.NormFloat64())
		}
		return m
	}
	vector := func(name string, n int, mean float32) { w["memory."+name] = draw(0, n, mean, 0.2) }
	matrix := func(name string, rows, cols int) {
		w["memory."+name] = draw(rows, cols, 0, 1/float32(math.Sqrt(float64(cols))))
	}
	d, q, kv := c.Hidden, c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	vector("indicator.norm.weight", d, 1)
	matrix("indicator.up.weight", c.IndicatorHidden, d)
	vector("indicator.up.bias", c.IndicatorHidden, 0)
	matrix("indicator.down.weight", c.IndicatorDim, c.IndicatorHidden)
	for i := range c.Layers {
		at := fmt.Sprintf("stream.layers.%d.", i)
		vector(at+"input_layernorm.weight", d, 1)
		matrix(at+"self_attn.q_proj.weight", q, d)
		matrix(at+"self_attn.k_proj.weight", kv, d)
		matrix(at+"self_attn.v_proj.weight", kv, d)
		matrix(at+"self_attn.o_proj.weight", d, q)
		vector(at+"post_attention_layernorm.weight", d, 1)
		matrix(at+"mlp.gate_proj.weight", c.MLP, d)
		matrix(at+"mlp.up_proj.weight", c.MLP, d)
		matrix(at+"mlp.down_proj.weight", d, c.MLP)
	}
	vector("stream.norm.weight", d, 1)
	matrix("stream.slots", c.SummaryRows, d)
	matrix("stream.mark", 1, d)
	matrix("stream.out.weight", d, d)
	matrix("stream.proj.weight", c.IndicatorDim, d)
	matrix("bridge.memory", c.SummaryRows, d)
	matrix("bridge.frame_pos", c.BridgeFrames, d)
	vector("bridge.norm1.weight", d, 1)
	vector("bridge.norm2.weight", d, 1)
	vector("bridge.recall.norm.weight", d, 1)
	for _, name := range []string{"q_proj", "k_proj", "v_proj", "o_proj"} {
		matrix("bridge."+name+".weight", d, d)
		matrix("bridge.recall."+name+".weight", d, d)
	}
	matrix("bridge.gate_proj.weight", c.BridgeMLP, d)
	matrix("bridge.up_proj.weight", c.BridgeMLP, d)
	matrix("bridge.down_proj.weight", d, c.BridgeMLP)
	matrix("bridge.out.weight", d, d)
	table := draw(recallVocab, d, 0, 1)
	return recallDir(config, w.file(plain), table), w, table
}

// recallDir is the directory of a model that has the given memory and token embeddings, and the embedded tokenizer.
func recallDir(config string, memory []byte, table compute.Matrix) fstest.MapFS {
	dir := fstest.MapFS{
		"config.json": {Data: fmt.Appendf(nil, `{"model_type": "afterimage_vlm", "text_config": {"model_type": "llama", "hidden_size": %d, "num_hidden_layers": 1,
			"num_attention_heads": 1, "intermediate_size": 8, "vocab_size": %d, "max_position_embeddings": 64, "tie_word_embeddings": true}, "memory_config": %s}`,
			table.Cols, table.Rows, config)},
		"tokenizer.json":    {Data: must(os.ReadFile("../models/default/tokenizer.json"))},
		"model.safetensors": {Data: tensors{"model.embed_tokens.weight": table}.file(plain)},
	}
	if memory != nil {
		dir[RecallFile] = &fstest.MapFile{Data: memory}
	}
	return dir
}

func openRecall(t testing.TB, dir fs.FS, dev compute.Device) *Recall {
	r, err := LoadRecall(dir, dev)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

func newRef(c RecallConfig, w tensors) *recallRef {
	ref := &recallRef{c: c, w: map[string][]float64{}}
	for name, m := range w {
		v := make([]float64, len(m.Data))
		for i, x := range m.Data {
			v[i] = float64(x)
		}
		ref.w[strings.TrimPrefix(name, "memory.")] = v
	}
	return ref
}

func randomRows(rng *rand.Rand, rows, cols int) compute.Matrix {
	m := compute.NewMatrix(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	return m
}

func randomFrames(rng *rand.Rand, n int, c *RecallConfig) []compute.Matrix {
	frames := make([]compute.Matrix, n)
	for i := range frames {
		frames[i] = randomRows(rng, c.SummaryRows, c.Hidden)
	}
	return frames
}

// near demands 1e-4 of the largest value.
func near(t testing.TB, want []float64, got []float32, what string, args ...any) {
	t.Helper()
	require.Len(t, got, len(want), what)
	var most, off float64
	for i, v := range want {
		most, off = max(most, math.Abs(v)), max(off, math.Abs(v-float64(got[i])))
	}
	assert.LessOrEqual(t, off, 1e-4*most, fmt.Sprintf(what, args...))
}

func flat(m rows) []float64 { return slices.Concat(m...) }

// Odd sizes against float64: one row and many, clips and segments of one frame, short ones and full ones, with and without a past.
func TestRecallReference(t *testing.T) {
	dir, w, table := randomRecall(t, tinyRecall, 28)
	onDevices(t, func(t *testing.T, dev compute.Device) {
		r := openRecall(t, dir, dev)
		c := &r.Config
		ref, rng := newRef(*c, w), rand.New(rand.NewPCG(5, 6))
		for _, n := range []int{1, 2, 63, 64, 65, 200} {
			x := randomRows(rng, n, c.Hidden)
			got, err := r.Indicate(x)
			require.NoError(t, err)
			near(t, ref.indicate(wide(x)), got, "indicator of %d rows", n)
		}

		words := func(text string) (m rows) {
			for _, id := range r.tok.Encode(text) {
				m = append(m, wide(matrixRows(table, int(id), int(id)+1))...)
			}
			return m
		}
		for _, q := range []string{"?", "When did the red car first pass the gate, and was it alone?", strings.Repeat("was it there ", 200)} {
			got, err := r.Query(q)
			require.NoError(t, err)
			ids := words(q)
			near(t, ref.query(ids[:min(len(ids), queryTokens)]), got, "query of %d tokens", len(ids))
		}
		got, err := r.Query("")
		require.NoError(t, err)
		assert.Nil(t, got)

		begin := func(hhmmss string) rows {
			require.Len(t, r.tok.Encode(hhmmss), 3, "a time of day is three digit pairs")
			return append(wide(matrixRows(table, int(r.segment), int(r.segment)+1)), words(hhmmss)...)
		}
		var prev compute.Matrix
		for k, n := range []int{1, c.ClipFrames, 3} {
			frames, at := randomFrames(rng, n, c), fmt.Sprintf("0%d0509", k)
			since := begin("235958")
			if k == 0 {
				since = nil
			}
			summary, point, err := r.Clip(prev, "235958", at, frames)
			require.NoError(t, err)
			var before rows
			if k > 0 {
				before = wide(prev)
			}
			wantSummary, wantPoint := ref.clip(before, since, begin(at), wides(frames))
			near(t, flat(wantSummary), summary.Data, "summary of clip %d", k)
			near(t, wantPoint, point, "indicator of clip %d", k)
			prev = summary
		}

		var past []compute.Matrix
		for s, n := range append([]int{1, 5, 3, 12}, slices.Repeat([]int{1}, 34)...) {
			frames := randomFrames(rng, n, c)
			memory, shown, err := r.Segment(past, frames)
			require.NoError(t, err)
			looked, places := frames, []int{0, 1, 2, 3, 4}
			if n == 12 {
				places = []int{1, 3, 6, 8, 10} // the middle of each fifth
				looked = nil
				for _, i := range places {
					looked = append(looked, frames[i])
				}
			}
			wantMemory, wantShown := ref.segment(wides(past), wides(looked))
			near(t, flat(wantMemory), memory.Data, "memory of segment %d", s)
			require.Len(t, shown, n)
			for j, m := range wantShown {
				near(t, flat(m), shown[places[j]].Data, "frame %d of segment %d", places[j], s)
			}
			for i, m := range shown {
				assert.Equal(t, slices.Contains(places, i), m.Rows > 0, "frame %d of segment %d", i, s)
			}
			past = append(past, memory)
		}
	})
}

// recallGolden is what PyTorch made of random weights; models/train/memory_golden.py tells the names.
const recallGolden = "testdata/memory_golden.safetensors"

func TestRecallGolden(t *testing.T) {
	raw := must(os.ReadFile(recallGolden))
	f, err := st.Parse(raw)
	require.NoError(t, err)
	g := map[string][]float32{}
	sizes := map[string][]int{}
	for _, x := range f.Tensors {
		for i := 0; i < len(x.Data); i += 4 {
			bits := binary.LittleEndian.Uint32(x.Data[i:])
			if x.DType == st.I32 {
				sizes[x.Name] = append(sizes[x.Name], int(bits))
			} else {
				g[x.Name] = append(g[x.Name], math.Float32frombits(bits))
			}
		}
	}
	var d int
	require.NoError(t, json.Unmarshal([]byte(f.Metadata["hidden_size"]), &d))

	onDevices(t, func(t *testing.T, dev compute.Device) {
		table := compute.NewMatrix(recallVocab, d)
		r := openRecall(t, recallDir(f.Metadata["memory_config"], raw, table), dev)
		want := func(name string, from, n int) []float64 {
			return flat(wide(compute.Matrix{Cols: n, Data: g[name][from*n : (from+1)*n]}))
		}
		// say gives a text's tokens the golden embeddings: r's table is its own.
		say := func(text string, rows []float32) {
			ids := r.tok.Encode(text)
			require.Len(t, rows, len(ids)*d, text)
			for i, id := range ids {
				copy(r.table.Row(int(id)), rows[i*d:])
			}
		}
		cut := func(name string, n int) (out []compute.Matrix) {
			for v := g[name]; len(v) > 0; v = v[n*d:] {
				out = append(out, compute.Matrix{Rows: n, Cols: d, Data: v[:n*d]})
			}
			return out
		}

		at := 0
		for i, n := range sizes["indicator.sizes"] {
			got, err := r.Indicate(compute.Matrix{Rows: n, Cols: d, Data: g["indicator.rows"][at*d : (at+n)*d]})
			require.NoError(t, err)
			near(t, want("indicator.want", i, r.Config.IndicatorDim), got, "indicator %d", i)
			at += n
		}

		at = 0
		for i, n := range sizes["query.sizes"] {
			question := strings.Join([]string{"01", "23", "45", "67", "89", "20", "41"}[:n], "")
			say(question, g["query.tokens"][at*d:(at+n)*d])
			got, err := r.Query(question)
			require.NoError(t, err)
			near(t, want("query.want", i, r.Config.IndicatorDim), got, "query %d", i)
			at += n
		}

		frames := cut("stream.frames", 8)
		say("010203", g["stream.start"])
		copy(r.table.Row(int(r.segment)), g["stream.segment"])
		var prev compute.Matrix
		for k, n := range sizes["stream.sizes"] {
			start := []string{"102030", "112131", "122232"}[k]
			say(start, g["stream.at"][3*k*d:3*(k+1)*d])
			summary, point, err := r.Clip(prev, "010203", start, frames[:n])
			require.NoError(t, err)
			near(t, want("stream.summary", k, 8*d), summary.Data, "summary %d", k)
			near(t, want("stream.indicator", k, r.Config.IndicatorDim), point, "clip's indicator %d", k)
			prev, frames = summary, frames[n:]
		}

		var past []compute.Matrix
		frames, at = cut("bridge.frames", 8), 0
		for s, n := range sizes["bridge.sizes"] {
			memory, shown, err := r.Segment(past, frames[:n])
			require.NoError(t, err)
			near(t, want("bridge.memory", s, 8*d), memory.Data, "memory %d", s)
			for i, m := range shown {
				if m.Rows > 0 {
					near(t, want("bridge.shown", at, 8*d), m.Data, "frame %d of segment %d", i, s)
					at++
				}
			}
			past, frames = append(past, memory), frames[n:]
		}
		require.Len(t, g["bridge.shown"], at*8*d)

		past = nil
		for _, frame := range cut("many.frames", 8) {
			memory, _, err := r.Segment(past, []compute.Matrix{frame})
			require.NoError(t, err)
			past = append(past, memory)
		}
		near(t, want("many.memory", 0, 8*d), past[len(past)-1].Data, "the last memory of many")
	})
}
