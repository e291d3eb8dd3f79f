package cpu_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/compute/cpu"
)

// each runs a benchmark on every level the machine has, on one and on two threads.
func each(b *testing.B, name string, run func(b *testing.B, d compute.Device)) {
	for _, level := range cpu.Levels() {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/%s/x%d", name, level, threads), func(b *testing.B) {
				d, err := cpu.Open(threads, level)
				require.NoError(b, err)
				defer func() { require.NoError(b, d.Close()) }()
				run(b, d)
			})
		}
	}
}

func tensor(b *testing.B, d compute.Device, rows, cols int) compute.Tensor {
	a, err := d.NewArena(compute.AllocBytes(rows, cols))
	require.NoError(b, err)
	t, err := a.Alloc(rows, cols)
	require.NoError(b, err)
	m := compute.NewMatrix(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(i*7919%1000)/500 - 1
	}
	require.NoError(b, d.Run(b.Context(), func(o compute.Ops) { o.Upload(t, m) }))
	return t
}

// processorTime is what this process has used of its processors.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// loop times b.N calls and reports what one call does per nanosecond, in each unit, and the processor time of a call: on a machine that is
// shared, and with one thread, the figure to compare.
func loop(b *testing.B, d compute.Device, rates map[string]float64, call func(o compute.Ops)) {
	require.NoError(b, d.Run(b.Context(), func(o compute.Ops) {
		call(o)
		before := processorTime(b)
		b.ResetTimer()
		for range b.N {
			call(o)
		}
		b.StopTimer()
		b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
	}))
	for unit, n := range rates {
		b.ReportMetric(n*float64(b.N)/float64(b.Elapsed().Nanoseconds()), unit)
	}
}

func BenchmarkLinear(b *testing.B) {
	for _, s := range []struct {
		name          string
		rows, in, out int
	}{
		{"prefill", 1024, 384, 1024}, {"prefill-down", 1024, 1024, 384}, {"encode8", 1024, 256, 1024}, {"encode1", 128, 256, 768},
		{"decode", 1, 384, 1024}, {"head", 1, 384, 2048}, {"verify", 5, 384, 2048}, {"big", 1, 2048, 8192},
		{"vit-up", 1024, 768, 3072}, {"vit-down", 1024, 3072, 768}, // SigLIP-B/16 at 512 pixels
		{"smol-up", 512, 576, 3072}, {"smol-question", 16, 576, 3072}, {"smol-head", 1, 576, 49280}, // the decoder of SmolVLM2-256M
	} {
		for _, as := range []compute.DType{compute.F32, compute.BF16, compute.I8, compute.I4} {
			each(b, fmt.Sprintf("%s/%v", s.name, as), func(b *testing.B, d compute.Device) {
				x, y := tensor(b, d, s.rows, s.in), tensor(b, d, s.rows, s.out)
				m := compute.NewMatrix(s.out, s.in)
				for i := range m.Data {
					m.Data[i] = float32(i*7919%1000)/5000 - 0.1
				}
				w, err := d.NewWeight(m, as)
				require.NoError(b, err)
				size := float64(s.in * s.out)
				rates := map[string]float64{"GFLOP/s": 2 * size * float64(s.rows)}
				if s.rows <= 8 {
					rates["GB/s"] = size * []float64{4, 2, 1, .5}[as]
				}
				loop(b, d, rates, func(o compute.Ops) { o.Linear(y, x, w, compute.LinearArgs{}) })
			})
		}
	}
}

