//go:build cuda

package cuda

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

func invFreq(headDim int) []float32 {
	f := make([]float32, headDim/2)
	for j := range f {
		f[j] = float32(math.Pow(10000, -2*float64(j)/float64(headDim)))
	}
	return f
}

// testDecoders are shapes of each kind: every head size, widened ones, each sharing of K/V heads, tied and not, with and without bias.
func testDecoders() map[string]compute.DecoderConfig {
	all := everyDecoder()
	if testing.Short() {
		maps.DeleteFunc(all, func(name string, _ compute.DecoderConfig) bool {
			return !slices.Contains([]string{"7/1x128", "3/3x80", "6/2x64", "4/4x96"}, name)
		})
	}
	return all
}

func everyDecoder() map[string]compute.DecoderConfig {
	c := func(hidden, layers, heads, kvHeads, headDim, mlp, vocab int, bias, tied bool) compute.DecoderConfig {
		return compute.DecoderConfig{
			Hidden: hidden, Layers: layers, Heads: heads, KVHeads: kvHeads, HeadDim: headDim, MLP: mlp, Vocab: vocab, Context: 1000,
			Pages: 64, Eps: 1e-5, QKVBias: bias, Tied: tied, InvFreq: invFreq(headDim), Weights: compute.BF16,
		}
	}
	return map[string]compute.DecoderConfig{
		"6/2x64":   c(384, 2, 6, 2, 64, 512, 1088, false, true),
		"7/1x128":  c(896, 2, 7, 1, 128, 1152, 2051, true, false),
		"4/4x96":   c(384, 2, 4, 4, 96, 640, 777, false, false),
		"3/3x80":   c(256, 2, 3, 3, 80, 384, 500, true, true),
		"6/2x6":    c(24, 3, 6, 2, 6, 36, 67, false, false),
		"2/1x72":   c(200, 1, 2, 1, 72, 100, 129, true, true),
		"12/4x40":  c(480, 2, 12, 4, 40, 200, 130, true, false),
		"oneLayer": c(128, 1, 1, 1, 64, 128, 4, false, false),
	}
}

// seq is a sequence on a decoder: its pages lie anywhere.
type seq struct {
	m     compute.Decoder
	pages []int32
	past  int
}

// newSeqs deals all pages of m out, in random order.
func newSeqs(m compute.Decoder, n int, rng *rand.Rand) []*seq {
	order := rng.Perm(m.Limits().Pages)
	out := make([]*seq, n)
	for i := range out {
		out[i] = &seq{m: m}
		for _, p := range order[i*len(order)/n : (i+1)*len(order)/n] {
			out[i].pages = append(out[i].pages, int32(p))
		}
	}
	return out
}

// segment is the next rows of the sequence, all of their logits wanted.
func (q *seq) segment(vocab int, in ...compute.Input) compute.Segment {
	g := compute.Segment{Inputs: in, Past: q.past, Pages: q.pages}
	n := g.Rows()
	q.past += n
	g.Draws, g.Drawn = make([]compute.Draw, n), make([]int32, n)
	l := compute.NewMatrix(n, vocab)
	g.Logits = &l
	return g
}

func tokens(ids []int32) compute.Input { return compute.Input{IDs: ids} }

func forward(t *testing.T, m compute.Decoder, pass ...compute.Segment) {
	t.Helper()
	require.NoError(t, m.Forward(context.Background(), pass))
}

func randomIDs(rng *rand.Rand, n, vocab int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(rng.IntN(vocab))
	}
	return ids
}

// offBy is the root of the mean squared difference relative to the reference's own, and whether all is finite.
func offBy(want []float64, have []float32) float64 {
	var diff, scale float64
	for i, v := range have {
		diff += (float64(v) - want[i]) * (float64(v) - want[i])
		scale += want[i] * want[i]
	}
	return math.Sqrt(diff / scale)
}

func testDecoder(t *testing.T, d *device, c compute.DecoderConfig, w compute.DecoderWeights) compute.Decoder {
	t.Helper()
	m, err := d.NewDecoder(context.Background(), c, w)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, m.Close()) })
	return m
}

