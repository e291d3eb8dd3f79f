package llm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
)

func openBest(t testing.TB) compute.Device {
	dev, err := devices[best]()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, dev.Close()) })
	return dev
}

func TestLoadRecallRefuses(t *testing.T) {
	whole, w, table := randomRecall(t, tinyRecall, 28)
	config := string(whole["config.json"].Data)
	with := func(name string, data []byte) fs.FS {
		dir := fstest.MapFS{}
		for n, f := range whole {
			dir[n] = f
		}
		delete(dir, name)
		if data != nil {
			dir[name] = &fstest.MapFile{Data: data}
		}
		return dir
	}
	field := func(name, value string) fs.FS {
		var c map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(config), &c))
		var m map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(c["memory_config"], &m))
		delete(m, name)
		if value != "" {
			m[name] = json.RawMessage(value)
		}
		c["memory_config"] = must(json.Marshal(m))
		return with("config.json", must(json.Marshal(c)))
	}
	changed := func(name string, m compute.Matrix) fs.FS {
		other := tensors{}
		for n, x := range w {
			other[n] = x
		}
		delete(other, name)
		if m.Cols > 0 {
			other[name] = m
		}
		return with(RecallFile, other.file(plain))
	}
	memory := whole[RecallFile].Data
	withoutConfig := []byte(strings.Replace(config, `"memory_config"`, `"other"`, 1))

	for name, c := range map[string]struct {
		dir  fs.FS
		want string
	}{
		"no file":                {with(RecallFile, nil), "llm: memory.safetensors: missing, and config.json has a memory_config"},
		"no config":              {with("config.json", withoutConfig), "llm: config.json: no memory_config, and there is a memory.safetensors"},
		"empty":                  {with(RecallFile, []byte{}), "llm: weights: memory.safetensors: truncated: 0 bytes, the header length alone takes 8"},
		"truncated header":       {with(RecallFile, memory[:100]), "llm: weights: memory.safetensors: truncated: header of"},
		"truncated data":         {with(RecallFile, memory[:len(memory)-1]), "llm: weights: memory.safetensors: memory.stream.slots: data_offsets"},
		"null config":            {with("config.json", []byte(strings.Replace(config, tinyRecall, "null", 1))), "llm: config.json: no memory_config, and there is"},
		"config of another kind": {with("config.json", []byte(strings.Replace(config, tinyRecall, "[8]", 1))), "llm: config.json: json: cannot unmarshal array"},
		"field of another kind":  {field("layers", `"two"`), "llm: config.json: json: cannot unmarshal string into Go struct field rawRecall.memory_config.layers"},
		"no field":               {field("bridge_memory", ""), "llm: config.json: memory_config.bridge_memory 0 is out of range 1 to 4096"},
		"layers":                 {field("layers", "65"), "llm: config.json: memory_config.layers 65 is out of range 1 to 64"},
		"negative":               {field("head_dim", "-2"), "llm: config.json: memory_config.head_dim -2 is out of range 1 to 1024"},
		"odd":                    {field("head_dim", "9"), "llm: config.json: memory_config.head_dim 9 is odd"},
		"groups":                 {field("num_key_value_heads", "4"), "llm: config.json: memory_config.num_key_value_heads 4 does not divide num_attention_heads 6"},
		"huge heads":             {field("num_attention_heads", "131072"), "llm: config.json: memory_config.num_attention_heads 131072 of head_dim 10 are more than 131072"},
		"bridge heads":           {field("bridge_heads", "3"), "llm: config.json: memory_config.bridge_heads 3 does not divide hidden_size 28"},
		"memories":               {field("bridge_memory", "8"), "llm: config.json: memory_config.bridge_memory 8 is not summary_rows 6"},
		"long clips":             {field("clip_frames", "4000"), "llm: config.json: memory_config.clip_frames 4000 of summary_rows 6 are too many"},
		"long segments":          {field("bridge_frames", "4000"), "llm: config.json: memory_config.bridge_frames 4000 of summary_rows 6 are too many"},
		"eps":                    {field("rms_norm_eps", "1"), "llm: config.json: memory_config.rms_norm_eps 1 is out of range"},
		"theta":                  {field("rope_theta", "0"), "llm: config.json: memory_config.rope_theta 0 is out of range"},
		"tensor missing":         {changed("memory.stream.layers.1.mlp.up_proj.weight", compute.Matrix{}), "llm: weights: memory.safetensors: memory.stream.layers.1.mlp.up_proj.weight: missing"},
		"another shape":          {changed("memory.indicator.up.bias", compute.Matrix{Cols: 45, Data: make([]float32, 45)}), "memory.safetensors: memory.indicator.up.bias: want [44], have [45]"},
		"transposed":             {changed("memory.bridge.frame_pos", compute.NewMatrix(28, 5)), "llm: weights: memory.safetensors: memory.bridge.frame_pos: want [5 28], have [28 5]"},
		"fewer layers":           {field("layers", "4"), "llm: weights: memory.safetensors: memory.stream.layers.3.input_layernorm.weight: missing"},
		"another width":          {with("config.json", []byte(strings.Replace(config, `"hidden_size": 28`, `"hidden_size": 32`, 1))), "embed_tokens.weight: want [1088 32], have [1088 28]"},
		"no table":               {with("model.safetensors", tensors{"x": table}.file(plain)), "llm: weights: model.safetensors: model.embed_tokens.weight: missing"},
		"no tokenizer":           {with("tokenizer.json", nil), "llm: tokenizer: neither tokenizer.json, nor tokenizer.model, nor vocab.json with merges.txt: file does not exist"},
		"no segment token": {with("tokenizer.json", bytes.ReplaceAll(whole["tokenizer.json"].Data, []byte("<|segment|>"), []byte("<|nothing|>"))),
			"llm: tokenizer.json: <|segment|> is not a special token"},
		"no config at all": {with("config.json", nil), "llm: open config.json: file does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := LoadRecall(c.dir, computetest.Open())
			require.Nil(t, r)
			require.ErrorContains(t, err, c.want)
			assert.NotContains(t, err.Error(), "\n")
			assert.NotErrorIs(t, err, ErrNoRecall)
		})
	}

	none := with(RecallFile, nil).(fstest.MapFS)
	none["config.json"] = &fstest.MapFile{Data: withoutConfig}
	_, err := LoadRecall(none, computetest.Open())
	assert.ErrorIs(t, err, ErrNoRecall)
	assert.EqualError(t, err, "llm: the model has no learned memory (memory_config and memory.safetensors)")
}

