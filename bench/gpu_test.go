//go:build cuda && cgo

package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/encoder"
	"afterimage/ingest"
	"afterimage/ingest/simcam"
	"afterimage/internal/compute"
	"afterimage/internal/compute/cpu"
	"afterimage/internal/compute/cuda"
	"afterimage/llm"
	"afterimage/memorybank"
)

// chorus has every question answered by several engines, greedily; the first one's answer counts.
type chorus struct {
	names   []string
	engines []*llm.Engine

	mu     sync.Mutex
	asked  int
	same   []int // answers that are the first engine's, token by token
	tokens []int // generated before the first difference
	found  []string
}

func (c *chorus) Generate(ctx context.Context, p llm.Prompt, o llm.Options, emit func(llm.Token) error) (llm.Stats, error) {
	var first []int32
	var stats llm.Stats
	for i, e := range c.engines {
		var ids []int32
		var text strings.Builder
		s, err := e.Generate(ctx, p, o, func(t llm.Token) error {
			ids = append(ids, t.ID)
			text.WriteString(t.Text)
			if i == 0 {
				return emit(t)
			}
			return nil
		})
		if err != nil {
			return s, fmt.Errorf("%s: %w", c.names[i], err)
		}
		if i == 0 {
			first, stats = ids, s
		}
		agree := 0
		for agree < min(len(ids), len(first)) && ids[agree] == first[agree] {
			agree++
		}
		c.mu.Lock()
		c.tokens[i] += agree
		if slices.Equal(ids, first) {
			c.same[i]++
		} else {
			c.found = append(c.found, fmt.Sprintf("%s: token %d of %d: %q", c.names[i], agree, len(first), text.String()))
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	c.asked++
	c.mu.Unlock()
	return stats, nil
}

// Two hundred questions about twenty streams that no model was trained on are answered with the CPU's tokens.
func TestAnswersOnGPU(t *testing.T) {
	if n, err := cuda.Count(); err != nil || n == 0 {
		t.Skipf("no CUDA device: %d, %v", n, err)
	}
	fsys := os.DirFS("../models/default") // not the embedded one, so that the test's binary stays small
	cpus, err := cpu.Open(0, "")
	require.NoError(t, err)
	gpu, err := cuda.Open(0)
	require.NoError(t, err)
	c := &chorus{}
	twins := []*compute.Twin{{Device: gpu, As: compute.I8}, {Device: gpu, As: compute.I4}}
	for _, v := range []struct {
		name string
		dev  compute.Device
		as   compute.DType
	}{
		{"cpu f32", cpus, compute.F32}, {"cuda f32", gpu, compute.F32}, {"cpu bf16", cpus, compute.BF16}, {"cuda bf16", gpu, compute.BF16},
		{"cuda int8", gpu, compute.I8}, {"cuda int4", gpu, compute.I4}, {"as int8", twins[0], compute.BF16}, {"as int4", twins[1], compute.BF16},
	} {
		e, err := llm.LoadFS(fsys, v.dev, v.as, nil)
		require.NoError(t, err, v.name)
		defer func() { assert.NoError(t, e.Close()) }()
		c.names, c.engines = append(c.names, v.name), append(c.engines, e)
	}
	c.same, c.tokens = make([]int, len(c.names)), make([]int, len(c.names))
	enc, err := encoder.LoadFS(fsys, cpus, compute.F32)
	require.NoError(t, err)
	defer func() { assert.NoError(t, enc.Close()) }()

	var seeds []uint64
	for s := range uint64(20) {
		seeds = append(seeds, 900_000+s)
	}
	rig := Rig{Encoder: enc, Model: c, Strategy: func() memorybank.Strategy { return memorybank.Flash{} }}
	report, err := Sim(t.Context(), rig, SimOptions{
		Seeds: seeds, Length: time.Minute, PerMinute: 10,
		Camera: func(_ context.Context, seed uint64, length time.Duration, epoch time.Time) (ingest.Source, error) {
			return simcam.Open(simcam.CameraOptions{Seed: seed, Length: length, Epoch: epoch})
		},
	})
	require.NoError(t, err)
	t.Logf("%d questions, %d asked of the models, closed ones right: %+v", report.Questions, c.asked, report.Closed)
	for i, name := range c.names {
		t.Logf("%-9s: the same tokens for %d of %d; %d tokens of %d before the first difference", name, c.same[i], c.asked, c.tokens[i], c.tokens[0])
	}
	for _, w := range twins {
		l := w.Likeness()
		t.Logf("%v beside bf16: %d tokens, the same most probable one for %.2f %%, KL %.5f nats, at most %.3f", w.As, l.Tokens, 100*l.Agree, l.KL, l.MaxKL)
		assert.Positive(t, l.Tokens)
	}
	for _, line := range c.found[:min(len(c.found), 12)] {
		t.Log(line)
	}
	assert.Equal(t, c.asked, c.same[1], "float32 on both")
	assert.GreaterOrEqual(t, c.same[3], c.asked*97/100, "bfloat16 on the GPU")
}
