package llm

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// fake is a decoder whose logits depend on the three tokens before, by a hash, so that answers repeat and lookup finds something. It
// keeps every page's rows and refuses passes that are not as the contract says.
type fake struct {
	t      testing.TB
	vocab  int
	limits compute.DecoderLimits
	sample sampler
	placed bool // where a row stands is part of it

	mu     sync.Mutex
	pages  [][pageRows]int32
	passes []int // rows of each
	steps  []int // segments of each pass of at most StepRows rows
	before func(pass []compute.Segment) error
	closed bool
	broken bool // it draws nothing any more
}

func newFake(t testing.TB, pages int) *fake {
	return &fake{t: t, vocab: 11, limits: compute.DecoderLimits{Pages: pages, StepRows: 8, ChunkRows: 200, Segments: 6}, pages: make([][pageRows]int32, pages)}
}

func (f *fake) Limits() compute.DecoderLimits { return f.limits }

func (f *fake) Close() error {
	if f.closed {
		f.t.Error("closed twice")
	}
	f.closed = true
	return nil
}

func (f *fake) CopyPages(_ context.Context, to, from []int32) error {
	for i := range to {
		f.pages[to[i]] = f.pages[from[i]]
	}
	return nil
}

func (f *fake) Forward(ctx context.Context, pass []compute.Segment) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.before != nil {
		if err := f.before(pass); err != nil {
			return err
		}
	}
	rows, written := 0, map[int32]bool{}
	for i := range pass {
		s := &pass[i]
		at := s.Past
		for _, in := range s.Inputs {
			for r := range in.Rows() {
				id := int32(-1)
				if in.IDs != nil {
					id = in.IDs[r]
				} else {
					id = -2 - int32(in.Visual.Row(r)[0])
				}
				stand := [3]int32{int32(at), int32(at), int32(at)}
				if s.Positions != nil {
					stand = s.Positions[at-s.Past]
				}
				if f.placed {
					id = placed(id, stand)
				}
				page := s.Pages[at/pageRows]
				f.pages[page][at%pageRows] = id
				written[page] = true
				at++
			}
		}
		rows += at - s.Past
		for j, d := range s.Draws {
			if f.broken {
				s.Drawn[j] = -1
				continue
			}
			s.Drawn[j] = f.sample.draw(f.logits(f.last(s.Pages, at-len(s.Draws)+j+1)), d)
		}
	}
	for i := range pass { // what one segment writes no other reads
		for j, p := range pass[i].Pages {
			if j < pass[i].Past/pageRows && written[p] {
				return fmt.Errorf("segment %d reads page %d while it is written", i, p)
			}
		}
	}
	f.passes = append(f.passes, rows)
	if rows <= f.limits.StepRows {
		f.steps = append(f.steps, len(pass))
	}
	if rows > f.limits.ChunkRows || len(pass) > f.limits.Segments || len(pass) > 1 && rows > f.limits.StepRows {
		return fmt.Errorf("a pass of %d rows of %d sequences", rows, len(pass))
	}
	return nil
}

// placed is a row together with where it stands.
func placed(id int32, at [3]int32) int32 { return id + 7919*(at[0]+31*at[1]+17*at[2]) }

// last is the three rows before row n.
func (f *fake) last(pages []int32, n int) (ids []int32) {
	for r := max(0, n-3); r < n; r++ {
		ids = append(ids, f.pages[pages[r/pageRows]][r%pageRows])
	}
	return ids
}

func (f *fake) logits(last []int32) []float32 {
	h := uint64(14695981039346656037)
	for _, id := range last[max(0, len(last)-3):] {
		h = (h ^ uint64(id+1000)) * 1099511628211
	}
	rng := rand.New(rand.NewPCG(h, 1))
	row := make([]float32, f.vocab)
	for i := range row {
		row[i] = float32(rng.NormFloat64() * 2)
	}
	row[10] -= 2 // the end comes, but not at once
	return row
}

// expect is what the fake answers, one token at a time and alone.
func (f *fake) expect(prompt []int32, o Options, limit int) (out []int32, finish string) {
	seq := slices.Clone(prompt)
	for {
		d := compute.Draw{Temperature: o.Temperature, TopP: o.TopP, U: uniform(o.Seed, len(out))}
		id := f.sample.draw(f.logits(seq), d)
		if id == 10 {
			return out, "stop"
		}
		out, seq = append(out, id), append(seq, id)
		if len(out) == o.MaxTokens || len(seq) > limit {
			return out, "length"
		}
	}
}