func TestRecallRefusesRows(t *testing.T) {
	dir, _, _ := randomRecall(t, tinyRecall, 28)
	r := openRecall(t, dir, openBest(t))
	frame := compute.NewMatrix(6, 28)
	good := []compute.Matrix{frame}
	for want, err := range map[string]error{
		"llm: indicate: rows [0 28] with 0 values, want any number of 28":        second(r.Indicate(compute.NewMatrix(0, 28))),
		"llm: indicate: rows [3 27] with 81 values, want any number of 28":       second(r.Indicate(compute.NewMatrix(3, 27))),
		"llm: clip: 0 frames, want 1 to 7":                                       third(r.Clip(compute.Matrix{}, "", "000000", nil)),
		"llm: clip: 8 frames, want 1 to 7":                                       third(r.Clip(compute.Matrix{}, "", "000000", make([]compute.Matrix, 8))),
		"llm: clip: frame 1: rows [5 28] with 140 values, want [6 28]":           third(r.Clip(compute.Matrix{}, "", "000000", []compute.Matrix{frame, compute.NewMatrix(5, 28)})),
		"llm: clip: the summary before: rows [1 28] with 28 values, want [6 28]": third(r.Clip(compute.NewMatrix(1, 28), "000000", "000000", good)),
		`llm: clip: time of day "12:3:4", want six digits`:                       third(r.Clip(compute.Matrix{}, "", "12:3:4", good)),
		`llm: clip: time of day "", want six digits`:                             third(r.Clip(frame, "", "000000", good)),
		"llm: segment: no frames":                                                third(r.Segment(nil, nil)),
		"llm: segment: memory 0: rows [6 27] with 162 values, want [6 28]":       third(r.Segment([]compute.Matrix{compute.NewMatrix(6, 27)}, good)),
		"llm: segment: frame 0: rows [6 28] with 3 values, want [6 28]":          third(r.Segment(nil, []compute.Matrix{{Rows: 6, Cols: 28, Data: make([]float32, 3)}})),
		"llm: indicate: the result is not finite":                                second(r.Indicate(compute.Matrix{Rows: 1, Cols: 28, Data: append(make([]float32, 27), float32(math.NaN()))})),
		"llm: indicate: rows [2 28] with 28 values, want any number of 28":       second(r.Indicate(compute.Matrix{Rows: 2, Cols: 28, Data: make([]float32, 28)})),
	} {
		assert.EqualError(t, err, want)
	}

	broken := compute.Matrix{Rows: 6, Cols: 28, Data: make([]float32, 6*28)}
	broken.Data[7] = float32(math.Inf(1))
	_, _, err := r.Clip(compute.Matrix{}, "", "000000", []compute.Matrix{broken})
	assert.EqualError(t, err, "llm: clip: the result is not finite")
	_, _, err = r.Segment(nil, []compute.Matrix{broken})
	assert.EqualError(t, err, "llm: segment: the result is not finite")

	require.NoError(t, r.Close())
	_, err = r.Query("was it there?")
	assert.EqualError(t, err, "llm: query: the memory is closed")
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

// Whoever calls beside whom, everybody gets what he would have got alone, to the bit.
func TestRecallTogether(t *testing.T) {
	dir, _, _ := randomRecall(t, tinyRecall, 28)
	r := openRecall(t, dir, openBest(t))
	c := &r.Config
	type result struct {
		point, query, clip []float32
		summary, memory    compute.Matrix
		shown              []compute.Matrix
	}
	work := func(seed uint64) (got result) {
		rng := rand.New(rand.NewPCG(seed, 0))
		n := 1 + int(seed)%c.ClipFrames
		frames, past := randomFrames(rng, n, c), randomFrames(rng, int(seed)%4, c)
		var err [4]error
		got.point, err[0] = r.Indicate(randomRows(rng, 1+int(seed)*7, c.Hidden))
		got.query, err[1] = r.Query(fmt.Sprintf("was number %d there?", seed))
		got.summary, got.clip, err[2] = r.Clip(randomFrames(rng, 1, c)[0], "000000", "010203", frames)
		got.memory, got.shown, err[3] = r.Segment(past, frames)
		for _, e := range err {
			assert.NoError(t, e)
		}
		return got
	}
	const many = 8
	var alone [many]result
	for i := range alone {
		alone[i] = work(uint64(i))
	}
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			for k := range 3 {
				j := (i + 3*k) % many
				assert.Equal(t, alone[j], work(uint64(j)))
			}
		})
	}
	wg.Wait()
}

