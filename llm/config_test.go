package llm

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
	"afterimage/internal/weights"
)

// ones is a JSON list of n numbers.
func ones(n int, v string) string {
	return "[" + strings.TrimSuffix(strings.Repeat(v+",", n), ",") + "]"
}

// published are configs with what the hub's have of the decoder, and no more: what they leave out is as the model's own code has it.
var published = []struct {
	name, config string
	want         Config // but for frequencies and names
	theta        float64
}{
	{"llava-1.5-7b-hf", `{"model_type":"llava","vocab_size":32064,"vision_config":{"hidden_size":1024,"model_type":"clip_vision_model"},
		"text_config":{"_name_or_path":"lmsys/vicuna-7b-v1.5","model_type":"llama","max_position_embeddings":4096,"rms_norm_eps":1e-05,"vocab_size":32064}}`,
		Config{Hidden: 4096, Layers: 32, Heads: 32, KVHeads: 32, HeadDim: 128, MLP: 11008, Vocab: 32064, Context: 4096, Eps: 1e-5, tiedUnsaid: true}, 1e4},
	{"llava_llama", `{"model_type":"llava_llama","hidden_size":4096,"intermediate_size":11008,"max_position_embeddings":4096,"num_attention_heads":32,
		"num_hidden_layers":32,"num_key_value_heads":32,"pretraining_tp":1,"rms_norm_eps":1e-05,"rope_scaling":null,"eos_token_id":2,"tie_word_embeddings":false,
		"vocab_size":32000}`,
		Config{Hidden: 4096, Layers: 32, Heads: 32, KVHeads: 32, HeadDim: 128, MLP: 11008, Vocab: 32000, Context: 4096, Eps: 1e-5, EOS: []int32{2}}, 1e4},
	{"Flash-VStream-7b", `{"model_type":"vstream","hidden_act":"silu","hidden_size":4096,"intermediate_size":11008,"max_position_embeddings":4096,
		"num_attention_heads":32,"num_hidden_layers":32,"num_key_value_heads":32,"rms_norm_eps":1e-05,"eos_token_id":2,"tie_word_embeddings":false,
		"mm_vision_tower":"openai/clip-vit-large-patch14","compress_type":"mean","vocab_size":32000}`,
		Config{Hidden: 4096, Layers: 32, Heads: 32, KVHeads: 32, HeadDim: 128, MLP: 11008, Vocab: 32000, Context: 4096, Eps: 1e-5, EOS: []int32{2}}, 1e4},
	{"SmolVLM-Instruct", `{"model_type":"idefics3","tie_word_embeddings":false,"scale_factor":3,"text_config":{"model_type":"llama","head_dim":64,"hidden_size":2048,
		"intermediate_size":8192,"max_position_embeddings":16384,"mlp_bias":false,"num_hidden_layers":24,"num_key_value_heads":32,"pad_token_id":2,
		"qk_layer_norms":false,"rms_norm_eps":1e-05,"rope_theta":273768.0,"vocab_size":49155}}`,
		Config{Hidden: 2048, Layers: 24, Heads: 32, KVHeads: 32, HeadDim: 64, MLP: 8192, Vocab: 49155, Context: 16384, Eps: 1e-5}, 273768},
	{"SmolVLM2-500M", `{"model_type":"smolvlm","tie_word_embeddings":false,"text_config":{"model_type":"llama","attention_bias":false,"head_dim":64,"hidden_act":"silu",
		"hidden_size":960,"intermediate_size":2560,"is_llama_config":true,"max_position_embeddings":8192,"num_attention_heads":15,"num_hidden_layers":32,
		"num_key_value_heads":5,"rms_norm_eps":1e-05,"rope_interleaved":false,"rope_scaling":null,"rope_theta":100000,"tie_word_embeddings":false,"vocab_size":49280}}`,
		Config{Hidden: 960, Layers: 32, Heads: 15, KVHeads: 5, HeadDim: 64, MLP: 2560, Vocab: 49280, Context: 8192, Eps: 1e-5}, 1e5},
	{"SmolVLM2-500M by transformers 5", `{"model_type":"smolvlm","tie_word_embeddings":false,"text_config":{"model_type":"llama","head_dim":64,"hidden_size":960,
		"intermediate_size":2560,"max_position_embeddings":8192,"num_attention_heads":15,"num_hidden_layers":32,"num_key_value_heads":5,"rms_norm_eps":1e-05,
		"rope_parameters":{"rope_theta":100000.0,"rope_type":"default"},"vocab_size":49280}}`,
		Config{Hidden: 960, Layers: 32, Heads: 15, KVHeads: 5, HeadDim: 64, MLP: 2560, Vocab: 49280, Context: 8192, Eps: 1e-5}, 1e5},
	{"Qwen2-VL-2B", `{"model_type":"qwen2_vl","eos_token_id":151645,"hidden_act":"silu","hidden_size":1536,"intermediate_size":8960,"max_position_embeddings":32768,
		"max_window_layers":28,"num_attention_heads":12,"num_hidden_layers":28,"num_key_value_heads":2,"rms_norm_eps":1e-06,"rope_theta":1000000.0,
		"sliding_window":32768,"tie_word_embeddings":true,"use_sliding_window":false,"vision_config":{"depth":32,"hidden_size":1536},
		"rope_scaling":{"type":"mrope","mrope_section":[16,24,24]},"vocab_size":151936}`,
		Config{Hidden: 1536, Layers: 28, Heads: 12, KVHeads: 2, HeadDim: 128, MLP: 8960, Vocab: 151936, Context: 16384, Eps: 1e-6, QKVBias: true, Tied: true,
			Sections: [3]int{16, 24, 24}, EOS: []int32{151645}}, 1e6},
	{"Flash-VStream-Qwen-7b", `{"model_type":"flash_vstream_qwen2_vl","eos_token_id":151645,"hidden_size":3584,"intermediate_size":18944,"max_position_embeddings":32768,
		"num_attention_heads":28,"num_hidden_layers":28,"num_key_value_heads":4,"rms_norm_eps":1e-06,"rope_theta":1000000.0,"tie_word_embeddings":false,
		"vision_config":{"model_type":"qwen2_vl","flash_memory_config":{}},"rope_scaling":{"mrope_section":[16,24,24],"rope_type":"default","type":"default"},
		"vocab_size":152064}`,
		Config{Hidden: 3584, Layers: 28, Heads: 28, KVHeads: 4, HeadDim: 128, MLP: 18944, Vocab: 152064, Context: 16384, Eps: 1e-6, QKVBias: true,
			Sections: [3]int{16, 24, 24}, EOS: []int32{151645}}, 1e6},
	{"Qwen2.5-VL-3B by transformers 5", `{"model_type":"qwen2_5_vl","tie_word_embeddings":true,"text_config":{"model_type":"qwen2_5_vl_text","eos_token_id":151645,
		"hidden_size":2048,"intermediate_size":11008,"layer_types":["full_attention","full_attention"],"max_position_embeddings":128000,"num_attention_heads":16,
		"num_hidden_layers":36,"num_key_value_heads":2,"rms_norm_eps":1e-06,"rope_parameters":{"mrope_section":[16,24,24],"rope_theta":1000000.0,
		"rope_type":"default"},"sliding_window":null,"vocab_size":151936}}`,
		Config{Hidden: 2048, Layers: 36, Heads: 16, KVHeads: 2, HeadDim: 128, MLP: 11008, Vocab: 151936, Context: 16384, Eps: 1e-6, QKVBias: true, Tied: true,
			Sections: [3]int{16, 24, 24}, EOS: []int32{151645}}, 1e6},
	{"InternVL2-2B", `{"model_type":"internvl_chat","downsample_ratio":0.5,"llm_config":{"model_type":"internlm2","bias":false,"eos_token_id":2,"hidden_act":"silu",
		"hidden_size":2048,"intermediate_size":8192,"max_position_embeddings":32768,"num_attention_heads":16,"num_hidden_layers":24,"num_key_value_heads":8,
		"pretraining_tp":1,"rms_norm_eps":1e-05,"rope_scaling":{"factor":2.0,"type":"dynamic"},"rope_theta":1000000,"tie_word_embeddings":false,
		"vocab_size":92553}}`,
		Config{Hidden: 2048, Layers: 24, Heads: 16, KVHeads: 8, HeadDim: 128, MLP: 8192, Vocab: 92553, Context: 16384, Eps: 1e-5, EOS: []int32{2}}, 1e6},
	{"VideoChat-Online-4B", `{"model_type":"internvl_chat","llm_config":{"model_type":"phi3","attention_bias":false,"eos_token_id":32000,"hidden_size":3072,
		"intermediate_size":8192,"max_position_embeddings":131072,"num_attention_heads":32,"num_hidden_layers":32,"num_key_value_heads":32,
		"original_max_position_embeddings":4096,"rms_norm_eps":1e-05,"rope_scaling":{"long_factor":` + ones(48, "4.0") + `,"short_factor":` + ones(48, "1.25") +
		`,"type":"su"},"rope_theta":10000.0,"sliding_window":262144,"tie_word_embeddings":false,"vocab_size":32023}}`,
		Config{Hidden: 3072, Layers: 32, Heads: 32, KVHeads: 32, HeadDim: 96, MLP: 8192, Vocab: 32023, Context: 4096, Eps: 1e-5, Turn: 1.1902381,
			EOS: []int32{32000}}, 1e4},
	{"LLaVA-OneVision-0.5B", `{"model_type":"llava_onevision","tie_word_embeddings":false,"text_config":{"model_type":"qwen2","eos_token_id":151645,"hidden_size":896,
		"intermediate_size":4864,"max_window_layers":24,"num_attention_heads":14,"num_hidden_layers":24,"num_key_value_heads":2,"rope_theta":1000000.0,
		"sliding_window":32768,"tie_word_embeddings":true,"vocab_size":152000}}`,
		Config{Hidden: 896, Layers: 24, Heads: 14, KVHeads: 2, HeadDim: 64, MLP: 4864, Vocab: 152000, Context: 16384, Eps: 1e-6, QKVBias: true, Tied: true,
			EOS: []int32{151645}}, 1e6},
}

