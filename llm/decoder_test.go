package llm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

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

// best is the fastest of them.
var best = "reference"

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

func testDecoder(t testing.TB, fsys fs.FS, dev compute.Device, as compute.DType) *bare {
	c, err := ReadConfig(fsys)
	require.NoError(t, err)
	ck, err := weights.Open(fsys)
	require.NoError(t, err)
	defer ck.Close()
	d, err := newOpsDecoder(context.Background(), dev, c.decoder(as, 0), newCheckpoint(c, ck))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	return &bare{Decoder: d, c: c, pages: allPages(d)}
}

// bare is a decoder of one sequence, whose pages lie backwards.
type bare struct {
	compute.Decoder
	c     *Config
	pages []int32
}

func allPages(d compute.Decoder) []int32 {
	var pages []int32
	for p := d.Limits().Pages - 1; p >= 0; p-- {
		pages = append(pages, int32(p))
	}
	return pages
}

// forward runs rows after past and returns the logits of the last want of them.
func (b *bare) forward(t testing.TB, in []compute.Input, past, want int) compute.Matrix {
	out := compute.NewMatrix(want, b.c.Vocab)
	seg := compute.Segment{Inputs: in, Past: past, Pages: b.pages, Draws: make([]compute.Draw, want), Drawn: make([]int32, want), Logits: &out}
	require.NoError(t, b.Forward(context.Background(), []compute.Segment{seg}))
	for i, id := range seg.Drawn {
		require.Equal(t, argmax(out.Row(i)), id)
	}
	return out
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

func step(t *testing.T, m *bare, ids []int32, past, want int) []float32 {
	return m.forward(t, []compute.Input{{IDs: ids}}, past, want).Data
}

// tolerances are relative to the largest logit; the tiny models' weights are large, so rounding shows more than in trained ones. A GPU
// holds the residual stream as bfloat16 too, which in rows of 36 averages out least.
var tolerances = map[compute.DType]float64{compute.F32: 2e-5, compute.BF16: 5e-2, compute.I8: 3e-1}

// types are all that weights are held as.
var types = []compute.DType{compute.F32, compute.BF16, compute.I8, compute.I4}

func TestGoldenLogits(t *testing.T) {
	for _, dir := range []string{"llama", "llama3", "qwen2", "phi3"} {
		t.Run(dir, func(t *testing.T) {
			onDevices(t, func(t *testing.T, dev compute.Device) {
				for as, tolerance := range tolerances {
					m := testDecoder(t, os.DirFS("testdata/"+dir), dev, as)
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
	for _, dir := range []string{"llama", "llama3", "qwen2", "phi3"} {
		t.Run(dir, func(t *testing.T) {
			onDevices(t, func(t *testing.T, dev compute.Device) {
				m := testDecoder(t, os.DirFS("testdata/"+dir), dev, compute.F32)
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
func (idleOps) Rotate(_, _ compute.Tensor, _ int)                                  {}
func (idleOps) Attention(_, _, _, _ compute.Tensor, _ compute.AttentionArgs)       {}
func (idleOps) SwiGLU(_, _ compute.Tensor)                                         {}

func TestForwardAllocatesNothing(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	for _, dir := range turning {
		m := testDecoder(t, os.DirFS(dir), dev, compute.F32)
		m.Decoder.(*opsDecoder).dev = idle{dev}
		one := compute.Segment{Inputs: []compute.Input{{IDs: []int32{1, 2, 3}}}, Pages: m.pages, Draws: make([]compute.Draw, 3), Drawn: make([]int32, 3)}
		two := one
		two.Past, two.Draws = 9, one.Draws[:1]
		if m.c.axes() == 3 {
			two.Positions = [][3]int32{{9, 1, 2}, {9, 1, 3}, {12, 12, 12}}
		}
		pass := []compute.Segment{one, two}
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			if err := m.Forward(context.Background(), pass); err != nil {
				t.Fatal(err)
			}
		}), dir)
	}
}

// turning are checkpoints whose rows turn by RoPE, by positions of three axes, and by a factor.
var turning = []string{"testdata/llama", goldenFamilies + "/qwen2vl", goldenFamilies + "/videochat"}

// TestVerifyBits is what makes speculation exact beyond near ties: a row verified among drafts has the bits it has alone.
func TestVerifyBits(t *testing.T) {
	onDevices(t, func(t *testing.T, dev compute.Device) {
		for _, dir := range turning {
			for _, as := range types {
				m := testDecoder(t, os.DirFS(dir), dev, as)
				s := &sequence{axes: m.c.axes()}
				s.text(ramp(1, 9))
				require.NoError(t, s.image(Part{Visual: noise(12, m.c.Hidden), Grid: Grid{2, 2, 3}}))
				s.text(ramp(2, 12))
				for _, past := range []int{1, 7, 16, len(s.keys) - opsStepRows} {
					m.rows(t, s, 0, past, 0)
					var alone []float32
					for i := range opsStepRows {
						alone = append(alone, m.rows(t, s, past+i, past+i+1, 1).Data...)
					}
					for n := 1; n <= opsStepRows; n++ {
						together := m.rows(t, s, past, past+n, n).Data
						require.Equal(t, alone[:len(together)], together, "%s, %v: %d rows after %d", dir, as, n, past)
					}
				}
			}
		}
	})
}

// TestCompanyChangesNoBit runs rows of several sequences in one pass: each has the bits it has alone, wherever its pages lie.
func TestCompanyChangesNoBit(t *testing.T) {
	onDevices(t, func(t *testing.T, dev compute.Device) {
		for _, as := range types {
			m := testDecoder(t, os.DirFS("testdata/llama"), dev, as)
			g := readGolden(t, "llama", m.c.Vocab)
			lone := testDecoder(t, os.DirFS("testdata/llama"), dev, as)
			var pass []compute.Segment
			var alone []compute.Matrix
			for i, s := range []struct{ past, rows, want int }{{9, 1, 1}, {0, 3, 1}, {17, 2, 2}, {3, 2, 0}} {
				ids := g.ids[i : i+s.past+s.rows]
				seg := compute.Segment{Inputs: []compute.Input{{IDs: ids[s.past:]}}, Past: s.past, Pages: m.pages[i : i+1], Draws: make([]compute.Draw, s.want), Drawn: make([]int32, s.want)}
				logits := compute.NewMatrix(s.want, m.c.Vocab)
				seg.Logits = &logits
				if s.past > 0 {
					for _, d := range []*bare{{m.Decoder, m.c, seg.Pages}, lone} {
						step(t, d, ids[:s.past], 0, 0)
					}
				}
				alone = append(alone, lone.forward(t, seg.Inputs, s.past, s.want))
				pass = append(pass, seg)
			}
			require.NoError(t, m.Forward(context.Background(), pass))
			for i := range pass {
				require.Equal(t, alone[i].Data, pass[i].Logits.Data, "%v: segment %d", as, i)
			}

			// A copied page goes on like the original.
			require.NoError(t, m.CopyPages(context.Background(), []int32{m.pages[5]}, []int32{m.pages[2]}))
			again := bare{m.Decoder, m.c, m.pages[5:6]}
			require.Equal(t, alone[2].Data, again.forward(t, pass[2].Inputs, 17, 2).Data, "%v: copied", as)
		}
	})
}

func TestForwardRefuses(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	m := testDecoder(t, os.DirFS("testdata/llama"), dev, compute.F32)
	ids := []compute.Input{{IDs: []int32{1, 2}}}
	for want, seg := range map[string]compute.Segment{
		"trees":        {Inputs: ids, Pages: m.pages, Parents: []int32{-1, -1}},
		"in 0 pages":   {Inputs: ids},
		"0 rows":       {Pages: m.pages},
		"2 draws to 1": {Inputs: ids, Pages: m.pages, Draws: make([]compute.Draw, 2), Drawn: make([]int32, 1)},
		"600 rows":     {Inputs: []compute.Input{{IDs: make([]int32, 600)}}, Pages: append(append([]int32(nil), m.pages...), make([]int32, 20)...)},
	} {
		assert.ErrorContains(t, m.Forward(context.Background(), []compute.Segment{seg}), want)
	}
}

// TestFusedCheckpoint: Phi-3 is Llama with its matrices stacked already.
func TestFusedCheckpoint(t *testing.T) {
	dev := computetest.Open()
	defer dev.Close()
	llama := testDecoder(t, os.DirFS("testdata/llama"), dev, compute.F32)
	phi := testDecoder(t, fused(t, "testdata/llama"), dev, compute.F32)
	assert.Equal(t, phi3Layout(), phi.c.names)
	g := readGolden(t, "llama", llama.c.Vocab)
	assert.Equal(t, step(t, llama, g.ids, 0, 3), step(t, phi, g.ids, 0, 3))
}

// fused is a model directory's decoder as Phi-3 would hold it.
func fused(t *testing.T, dir string) fstest.MapFS {
	fsys := os.DirFS(dir)
	c, err := ReadConfig(fsys)
	require.NoError(t, err)
	ck, err := weights.Open(fsys)
	require.NoError(t, err)
	defer ck.Close()
	config := strings.Replace(string(must(fs.ReadFile(fsys, "config.json"))), `"model_type": "llama"`, `"model_type": "phi3"`, 1)
	from := newCheckpoint(c, ck)
	tensors := map[string]compute.Matrix{}
	put := func(name string, part compute.DecoderPart, layer int) {
		m, err := from.Part(part, layer)
		require.NoError(t, err)
		m.Data = slices.Clone(m.Data)
		tensors[name] = m
	}
	put("model.embed_tokens.weight", compute.PartEmbed, 0)
	put("model.norm.weight", compute.PartNorm, 0)
	put("lm_head.weight", compute.PartHead, 0)
	for i := range c.Layers {
		at := fmt.Sprintf("model.layers.%d.", i)
		put(at+"input_layernorm.weight", compute.PartNorm1, i)
		put(at+"self_attn.qkv_proj.weight", compute.PartQKV, i)
		put(at+"self_attn.o_proj.weight", compute.PartOut, i)
		put(at+"post_attention_layernorm.weight", compute.PartNorm2, i)
		put(at+"mlp.gate_up_proj.weight", compute.PartGateUp, i)
		put(at+"mlp.down_proj.weight", compute.PartDown, i)
	}
	return fstest.MapFS{"config.json": {Data: []byte(config)}, "model.safetensors": {Data: safetensors(t, tensors)}}
}

// safetensors is a checkpoint file; a matrix of one row is a vector.
func safetensors(t *testing.T, tensors map[string]compute.Matrix) []byte {
	header, data := map[string]any{}, []byte(nil)
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		m := tensors[name]
		shape := []int{m.Rows, m.Cols}
		if m.Rows == 1 {
			shape = shape[1:]
		}
		from := len(data)
		for _, v := range m.Data {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
		header[name] = map[string]any{"dtype": "F32", "shape": shape, "data_offsets": []int{from, len(data)}}
	}
	head, err := json.Marshal(header)
	require.NoError(t, err)
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...), data...)
}