// Activations are rounded to bf16 a dozen times a layer; in narrow rows that averages out less.
func decoderTolerance(c compute.DecoderConfig) float64 {
	if c.Hidden < 64 {
		return 8e-2
	}
	return 4e-2
}

func TestDecoderLogits(t *testing.T) {
	d := openTest(t)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	for name, c := range testDecoders() {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			ref := newRefDecoder(c, 5)
			m := testDecoder(t, d, c, ref)
			ids := randomIDs(rng, 150, c.Vocab)
			want := ref.logits(ref.embed(ids), nil)
			check := func(g compute.Segment, first int, what string) {
				t.Helper()
				for i := range g.Logits.Rows {
					off := offBy(want[first+i], g.Logits.Row(i))
					if !assert.LessOrEqual(t, off, decoderTolerance(c), "%s, row %d", what, first+i) {
						break
					}
				}
				for i, id := range g.Drawn {
					best := argmaxOf(g.Logits.Row(i))
					assert.Equal(t, best, id, "%s, row %d: drawn", what, first+i)
				}
			}
			q := newSeqs(m, 4, rng)

			whole := q[0].segment(c.Vocab, tokens(ids))
			forward(t, m, whole)
			check(whole, 0, "one pass")

			at := 0
			for _, n := range []int{1, 33, 2, 7, 64, 1, 1, 32, 9} { // both kinds of pass, after each other
				part := q[1].segment(c.Vocab, tokens(ids[at:at+n]))
				forward(t, m, part)
				check(part, at, fmt.Sprintf("%d rows from %d", n, at))
				at += n
			}

			// Two sequences in one large pass, one given as embeddings.
			embedded := compute.NewMatrix(70, c.Hidden)
			for i, row := range ref.embed(ids[:70]) {
				for k, v := range row {
					embedded.Row(i)[k] = float32(v)
				}
			}
			a := q[2].segment(c.Vocab, compute.Input{Visual: embedded}, tokens(ids[70:75]))
			b := q[3].segment(c.Vocab, tokens(ids[:41]))
			b.Draws, b.Drawn, b.Logits = b.Draws[:1], b.Drawn[:1], &compute.Matrix{Rows: 1, Cols: c.Vocab, Data: b.Logits.Data[:c.Vocab]}
			forward(t, m, a, b)
			check(a, 0, "embeddings")
			check(b, 40, "last row only")
		})
	}
}

func argmaxOf(v []float32) int32 {
	best := 0
	for i := range v {
		if v[i] > v[best] {
			best = i
		}
	}
	return int32(best)
}

// Rows of passes of at most StepRows rows are the same bits whatever runs beside them.
func TestDecoderBits(t *testing.T) {
	d := openTest(t)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	for name, c := range testDecoders() {
		for _, as := range []compute.DType{compute.BF16, compute.I8, compute.I4} {
			t.Run(fmt.Sprint(name, "/", as), func(t *testing.T) {
				c.Weights = as
				rng := rand.New(rand.NewPCG(1, 2))
				m := testDecoder(t, d, c, newRefDecoder(c, 6))
				n := 90
				if testing.Short() {
					n = 40
				}
				ids := randomIDs(rng, n, c.Vocab)
				q := newSeqs(m, 6, rng)
				alone := make([]float32, 0, n*c.Vocab)
				for i := range ids {
					g := q[0].segment(c.Vocab, tokens(ids[i:i+1]))
					forward(t, m, g)
					alone = append(alone, g.Logits.Data...)
				}
				same := func(q *seq, first int, g compute.Segment, what string) {
					t.Helper()
					for i, v := range g.Logits.Data {
						if v != alone[first*c.Vocab+i] {
							assert.Fail(t, "bits differ", "%s: row %d, token %d: %v and %v", what, first+i/c.Vocab, i%c.Vocab, alone[first*c.Vocab+i], v)
							return
						}
					}
				}
				for at := 0; at < n; {
					k := min(1+rng.IntN(32), n-at)
					g := q[1].segment(c.Vocab, tokens(ids[at:at+k]))
					forward(t, m, g)
					same(q[1], at, g, fmt.Sprintf("%d rows", k))
					at += k
				}
				for at := 0; at < n; { // three sequences side by side, the one looked at in the middle
					k := min(1+rng.IntN(12), n-at)
					before, after := 1+rng.IntN(9), 1+rng.IntN(9)
					g := q[2].segment(c.Vocab, tokens(ids[at:at+k]))
					other := q[3].segment(c.Vocab, tokens(randomIDs(rng, before, c.Vocab)))
					last := q[4].segment(c.Vocab, tokens(randomIDs(rng, after, c.Vocab)))
					forward(t, m, other, g, last)
					same(q[2], at, g, fmt.Sprintf("%d rows between %d and %d", k, before, after))
					at += k
				}
			})
		}
	}
}

