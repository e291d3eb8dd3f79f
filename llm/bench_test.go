package llm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
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

func onFastDevices(b *testing.B, bench func(b *testing.B, m *model)) {
	for name, open := range devices {
		if name == "reference" {
			continue // nothing there is fast
		}
		for _, as := range []compute.DType{compute.F32, compute.BF16, compute.I8} {
			b.Run(name+"/"+as.String(), func(b *testing.B) {
				dev, err := open()
				require.NoError(b, err)
				defer dev.Close()
				fsys := weightstest.Random(defaultConfig, defaultShapes(), 1)
				c, err := ReadConfig(fsys)
				require.NoError(b, err)
				ck, err := weights.Open(fsys)
				require.NoError(b, err)
				m, err := newModel(context.Background(), c, ck, dev, as)
				require.NoError(b, err)
				defer m.close()
				bench(b, m)
			})
		}
	}
}

// BenchmarkPrefill is the embedded default's size given a full memory with nothing cached.
func BenchmarkPrefill(b *testing.B) {
	onFastDevices(b, func(b *testing.B, m *model) {
		s := &sequence{}
		s.image(noise(fullMemory, m.c.Hidden), 1)
		for b.Loop() {
			prefill(b, m, s)
		}
		b.ReportMetric(float64(fullMemory)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	})
}

// BenchmarkDecode is one token at a time after a full memory.
func BenchmarkDecode(b *testing.B) {
	onFastDevices(b, func(b *testing.B, m *model) {
		s := &sequence{}
		s.image(noise(fullMemory, m.c.Hidden), 1)
		prefill(b, m, s)
		next, past := []int32{1}, fullMemory
		for b.Loop() {
			out, err := m.forward(context.Background(), []span{{ids: next}}, past, 1)
			require.NoError(b, err)
			next[0] = argmax(out.Row(0))
			if past++; past == fullMemory+100 {
				past = fullMemory
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
	})
}

func prefill(b *testing.B, m *model, s *sequence) {
	n := len(s.keys)
	for from := 0; from < n; from += chunk {
		to, want := min(from+chunk, n), 0
		if to == n {
			want = 1
		}
		_, err := m.forward(context.Background(), s.slice(nil, from, to), from, want)
		require.NoError(b, err)
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
