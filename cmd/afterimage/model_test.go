package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"afterimage/llm"
)

// randomModel writes a model directory of the default's kind with few layers and weights drawn by chance: what it says is
// nonsense, but all of the program runs. The same directory comes out every time.
func randomModel(t testing.TB) string {
	t.Helper()
	return writeRandomModel(t, t.TempDir(), 2, 2)
}

func writeRandomModel(t testing.TB, dir string, visionLayers, textLayers int) string {
	t.Helper()
	tok, err := os.ReadFile(filepath.Join("testdata", "tokenizer.json"))
	require.NoError(t, err)
	var parsed struct {
		Model struct {
			Vocab map[string]int
		}
		Added []struct{ ID int } `json:"added_tokens"`
	}
	require.NoError(t, json.Unmarshal(tok, &parsed))
	vocab := 0
	for _, id := range parsed.Model.Vocab {
		vocab = max(vocab, id+1)
	}
	for _, a := range parsed.Added {
		vocab = max(vocab, a.ID+1)
	}
	config := fmt.Sprintf(`{"model_type":"afterimage_vlm",
"vision_config":{"model_type":"siglip_vision_model","hidden_size":256,"num_hidden_layers":%d,"num_attention_heads":4,"intermediate_size":1024,
 "patch_size":16,"image_size":[128,256],"hidden_act":"gelu_pytorch_tanh","layer_norm_eps":1e-6},
"text_config":{"model_type":"llama","hidden_size":384,"num_hidden_layers":%d,"num_attention_heads":6,"num_key_value_heads":2,"head_dim":64,
 "intermediate_size":1024,"rms_norm_eps":1e-5,"rope_theta":10000.0,"vocab_size":%d,"max_position_embeddings":4096,"tie_word_embeddings":true},
"projector_hidden_act":"gelu","vision_pool":[2,2],"image_mean":[0.5,0.5,0.5],"image_std":[0.5,0.5,0.5]}`, visionLayers, textLayers, vocab)

	w := safetensorsWriter{random: rand.NewChaCha8([32]byte{1}), header: map[string]any{}}
	tower := "vision_tower.vision_model."
	w.add(tower+"embeddings.patch_embedding.weight", 256, 3, 16, 16)
	w.add(tower+"embeddings.patch_embedding.bias", 256)
	w.add(tower+"embeddings.position_embedding.weight", 128, 256)
	for i := range visionLayers {
		p := fmt.Sprintf("%sencoder.layers.%d.", tower, i)
		w.linear(p+"layer_norm1", 256)
		w.linear(p+"layer_norm2", 256)
		for _, x := range []string{"q", "k", "v", "out"} {
			w.linear(p+"self_attn."+x+"_proj", 256, 256)
		}
		w.linear(p+"mlp.fc1", 1024, 256)
		w.linear(p+"mlp.fc2", 256, 1024)
	}
	w.linear(tower+"post_layernorm", 256)
	w.linear("multi_modal_projector.linear_1", 384, 256)
	w.linear("multi_modal_projector.linear_2", 384, 384)
	text := "language_model.model."
	w.add(text+"embed_tokens.weight", vocab, 384)
	for i := range textLayers {
		p := fmt.Sprintf("%slayers.%d.", text, i)
		w.add(p+"input_layernorm.weight", 384)
		w.add(p+"post_attention_layernorm.weight", 384)
		w.add(p+"self_attn.q_proj.weight", 384, 384)
		w.add(p+"self_attn.k_proj.weight", 128, 384)
		w.add(p+"self_attn.v_proj.weight", 128, 384)
		w.add(p+"self_attn.o_proj.weight", 384, 384)
		w.add(p+"mlp.gate_proj.weight", 1024, 384)
		w.add(p+"mlp.up_proj.weight", 1024, 384)
		w.add(p+"mlp.down_proj.weight", 384, 1024)
	}
	w.add(text+"norm.weight", 384)

	for name, data := range map[string][]byte{"config.json": []byte(config), "tokenizer.json": tok, "model.safetensors": w.bytes(t)} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	return dir
}