func BenchmarkAttention(b *testing.B) {
	for _, s := range []struct {
		name string
		n    int
		args compute.AttentionArgs
		keys int
	}{
		{"prefill", 1024, compute.AttentionArgs{Heads: 6, KVHeads: 2, HeadDim: 64, Causal: true}, 1024},
		{"decode", 1, compute.AttentionArgs{Heads: 6, KVHeads: 2, HeadDim: 64, Causal: true, Past: 1023}, 1024},
		{"encode", 1024, compute.AttentionArgs{Heads: 4, KVHeads: 4, HeadDim: 64, Segment: 128}, 1024},
		{"vit", 1024, compute.AttentionArgs{Heads: 12, KVHeads: 12, HeadDim: 64, Segment: 1024}, 1024},
		{"vit-rounded", 1024, compute.AttentionArgs{Heads: 12, KVHeads: 12, HeadDim: 64, Segment: 1024, Rounded: true}, 1024},
		{"smol-prefill", 512, compute.AttentionArgs{Heads: 9, KVHeads: 3, HeadDim: 64, Causal: true, Past: 512}, 1024},
		{"smol-rounded", 512, compute.AttentionArgs{Heads: 9, KVHeads: 3, HeadDim: 64, Causal: true, Past: 512, Rounded: true}, 1024},
		{"smol-verify", 5, compute.AttentionArgs{Heads: 9, KVHeads: 3, HeadDim: 64, Causal: true, Past: 1095}, 1100},
		{"smol-decode", 1, compute.AttentionArgs{Heads: 9, KVHeads: 3, HeadDim: 64, Causal: true, Past: 1099}, 1100},
	} {
		each(b, s.name, func(b *testing.B, d compute.Device) {
			q, dst := tensor(b, d, s.n, s.args.Heads*64), tensor(b, d, s.n, s.args.Heads*64)
			k, v := tensor(b, d, s.keys, s.args.KVHeads*64), tensor(b, d, s.keys, s.args.KVHeads*64)
			pairs := 0.0 // query-key pairs that count
			for i := range s.n {
				switch {
				case s.args.Causal:
					pairs += float64(s.args.Past + i + 1)
				default:
					pairs += float64(s.args.Segment)
				}
			}
			rates := map[string]float64{"GFLOP/s": pairs * float64(s.args.Heads) * 64 * 4}
			if s.n == 1 {
				rates["GB/s"] = float64(s.keys*s.args.KVHeads) * 64 * 4 * 2
			}
			loop(b, d, rates, func(o compute.Ops) { o.Attention(dst, q, k, v, s.args) })
		})
	}
}

func BenchmarkRows(b *testing.B) {
	const rows, cols = 1100, 384
	ops := []struct {
		name  string
		bytes float64 // an element of dst
		call  func(o compute.Ops, dst, x, wide, w compute.Tensor)
	}{
		{"RMSNorm", 8, func(o compute.Ops, dst, x, _, w compute.Tensor) { o.RMSNorm(dst, x, w, 1e-5) }},
		{"LayerNorm", 8, func(o compute.Ops, dst, x, _, w compute.Tensor) { o.LayerNorm(dst, x, w, w, 1e-5) }},
		{"SwiGLU", 12, func(o compute.Ops, dst, _, wide, _ compute.Tensor) { o.SwiGLU(dst, wide) }},
		{"Add", 12, func(o compute.Ops, dst, x, _, _ compute.Tensor) { o.Add(dst, x) }},
	}
	for _, op := range ops {
		each(b, op.name, func(b *testing.B, d compute.Device) {
			dst, x, wide, w := tensor(b, d, rows, cols), tensor(b, d, rows, cols), tensor(b, d, rows, 2*cols), tensor(b, d, 1, cols)
			loop(b, d, map[string]float64{"GB/s": rows * cols * op.bytes}, func(o compute.Ops) { op.call(o, dst, x, wide, w) })
		})
	}
	each(b, "RoPE", func(b *testing.B, d compute.Device) {
		x, pos, freq := tensor(b, d, rows, cols), make([]int32, rows), make([]float32, 32)
		for i := range pos {
			pos[i] = int32(i)
		}
		loop(b, d, map[string]float64{"GB/s": rows * cols * 8}, func(o compute.Ops) { o.RoPE(x, 64, pos, freq) })
	})
}

// BenchmarkDecode is one token of the default decoder, operation by operation: 8 layers, 1100 keys, int8 or bfloat16 weights.
func BenchmarkDecode(b *testing.B) {
	for _, as := range []compute.DType{compute.BF16, compute.I8} {
		each(b, as.String(), func(b *testing.B, d compute.Device) { benchmarkPass(b, d, as, 1, 1099) })
	}
}

