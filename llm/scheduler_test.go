package llm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// gate lets a fake's passes through one by one; what waits at it can be looked at.
type gate chan chan struct{}

// hold makes every pass wait until it is let go.
func (f *fake) hold() gate {
	g := make(gate)
	f.before = func([]compute.Segment) error {
		leave := make(chan struct{})
		g <- leave
		<-leave
		return nil
	}
	return g
}

// pass lets one pass through.
func (g gate) pass() { close(<-g) }

// open lets all that come through, until stop.
func (g gate) open() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case leave := <-g:
				close(leave)
			case <-end:
				return
			}
		}
	}()
	return func() { close(end); <-ended }
}

// until waits for what other goroutines do.
func until(done func() bool) {
	for !done() {
		runtime.Gosched()
	}
}

func ramp(from, n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32((from + i*i) % 10)
	}
	return ids
}

// TestCompanyChangesNoToken asks many questions at once, of every length, some sharing their beginning, in a pool that is too small
// for all of them: each gets what it gets alone.
func TestCompanyChangesNoToken(t *testing.T) {
	for _, d := range []Drafter{nil, Lookup{}} {
		f := newFake(t, 24)
		e := fakeEngine(t, f, d, 600, 1000)
		f.before = func([]compute.Segment) error {
			until(func() bool { return len(f.passes) > 0 || e.Counters().Waiting > 50 })
			return nil
		}
		var all sync.WaitGroup
		for i := range 60 {
			prompt := slices.Concat(ramp(i%3, 150*(i%3)), ramp(i, 1+i*7%130))
			o := Options{MaxTokens: 1 + i%50, Client: uint64(i % 4), Seed: uint64(i), Temperature: float32(i % 2)}
			all.Go(func() {
				want, finish := new(fake{vocab: f.vocab}).expect(prompt, o, 600)
				have, s := asked(t, e, prompt, o)
				assert.Equal(t, want, have, "question %d", i)
				assert.Equal(t, finish, s.Finish)
			})
		}
		all.Wait()
		c := e.Counters()
		assert.Greater(t, slices.Max(f.steps), 2, "questions shared passes")
		assert.Equal(t, 24, c.FreePages+c.CachedPages, "every page came back")
		assert.Positive(t, c.EvictedPages)
		assert.Zero(t, c.Active+c.Waiting)
		assert.EqualValues(t, len(f.passes), c.StepPasses+c.PromptPasses)
	}
}

// TestCompanyChangesNoTokenOnDevices is the same with real kernels, at full precision, so that no rounding depends on which rows were
// found in the cache.
func TestCompanyChangesNoTokenOnDevices(t *testing.T) {
	onDevices(t, func(t *testing.T, dev compute.Device) {
		alone, err := LoadWith(os.DirFS("testdata/vlm"), dev, LoadOptions{Weights: compute.F32})
		require.NoError(t, err)
		defer alone.Close()
		e, err := LoadWith(os.DirFS("testdata/vlm"), dev, LoadOptions{Weights: compute.F32, Drafter: Lookup{Most: 1, Least: 1}, Pages: 8})
		require.NoError(t, err)
		defer e.Close()
		prompts := make([]Prompt, 12)
		want := make([][]int32, len(prompts))
		options := func(i int) Options {
			return Options{MaxTokens: 20, Temperature: float32(i%3) / 2, TopP: .9, Seed: uint64(i)}
		}
		for i := range prompts {
			prompts[i] = Prompt{{Control: "<|user|>"}, {Text: fmt.Sprint("what was there ", i%5, "?")}, {Visual: noise(9+i%3, 24), ID: uint64(1 + i%3)}, {Text: fmt.Sprint(i)}}
			want[i], _, _ = answer(t, alone, prompts[i], options(i))
		}
		for range 2 {
			var all sync.WaitGroup
			for i, p := range prompts {
				all.Go(func() {
					have, _, _ := answer(t, e, p, options(i))
					assert.Equal(t, want[i], have, "question %d", i)
				})
			}
			all.Wait()
		}
	})
}

