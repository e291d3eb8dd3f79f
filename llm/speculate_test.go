package llm

import (
	"cmp"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// fake is a model whose logits depend on all tokens before, by a hash. It checks that the loop runs every token exactly once at its
// place.
type fake struct {
	t     *testing.T
	vocab int
	seq   []int32 // tokens run
	base  int
	limit int
	calls int
	fail  error
}

func (f *fake) logits(seq []int32) []float32 {
	h := uint64(14695981039346656037)
	for _, id := range seq[max(0, len(seq)-3):] { // short memory, so that answers repeat and lookup finds something
		h = (h ^ uint64(id+1)) * 1099511628211
	}
	rng := rand.New(rand.NewPCG(h, 1))
	row := make([]float32, f.vocab)
	for i := range row {
		row[i] = float32(rng.NormFloat64() * 2)
	}
	row[10] -= 2 // the end comes, but not at once
	return row
}

func (f *fake) verify(ctx context.Context, tokens []int32) (compute.Matrix, error) {
	if err := cmp.Or(f.fail, ctx.Err()); err != nil {
		return compute.Matrix{}, err
	}
	f.calls++
	f.base = len(f.seq)
	require.LessOrEqual(f.t, f.base+len(tokens), f.limit)
	m := compute.NewMatrix(len(tokens), f.vocab)
	for i, id := range tokens {
		f.seq = append(f.seq, id)
		copy(m.Row(i), f.logits(f.seq))
	}
	return m, nil
}

func (f *fake) keep(n int) { f.seq = f.seq[:f.base+n] }
func (f *fake) room() int  { return f.limit - len(f.seq) }

// script drafts what it was told, right or wrong.
type script func(committed []int32, n int) []int32

func (s script) Draft(committed []int32, n int) []int32 { return s(committed, n) }

func generate(t *testing.T, d Drafter, o Options, limit int) (out []int32, finish string, f *fake, dec *decoder) {
	f = &fake{t: t, vocab: 11, limit: limit}
	prompt := []int32{3, 1, 4, 1, 5}
	f.seq = append(f.seq, prompt...)
	s := newSampler(o)
	first := s.sample(f.logits(f.seq))
	dec = &decoder{target: f, drafter: d, sampler: s, limit: o.MaxTokens, vocab: f.vocab, committed: slices.Clone(prompt),
		stop: func(id int32) bool { return id == 10 },
		emit: func(id int32) error { out = append(out, id); return nil }}
	finish, err := dec.run(context.Background(), first)
	require.NoError(t, err)
	// Only tokens that were emitted are kept, in their order; the last need not have been run.
	all := append(slices.Clone(prompt), out...)
	require.True(t, len(f.seq) <= len(all) && slices.Equal(f.seq, all[:len(f.seq)]), "kept %v of %v", f.seq, all)
	require.Equal(t, dec.generated, len(out))
	return out, finish, f, dec
}

func TestSpeculationChangesNoToken(t *testing.T) {
	oracle := func(wrongAt int) Drafter {
		f := &fake{vocab: 11}
		return script(func(committed []int32, n int) []int32 {
			seq, from := slices.Clone(committed), len(committed)
			for i := range n {
				next := argmax(f.logits(seq))
				if i == wrongAt {
					next = (next + 1) % 11
				}
				seq = append(seq, next)
			}
			return seq[from:]
		})
	}
	drafters := map[string]Drafter{
		"always right": oracle(-1), "wrong at once": oracle(0), "wrong at 2": oracle(2),
		"too many":     script(func(_ []int32, n int) []int32 { return make([]int32, n+5) }),
		"not tokens":   script(func(_ []int32, n int) []int32 { return []int32{-1, 99} }),
		"late rubbish": script(func(_ []int32, n int) []int32 { return []int32{2, 11, 2} }),
		"nothing":      script(func([]int32, int) []int32 { return nil }),
		"lookup":       Lookup{},
		"lookup of 1":  Lookup{Most: 1, Least: 1},
	}
	for seed := range uint64(30) {
		for _, o := range []Options{{MaxTokens: 1}, {MaxTokens: 7}, {MaxTokens: 60}, {MaxTokens: 60, Temperature: 1, Seed: seed}, {MaxTokens: 60, Temperature: .7, TopP: .8, Seed: seed}} {
			for _, limit := range []int{6, 19, 200} {
				want, finish, _, _ := generate(t, nil, o, limit)
				for name, d := range drafters {
					have, how, _, _ := generate(t, d, o, limit)
					require.Equal(t, want, have, "%s %+v limit %d", name, o, limit)
					require.Equal(t, finish, how, name)
				}
			}
		}
	}
	plainOut, _, plain, _ := generate(t, nil, Options{MaxTokens: 60}, 200)
	out, _, fast, dec := generate(t, oracle(-1), Options{MaxTokens: 60}, 200)
	assert.Equal(t, plainOut, out)
	require.Greater(t, plain.calls, 20)
	assert.Less(t, fast.calls, plain.calls/5, "a right draft of 7 saves passes")
	assert.Positive(t, dec.accepted)
}

func TestDecodeErrors(t *testing.T) {
	boom := errors.New("boom")
	f := &fake{t: t, vocab: 11, limit: 100}
	d := decoder{target: f, sampler: newSampler(Options{}), limit: 9, vocab: 11, stop: func(int32) bool { return false }, emit: func(int32) error { return boom }}
	_, err := d.run(context.Background(), 1)
	assert.ErrorIs(t, err, boom)
	assert.Equal(t, 1, d.generated)

	d.emit = func(int32) error { return nil }
	f.fail = boom
	_, err = d.run(context.Background(), 1)
	assert.ErrorIs(t, err, boom)

	f.fail = nil
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = d.run(ctx, 1)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestLookup(t *testing.T) {
	for _, tt := range []struct {
		committed []int32
		n         int
		want      []int32
	}{
		{[]int32{1, 2, 3, 4, 5, 1, 2, 3}, 2, []int32{4, 5}},
		{[]int32{1, 2, 3, 4, 5, 1, 2, 3}, 9, []int32{4, 5, 1, 2, 3}},
		{[]int32{9, 2, 3, 4, 8, 2, 3, 5, 7, 2, 3}, 1, []int32{5}}, // the latest place
		{[]int32{7, 7, 7}, 4, []int32{7}},
		{[]int32{-1, -1, 4, -1, -1}, 3, nil}, // visual rows
		{[]int32{1, 2, 3}, 3, nil},
		{nil, 3, nil},
	} {
		assert.Equal(t, tt.want, Lookup{}.Draft(tt.committed, tt.n), "%v", tt.committed)
	}
}

func TestSampler(t *testing.T) {
	logits := []float32{0, 2, 1, 2, -30, float32(math.Log(3))}
	assert.EqualValues(t, 1, newSampler(Options{}).sample(logits), "the smallest of equals")

	probabilities := func(temperature, topP float64) []float64 {
		type tok struct {
			id int
			p  float64
		}
		var all []tok
		var sum float64
		for i, v := range logits {
			p := math.Exp(float64(v) / temperature)
			all, sum = append(all, tok{i, p}), sum+p
		}
		slices.SortStableFunc(all, func(a, b tok) int {
			if a.p > b.p {
				return -1
			} else if a.p < b.p {
				return 1
			}
			return 0
		})
		out := make([]float64, len(logits))
		var held, kept float64
		for _, v := range all {
			if held >= topP*sum {
				break
			}
			held += v.p
			out[v.id] = v.p
			kept += v.p
		}
		for i := range out {
			out[i] /= kept
		}
		return out
	}
	for _, o := range []Options{{Temperature: 1, TopP: 1}, {Temperature: 0.5, TopP: 0.9}, {Temperature: 2, TopP: 0.3}, {Temperature: 1, TopP: 0.01}} {
		want := probabilities(float64(o.Temperature), float64(o.TopP))
		s := newSampler(o)
		const n = 20000 // stratified: u walks [0, 1) evenly, so counts are exact up to a few
		count := make([]float64, len(logits))
		for i := range n {
			count[s.draw(logits, (float64(i)+.5)/n)]++
		}
		for i := range count {
			assert.InDelta(t, want[i], count[i]/n, 2.0/n, "%+v token %d", o, i)
		}
	}
	draw := func(seed uint64) (out []int32) {
		s := newSampler(Options{Temperature: 1, Seed: seed})
		for range 40 {
			out = append(out, s.sample(logits))
		}
		return out
	}
	assert.Equal(t, draw(1), draw(1))
	assert.NotEqual(t, draw(1), draw(2))
}