func FuzzRecallConfig(f *testing.F) {
	f.Add([]byte(`{"memory_config":`+fullRecall+`}`), 384)
	f.Add([]byte(`{"memory_config":`+tinyRecall+`}`), 28)
	f.Add([]byte(`{"memory_config":{"layers":1e99}}`), 1)
	f.Add([]byte(`{}`), 384)
	f.Fuzz(func(t *testing.T, data []byte, hidden int) {
		if hidden < 1 || hidden > maxDim { // parseConfig's work
			return
		}
		c, err := parseRecall(data, hidden)
		if err != nil {
			require.Nil(t, c)
			require.NotContains(t, err.Error(), "\n")
			return
		}
		require.Positive(t, min(c.IndicatorHidden, c.IndicatorDim, c.Layers, c.Heads, c.KVHeads, c.HeadDim, c.MLP, c.ClipFrames, c.SummaryRows,
			c.BridgeHeads, c.BridgeMLP, c.BridgeFrames))
		require.Zero(t, c.Heads%c.KVHeads+c.Hidden%c.BridgeHeads+c.HeadDim%2)
		require.Len(t, c.InvFreq, c.HeadDim/2)
		require.LessOrEqual(t, (max(c.ClipFrames, c.BridgeFrames)+3)*c.SummaryRows, maxRecallRows)
	})
}

// The sizes of the embedded model, two threads, every level of the machine.
func BenchmarkRecall(b *testing.B) {
	dir, _, _ := randomRecall(b, fullRecall, 384)
	for name, open := range devices {
		if name == "reference" {
			continue
		}
		b.Run(name, func(b *testing.B) {
			dev, err := open()
			require.NoError(b, err)
			defer dev.Close()
			r := openRecall(b, dir, dev)
			defer r.Close()
			c := &r.Config
			rng := rand.New(rand.NewPCG(1, 2))
			fine, frames := randomRows(rng, 32, c.Hidden), randomFrames(rng, 8, c)
			past := randomFrames(rng, 32, c)
			each := func(name string, fn func() error) {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if err := fn(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			question := "When did the red car first pass the gate, and was it alone then?"
			b.Logf("the question has %d tokens", len(r.tok.Encode(question)))
			each("indicate 32 rows", func() error { return second(r.Indicate(fine)) })
			each("query", func() error { return second(r.Query(question)) })
			each("clip", func() error { return third(r.Clip(frames[0], "000000", "010203", frames)) })
			each("segment, first", func() error { return third(r.Segment(nil, frames)) })
			each("segment after 32", func() error { return third(r.Segment(past, frames)) })
		})
	}
}