// TestNobodyStarves: a long prompt goes on between the tokens of an answer, and the answer between its chunks.
func TestNobodyStarves(t *testing.T) {
	f := newFake(t, 64)
	var seen []int // rows of each pass
	e := fakeEngine(t, f, nil, 2000, 0)
	e.eos = nil
	g := f.hold()
	decoding, long := make(chan struct{}), make(chan struct{})
	go func() { defer close(decoding); asked(t, e, ramp(1, 5), Options{MaxTokens: 40}) }()
	for range 3 {
		g.pass()
	}
	leave := <-g
	go func() { defer close(long); asked(t, e, ramp(2, 1500), Options{MaxTokens: 1}) }()
	until(func() bool { return e.Counters().Waiting > 0 })
	close(leave)
	stop := g.open()
	<-long
	<-decoding
	stop()
	seen = f.passes
	first := slices.IndexFunc(seen, func(n int) bool { return n > 8 })
	last := len(seen) - 1
	for seen[last] <= 8 {
		last--
	}
	chunks := 0
	for i := first; i < last; i++ {
		if seen[i] > 8 {
			chunks++
			assert.LessOrEqual(t, seen[i+1], 8, "two chunks in a row while an answer is written: %v", seen)
		}
	}
	assert.Equal(t, 1500/192, chunks, "chunks of whole pages: %v", seen)
}

// TestClientsTakeTurns: who asks much does not keep the others waiting, and who asks too much is told so.
func TestClientsTakeTurns(t *testing.T) {
	f := newFake(t, 64)
	f.limits.Segments = 1
	e := fakeEngine(t, f, nil, 300, 8)
	e.eos = nil
	g := f.hold()
	held := f.before
	var order []int32 // in which prompts are run, by their last token
	f.before = func(pass []compute.Segment) error {
		if in := pass[0].Inputs[0].IDs; pass[0].Past+len(in) == 4 {
			order = append(order, in[len(in)-1])
		}
		return held(pass)
	}
	var all sync.WaitGroup
	ask := func(i int32, client uint64) {
		before := e.Counters()
		all.Go(func() { asked(t, e, []int32{4, 4, 4, i}, Options{MaxTokens: 2, Client: client}) })
		until(func() bool { c := e.Counters(); return c.Waiting+c.Active > before.Waiting+before.Active })
	}
	ask(0, 7)
	leave := <-g // the first is under way
	for i, client := range []uint64{1, 1, 1, 1, 1, 2, 2, 3} {
		ask(int32(1+i), client)
	}
	_, err := e.Generate(t.Context(), Prompt{{Tokens: ramp(0, 4)}}, Options{Client: 4}, func(Token) error { return nil })
	assert.ErrorIs(t, err, ErrBusy)
	assert.EqualError(t, err, "llm: generate: busy: 8 questions are waiting")
	assert.EqualValues(t, 1, e.Counters().Refused)
	// One that gives up leaves the line.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = e.Generate(ctx, Prompt{{Tokens: ramp(0, 4)}}, Options{Client: 4}, func(Token) error { return nil })
	assert.Error(t, err)
	close(leave)
	stop := g.open()
	all.Wait()
	stop()
	assert.Equal(t, []int32{0, 1, 6, 8, 2, 7, 3, 4, 5}, order)
}

// TestPromptsShareWork: what one of two equal prompts has computed the other takes, while both are under way.
func TestPromptsShareWork(t *testing.T) {
	f := newFake(t, 64)
	e := fakeEngine(t, f, nil, 2000, 0)
	g := f.hold()
	var all sync.WaitGroup
	ask := func(last int32) {
		all.Go(func() { asked(t, e, append(ramp(3, 1000), last), Options{MaxTokens: 3}) })
	}
	ask(1)
	leave := <-g
	ask(2)
	until(func() bool { return e.Counters().Waiting > 0 })
	close(leave)
	stop := g.open()
	all.Wait()
	stop()
	rows := 0
	for _, n := range f.passes {
		rows += n
	}
	assert.Less(t, rows, 1000+64+20, "%v", f.passes)
}

