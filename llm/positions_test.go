package llm

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// threeAxes is an engine over a fake to which a row at another place is another row.
func threeAxes(t testing.TB, f *fake, d Drafter, limit int) *Engine {
	f.placed = true
	e := newEngine(&Config{Hidden: 1, Vocab: f.vocab, Context: limit, Sections: [3]int{1, 1, 1}}, nil, []int32{10}, f, LoadOptions{Drafter: d})
	t.Cleanup(func() { assert.NoError(t, e.Close()) })
	return e
}

// album is a prompt of words and pictures, and its rows as the fake has them, with where what follows stands.
type album struct {
	prompt Prompt
	rows   []int32
	next   int32
}

func (a *album) words(ids ...int32) {
	a.prompt = append(a.prompt, Part{Tokens: ids})
	for _, id := range ids {
		a.rows = append(a.rows, placed(id, [3]int32{a.next, a.next, a.next}))
		a.next++
	}
}

// picture adds rows that are numbers from first on.
func (a *album) picture(id uint64, first, t, h, w int32) {
	m := compute.NewMatrix(int(t*h*w), 1)
	for i := range m.Data {
		m.Data[i] = float32(first + int32(i))
		k := int32(i)
		at := [3]int32{a.next + k/(h*w), a.next + k/w%h, a.next + k%w}
		a.rows = append(a.rows, placed(-2-first-k, at))
	}
	a.prompt = append(a.prompt, Part{Visual: m, ID: id, Grid: Grid{int(t), int(h), int(w)}})
	a.next += max(t, h, w)
}

// expect is what the fake answers one token at a time and alone.
func (a *album) expect(f *fake, o Options) (out []int32) {
	rows, next := a.rows, a.next
	for len(out) < o.MaxTokens {
		id := f.sample.draw(f.logits(rows), compute.Draw{Temperature: o.Temperature, TopP: o.TopP, U: uniform(o.Seed, len(out))})
		if id == 10 {
			break
		}
		rows = append(rows[:len(rows):len(rows)], placed(id, [3]int32{next, next, next}))
		out, next = append(out, id), next+1
	}
	return out
}

func (f *fake) album(rng *rand.Rand) *album {
	a := &album{}
	for range 1 + rng.IntN(4) {
		a.words(ramp(rng.IntN(5), 1+rng.IntN(90))...)
		id := rng.Int32N(3)
		a.picture(uint64(id+1), 100*id, 1+id, 2+id, 3)
	}
	a.words(ramp(rng.IntN(5), 1+rng.IntN(30))...)
	return a
}

// TestPositionsChangeNoToken: with pictures that stand on grids, tokens are as they are one at a time and alone, whatever is drafted, found in the
// cache, chunked, warmed, answered beside it or forgotten meanwhile.
func TestPositionsChangeNoToken(t *testing.T) {
	for name, d := range map[string]Drafter{"plain": nil, "lookup": Lookup{Most: 2, Least: 1}, "wrong": script(func(c []int32, n int) []int32 { return ramp(len(c), n) })} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, 120)
			e := threeAxes(t, f, d, 1500)
			rng := rand.New(rand.NewPCG(3, 4))
			var all sync.WaitGroup
			for i := range 60 {
				a := f.album(rng)
				o := Options{MaxTokens: 1 + rng.IntN(40), Temperature: float32(i % 2), Seed: uint64(i), Client: uint64(i % 3)}
				want := a.expect(&fake{vocab: f.vocab}, o)
				all.Go(func() {
					if i%5 == 0 {
						assert.NoError(t, e.Warm(t.Context(), a.prompt))
					}
					have, _, _ := answer(t, e, a.prompt, o)
					assert.Equal(t, want, have, "prompt %d", i)
					if i%9 == 0 {
						e.Forget(func(id uint64) bool { return id == 2 })
					}
				})
				if i%8 == 0 {
					all.Wait()
				}
			}
			all.Wait()
		})
	}
}