func TestPublishedConfigs(t *testing.T) {
	for _, tt := range published {
		t.Run(tt.name, func(t *testing.T) {
			c, err := parseConfig([]byte(tt.config), 0)
			require.NoError(t, err)
			dc := c.decoder(compute.F32, 0)
			require.NoError(t, dc.CheckTurns())
			for j, f := range c.InvFreq {
				assert.InEpsilon(t, math.Pow(tt.theta, -2*float64(j)/float64(c.HeadDim)), f/c.InvFreq[0], 1e-6)
			}
			c.InvFreq, c.names = nil, layout{}
			assert.Equal(t, tt.want, *c)
		})
	}
}

// TestLongContext: a model with longrope turns by short factors up to its original length and by long ones in a context that is longer.
func TestLongContext(t *testing.T) {
	at := len(published) - 2
	require.Equal(t, "VideoChat-Online-4B", published[at].name)
	config := []byte(published[at].config)
	for context, want := range map[int]float64{0: 1.25, 1: 1.25, 4096: 1.25, 4097: 4, 16384: 4} {
		c, err := parseConfig(config, context)
		require.NoError(t, err)
		for j, f := range c.InvFreq {
			assert.InEpsilon(t, math.Pow(10000, -2*float64(j)/96)/want, f, 1e-6)
		}
		if context == 0 {
			context = 4096
		}
		assert.Equal(t, context, c.Context)
		assert.InDelta(t, math.Sqrt(1+math.Log(32)/math.Log(4096)), c.Turn, 1e-6)
	}
	for _, context := range []int{-1, 16385} {
		_, err := parseConfig(config, context)
		assert.EqualError(t, err, fmt.Sprintf("llm_config.max_position_embeddings: a context of %d is out of range 1 to 16384", context))
	}
}

