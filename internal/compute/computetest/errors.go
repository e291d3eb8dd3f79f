package computetest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// runErrors: each wrong call is an error of Run that names the op and the shapes, and what comes after it does not run.
func runErrors(t *testing.T, dev compute.Device) {
	a, err := dev.NewArena(1 << 16)
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Close()) }()
	alloc := func(rows, cols int) compute.Tensor {
		x, err := a.Alloc(rows, cols)
		require.NoError(t, err)
		return x
	}
	w, err := dev.NewWeight(random(41, 6, 4), compute.BF16)
	require.NoError(t, err)
	foreign, err := Open().NewWeight(random(41, 6, 4), compute.F32)
	require.NoError(t, err)
	x34, x36, x35, row4, row6 := alloc(3, 4), alloc(3, 6), alloc(3, 5), alloc(1, 4), alloc(1, 6)
	none, freq := compute.Tensor{}, []float32{1}
	host := compute.NewMatrix(3, 5)
	heads := compute.AttentionArgs{Heads: 2, KVHeads: 1, HeadDim: 2}
	kv, page := alloc(3, 2), alloc(compute.PageRows, 2)

	cases := []struct {
		name string
		call func(compute.Ops)
		says []string
	}{
		{"upload", func(o compute.Ops) { o.Upload(x34, host) }, []string{"Upload", "[3 4]", "[3 5]"}},
		{"upload short", func(o compute.Ops) { o.Upload(x34, compute.Matrix{Rows: 3, Cols: 4}) }, []string{"Upload", "[3 4]"}},
		{"download", func(o compute.Ops) { o.Download(host, x34) }, []string{"Download", "[3 4]", "[3 5]"}},
		{"copy", func(o compute.Ops) { o.Copy(x34, x36) }, []string{"Copy", "[3 4]", "[3 6]"}},
		{"copy none", func(o compute.Ops) { o.Copy(x34, none) }, []string{"Copy", "src", "none"}},
		{"embed shape", func(o compute.Ops) { o.Embed(x34, w, []int32{1}) }, []string{"Embed", "[3 4]", "1 ids", "[6 4]"}},
		{"embed id", func(o compute.Ops) { o.Embed(x34, w, []int32{0, 5, 6}) }, []string{"Embed", "ids[2]", "6", "[6 4]"}},
		{"embed negative", func(o compute.Ops) { o.Embed(x34, w, []int32{0, -1, 2}) }, []string{"Embed", "ids[1]", "-1"}},
		{"linear in", func(o compute.Ops) { o.Linear(x36, x35, w, compute.LinearArgs{}) }, []string{"Linear", "[3 5]", "[6 4]"}},
		{"linear out", func(o compute.Ops) { o.Linear(x35, x34, w, compute.LinearArgs{}) }, []string{"Linear", "[3 5]", "[3 4]", "[6 4]"}},
		{"linear bias", func(o compute.Ops) { o.Linear(x36, x34, w, compute.LinearArgs{Bias: row4}) }, []string{"Linear", "bias [1 4]", "[3 6]"}},
		{"linear residual", func(o compute.Ops) { o.Linear(x36, x34, w, compute.LinearArgs{Residual: x34}) }, []string{"Linear", "residual [3 4]", "[3 6]"}},
		{"linear none", func(o compute.Ops) { o.Linear(x36, none, w, compute.LinearArgs{}) }, []string{"Linear", "x is none"}},
		{"linear no weight", func(o compute.Ops) { o.Linear(x36, x34, nil, compute.LinearArgs{}) }, []string{"Linear", "w is none"}},
		{"linear act", func(o compute.Ops) { o.Linear(x36, x34, w, compute.LinearArgs{Act: 9}) }, []string{"Linear", "activation 9"}},
		{"rmsnorm", func(o compute.Ops) { o.RMSNorm(x34, x36, row4, 0) }, []string{"RMSNorm", "[3 4]", "[3 6]"}},
		{"rmsnorm w", func(o compute.Ops) { o.RMSNorm(x34, x34, row6, 0) }, []string{"RMSNorm", "w [1 6]", "[3 4]"}},
		{"layernorm b", func(o compute.Ops) { o.LayerNorm(x34, x34, row4, row6, 0) }, []string{"LayerNorm", "b [1 6]", "[3 4]"}},
		{"rope heads", func(o compute.Ops) { o.RoPE(x35, 2, []int32{0, 1, 2}, freq) }, []string{"RoPE", "[3 5]"}},
		{"rope positions", func(o compute.Ops) { o.RoPE(x34, 2, []int32{0, 1}, freq) }, []string{"RoPE", "2 positions", "[3 4]"}},
		{"rope frequencies", func(o compute.Ops) { o.RoPE(x34, 4, []int32{0, 1, 2}, freq) }, []string{"RoPE", "1 frequencies", "[3 4]"}},
		{"linear scale", func(o compute.Ops) { o.Linear(x36, x34, w, compute.LinearArgs{Scale: row4}) }, []string{"Linear", "scale [1 4]", "[3 6]"}},
		{"rotate heads", func(o compute.Ops) { o.Rotate(x35, row4, 2) }, []string{"Rotate", "[3 5]"}},
		{"rotate table", func(o compute.Ops) { o.Rotate(x34, row4, 2) }, []string{"Rotate", "table [1 4]", "[3 4]"}},
		{"pages, not causal", func(o compute.Ops) {
			o.Attention(x34, x34, page, page, compute.AttentionArgs{Heads: 2, KVHeads: 1, HeadDim: 2, Pages: []int32{0}})
		}, []string{"Attention", "pages without causal"}},
		{"pages of a part", func(o compute.Ops) {
			o.Attention(x34, x34, kv, kv, compute.AttentionArgs{Heads: 2, KVHeads: 1, HeadDim: 2, Causal: true, Pages: []int32{0}})
		}, []string{"Attention", "[3 2]", "pages of 64"}},
		{"too few pages", func(o compute.Ops) {
			o.Attention(x34, x34, page, page, compute.AttentionArgs{Heads: 2, KVHeads: 1, HeadDim: 2, Causal: true, Past: 62, Pages: []int32{0}})
		}, []string{"Attention", "[3 4]", "62 past", "1 pages"}},
		{"no such page", func(o compute.Ops) {
			o.Attention(x34, x34, page, page, compute.AttentionArgs{Heads: 2, KVHeads: 1, HeadDim: 2, Causal: true, Pages: []int32{0, 1}})
		}, []string{"Attention", "page 1 is 1", "has 1"}},
		{"type", func(o compute.Ops) {
			odd := x34
			odd.Type = compute.I8
			o.Copy(odd, x34)
		}, []string{"Copy", "[3 4]", "i8"}},
		{"attention q", func(o compute.Ops) { o.Attention(x36, x36, kv, kv, heads) }, []string{"Attention", "[3 6]", "2 heads of 2"}},
		{"attention k", func(o compute.Ops) { o.Attention(x34, x34, x34, x34, heads) }, []string{"Attention", "[3 4]", "1 heads of 2"}},
		{"attention kv", func(o compute.Ops) { o.Attention(x34, x34, kv, x34, heads) }, []string{"Attention", "[3 2]", "[3 4]"}},
		{"attention past", func(o compute.Ops) {
			o.Attention(x34, x34, kv, kv, compute.AttentionArgs{Heads: 2, KVHeads: 1, HeadDim: 2, Causal: true, Past: 1})
		}, []string{"Attention", "[3 4]", "[3 2]"}},
		{"attention segment", func(o compute.Ops) {
			o.Attention(x34, x34, kv, kv, compute.AttentionArgs{Heads: 2, KVHeads: 1, HeadDim: 2, Segment: 2})
		}, []string{"Attention", "segments of 2", "[3 4]"}},
		{"swiglu", func(o compute.Ops) { o.SwiGLU(x34, x36) }, []string{"SwiGLU", "[3 4]", "[3 6]"}},
		{"add", func(o compute.Ops) { o.Add(x34, row6) }, []string{"Add", "[3 4]", "[1 6]"}},
		{"add repeat", func(o compute.Ops) { o.Add(x34, x34.Slice(0, 2)) }, []string{"Add", "[3 4]", "[2 4]"}},
		{"pool", func(o compute.Ops) { o.AvgPool(row4, x34, 3, 1, 2, 1) }, []string{"AvgPool", "2x1", "3x1", "[3 4]"}},
		{"pool dst", func(o compute.Ops) { o.AvgPool(x34, x34, 3, 1, 3, 1) }, []string{"AvgPool", "dst [3 4]", "3x1"}},
		{"weight of another device", func(o compute.Ops) { o.Linear(x36, x34, foreign, compute.LinearArgs{}) }, []string{"Linear", "another device"}},
		{"beyond the arena", func(o compute.Ops) {
			far := x34
			far.Off += 1 << 20
			o.Copy(x34, far)
		}, []string{"Copy", "[3 4]", "arena"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := compute.NewMatrix(1, 4)
			require.NoError(t, dev.Run(t.Context(), func(o compute.Ops) { o.Upload(row4, compute.NewMatrix(1, 4)) }))
			err := dev.Run(t.Context(), func(o compute.Ops) {
				c.call(o)
				o.Upload(row4, random(42, 1, 4)) // must be skipped
				o.SwiGLU(row4, row4)             // must not replace the first error
			})
			require.Error(t, err)
			for _, s := range c.says {
				assert.ErrorContains(t, err, s)
			}
			require.NoError(t, dev.Run(t.Context(), func(o compute.Ops) { o.Download(got, row4) }))
			assert.Equal(t, make([]float32, 4), got.Data, "an op after the failed one ran")
		})
	}

	_, err = dev.NewWeight(compute.Matrix{Rows: 2, Cols: 3, Data: make([]float32, 5)}, compute.F32)
	assert.ErrorContains(t, err, "[2 3]")
	_, err = dev.NewWeight(compute.Matrix{}, compute.F32)
	assert.ErrorContains(t, err, "[0 0]")
	_, err = dev.NewWeight(random(1, 2, 2), compute.DType(7))
	assert.ErrorContains(t, err, "dtype 7")
}

