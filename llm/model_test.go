package llm

import (
	"context"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
	"afterimage/internal/weights"
)

// devices are what goldens are compared on; other files of this test add those that need a C compiler.
var devices = map[string]func() (compute.Device, error){
	"reference": func() (compute.Device, error) { return computetest.Open(), nil },
}

// onDevices runs a test on every device.
func onDevices(t *testing.T, test func(t *testing.T, dev compute.Device)) {
	for name, open := range devices {
		t.Run(name, func(t *testing.T) {
			dev, err := open()
			require.NoError(t, err)
			defer dev.Close()
			test(t, dev)
		})
	}
}

func testModel(t *testing.T, dir string, dev compute.Device, as compute.DType) *model {
	fsys := os.DirFS("testdata/" + dir)
	c, err := ReadConfig(fsys)
	require.NoError(t, err)
	ck, err := weights.Open(fsys)
	require.NoError(t, err)
	defer ck.Close()
	m, err := newModel(context.Background(), c, ck, dev, as)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, m.close()) })
	return m
}

type golden struct {
	ids, greedy []int32
	logits      compute.Matrix
}

const goldenLength, goldenPrompt, goldenNew = 33, 5, 16

func readGolden(t *testing.T, dir string, vocab int) golden {
	ck, err := weights.Open(os.DirFS("testdata/" + dir + "/golden"))
	require.NoError(t, err)
	defer ck.Close()
	var g golden
	g.logits, err = ck.Matrix("logits", goldenLength, vocab)
	require.NoError(t, err)
	g.ids, g.greedy = tokens(t, ck, "ids", goldenLength), tokens(t, ck, "greedy", goldenNew)
	return g
}

func tokens(t *testing.T, ck *weights.Checkpoint, name string, n int) []int32 {
	f, err := ck.Floats(name, n)
	require.NoError(t, err)
	ids := make([]int32, n)
	for i, v := range f {
		ids[i] = int32(v)
	}
	return ids
}

// worst is the largest difference relative to the largest reference value.
func worst(t *testing.T, want, have []float32) float64 {
	require.Equal(t, len(want), len(have))
	var diff, scale float64
	for i := range want {
		diff = max(diff, math.Abs(float64(want[i])-float64(have[i])))
		scale = max(scale, math.Abs(float64(want[i])))
	}
	require.False(t, math.IsNaN(diff))
	return diff / scale
}

func step(t *testing.T, m *model, ids []int32, past, want int) []float32 {
	out, err := m.forward(context.Background(), []span{{ids: ids}}, past, want)
	require.NoError(t, err)
	return append([]float32(nil), out.Data...)
}

// tolerances are relative to the largest logit; the tiny models' weights are large, so rounding shows more than in trained ones.
var tolerances = map[compute.DType]float64{compute.F32: 2e-5, compute.BF16: 4e-2, compute.I8: 3e-1}

func TestGoldenLogits(t *testing.T) {
	for _, dir := range []string{"llama", "llama3", "qwen2"} {
		t.Run(dir, func(t *testing.T) {
			onDevices(t, func(t *testing.T, dev compute.Device) {
				for as, tolerance := range tolerances {
					m := testModel(t, dir, dev, as)
					g := readGolden(t, dir, m.c.Vocab)
					row := func(i int) []float32 { return g.logits.Row(i) }

					// The last rows of one pass, at odd lengths.
					for _, n := range []int{1, 7, goldenLength} {
						have := step(t, m, g.ids[:n], 0, min(n, 3))
						for i := range min(n, 3) {
							assert.LessOrEqual(t, worst(t, row(n-min(n, 3)+i), have[i*m.c.Vocab:(i+1)*m.c.Vocab]), tolerance, "%v, %d tokens", as, n)
						}
					}
					whole := step(t, m, g.ids, 0, 1)

					// Token by token, then in odd chunks.
					var last []float32
					for i := range g.ids {
						last = step(t, m, g.ids[i:i+1], i, 1)
						assert.LessOrEqual(t, worst(t, row(i), last), tolerance, "%v, token %d alone", as, i)
					}
					assert.LessOrEqual(t, worst(t, whole, last), tolerance)
					for at, n := 0, 1; at < goldenLength; at, n = at+n, n+2 {
						to := min(at+n, goldenLength)
						want := 0
						if to == goldenLength {
							want = 1
						}
						last = step(t, m, g.ids[at:to], at, want)
					}
					assert.LessOrEqual(t, worst(t, row(goldenLength-1), last), tolerance)
				}
			})
		})
	}
}

func TestGoldenGreedy(t *testing.T) {
	for _, dir := range []string{"llama", "llama3", "qwen2"} {
		t.Run(dir, func(t *testing.T) {
			onDevices(t, func(t *testing.T, dev compute.Device) {
				m := testModel(t, dir, dev, compute.F32)
				g := readGolden(t, dir, m.c.Vocab)
				next := argmax(step(t, m, g.ids[:goldenPrompt], 0, 1))
				for i, want := range g.greedy {
					require.Equal(t, want, next, "token %d", i)
					next = argmax(step(t, m, []int32{next}, goldenPrompt+i, 1))
				}
			})
		})
	}
}

// idle is a device that computes nothing, to count what the forward pass itself allocates.
type idle struct{ compute.Device }

type idleOps struct{ compute.Ops }

func (idle) Run(_ context.Context, fn func(compute.Ops)) error { fn(idleOps{}); return nil }

func (idleOps) Upload(compute.Tensor, compute.Matrix)                              {}
func (idleOps) Download(compute.Matrix, compute.Tensor)                            {}
func (idleOps) Copy(_, _ compute.Tensor)                                           {}
func (idleOps) Embed(compute.Tensor, compute.Weight, []int32)                      {}
func (idleOps) Linear(_, _ compute.Tensor, _ compute.Weight, _ compute.LinearArgs) {}
func (idleOps) RMSNorm(_, _, _ compute.Tensor, _ float32)                          {}
func (idleOps) RoPE(compute.Tensor, int, []int32, []float32)                       {}
func (idleOps) Attention(_, _, _, _ compute.Tensor, _ compute.AttentionArgs)       {}
func (idleOps) SwiGLU(_, _ compute.Tensor)                                         {}

func TestForwardAllocatesNothing(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	m := testModel(t, "llama", dev, compute.F32)
	m.dev = idle{dev}
	e := newEngine(m, nil, nil, nil)
	ids := []int32{1, 2, 3}
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		_, err := e.verify(context.Background(), ids)
		if err != nil {
			t.Fatal(err)
		}
		e.keep(0)
	}))
}

// TestVerifyBits is what makes speculation exact beyond near ties: a row verified among drafts has the bits it has alone.
func TestVerifyBits(t *testing.T) {
	onDevices(t, func(t *testing.T, dev compute.Device) {
		for as := range tolerances {
			m := testModel(t, "llama", dev, as)
			g := readGolden(t, "llama", m.c.Vocab)
			for _, past := range []int{1, 16, goldenLength - maxDraft - 1} {
				step(t, m, g.ids[:past], 0, 0)
				var alone []float32
				for i := range maxDraft + 1 {
					alone = append(alone, step(t, m, g.ids[past+i:past+i+1], past+i, 1)...)
				}
				for n := 1; n <= maxDraft+1; n++ {
					together := step(t, m, g.ids[past:past+n], past, n)
					require.Equal(t, alone[:len(together)], together, "%v: %d rows after %d", as, n, past)
				}
			}
		}
	})
}