func TestDecoderTree(t *testing.T) {
	d := openTest(t)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	for _, name := range []string{"6/2x64", "7/1x128", "4/4x96"} {
		t.Run(name, func(t *testing.T) {
			c := testDecoders()[name]
			rng := rand.New(rand.NewPCG(8, 9))
			ref := newRefDecoder(c, 7)
			m := testDecoder(t, d, c, ref)
			q := newSeqs(m, 2, rng)
			const past, n = 70, 23
			ids := randomIDs(rng, past+n, c.Vocab)
			parents, all := make([]int32, n), make([]int, past+n)
			for i := range past {
				all[i] = i - 1
			}
			for i := range parents {
				parents[i] = int32(rng.IntN(i+1) - 1)
				all[past+i] = past + int(parents[i])
			}
			want := ref.logits(ref.embed(ids), all)
			forward(t, m, q[0].segment(c.Vocab, tokens(ids[:past])))
			tree := q[0].segment(c.Vocab, tokens(ids[past:]))
			tree.Parents = parents
			forward(t, m, tree)
			for i := range n {
				assert.LessOrEqual(t, offBy(want[past+i], tree.Logits.Row(i)), decoderTolerance(c), "row %d", i)
			}
			// Again beside so many other rows that the pass is a large one.
			again := tree
			l := compute.NewMatrix(n, c.Vocab)
			again.Logits = &l
			forward(t, m, q[1].segment(c.Vocab, tokens(ids[:50])), again)
			assert.Equal(t, tree.Logits.Data, again.Logits.Data)
		})
	}
}

func TestDecoderCopyPages(t *testing.T) {
	d := openTest(t)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	c := testDecoders()["6/2x64"]
	rng := rand.New(rand.NewPCG(8, 9))
	m := testDecoder(t, d, c, newRefDecoder(c, 7))
	q := newSeqs(m, 3, rng)
	ids := randomIDs(rng, 201, c.Vocab)
	forward(t, m, q[0].segment(c.Vocab, tokens(ids[:200])))
	require.NoError(t, m.CopyPages(context.Background(), q[1].pages[:4], q[0].pages[:4]))
	// In order: what was copied is copied on.
	require.NoError(t, m.CopyPages(context.Background(), []int32{q[2].pages[4], q[2].pages[0], q[2].pages[1], q[2].pages[2], q[2].pages[3]},
		[]int32{q[1].pages[0], q[2].pages[4], q[1].pages[1], q[1].pages[2], q[1].pages[3]}))
	q[1].past, q[2].past = 200, 200
	var want []float32
	for i, s := range q {
		g := s.segment(c.Vocab, tokens(ids[200:]))
		forward(t, m, g)
		if i == 0 {
			want = g.Logits.Data
		}
		assert.Equal(t, want, g.Logits.Data)
	}
	assert.Error(t, m.CopyPages(context.Background(), []int32{1}, nil))
	assert.Error(t, m.CopyPages(context.Background(), []int32{1}, []int32{64}))
	assert.Error(t, m.CopyPages(context.Background(), []int32{-1}, []int32{0}))
}

// standing are positions of n rows as prompts with pictures have them: words, a grid, words behind it, and some beyond the context.
func standing(n int) [][3]int32 {
	var at [][3]int32
	next := int32(0)
	word := func() {
		at = append(at, [3]int32{next, next, next})
		next++
	}
	for range 9 {
		word()
	}
	for i := range int32(2 * 5 * 6) {
		at = append(at, [3]int32{next + i/30*7, next + i/6%5, next + i%6})
	}
	next += 13
	for range 11 {
		word()
	}
	for i := range int32(16) {
		at = append(at, [3]int32{next + 3, next + 4000 + i/4, next + 4000 + i%4})
	}
	next += 2000 // beyond the context of 1000
	for len(at) < n {
		word()
	}
	return at[:n]
}