// addRandomRecall gives a model of writeRandomModel a learned memory of the default's full shape, its weights drawn by chance.
func addRandomRecall(t testing.TB, dir string) string {
	t.Helper()
	file := filepath.Join(dir, "config.json")
	config, err := os.ReadFile(file)
	require.NoError(t, err)
	const memory = `"memory_config":{"indicator_hidden":512,"indicator_dim":128,"layers":2,"num_attention_heads":6,"num_key_value_heads":2,
 "head_dim":64,"intermediate_size":1024,"rms_norm_eps":1e-5,"rope_theta":10000.0,"clip_frames":8,"summary_rows":8,"bridge_heads":6,
 "bridge_intermediate":1024,"bridge_memory":8,"bridge_frames":8}`
	config = append(bytes.TrimSuffix(bytes.TrimSpace(config), []byte("}")), ","+memory+"}"...)
	w := safetensorsWriter{random: rand.NewChaCha8([32]byte{2}), header: map[string]any{}}
	add := func(prefix, suffix string, shapes map[string][]int) {
		for _, name := range slices.Sorted(maps.Keys(shapes)) {
			w.add(prefix+name+suffix, shapes[name]...)
		}
	}
	add("memory.", "", map[string][]int{
		"indicator.norm.weight": {384}, "indicator.up.weight": {512, 384}, "indicator.up.bias": {512}, "indicator.down.weight": {128, 512},
		"stream.norm.weight": {384}, "stream.slots": {8, 384}, "stream.mark": {1, 384}, "stream.out.weight": {384, 384}, "stream.proj.weight": {128, 384},
		"bridge.memory": {8, 384}, "bridge.frame_pos": {8, 384}, "bridge.norm1.weight": {384}, "bridge.norm2.weight": {384},
		"bridge.q_proj.weight": {384, 384}, "bridge.k_proj.weight": {384, 384}, "bridge.v_proj.weight": {384, 384}, "bridge.o_proj.weight": {384, 384},
		"bridge.gate_proj.weight": {1024, 384}, "bridge.up_proj.weight": {1024, 384}, "bridge.down_proj.weight": {384, 1024}, "bridge.out.weight": {384, 384},
		"bridge.recall.norm.weight": {384}, "bridge.recall.q_proj.weight": {384, 384}, "bridge.recall.k_proj.weight": {384, 384},
		"bridge.recall.v_proj.weight": {384, 384}, "bridge.recall.o_proj.weight": {384, 384},
	})
	for i := range 2 {
		add(fmt.Sprintf("memory.stream.layers.%d.", i), ".weight", map[string][]int{
			"input_layernorm": {384}, "post_attention_layernorm": {384}, "self_attn.q_proj": {384, 384}, "self_attn.k_proj": {128, 384},
			"self_attn.v_proj": {128, 384}, "self_attn.o_proj": {384, 384}, "mlp.gate_proj": {1024, 384}, "mlp.up_proj": {1024, 384}, "mlp.down_proj": {384, 1024},
		})
	}
	require.NoError(t, os.WriteFile(file, config, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, llm.RecallFile), w.bytes(t), 0o644))
	return dir
}

type safetensorsWriter struct {
	random *rand.ChaCha8
	header map[string]any
	data   bytes.Buffer
}

// linear adds a weight and a bias of its first dimension.
func (w *safetensorsWriter) linear(name string, shape ...int) {
	w.add(name+".weight", shape...)
	w.add(name+".bias", shape[0])
}

// add writes bfloat16 numbers of 2^-7 to 2^-5 and either sign, or ones for the scale of a norm.
func (w *safetensorsWriter) add(name string, shape ...int) {
	n := 1
	for _, d := range shape {
		n *= d
	}
	from, raw := w.data.Len(), make([]byte, 2*n)
	_, _ = w.random.Read(raw) // never fails
	scale := strings.HasSuffix(name, "norm.weight") || strings.HasSuffix(name, "norm1.weight") || strings.HasSuffix(name, "norm2.weight")
	for i := 0; i < len(raw); i += 2 {
		raw[i+1] = raw[i+1]&0x80 | 0x3c
		if scale {
			raw[i], raw[i+1] = 0x80, 0x3f
		}
	}
	w.data.Write(raw)
	w.header[name] = map[string]any{"dtype": "BF16", "shape": shape, "data_offsets": []int{from, w.data.Len()}}
}

func (w *safetensorsWriter) bytes(t testing.TB) []byte {
	head, err := json.Marshal(w.header)
	require.NoError(t, err)
	head = append(head, bytes.Repeat([]byte(" "), (8-len(head)%8)%8)...)
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
	return append(append(out, head...), w.data.Bytes()...)
}

// TestWriteModel writes a random model of the default's full shape to AFTERIMAGE_WRITE_MODEL, for timing without trained weights; with
// AFTERIMAGE_WRITE_RECALL=1 it has a learned memory.
func TestWriteModel(t *testing.T) {
	dir := os.Getenv("AFTERIMAGE_WRITE_MODEL")
	if dir == "" {
		t.Skip("set AFTERIMAGE_WRITE_MODEL to a directory")
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	writeRandomModel(t, dir, 6, 8)
	if os.Getenv("AFTERIMAGE_WRITE_RECALL") != "" {
		addRandomRecall(t, dir)
	}
}