// TestWarmYields: warming goes in short passes, stops for questions, and is found by them.
func TestWarmYields(t *testing.T) {
	f := newFake(t, 64)
	f.limits.ChunkRows = 4096
	e := fakeEngine(t, f, nil, 3000, 0)
	e.eos = nil
	g := f.hold()
	warmed := make(chan error)
	go func() { warmed <- e.Warm(t.Context(), Prompt{{Tokens: ramp(1, 2000)}}) }()
	leave := <-g
	done := make(chan Stats)
	go func() {
		_, s := asked(t, e, ramp(1, 1000), Options{MaxTokens: 5})
		done <- s
	}()
	until(func() bool { return e.Counters().Waiting > 0 })
	close(leave)
	stop := g.open()
	s := <-done
	assert.Equal(t, warmChunk, s.CachedTokens, "the pass that was under way")
	require.NoError(t, <-warmed)
	stop()
	assert.Equal(t, []int{512, 488, 1, 1, 1, 1, 472, 512, 16}, f.passes, "from where the question had got to, in whole pages")
	c := e.Counters()
	assert.EqualValues(t, 4, c.StepPasses)
	assert.EqualValues(t, 1, c.PromptPasses)

	f.before = nil
	_, s = asked(t, e, append(ramp(1, 2000), 1, 2, 3), Options{MaxTokens: 5})
	assert.Equal(t, 2000, s.CachedTokens)

	ctx, cancel := context.WithCancel(t.Context())
	f.before = func([]compute.Segment) error { cancel(); return nil }
	assert.ErrorIs(t, e.Warm(ctx, Prompt{{Tokens: ramp(5, 2500)}}), context.Canceled)
	f.before = nil
	_, s = asked(t, e, ramp(5, 1000), Options{MaxTokens: 1})
	assert.Equal(t, 512, s.CachedTokens, "what was done is kept")
}

// TestForget: what was computed from a picture, or behind it, is not found again, whoever is being answered from it meanwhile.
func TestForget(t *testing.T) {
	f := newFake(t, 64)
	e := fakeEngine(t, f, nil, 2000, 0)
	e.eos = nil
	picture := func(id uint64) Part { return Part{Visual: noise(100, e.Dim()), ID: id} }
	with := func(id uint64, last int32) Prompt {
		return Prompt{{Tokens: ramp(1, 70)}, picture(5), picture(id), {Tokens: ramp(3, 90)}, {Tokens: []int32{last}}}
	}
	cached := func(p Prompt) int {
		_, _, s := answer(t, e, p, Options{MaxTokens: 2})
		return s.CachedTokens
	}
	cached(with(6, 1))
	cached(with(7, 1))
	require.Equal(t, 360, cached(with(6, 2)))
	e.Forget(func(id uint64) bool { return id == 6 })
	assert.Equal(t, 170, cached(with(6, 2)), "what was before it")
	e.Forget(func(id uint64) bool { return id == 6 })
	assert.Equal(t, 360, cached(with(7, 2)), "another picture's rows stay")

	// One is under way, one waits, one warms: all get their answers and leave nothing of it.
	g := f.hold()
	var all sync.WaitGroup
	for i := range int32(f.limits.Segments + 3) {
		all.Go(func() { answer(t, e, with(6, 1+i), Options{MaxTokens: 4}) })
	}
	leave := <-g
	until(func() bool { c := e.Counters(); return c.Active+c.Waiting == f.limits.Segments+3 })
	all.Go(func() { assert.NoError(t, e.Warm(t.Context(), with(6, 3))) })
	until(func() bool { e.s.mu.Lock(); defer e.s.mu.Unlock(); return len(e.s.warming) > 0 })
	forgot := make(chan struct{})
	go func() { e.Forget(func(id uint64) bool { return id == 6 }); close(forgot) }()
	until(func() bool { e.s.mu.Lock(); defer e.s.mu.Unlock(); return len(e.s.forgets) > 0 })
	close(leave)
	stop := g.open()
	<-forgot
	all.Wait()
	stop()
	f.before = nil
	assert.Equal(t, 170, cached(with(6, 4)))
	require.NoError(t, e.Close())
	e.Forget(func(uint64) bool { return true })
}

