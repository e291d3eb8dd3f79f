package qa

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"
	"testing/fstest"
	"time"

	"github.com/maruel/safetensors"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
	"afterimage/llm"
	"afterimage/memorybank"
)

// recallDir is a model directory with a small learned memory of random weights.
func recallDir(t *testing.T, hidden int) fstest.MapFS {
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		return b
	}
	memory := read("../llm/testdata/memory_golden.safetensors")
	f, err := safetensors.Parse(memory)
	require.NoError(t, err)
	const vocab = 1088
	rng, table := rand.New(rand.NewPCG(1, 1)), []byte(nil)
	for range vocab * hidden {
		table = binary.LittleEndian.AppendUint32(table, math.Float32bits(float32(rng.NormFloat64())))
	}
	model := safetensors.File{Tensors: []safetensors.Tensor{{Name: "model.embed_tokens.weight", DType: safetensors.F32, Shape: []uint64{vocab, uint64(hidden)}, Data: table}}}
	var out bytes.Buffer
	require.NoError(t, model.Serialize(&out))
	config := fmt.Sprintf(`{"model_type": "llama", "hidden_size": %d, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8,
		"vocab_size": %d, "max_position_embeddings": 64, "tie_word_embeddings": true, "memory_config": %s}`, hidden, vocab, f.Metadata["memory_config"])
	return fstest.MapFS{"config.json": {Data: []byte(config)}, "tokenizer.json": {Data: read("../models/default/tokenizer.json")},
		"model.safetensors": {Data: out.Bytes()}, llm.RecallFile: {Data: memory}}
}

// The learned memories on the model that they are for: what fills the bank, what a question selects, and what the prompt shows of it.
func TestLearnedMemories(t *testing.T) {
	const hidden = 32
	dev := computetest.Open()
	defer dev.Close()
	recall, err := llm.LoadRecall(recallDir(t, hidden), dev)
	require.NoError(t, err)
	defer func() { require.NoError(t, recall.Close()) }()
	failed := func(err error) { t.Error(err) }
	query, err := recall.Query("When did the red car pass?")
	require.NoError(t, err)

	for _, s := range []memorybank.Strategy{
		memorybank.Propagated{Encoder: recall, Frames: recall.Config.ClipFrames, Failed: failed},
		memorybank.Bridge{Encoder: recall, Segmenter: memorybank.Clips{N: 8}, Failed: failed},
	} {
		bank := memorybank.New(time.Date(2026, 3, 1, 9, 59, 50, 0, time.UTC), s)
		rng := rand.New(rand.NewPCG(2, 2))
		for i := range 85 {
			m := compute.NewMatrix(32, hidden)
			for j := range m.Data {
				m.Data[j] = float32(rng.NormFloat64())
			}
			point, err := recall.Indicate(m)
			require.NoError(t, err)
			bank.Add(memorybank.Entry{At: time.Duration(i) * time.Second / 2, Grid: memorybank.Grid{H: 4, W: 8}, Tokens: m, Indicator: memorybank.NewIndicator(point)})
		}
		snap := bank.Snapshot()
		best, most := time.Duration(-1), -1.0
		for _, e := range snap.Entries[:10] { // ten clips of eight frames; five frames wait
			require.Equal(t, 4*time.Second-time.Second/2, e.End-e.Start)
			if c := e.Indicator.Cosine(query); c > most {
				best, most = e.Start, c
			}
		}
		shown := snap.Select(query, 100)
		require.Equal(t, memorybank.Newest, shown[len(shown)-1].Role)
		require.Equal(t, best, shown[0].Start, "of the clips one fits: the nearest to the question")
		rows := 0
		for _, e := range shown {
			rows += e.Tokens.Rows
		}
		require.LessOrEqual(t, rows, 100)
		prompt, err := Reading{}.Prompt(t.Context(), snap, shown, "When?", epoch)
		require.NoError(t, err)
		require.Equal(t, snap.Wall(best).Format("150405"), prompt[2].Text)
	}
}