func TestConfigRefuses(t *testing.T) {
	find := func(name string) string {
		for _, p := range published {
			if p.name == name {
				return p.config
			}
		}
		require.Fail(t, name)
		return ""
	}
	for _, tt := range []struct{ of, from, to, want string }{
		{"llava-1.5-7b-hf", `"llava"`, `"llava_next"`, `model_type "llava_next" is not supported`},
		{"llava-1.5-7b-hf", `"text_config"`, `"other"`, `text_config must be given`},
		{"llava-1.5-7b-hf", `"llama"`, `"mistral"`, `text_config.model_type "mistral" is not supported`},
		{"InternVL2-2B", `"llm_config"`, `"text_config"`, `llm_config must be given`},
		{"InternVL2-2B", `"internlm2"`, `"internlm3"`, `llm_config.model_type "internlm3" is not supported`},
		{"InternVL2-2B", `"bias":false,`, ``, `llm_config.bias true is not supported`},
		{"InternVL2-2B", `"factor":2.0`, `"factor":0`, `llm_config.rope_scaling: factor 0 is out of range`},
		{"InternVL2-2B", `"downsample_ratio"`, `"quantization_config":{"bits":4},"downsample_ratio"`, `quantization_config is not supported`},
		{"SmolVLM-Instruct", `"qk_layer_norms":false`, `"qk_layer_norms":true`, `text_config.qk_layer_norms true is not supported`},
		{"SmolVLM2-500M", `"rope_interleaved":false`, `"rope_interleaved":true`, `text_config.rope_interleaved true is not supported`},
		{"SmolVLM2-500M", `"rope_scaling":null`, `"rope_scaling":{"mrope_section":[8,12,12]}`, `text_config.rope_scaling: mrope_section is not supported in model_type "llama"`},
		{"SmolVLM2-500M", `"rope_scaling":null`, `"rope_scaling":{"type":"mrope"}`, `text_config.rope_scaling: rope_type "mrope" is not supported`},
		{"Qwen2-VL-2B", `[16,24,24]`, `[16,24,25]`, `rope_scaling: mrope_section [16 24 25] is not the 64 angles of head_dim 128`},
		{"Qwen2-VL-2B", `[16,24,24]`, `[16,48]`, `rope_scaling: mrope_section [16 48]: want three numbers`},
		{"Qwen2-VL-2B", `[16,24,24]`, `[-16,40,40]`, `rope_scaling: mrope_section [-16 40 40] is out of range`},
		{"Qwen2-VL-2B", `"mrope_section":[16,24,24]`, `"factor":1`, `rope_scaling: mrope_section []: want three numbers`},
		{"Qwen2-VL-2B", `"use_sliding_window":false`, `"use_sliding_window":true`, `use_sliding_window true is not supported`},
		{"Qwen2.5-VL-3B by transformers 5", `["full_attention",`, `["sliding_attention",`, `text_config.layer_types: "sliding_attention" is not supported`},
		{"Qwen2.5-VL-3B by transformers 5", `"rope_type":"default"`, `"rope_type":"yarn"`, `text_config.rope_parameters: rope_type "yarn" is not supported`},
		{"Qwen2.5-VL-3B by transformers 5", `"rope_type":"default"`, `"partial_rotary_factor":0.5`, `text_config.rope_parameters: partial_rotary_factor 0.5 is not supported`},
		{"VideoChat-Online-4B", `"short_factor":[1.25,`, `"short_factor":[`, `llm_config.rope_scaling: short_factor: 47 numbers for the 48 angles of head_dim 96`},
		{"VideoChat-Online-4B", `"long_factor":[4.0,`, `"long_factor":[0,`, `llm_config.rope_scaling: long_factor: 0 is out of range`},
		{"VideoChat-Online-4B", `"original_max_position_embeddings":4096`, `"original_max_position_embeddings":1`,
			`llm_config.rope_scaling: original_max_position_embeddings 1 is out of range`},
		{"VideoChat-Online-4B", `"type":"su"`, `"type":"su","attention_factor":-1`, `llm_config.rope_scaling: attention_factor -1 is out of range`},
		{"LLaVA-OneVision-0.5B", `"num_attention_heads":14`, `"num_attention_heads":"14"`,
			`text_config: json: cannot unmarshal string into Go struct field rawConfig.num_attention_heads of type int`},
		{"LLaVA-OneVision-0.5B", `"text_config":{`, `"text_config":3,"x":{`, `text_config: json: cannot unmarshal number into Go value of type llm.whole`},
	} {
		t.Run(tt.want, func(t *testing.T) {
			config := strings.Replace(find(tt.of), tt.from, tt.to, 1)
			require.NotEqual(t, find(tt.of), config)
			_, err := parseConfig([]byte(config), 0)
			assert.EqualError(t, err, tt.want)
			assert.NotContains(t, fmt.Sprint(err), "\n")
		})
	}
}