// TestPositionsAreFound: what is cached is found again at the same place only, and gone when it is forgotten.
func TestPositionsAreFound(t *testing.T) {
	e := threeAxes(t, newFake(t, 120), nil, 1500)
	e.eos = nil
	picture := Part{Visual: noise(12, 1), ID: 7}
	flat := func(n int) (at [][3]int32) {
		for i := range n {
			at = append(at, [3]int32{int32(i), int32(i), int32(i)})
		}
		return at
	}
	prompt := func(change func(p *Part)) Prompt {
		p := picture
		change(&p)
		return Prompt{{Tokens: ramp(1, 70)}, p, {Tokens: ramp(2, 90)}}
	}
	cached := func(p Prompt) int {
		_, _, s := answer(t, e, p, Options{MaxTokens: 1})
		return s.CachedTokens
	}
	grid := func(p *Part) { p.Grid = Grid{2, 2, 3} }
	plain := func(*Part) {}
	assert.Equal(t, 0, cached(prompt(plain)))
	assert.Equal(t, 171, cached(prompt(plain)))
	assert.Equal(t, 171, cached(prompt(func(p *Part) { p.Positions = flat(12) })), "said otherwise, the same")
	assert.Equal(t, 71, cached(prompt(grid)), "the first row stands where it did")
	assert.Equal(t, 171, cached(prompt(grid)))
	assert.Equal(t, 82, cached(prompt(func(p *Part) { p.Positions, p.Advance = flat(12), 30 })), "what follows is further on")
	assert.Equal(t, 70, cached(prompt(func(p *Part) { p.Positions = flat(12); p.Positions[0][1] = 5 })))
	e.Forget(func(id uint64) bool { return id == 7 })
	assert.Equal(t, 64, cached(prompt(grid)), "the pages before it")
	e.Forget(func(id uint64) bool { return id == 7 })
	assert.Equal(t, 64, cached(prompt(plain)))
}

// TestPositionsRefused: what cannot be placed is an error of the prompt.
func TestPositionsRefused(t *testing.T) {
	three := threeAxes(t, newFake(t, 30), nil, 500)
	one := fakeEngine(t, newFake(t, 30), nil, 500, 0)
	assert.Equal(t, 3, three.Axes())
	assert.Equal(t, 1, one.Axes())
	ask := func(e *Engine, p Part) error {
		p.Visual = noise(6, 1)
		_, err := e.Generate(t.Context(), Prompt{{Tokens: []int32{1}}, p, {Tokens: []int32{2}}}, Options{MaxTokens: 1}, func(Token) error { return nil })
		return err
	}
	for want, p := range map[string]Part{
		"a grid of 2x2x2 for 6 visual rows":            {Grid: Grid{2, 2, 2}},
		"a grid of 1x-2x-3 for 6 visual rows":          {Grid: Grid{1, -2, -3}},
		"5 positions for 6 visual rows":                {Positions: make([][3]int32, 5)},
		"an advance without positions":                 {Advance: 4},
		"visual row 1 stands at -1":                    {Positions: [][3]int32{{}, {0, -2, 0}, {}, {}, {}, {}}},
		"visual row 5 stands at 2147483648":            {Positions: [][3]int32{{}, {}, {}, {}, {}, {0, 0, 1<<31 - 1}}},
		"what follows it stands at -1":                 {Positions: make([][3]int32, 6), Advance: -2},
		"what follows it stands at 2147483648":         {Positions: make([][3]int32, 6), Advance: 1<<31 - 1},
		"a grid of 1431655766x3x1 for 6 visual rows":   {Grid: Grid{1431655766, 3, 1}},
		"a grid of 4294967296x1x1 for 6 visual rows":   {Grid: Grid{1 << 32, 1, 1}},
		"a grid of 1x6x4294967297 for 6 visual rows":   {Grid: Grid{1, 6, 1<<32 + 1}},
		"a grid of 0x2x3 for 6 visual rows":            {Grid: Grid{0, 2, 3}},
		"7 positions for 6 visual rows":                {Positions: make([][3]int32, 7)},
		"a grid of 9223372036854775807x2x3 for 6 vis":  {Grid: Grid{1<<63 - 1, 2, 3}},
		"a grid of 3x2x3074457345618258603 for 6 visu": {Grid: Grid{3, 2, 3074457345618258603}},
	} {
		err := ask(three, p)
		assert.ErrorIs(t, err, ErrPrompt, want)
		assert.ErrorContains(t, err, "part 1: "+want)
	}
	require.NoError(t, ask(three, Part{Positions: [][3]int32{{-1, 3000, 0}, {}, {}, {}, {}, {}}, Advance: -1}))
	require.NoError(t, ask(one, Part{Grid: Grid{1, 2, 3}}), "a grid means nothing there")
	assert.ErrorContains(t, ask(one, Part{Positions: make([][3]int32, 6)}), "part 1: positions of three axes, this model's have one")
}