func TestDecoderErrors(t *testing.T) {
	boom := errors.New("boom")
	f := newFake(t, 16)
	f.limits.Segments = 1
	e := fakeEngine(t, f, nil, 300, 0)
	generate := func() error {
		_, err := e.Generate(t.Context(), Prompt{{Tokens: ramp(4, 100)}}, Options{}, func(Token) error { return nil })
		return err
	}
	f.before = func([]compute.Segment) error { return fmt.Errorf("cuda: forward: %w", compute.ErrNoMemory) }
	assert.ErrorIs(t, generate(), compute.ErrNoMemory)
	f.before = func([]compute.Segment) error { return boom }
	assert.ErrorIs(t, generate(), boom)
	assert.ErrorIs(t, e.Warm(t.Context(), Prompt{{Tokens: ramp(4, 100)}}), boom)
	f.before = nil
	require.NoError(t, generate(), "others go on")
	c := e.Counters()
	assert.Equal(t, 16, c.FreePages+c.CachedPages)

	// A row that no token can be drawn from.
	f.broken = true
	assert.ErrorIs(t, generate(), errNotFinite)
	f.broken = false

	// Lost: those under way, those waiting and those to come are told.
	g := f.hold()
	held := f.before
	f.before = func(pass []compute.Segment) error {
		_ = held(pass)
		return fmt.Errorf("cuda: forward: %w", compute.ErrDeviceLost)
	}
	errs := make(chan error, 2)
	go func() { errs <- generate() }()
	leave := <-g
	go func() { errs <- generate() }()
	until(func() bool { return e.Counters().Waiting > 0 })
	close(leave)
	assert.ErrorIs(t, <-errs, compute.ErrDeviceLost)
	assert.ErrorIs(t, <-errs, compute.ErrDeviceLost)
	assert.ErrorIs(t, generate(), compute.ErrDeviceLost)
	assert.ErrorIs(t, e.Warm(t.Context(), Prompt{{Tokens: ramp(4, 100)}}), compute.ErrDeviceLost)
	assert.Equal(t, 16, e.Counters().FreePages)
	require.NoError(t, e.Close())
	assert.ErrorIs(t, generate(), ErrClosed)
}

// TestCloseEndsAll: those under way, those waiting and those warming; a pass under way is waited for.
func TestCloseEndsAll(t *testing.T) {
	f := newFake(t, 64)
	f.limits.Segments = 1
	e := fakeEngine(t, f, nil, 3000, 0)
	g := f.hold()
	errs := make(chan error, 3)
	generate := func(ctx context.Context) error {
		s, err := e.Generate(ctx, Prompt{{Tokens: ramp(4, 1000)}}, Options{}, func(Token) error { return nil })
		assert.Equal(t, "cancelled", s.Finish)
		return err
	}
	go func() { errs <- generate(t.Context()) }()
	leave := <-g
	go func() { errs <- generate(t.Context()) }()
	go func() { errs <- e.Warm(t.Context(), Prompt{{Tokens: ramp(1, 2000)}}) }()
	until(func() bool { return e.Counters().Waiting > 0 })
	short, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	assert.ErrorIs(t, generate(short), gone, "one that waits leaves at once")
	closed := make(chan error)
	go func() { closed <- e.Close() }()
	<-e.s.life.Done()
	close(leave)
	require.NoError(t, <-closed)
	for range 3 {
		assert.ErrorIs(t, <-errs, ErrClosed)
	}
	assert.ErrorIs(t, generate(t.Context()), ErrClosed)
}