// TestLoadRandomFamilies: config.json alone makes an engine to time, of every family.
func TestLoadRandomFamilies(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	families(t, func(t *testing.T, f family) {
		e, err := LoadRandom(weights.Random{Config: must(fs.ReadFile(f.files, "config.json"))}, dev, LoadOptions{Seed: 3, Context: 64, Lean: true})
		require.NoError(t, err)
		defer e.Close()
		assert.Equal(t, 64, e.Context())
		assert.Equal(t, 1, e.Counters().Pages)
		ids, _, _ := answer(t, e, Prompt{{Tokens: []int32{1, 2}}, {Visual: noise(6, e.Dim()), Grid: Grid{1, 2, 3}}, {Tokens: []int32{3}}}, Options{MaxTokens: 5})
		assert.Len(t, ids, 5)
	})
}

// TestTiedUnsaid: where the config does not say so, a checkpoint without a head has its embedding table for one.
func TestTiedUnsaid(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	said := openEngine(t, dev, nil)
	files := withConfig(t, map[string]any{"tie_word_embeddings": nil})
	var c map[string]any
	require.NoError(t, json.Unmarshal(files["config.json"].Data, &c))
	require.NotContains(t, c["text_config"], "tie_word_embeddings")
	unsaid, err := LoadFS(files, dev, compute.F32, nil)
	require.NoError(t, err)
	defer unsaid.Close()
	g := readVLM(t)
	want, _, _ := answer(t, said, g.prompt, Options{MaxTokens: 8})
	have, _, _ := answer(t, unsaid, g.prompt, Options{MaxTokens: 8})
	assert.Equal(t, want, have)
	assert.True(t, unsaid.c.Tied)
}