// BenchmarkPrefill is the same over 1100 prompt tokens.
func BenchmarkPrefill(b *testing.B) {
	for _, as := range []compute.DType{compute.BF16, compute.I8} {
		each(b, as.String(), func(b *testing.B, d compute.Device) { benchmarkPass(b, d, as, 1100, 0) })
	}
}

func benchmarkPass(b *testing.B, d compute.Device, as compute.DType, rows, past int) {
	const width, heads, kvHeads, dim, mlp, layers, vocabulary = 384, 6, 2, 64, 1024, 8, 2048
	matrix := func(outs, in int) compute.Weight {
		m := compute.NewMatrix(outs, in)
		for i := range m.Data {
			m.Data[i] = (float32(i*7919%1000)/500 - 1) / 20
		}
		w, err := d.NewWeight(m, as)
		require.NoError(b, err)
		return w
	}
	type layer struct{ qkv, out, gateUp, down compute.Weight }
	var ls []layer
	for range layers {
		ls = append(ls, layer{matrix(width+2*kvHeads*dim, width), matrix(width, width), matrix(2*mlp, width), matrix(width, mlp)})
	}
	head := matrix(vocabulary, width)
	x, h, norm := tensor(b, d, rows, width), tensor(b, d, rows, width), tensor(b, d, 1, width)
	qkv, att := tensor(b, d, rows, width+2*kvHeads*dim), tensor(b, d, rows, width)
	gateUp, up, logits := tensor(b, d, rows, 2*mlp), tensor(b, d, rows, mlp), tensor(b, d, 1, vocabulary)
	k, v := tensor(b, d, past+rows, kvHeads*dim), tensor(b, d, past+rows, kvHeads*dim)
	pos, freq := make([]int32, rows), make([]float32, dim/2)
	for i := range pos {
		pos[i] = int32(past + i)
	}
	args := compute.AttentionArgs{Heads: heads, KVHeads: kvHeads, HeadDim: dim, Causal: true, Past: past}
	loop(b, d, map[string]float64{"passes/s": 1e9}, func(o compute.Ops) {
		for _, l := range ls {
			o.RMSNorm(h, x, norm, 1e-5)
			o.Linear(qkv, h, l.qkv, compute.LinearArgs{})
			o.RoPE(qkv.Columns(0, width+kvHeads*dim), dim, pos, freq)
			o.Copy(k.Slice(past, past+rows), qkv.Columns(width, width+kvHeads*dim))
			o.Copy(v.Slice(past, past+rows), qkv.Columns(width+kvHeads*dim, width+2*kvHeads*dim))
			o.Attention(att, qkv.Columns(0, width), k, v, args)
			o.Linear(x, att, l.out, compute.LinearArgs{Residual: x})
			o.RMSNorm(h, x, norm, 1e-5)
			o.Linear(gateUp, h, l.gateUp, compute.LinearArgs{})
			o.SwiGLU(up, gateUp)
			o.Linear(x, up, l.down, compute.LinearArgs{Residual: x})
		}
		o.RMSNorm(h, x, norm, 1e-5)
		o.Linear(logits, h.Slice(rows-1, rows), head, compute.LinearArgs{})
	})
}

// One layer of the embedded model with a full memory: what telling shares adds to a question, eight times.
func BenchmarkShares(b *testing.B) {
	const keys = 1152
	args := compute.ShareArgs{Heads: 6, KVHeads: 2, HeadDim: 64, Past: 1105}
	for i := range int32(keys / compute.PageRows) {
		args.Pages = append(args.Pages, i)
	}
	for i := int32(0); i < 1105; i += 5 {
		args.Bounds = append(args.Bounds, i)
	}
	each(b, "default", func(b *testing.B, d compute.Device) {
		q, k, dst := tensor(b, d, 1, 384), tensor(b, d, keys, 128), tensor(b, d, 1, len(args.Bounds)-1)
		loop(b, d, nil, func(o compute.Ops) { o.(compute.Sharer).Shares(dst, q, k, args) })
	})
}
