package llm

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/weights/weightstest"
)

const defaultConfig = `{"model_type":"afterimage_vlm","text_config":{"model_type":"llama","hidden_size":384,"num_hidden_layers":8,"num_attention_heads":6,
"num_key_value_heads":2,"head_dim":64,"intermediate_size":1024,"rms_norm_eps":1e-5,"rope_theta":10000.0,"vocab_size":2048,
"max_position_embeddings":4096,"tie_word_embeddings":true}}`

// defaultShapes are the decoder's tensors of the embedded default.
func defaultShapes() map[string][]int {
	const c, mlp = 384, 1024
	p := "language_model.model."
	s := map[string][]int{p + "embed_tokens.weight": {2048, c}, p + "norm.weight": {c}}
	for i := range 8 {
		l := fmt.Sprintf("%slayers.%d.", p, i)
		s[l+"input_layernorm.weight"], s[l+"post_attention_layernorm.weight"] = []int{c}, []int{c}
		s[l+"self_attn.q_proj.weight"], s[l+"self_attn.o_proj.weight"] = []int{384, c}, []int{c, 384}
		s[l+"self_attn.k_proj.weight"], s[l+"self_attn.v_proj.weight"] = []int{128, c}, []int{128, c}
		s[l+"mlp.gate_proj.weight"], s[l+"mlp.up_proj.weight"], s[l+"mlp.down_proj.weight"] = []int{mlp, c}, []int{mlp, c}, []int{c, mlp}
	}
	return s
}

// fullMemory is about the rows of a prompt with a full `flash` memory: 9 fine and 64 coarse entries, their marks and times.
const fullMemory = 1150

func onFastDevices(b *testing.B, bench func(b *testing.B, m *bare)) {
	for name, open := range devices {
		if name == "reference" {
			continue // nothing there is fast
		}
		for _, as := range []compute.DType{compute.F32, compute.BF16, compute.I8, compute.I4} {
			b.Run(name+"/"+as.String(), func(b *testing.B) {
				dev, err := open()
				require.NoError(b, err)
				defer dev.Close()
				m := testDecoder(b, weightstest.Random(defaultConfig, defaultShapes(), 1), dev, as)
				bench(b, m)
			})
		}
	}
}

// BenchmarkPrefill is the embedded default's size given a full memory with nothing cached.
func BenchmarkPrefill(b *testing.B) {
	onFastDevices(b, func(b *testing.B, m *bare) {
		s := &sequence{}
		require.NoError(b, s.image(Part{Visual: noise(fullMemory, m.c.Hidden), ID: 1}))
		for b.Loop() {
			prefill(b, m, s)
		}
		b.ReportMetric(float64(fullMemory)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	})
}

// BenchmarkDecode is one token at a time after a full memory.
func BenchmarkDecode(b *testing.B) {
	onFastDevices(b, func(b *testing.B, m *bare) {
		s := &sequence{}
		require.NoError(b, s.image(Part{Visual: noise(fullMemory, m.c.Hidden), ID: 1}))
		prefill(b, m, s)
		next, past := []int32{1}, fullMemory
		for b.Loop() {
			next[0] = argmax(m.forward(b, []compute.Input{{IDs: next}}, past, 1).Row(0))
			if past++; past == fullMemory+100 {
				past = fullMemory
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
	})
}

func prefill(b *testing.B, m *bare, s *sequence) {
	n := len(s.keys)
	for from := 0; from < n; from += opsChunkRows {
		to, want := min(from+opsChunkRows, n), 0
		if to == n {
			want = 1
		}
		m.forward(b, s.slice(nil, from, to), from, want)
	}
}

// BenchmarkAnswers is several answers at once after a full memory that they share, scheduler and all.
func BenchmarkAnswers(b *testing.B) {
	dev, err := devices[best]()
	require.NoError(b, err)
	defer dev.Close()
	for _, n := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e, err := LoadRandom(fstest.MapFS{"config.json": {Data: []byte(defaultConfig)}}, dev, LoadOptions{Weights: compute.BF16})
			require.NoError(b, err)
			defer e.Close()
			memory := Part{Visual: noise(fullMemory, e.Dim()), ID: 1}
			require.NoError(b, e.Warm(b.Context(), Prompt{memory}))
			var first atomic.Int64
			for b.Loop() {
				var all sync.WaitGroup
				for i := range n {
					all.Go(func() {
						s, err := e.Generate(b.Context(), Prompt{memory, {Tokens: []int32{int32(i), 2, 3, 4, 5, 6, 7, 8, 9}}}, Options{MaxTokens: 32}, func(Token) error { return nil })
						assert.NoError(b, err)
						first.Add(int64(s.FirstToken))
					})
				}
				all.Wait()
			}
			b.ReportMetric(float64(32*n*b.N)/b.Elapsed().Seconds(), "tokens/s")
			b.ReportMetric(float64(first.Load())/float64(n*b.N)/1e6, "ms/first")
		})
	}
}

func noise(rows, cols int) compute.Matrix {
	m := compute.NewMatrix(rows, cols)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	return m
}