// Rows with positions of three axes, in passes of both kinds and in trees.
func TestDecoderPositions(t *testing.T) {
	d := openTest(t)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	for name, sections := range map[string][3]int{"7/1x128": {16, 24, 24}, "2/1x72": {8, 14, 14}, "3/3x80": {0, 20, 20}, "6/2x6": {1, 1, 1}} {
		t.Run(name, func(t *testing.T) {
			c := everyDecoder()[name]
			c.Sections = sections
			rng := rand.New(rand.NewPCG(1, 2))
			ref := newRefDecoder(c, 5)
			m := testDecoder(t, d, c, ref)
			const n, tree = 150, 23
			ids, at := randomIDs(rng, n, c.Vocab), standing(n)
			want := ref.logitsAt(ref.embed(ids), nil, at)
			near := func(g compute.Segment, first int, what string) {
				t.Helper()
				for i := range g.Logits.Rows {
					if !assert.LessOrEqual(t, offBy(want[first+i], g.Logits.Row(i)), decoderTolerance(c), "%s, row %d", what, first+i) {
						break
					}
				}
			}
			run := func(q *seq, from, to int) compute.Segment {
				g := q.segment(c.Vocab, tokens(ids[from:to]))
				g.Positions = at[from:to]
				forward(t, m, g)
				return g
			}
			q := newSeqs(m, 6, rng)
			near(run(q[0], 0, n), 0, "one pass")
			var alone []float32
			for i := range n {
				alone = append(alone, run(q[1], i, i+1).Logits.Data...)
			}
			for from, k := 0, 1; from < n; from, k = from+k, k%26+6 {
				to := min(from+k, n)
				g := run(q[2], from, to)
				near(g, from, fmt.Sprintf("%d rows", k))
				assert.Equal(t, alone[from*c.Vocab:to*c.Vocab], g.Logits.Data, "%d rows from %d", k, from)
			}
			for from := 0; from < n; from = min(from+64, n) { // chunks of a large pass
				near(run(q[3], from, min(from+64, n)), from, "64 rows")
			}

			// A tree whose rows say where they stand has what the same tree has that does not, if that is the same place.
			forward(t, m, q[4].segment(c.Vocab, tokens(ids[:70])))
			parents, depth := make([]int32, tree), make([][3]int32, tree)
			for i := range parents {
				parents[i] = int32(rng.IntN(i+1) - 1)
				p := int32(70)
				if parents[i] >= 0 {
					p = depth[parents[i]][0] + 1
				}
				depth[i] = [3]int32{p, p, p}
			}
			plain := q[4].segment(c.Vocab, tokens(ids[:tree]))
			plain.Parents = parents
			forward(t, m, plain)
			q[4].past = 70
			said := q[4].segment(c.Vocab, tokens(ids[:tree]))
			said.Parents, said.Positions = parents, depth
			forward(t, m, said)
			assert.Equal(t, plain.Logits.Data, said.Logits.Data)
			moved := said
			moved.Positions = slices.Clone(depth)
			for i := range moved.Positions {
				moved.Positions[i][2] += 5
			}
			l := compute.NewMatrix(tree, c.Vocab)
			moved.Logits = &l
			forward(t, m, moved)
			assert.NotEqual(t, plain.Logits.Data, moved.Logits.Data)

			// Without positions it is a decoder like any other.
			c.Sections = [3]int{}
			flat := testDecoder(t, d, c, ref)
			a, b := newSeqs(flat, 1, rng)[0].segment(c.Vocab, tokens(ids)), q[5].segment(c.Vocab, tokens(ids))
			forward(t, flat, a)
			forward(t, m, b)
			assert.Equal(t, a.Logits.Data, b.Logits.Data)
			a.Positions = at
			assert.ErrorContains(t, flat.Forward(context.Background(), []compute.Segment{a}), "positions of three axes")
			b.Positions = at[1:]
			assert.ErrorContains(t, m.Forward(context.Background(), []compute.Segment{b}), "149 positions of 150 rows")
		})
	}
}