// TestPoolAtRandom opens, grows and closes sequences against a plain account of who holds what.
func TestPoolAtRandom(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 7))
		const pages = 12
		p := newPool(pages)
		content := make([][]key, pages) // what a device would hold
		var forgettable []key
		for j := range int32(100) {
			if forgettable = append(forgettable, key{row: 100 + j}); j > 50 {
				forgettable[j] = key{visual: 7, row: j, of: 200}
			}
		}
		var open []*kv
		var wants [][]key
		check := func() {
			held := map[int32]int{}
			for _, id := range p.free {
				held[id]++
			}
			var walk func(n *node)
			walk = func(n *node) {
				if n != &p.root {
					held[n.page]++
					require.Equal(t, n.keys, content[n.page][:len(n.keys)], "a cached page holds what its node says")
				}
				for _, c := range n.children {
					walk(c)
				}
			}
			walk(&p.root)
			promised := 0
			for _, s := range open {
				promised += s.reserved
				for i, own := range s.owned {
					if own {
						held[s.pages[i]]++
					}
				}
				for r, k := range s.keys {
					require.Equal(t, k, content[s.pages[r/pageRows]][r%pageRows], "a sequence's rows are its own")
				}
			}
			require.Len(t, held, pages)
			for id, n := range held {
				require.Equal(t, 1, n, "page %d", id)
			}
			require.Equal(t, promised, p.reserved)
			require.GreaterOrEqual(t, p.available(), 0)
		}
		write := func(s *kv, k key) {
			row := len(s.keys)
			s.grow(row + 1)
			id := s.pages[row/pageRows]
			require.True(t, s.owned[row/pageRows], "writing to a page of the tree")
			content[id] = append(content[id][:row%pageRows:row%pageRows], k)
			s.add(k)
		}
		for range 150 {
			switch i := rng.IntN(4); {
			case rng.IntN(20) == 0:
				seven := func(id uint64) bool { return id == 7 }
				for i, s := range open {
					s.forgot = s.forgot || anyVisual(wants[i], seven)
				}
				p.forget(seven)
				path, _, n := p.find(forgettable)
				require.Empty(t, path)
				require.LessOrEqual(t, n, 51, "the rows before the picture")
			case i == 0 || len(open) == 0:
				var want []key
				for range 1 + rng.IntN(3) {
					kind := rng.Int32N(3)
					for j := range int32(1 + rng.IntN(120)) {
						k := key{row: kind*100 + j}
						if kind == 2 && j == 70 {
							k = key{of: 5} // nobody's
						}
						if kind == 1 && j > 50 {
							k = key{visual: 7, row: j, of: 200}
						}
						want = append(want, k)
					}
				}
				rows := len(want) + rng.IntN(40)
				if pagesFor(rows) > pages {
					continue
				}
				s, copied, ok := p.open(want, rows)
				if !ok {
					require.NotEmpty(t, open, "alone there is always room")
					continue
				}
				if copied[0] >= 0 {
					content[copied[1]] = slices.Clone(content[copied[0]])
				}
				require.Equal(t, want[:len(s.keys)], s.keys)
				open, wants = append(open, s), append(wants, want)
			case i == 1:
				n := rng.IntN(len(open))
				if rng.IntN(5) == 0 {
					open[n].drop()
				} else {
					open[n].close()
				}
				open, wants = slices.Delete(open, n, n+1), slices.Delete(wants, n, n+1)
			default:
				n := rng.IntN(len(open))
				if rng.IntN(2) == 0 {
					open[n].adopt(wants[n])
				}
				for range rng.IntN(100) {
					if at := len(open[n].keys); at < len(wants[n]) {
						write(open[n], wants[n][at])
					}
				}
			}
			check()
		}
	}
}
