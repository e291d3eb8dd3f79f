//go:build cuda

package encoder

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/internal/compute/cuda"
	"afterimage/internal/weights"
)

// addCUDA adds the first GPU, if there is one.
var _ = func() bool {
	if n, err := cuda.Count(); err != nil || n == 0 {
		return false
	}
	devices["cuda"] = func() (compute.Device, error) { return cuda.Open(0) }
	return true
}()

const clipL = `{"model_type":"clip_vision_model","hidden_size":1024,"intermediate_size":4096,"num_hidden_layers":24,"num_attention_heads":16,
"image_size":224,"patch_size":14,"hidden_act":"quick_gelu","layer_norm_eps":1e-5}`

// BenchmarkCLIP is ViT-L/14 at 224, with random weights: the tower alone, and all the way from pictures to rows on the host.
func BenchmarkCLIP(b *testing.B) {
	if devices["cuda"] == nil {
		b.Skip("no CUDA device")
	}
	dev, err := devices["cuda"]()
	require.NoError(b, err)
	defer dev.Close()
	e, err := LoadFS(weights.Random{Config: []byte(clipL)}, dev, compute.BF16)
	require.NoError(b, err)
	defer e.Close()
	for _, n := range []int{1, 8, wideBatch} {
		b.Run(fmt.Sprintf("tower/%d", n), func(b *testing.B) {
			for b.Loop() {
				spent, err := e.TowerTime(context.Background(), n, 10)
				require.NoError(b, err)
				b.ReportMetric(float64(n)/spent.Seconds(), "frames/s")
			}
		})
		b.Run(fmt.Sprintf("encode/%d", n), func(b *testing.B) {
			frames := slices.Repeat([]ingest.Frame{randomFrame(224, 224)}, n)
			for b.Loop() {
				_, err := e.Encode(context.Background(), frames...)
				require.NoError(b, err)
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "frames/s")
		})
	}
}