// A factor on cosines and sines.
func TestDecoderTurn(t *testing.T) {
	d := openTest(t)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	c := everyDecoder()["4/4x96"]
	c.Turn = 1.19
	rng := rand.New(rand.NewPCG(1, 2))
	ref := newRefDecoder(c, 5)
	ids := randomIDs(rng, 100, c.Vocab)
	want := ref.logits(ref.embed(ids), nil)
	q := newSeqs(testDecoder(t, d, c, ref), 2, rng)
	whole := q[0].segment(c.Vocab, tokens(ids))
	forward(t, q[0].m, whole)
	for i := range ids {
		g := q[1].segment(c.Vocab, tokens(ids[i:i+1]))
		forward(t, q[1].m, g)
		assert.LessOrEqual(t, offBy(want[i], g.Logits.Data), decoderTolerance(c), "row %d, alone", i)
		assert.LessOrEqual(t, offBy(want[i], whole.Logits.Row(i)), decoderTolerance(c), "row %d, in one pass", i)
	}
}

// Lean holds no more than the weights, one context of K/V and moderate buffers, and says the same.
func TestDecoderLean(t *testing.T) {
	d := openTest(t)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	c := everyDecoder()["7/1x128"]
	c.Pages = 0
	ref := newRefDecoder(c, 7)
	wide := testDecoder(t, d, c, ref)
	c.Lean = true
	m := testDecoder(t, d, c, ref)
	assert.Equal(t, (c.Context+compute.PageRows-1)/compute.PageRows, m.Limits().Pages)
	assert.Less(t, m.Limits().Weights, wide.Limits().Weights)
	assert.LessOrEqual(t, m.Limits().Weights+m.Limits().KV, m.Limits().Bytes)
	rng := rand.New(rand.NewPCG(8, 9))
	ids := randomIDs(rng, unpackRows+20, c.Vocab)
	want := ref.logits(ref.embed(ids), nil)
	g := newSeqs(m, 1, rng)[0].segment(c.Vocab, tokens(ids))
	forward(t, m, g)
	for i := range ids {
		assert.LessOrEqual(t, offBy(want[i], g.Logits.Row(i)), decoderTolerance(c), "row %d", i)
	}
}

// Quantised weights stay near: the reference has them unrounded.
func TestDecoderQuantised(t *testing.T) {
	d := openTest(t)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	c := testDecoders()["7/1x128"]
	for as, tolerance := range map[compute.DType]float64{compute.I8: 5e-2, compute.I4: 0.5} {
		c.Weights = as
		rng := rand.New(rand.NewPCG(8, 9))
		ref := newRefDecoder(c, 7)
		m := testDecoder(t, d, c, ref)
		ids := randomIDs(rng, unpackRows+20, c.Vocab)
		want := ref.logits(ref.embed(ids), nil)
		q := newSeqs(m, 2, rng)
		whole := q[0].segment(c.Vocab, tokens(ids))
		forward(t, m, whole)
		for i := range ids {
			g := q[1].segment(c.Vocab, tokens(ids[i:i+1]))
			forward(t, m, g)
			assert.LessOrEqual(t, offBy(want[i], g.Logits.Data), tolerance, "%v, row %d, alone", as, i)
			assert.LessOrEqual(t, offBy(want[i], whole.Logits.Row(i)), tolerance, "%v, row %d, in one pass", as, i)
		}
	}
}