func fakeEngine(t testing.TB, f *fake, d Drafter, limit, queue int) *Engine {
	e := newEngine(&Config{Hidden: 1, Vocab: f.vocab, Context: limit}, nil, []int32{10}, f, LoadOptions{Drafter: d, MaxQueue: queue})
	t.Cleanup(func() { assert.NoError(t, e.Close()) })
	return e
}

// script drafts what it was told, right or wrong.
type script func(committed []int32, n int) []int32

func (s script) Draft(committed []int32, n int) []int32 { return s(committed, n) }

// asked is one question and what came of it.
func asked(t testing.TB, e *Engine, prompt []int32, o Options) (out []int32, s Stats) {
	s, err := e.Generate(t.Context(), Prompt{{Tokens: prompt}}, o, func(tok Token) error {
		out = append(out, tok.ID)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, len(out), s.Generated)
	return out, s
}

func TestSpeculationChangesNoToken(t *testing.T) {
	prompt := []int32{3, 1, 4, 1, 5}
	oracle := func(wrongAt int) Drafter {
		f := newFake(t, 1)
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
				f := newFake(t, 4)
				want, finish := f.expect(prompt, o, limit)
				for name, d := range drafters {
					e := fakeEngine(t, f, d, limit, 0)
					have, s := asked(t, e, prompt, o)
					require.Equal(t, want, have, "%s %+v limit %d", name, o, limit)
					require.Equal(t, finish, s.Finish, name)
					again, s := asked(t, e, prompt, o)
					require.Equal(t, want, again, "%s, from the cache", name)
					require.Equal(t, len(prompt)-1, s.CachedTokens)
					require.NoError(t, e.Close())
					f.closed = false
				}
			}
		}
	}
	f := newFake(t, 4)
	plainOut, _ := asked(t, fakeEngine(t, f, nil, 200, 0), prompt, Options{MaxTokens: 60})
	plain := len(f.passes)
	f = newFake(t, 4)
	e := fakeEngine(t, f, oracle(-1), 200, 0)
	out, s := asked(t, e, prompt, Options{MaxTokens: 60})
	c := e.Counters()
	assert.EqualValues(t, s.Drafted, c.Drafted)
	assert.EqualValues(t, s.Accepted, c.Accepted)
	sum := uint64(0)
	for i, n := range c.AcceptedAt {
		sum += n
		assert.True(t, i == 0 || n <= c.AcceptedAt[i-1], "a token counts only behind right ones")
	}
	assert.Equal(t, c.Accepted, sum)
	assert.Equal(t, plainOut, out)
	require.Greater(t, plain, 20)
	assert.Less(t, len(f.passes), plain/5, "a right draft of 7 saves passes")
	assert.Positive(t, s.Accepted)
	assert.GreaterOrEqual(t, s.Drafted, s.Accepted)
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
	assert.EqualValues(t, 1, new(sampler).draw(logits, compute.Draw{}), "the smallest of equals")

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
		var s sampler
		const n = 20000 // stratified: u walks [0, 1) evenly, so counts are exact up to a few
		count := make([]float64, len(logits))
		for i := range n {
			count[s.draw(logits, compute.Draw{Temperature: o.Temperature, TopP: o.TopP, U: (float64(i) + .5) / n})]++
		}
		for i := range count {
			assert.InDelta(t, want[i], count[i]/n, 2.0/n, "%+v token %d", o, i)
		}
	}
	assert.EqualValues(t, -1, new(sampler).draw([]float32{1, float32(math.NaN())}, compute.Draw{}))
	assert.EqualValues(t, -1, new(sampler).draw([]float32{1, float32(math.Inf(-1))}, compute.Draw{Temperature: 1}))
}

func TestUniform(t *testing.T) {
	var sum, squares float64
	seen := map[float64]bool{}
	const n = 20000
	for i := range n {
		u := uniform(uint64(i%200), i/200)
		require.True(t, u >= 0 && u < 1)
		seen[u] = true
		sum, squares = sum+u, squares+u*u
	}
	assert.Len(t, seen, n)
	assert.InDelta(t, .5, sum/n, .01)
	assert.InDelta(t, 1./3, squares/n, .01)
	assert.Equal(t, uniform(3, 4), uniform(3, 4))
}