// Lifecycle checks what a Device promises about arenas, turns and closing. open is called for each fresh Device it needs.
func Lifecycle(t *testing.T, open func() compute.Device) {
	t.Helper()
	t.Run("arena", func(t *testing.T) {
		d := open()
		defer func() { require.NoError(t, d.Close()) }()
		a, err := d.NewArena(compute.AllocBytes(3, 5) + 4*4)
		require.NoError(t, err)
		x, err := a.Alloc(3, 5)
		require.NoError(t, err)
		_, err = a.Alloc(1, 5)
		assert.ErrorContains(t, err, "20 bytes")
		assert.ErrorContains(t, err, "16 of")
		y, err := a.Alloc(1, 4) // a refusal takes nothing
		require.NoError(t, err)
		got, row := random(51, 3, 5), random(51, 1, 4)
		require.NoError(t, d.Run(t.Context(), func(o compute.Ops) { o.Download(got, x); o.Download(row, y) }))
		assert.Equal(t, make([]float32, 15), got.Data, "memory is zeroed")
		assert.Equal(t, make([]float32, 4), row.Data, "memory is zeroed")
		_, err = a.Alloc(-1, 4)
		assert.ErrorContains(t, err, "[-1 4]")
		_, err = a.AllocAs(1, 4, compute.I8)
		assert.ErrorContains(t, err, "i8")
		_, err = d.NewArena(-1)
		assert.Error(t, err)

		require.NoError(t, a.Close())
		require.NoError(t, a.Close(), "closing twice is fine")
		_, err = a.Alloc(1, 1)
		assert.ErrorContains(t, err, "closed")
		err = d.Run(t.Context(), func(o compute.Ops) { o.Download(got, x) })
		assert.ErrorContains(t, err, "arena", "a tensor dies with its arena")
	})
	t.Run("turns", func(t *testing.T) {
		d := open()
		inside, leave, done := make(chan struct{}), make(chan struct{}), make(chan error)
		go func() {
			done <- d.Run(context.Background(), func(compute.Ops) { close(inside); <-leave })
		}()
		<-inside
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		err := d.Run(ctx, func(compute.Ops) { t.Error("ran while another run held the device") })
		assert.ErrorIs(t, err, context.DeadlineExceeded)

		closed := make(chan error)
		go func() { closed <- d.Close() }()
		select {
		case <-closed:
			t.Error("Close did not wait for the run")
		case <-time.After(10 * time.Millisecond):
		}
		close(leave)
		require.NoError(t, <-done)
		require.NoError(t, <-closed)
		require.NoError(t, d.Close(), "closing twice is fine")
		err = d.Run(t.Context(), func(compute.Ops) { t.Error("ran on a closed device") })
		assert.ErrorContains(t, err, "closed")
	})
	t.Run("panic gives the turn back", func(t *testing.T) {
		d := open()
		assert.Panics(t, func() { _ = d.Run(t.Context(), func(compute.Ops) { panic("caller's bug") }) })
		require.NoError(t, d.Run(t.Context(), func(compute.Ops) {}))
		require.NoError(t, d.Close())
	})
	t.Run("closing frees what was left open", func(t *testing.T) {
		d := open()
		_, err := d.NewArena(1 << 20)
		require.NoError(t, err)
		_, err = d.NewWeight(random(52, 40, 50), compute.I8)
		require.NoError(t, err)
		require.NoError(t, d.Close())
		_, err = d.NewArena(16)
		assert.ErrorContains(t, err, "closed")
		_, err = d.NewWeight(random(52, 40, 50), compute.I8)
		assert.ErrorContains(t, err, "closed")
	})
}