func TestDecoderRandomWeights(t *testing.T) {
	d := openTest(t)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	c := testDecoders()["7/1x128"]
	for _, as := range []compute.DType{compute.BF16, compute.I8, compute.I4} {
		c.Weights, c.Pages, c.Seed = as, 0, 3
		m := testDecoder(t, d, c, nil)
		assert.GreaterOrEqual(t, m.Limits().Pages, 1000/compute.PageRows)
		assert.Greater(t, m.Limits().Bytes, int64(0))
		q := newSeqs(m, 2, rand.New(rand.NewPCG(1, 1)))
		var last []float32
		for _, q := range q {
			g := q.segment(c.Vocab, tokens([]int32{1, 2, 3}))
			forward(t, m, g)
			assert.NotContains(t, g.Drawn, int32(-1))
			var sum float64
			for _, v := range g.Logits.Data {
				sum += float64(v) * float64(v)
			}
			assert.Greater(t, sum/float64(len(g.Logits.Data)), 0.01)
			if last != nil {
				assert.Equal(t, last, g.Logits.Data)
			}
			last = g.Logits.Data
		}
	}
}

func TestDecoderErrors(t *testing.T) {
	d := openTest(t)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	c := testDecoders()["6/2x64"]
	ref := newRefDecoder(c, 7)
	for name, change := range map[string]func(*compute.DecoderConfig){
		"K/V heads": func(c *compute.DecoderConfig) { c.KVHeads = 4 },
		"head size": func(c *compute.DecoderConfig) { c.HeadDim = 256; c.InvFreq = invFreq(256) },
		"inv freq":  func(c *compute.DecoderConfig) { c.InvFreq = nil },
		"f32":       func(c *compute.DecoderConfig) { c.Weights = compute.F32 },
		"layers":    func(c *compute.DecoderConfig) { c.Layers = 0 },
		"missing":   func(c *compute.DecoderConfig) { c.QKVBias = true },
		"shape":     func(c *compute.DecoderConfig) { c.MLP = 640 },
	} {
		bad := c
		change(&bad)
		_, err := d.NewDecoder(context.Background(), bad, ref)
		assert.Error(t, err, name)
	}
	huge := c
	huge.Pages = 1 << 24
	_, err := d.NewDecoder(context.Background(), huge, ref)
	assert.ErrorIs(t, err, compute.ErrNoMemory)
	assert.ErrorContains(t, err, "K/V")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = d.NewDecoder(ctx, c, ref)
	assert.ErrorIs(t, err, context.Canceled)

	m := testDecoder(t, d, c, ref)
	q := newSeqs(m, 1, rand.New(rand.NewPCG(1, 1)))[0]
	good := func() compute.Segment { return (&seq{m: m, pages: q.pages}).segment(c.Vocab, tokens([]int32{1, 2, 3})) }
	for name, change := range map[string]func(*compute.Segment){
		"token":   func(g *compute.Segment) { g.Inputs = []compute.Input{tokens([]int32{1, int32(c.Vocab), 2})} },
		"none":    func(g *compute.Segment) { g.Inputs, g.Draws = nil, nil },
		"past":    func(g *compute.Segment) { g.Past = -1 },
		"context": func(g *compute.Segment) { g.Past = 998 },
		"pages":   func(g *compute.Segment) { g.Pages = nil },
		"page":    func(g *compute.Segment) { g.Pages = []int32{64} },
		"draws":   func(g *compute.Segment) { g.Draws = make([]compute.Draw, 4) },
		"drawn":   func(g *compute.Segment) { g.Drawn = nil },
		"logits":  func(g *compute.Segment) { g.Logits.Rows = 2 },
		"parents": func(g *compute.Segment) { g.Parents = []int32{-1, 1, 0} },
		"visual":  func(g *compute.Segment) { g.Inputs = []compute.Input{{Visual: compute.NewMatrix(3, c.Hidden+1)}} },
		"draw":    func(g *compute.Segment) { g.Draws[0].U = 1 },
		"rows": func(g *compute.Segment) {
			g.Inputs = []compute.Input{tokens(make([]int32, m.Limits().ChunkRows+1))}
			g.Past = 0
		},
	} {
		g := good()
		change(&g)
		assert.Error(t, m.Forward(context.Background(), []compute.Segment{g}), name)
	}
	assert.ErrorIs(t, m.Forward(ctx, []compute.Segment{good()}), context.Canceled)
	g := good()
	forward(t, m, g)
	assert.NoError(t, m.Close())
	assert.NoError(t, m.Close())
	err = m.Forward(context.Background(), []compute.Segment{good()})
	assert.True(t, errors.Is(err, errDecoderClosed), "%v", err)
}