// TestPlace: AM-RoPE as Flash-VStream has it, details at their frame's time and clusters behind as many positions as there are details, each
// entry a part.
func TestPlace(t *testing.T) {
	c := &Config{Hidden: 1, Vocab: 9, Context: 500, Sections: [3]int{1, 1, 1}}
	for _, clusters := range []int{0, 1, 3} {
		var rows [][3]int
		var parts []Part
		entry := func(at, time, h, w int) {
			for i := range h * w {
				rows = append(rows, [3]int{at + time, at + i/w, at + i%w})
			}
			parts = append(parts, Part{Visual: noise(h*w, 1), ID: uint64(len(parts) + 1)})
		}
		entry(0, 2, 4, 6)
		entry(0, 57, 4, 6)
		for q := range clusters {
			entry(48, 20*q, 2, 3)
		}
		for _, next := range []int{48 + 60, len(rows), 3, len(parts) - 1, 1} {
			require.NoError(t, Place(parts, rows, next))
			p := append(Prompt{{Tokens: []int32{1, 2, 3}}}, parts...)
			s, err := append(p, Part{Tokens: []int32{4, 5}}).rows(nil, c)
			require.NoError(t, err)
			want := [][3]int{{0, 0, 0}, {1, 1, 1}, {2, 2, 2}}
			for _, r := range rows {
				want = append(want, [3]int{3 + r[0], 3 + r[1], 3 + r[2]})
			}
			want = append(want, [3]int{3 + next, 3 + next, 3 + next}, [3]int{4 + next, 4 + next, 4 + next})
			var have [][3]int
			for _, k := range s.keys {
				have = append(have, [3]int{int(k.at[0]), int(k.at[1]), int(k.at[2])})
			}
			assert.Equal(t, want, have, "%d clusters, text at %d", clusters, next)
		}
	}
	assert.ErrorContains(t, Place(nil, nil, 0), "0 positions for 0 visual rows")
	assert.ErrorContains(t, Place([]Part{{Visual: noise(2, 1)}}, make([][3]int, 3), 0), "3 positions for 2 visual rows")
	assert.ErrorContains(t, Place([]Part{{Visual: noise(1, 1)}}, [][3]int{{1 << 40, 0, 0}}, 0), "visual row stands at")
}

// TestPlaceGolden: a memory's positions as Flash-VStream trains with them.
func TestPlaceGolden(t *testing.T) {
	f := readFamily(t, "flashvstreamqwen")
	c := must(ReadConfig(f.files))
	p := f.video.prompt
	require.Len(t, p, 3)
	all := p[1].Visual
	var parts []Part
	var rows [][3]int
	begin := len(p[0].Tokens)
	for _, n := range []int{24, 6, 6} {
		from := len(rows)
		parts = append(parts, Part{Visual: compute.Matrix{Rows: n, Cols: all.Cols, Data: all.Data[from*all.Cols : (from+n)*all.Cols]}, ID: uint64(from + 1)})
		for _, at := range f.video.positions[begin+from : begin+from+n] {
			rows = append(rows, [3]int{int(at[0]) - begin, int(at[1]) - begin, int(at[2]) - begin})
		}
	}
	// Text goes on behind as many positions as there are details and the larger of the number of clusters and the sides of their grid.
	require.NoError(t, Place(parts, rows, 24+max(2, 2, 3)))
	assert.True(t, testPositions(t, c, f.video, Prompt{p[0], parts[0], parts[1], parts[2], p[2]}))
}
