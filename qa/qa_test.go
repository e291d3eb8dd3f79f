package qa

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/jpeg"
	"io"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// The tokenizer's regular expressions have a time limit, whose clock goes on for a second after the last one.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/dlclark/regexp2.runClock"))
}

var epoch = time.Date(2026, 3, 1, 14, 0, 0, 0, time.FixedZone("CET", 3600))

// fakeSource gives frames half a second apart, then err, or waits for ctx when err is nil.
type fakeSource struct {
	n, given int
	err      error
	cut      int // pictures from this one on are smaller; 0: none are
}

func (s *fakeSource) Next(ctx context.Context) (ingest.Frame, error) {
	if s.given == s.n {
		if s.err != nil {
			return ingest.Frame{}, s.err
		}
		<-ctx.Done()
		return ingest.Frame{}, ctx.Err()
	}
	i := s.given
	s.given++
	pts := time.Duration(i) * 500 * time.Millisecond
	w, h := 320, 180
	if s.cut > 0 && i >= s.cut {
		w, h = 160, 90
	}
	pix := bytes.Repeat([]byte{byte(i), 100, 200}, w*h)
	return ingest.Frame{Index: int64(i), PTS: pts, Wall: epoch.Add(pts), W: w, H: h, Pix: pix}, nil
}

// fakeEncoder gives 2x2 rows that hold the frame's index.
type fakeEncoder struct {
	fail func(index int64) error
	bad  func(index int64) (compute.Matrix, bool)
	hold chan struct{} // when set, a pass waits for it or for ctx
	unit int           // frames of a matrix; 0: 1

	passes, most atomic.Int64
}

func (e *fakeEncoder) Grid(w, h int) (gridH, gridW int) { return 2, 2 }

func (e *fakeEncoder) Unit() int { return max(1, e.unit) }

func (e *fakeEncoder) Encode(ctx context.Context, frames ...ingest.Frame) ([]compute.Matrix, error) {
	e.passes.Add(1)
	e.most.Store(max(e.most.Load(), int64(len(frames))))
	if e.hold != nil {
		select {
		case <-e.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if len(frames)%e.Unit() != 0 {
		return nil, fmt.Errorf("%d frames", len(frames))
	}
	var out []compute.Matrix
	for i, f := range frames {
		if e.fail != nil {
			if err := e.fail(f.Index); err != nil {
				return nil, err
			}
		}
		if i%e.Unit() != 0 {
			if first := frames[i/e.Unit()*e.Unit()]; first.W != f.W || first.H != f.H {
				return nil, errors.New("sizes differ")
			}
			continue
		}
		if e.bad != nil {
			if m, ok := e.bad(f.Index); ok {
				out = append(out, m)
				continue
			}
		}
		m := compute.NewMatrix(4, 3)
		for i := range m.Data {
			m.Data[i] = float32(f.Index)
		}
		out = append(out, m)
	}
	return out, nil
}

func TestWatchToTheEnd(t *testing.T) {
	bank := memorybank.New(epoch, memorybank.Flash{Synopsis: 4, Detail: 2})
	meter := Meter{Now: func() time.Time { return epoch.Add(time.Minute) }}
	require.NoError(t, Watch(t.Context(), &fakeSource{n: 21, err: io.EOF}, &fakeEncoder{}, bank, &meter))
	s := bank.Snapshot()
	require.EqualValues(t, 21, s.Version)
	require.Equal(t, 10*time.Second, s.Now)
	require.Equal(t, []float32{20, 20, 20}, s.Newest.Tokens.Row(3))
	img, err := jpeg.Decode(bytes.NewReader(s.Newest.Thumb))
	require.NoError(t, err)
	require.Equal(t, 160, img.Bounds().Dx())
	require.Equal(t, 90, img.Bounds().Dy())
	r, g, b, _ := img.At(80, 45).RGBA()
	require.InDelta(t, 20, r>>8, 4)
	require.InDelta(t, 100, g>>8, 4)
	require.InDelta(t, 200, b>>8, 4)
	p := meter.Read()
	require.Positive(t, p.Encoding)
	p.Encoding = 0
	require.Equal(t, Progress{Frames: 21, LastFrame: epoch.Add(10 * time.Second), Lag: 50 * time.Second}, p)
}

func TestWatchPairs(t *testing.T) {
	for _, tt := range []struct {
		name string
		src  *fakeSource
		want []float32 // first frames of the pairs
	}{
		{"even", &fakeSource{n: 6, err: io.EOF}, []float32{0, 2, 4}},
		{"odd", &fakeSource{n: 7, err: io.EOF}, []float32{0, 2, 4, 6}},
		{"another size", &fakeSource{n: 6, err: io.EOF, cut: 3}, []float32{0, 2, 3, 5}},
		{"one", &fakeSource{n: 1, err: io.EOF}, []float32{0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bank := memorybank.New(epoch, memorybank.Recent{N: 100})
			var meter Meter
			require.NoError(t, Watch(t.Context(), tt.src, &fakeEncoder{unit: 2}, bank, &meter))
			var have []float32
			for _, e := range bank.Snapshot().Entries {
				have = append(have, e.Tokens.Data[0])
				require.Equal(t, time.Duration(e.Tokens.Data[0])*500*time.Millisecond, e.At)
			}
			require.Equal(t, tt.want, have)
			p := meter.Read()
			require.EqualValues(t, tt.src.n, p.Frames, "frames, not pairs")
			require.Zero(t, p.Failed, p.LastError)
			require.Equal(t, epoch.Add(time.Duration(tt.src.n-1)*500*time.Millisecond), p.LastFrame)
		})
	}
}

func TestWatchSurvivesBadFrames(t *testing.T) {
	nan := compute.NewMatrix(4, 3)
	nan.Data[7] = float32(math.NaN())
	for name, enc := range map[string]*fakeEncoder{
		"error": {fail: func(i int64) error {
			if i%5 == 3 {
				return errors.New("no such picture")
			}
			return nil
		}},
		"not a number": {bad: func(i int64) (compute.Matrix, bool) { return nan, i%5 == 3 }},
		"wrong shape":  {bad: func(i int64) (compute.Matrix, bool) { return compute.NewMatrix(3, 3), i%5 == 3 }},
	} {
		t.Run(name, func(t *testing.T) {
			bank := memorybank.New(epoch, memorybank.Recent{N: 100})
			var meter Meter
			require.NoError(t, Watch(t.Context(), &fakeSource{n: 20, err: io.EOF}, enc, bank, &meter))
			p := meter.Read()
			require.EqualValues(t, 16, p.Frames)
			require.EqualValues(t, 4, p.Failed)
			require.Contains(t, p.LastError, "frame 18: ")
			require.False(t, p.ErrorAt.IsZero())
			require.EqualValues(t, 16, bank.Snapshot().Version)
			for _, e := range bank.Snapshot().Entries {
				require.NotEqual(t, 3, int(e.Tokens.Data[0])%5)
			}
		})
	}
}

func TestWatchErrorsAndCancel(t *testing.T) {
	bank := memorybank.New(epoch, memorybank.Recent{})
	broken := errors.New("camera on fire")
	err := Watch(t.Context(), &fakeSource{n: 3, err: broken}, &fakeEncoder{}, bank)
	require.ErrorIs(t, err, broken)
	require.EqualError(t, err, "qa: watch: camera on fire")
	require.EqualValues(t, 3, bank.Snapshot().Version)

	for name, c := range map[string]struct {
		src *fakeSource
		enc *fakeEncoder
	}{
		"while the source waits":            {&fakeSource{n: 2}, &fakeEncoder{}},
		"while the encoder works":           {&fakeSource{n: 1}, &fakeEncoder{hold: make(chan struct{})}},
		"while the channel is full":         {&fakeSource{n: 1000}, &fakeEncoder{hold: make(chan struct{})}},
		"while the channel is full, at end": {&fakeSource{n: 5, err: io.EOF}, &fakeEncoder{hold: make(chan struct{})}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			var meter Meter
			go func() { done <- Watch(ctx, c.src, c.enc, memorybank.New(epoch, memorybank.Recent{}), &meter) }()
			require.Eventually(t, func() bool { return c.enc.passes.Load() > 0 }, 10*time.Second, time.Millisecond)
			cancel()
			if err := <-done; c.src.err == nil {
				require.ErrorIs(t, err, context.Canceled)
			}
			require.Zero(t, meter.Read().Failed, "being cancelled is no failure")
		})
	}
}

func TestWatchBatchesWhenBehind(t *testing.T) {
	enc := &fakeEncoder{hold: make(chan struct{})}
	bank := memorybank.New(epoch, memorybank.Recent{N: 100})
	done := make(chan error)
	go func() { done <- Watch(t.Context(), &fakeSource{n: 40, err: io.EOF}, enc, bank) }()
	require.Eventually(t, func() bool { return enc.passes.Load() > 0 }, 10*time.Second, time.Millisecond)
	close(enc.hold)
	require.NoError(t, <-done)
	require.EqualValues(t, 40, bank.Snapshot().Version)
	require.LessOrEqual(t, enc.most.Load(), int64(waiting))
	for i, e := range bank.Snapshot().Entries {
		require.Equal(t, float32(i), e.Tokens.Data[0], "in order")
	}
}

func TestThumbnailShapes(t *testing.T) {
	for _, c := range []struct{ w, h, tw, th int }{
		{1, 1, 1, 1}, {3, 5, 3, 5}, {160, 90, 160, 90}, {1920, 1080, 160, 90}, {90, 1600, 5, 90}, {4000, 3, 160, 1}, {3, 4000, 1, 90}, {641, 359, 160, 89},
	} {
		b := thumbnail(ingest.Frame{W: c.w, H: c.h, Pix: make([]byte, 3*c.w*c.h)})
		img, err := jpeg.Decode(bytes.NewReader(b))
		require.NoError(t, err)
		require.Equal(t, []int{c.tw, c.th}, []int{img.Bounds().Dx(), img.Bounds().Dy()}, "%dx%d", c.w, c.h)
	}
	require.Nil(t, thumbnail(ingest.Frame{}))
	require.Nil(t, thumbnail(ingest.Frame{W: 2, H: 2, Pix: make([]byte, 11)}))
}

// fakeModel says its words one by one; before each it waits for a step when steps is set.
type fakeModel struct {
	words []string
	steps chan struct{}

	mu      sync.Mutex
	prompts []llm.Prompt
	options []llm.Options
}

func (m *fakeModel) Generate(ctx context.Context, p llm.Prompt, o llm.Options, emit func(llm.Token) error) (llm.Stats, error) {
	m.mu.Lock()
	m.prompts, m.options = append(m.prompts, p), append(m.options, o)
	m.mu.Unlock()
	s := llm.Stats{Finish: "stop"}
	for _, part := range p {
		s.VisualTokens += part.Visual.Rows
	}
	for i, w := range m.words {
		if m.steps != nil {
			select {
			case <-m.steps:
			case <-ctx.Done():
				s.Finish = "cancelled"
				return s, ctx.Err()
			}
		}
		if err := emit(llm.Token{ID: int32(i), Text: w}); err != nil {
			s.Finish = "cancelled"
			return s, err
		}
		s.Generated++
	}
	return s, nil
}

type fakeWatched struct {
	state    ingest.State
	coverage ingest.Coverage
}

func (w *fakeWatched) Status() ingest.Status      { return ingest.Status{State: w.state} }
func (w *fakeWatched) Coverage() *ingest.Coverage { return &w.coverage }

// mark covers seconds since the epoch, from up to to, a frame a second.
func (w *fakeWatched) mark(from, to int) {
	for s := from; s <= to; s++ {
		w.coverage.Mark(epoch.Add(time.Duration(s) * time.Second))
	}
}

func filledBank(s memorybank.Strategy, frames int) *memorybank.Bank {
	bank := memorybank.New(epoch, s)
	for i := range frames {
		m := compute.NewMatrix(4, 3)
		m.Data[0] = float32(i * i)
		bank.Add(memorybank.Entry{At: time.Duration(i) * time.Second, Grid: memorybank.Grid{H: 2, W: 2}, Tokens: m, Thumb: fmt.Appendf(nil, "thumb %d", i)})
	}
	return bank
}

func at(seconds int) func() time.Time {
	return func() time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }
}

func TestAsk(t *testing.T) {
	bank := filledBank(memorybank.Flash{Synopsis: 3, Detail: 1}, 10)
	w := &fakeWatched{state: ingest.Offline}
	w.mark(0, 4)
	w.mark(9, 9)
	model := &fakeModel{words: []string{"A ", "", "van", "."}}
	var pieces []string
	q := Question{ID: "q1", Text: "What came?", MaxTokens: 9, Temperature: 0.5, TopP: 0.9, Seed: 4}
	a, err := NewSession(bank, model, w, at(12)).Ask(t.Context(), q, func(s string) error {
		pieces = append(pieces, s)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []string{"A ", "van", "."}, pieces)
	require.Equal(t, "A van.", a.Text)
	require.Equal(t, "q1", a.ID)
	require.EqualValues(t, 10, a.Version)
	require.False(t, a.FromCoverage)
	require.Equal(t, llm.Options{MaxTokens: 9, Temperature: 0.5, TopP: 0.9, Seed: 4, Shares: true}, model.options[0])
	require.Equal(t, "stop", a.Stats.Finish)

	e := a.Evidence
	require.Equal(t, epoch.Add(12*time.Second), e.Asked)
	require.Equal(t, epoch.Add(9*time.Second), e.AsOf)
	require.Equal(t, 3*time.Second, e.Lag)
	require.Equal(t, ingest.Offline, e.State)
	require.Equal(t, []ingest.Span{{From: epoch, To: epoch.Add(4 * time.Second)}, {From: epoch.Add(9 * time.Second), To: epoch.Add(9 * time.Second)}}, e.Coverage)
	require.Equal(t, []ingest.Span{{From: epoch.Add(4 * time.Second), To: epoch.Add(9 * time.Second)}}, e.Gaps)

	// The items are what the prompt has, in its order.
	shown := bank.Snapshot().Select(nil, 0)
	require.Len(t, e.Items, len(shown))
	prompt := model.prompts[0]
	require.Len(t, prompt, 1+3*len(shown)+3)
	require.Equal(t, llm.Part{Control: "<|bos|>"}, prompt[0])
	for i, item := range e.Items {
		control, clock, visual := prompt[1+3*i], prompt[2+3*i], prompt[3+3*i]
		said := item.At
		if item.Role == memorybank.Synopsis {
			said = item.From
		}
		require.Equal(t, map[memorybank.Role]string{memorybank.Synopsis: "<|segment|>", memorybank.Detail: "<|detail|>", memorybank.Newest: "<|newest|>"}[item.Role], control.Control)
		require.Equal(t, said.Format("150405"), clock.Text)
		require.Equal(t, item.ID, visual.ID)
		require.Same(t, &shown[i].Tokens.Data[0], &visual.Visual.Data[0])
		require.Equal(t, item.Tokens, visual.Visual.Rows)
		require.Equal(t, shown[i].Thumb, item.Thumb)
		require.Equal(t, fmt.Sprintf("thumb %d", item.At.Sub(epoch)/time.Second), string(item.Thumb))
	}
	require.Equal(t, llm.Prompt{{Control: "<|user|>"}, {Text: "What came?"}, {Control: "<|assistant|>"}}, prompt[len(prompt)-3:])
	require.Equal(t, "140009", prompt[len(prompt)-5].Text, "the newest frame, in the epoch's own zone")
}

func TestAskBudget(t *testing.T) {
	bank := filledBank(memorybank.Flash{Synopsis: 6, Detail: 2}, 30)
	w := &fakeWatched{state: ingest.Live}
	w.mark(0, 29)
	for _, budget := range []int{1, 2, 3, 4, 5, 7, 8, 9, 13, 17, 18, 100, 0} {
		model := &fakeModel{words: []string{"x"}}
		a, err := NewSession(bank, model, w, at(29)).Ask(t.Context(), Question{Text: "What?", MaxVisualTokens: budget}, nil)
		require.NoError(t, err)
		rows := 0
		for _, i := range a.Evidence.Items {
			rows += i.Tokens
		}
		require.Equal(t, rows, a.Stats.VisualTokens)
		require.Positive(t, rows)
		if budget > 0 {
			require.LessOrEqual(t, rows, budget)
			require.GreaterOrEqual(t, rows, min(budget, 18), "every row of 1 that fits is used")
		} else {
			require.Equal(t, 18, rows)
		}
	}
}

// greedy is a strategy that does not keep to the budget.
type greedy struct{ memorybank.Recent }

func (g greedy) Select(s *memorybank.Snapshot, q []float32, _ int) []memorybank.Entry {
	return g.Recent.Select(s, q, 0)
}

func TestAskRefuses(t *testing.T) {
	w := &fakeWatched{state: ingest.Live}
	w.mark(0, 5)
	model := &fakeModel{}
	for _, c := range []struct {
		q    Question
		s    memorybank.Strategy
		want string
		bad  bool
	}{
		{Question{Text: " \n"}, memorybank.Flash{}, "qa: ask: bad question: it is empty", true},
		{Question{Text: "x", MaxVisualTokens: -1}, memorybank.Flash{}, "qa: ask: bad question: a budget of -1 visual tokens", true},
		{Question{Text: "x", MaxVisualTokens: 3}, memorybank.Recent{}, "qa: ask: bad question: nothing in memory fits a budget of 3 visual tokens", true},
		{Question{Text: "x", MaxVisualTokens: 5}, greedy{}, "qa: ask: the strategy took 20 visual tokens of a budget of 5", false},
	} {
		_, err := NewSession(filledBank(c.s, 5), model, w, at(5)).Ask(t.Context(), c.q, nil)
		require.EqualError(t, err, c.want)
		require.Equal(t, c.bad, errors.Is(err, ErrQuestion))
	}
	require.Empty(t, model.prompts)
}

func TestAskNothingWatched(t *testing.T) {
	for state, want := range map[ingest.State]string{
		ingest.Connecting: "I have not watched anything yet: I am still connecting to the source.",
		ingest.Offline:    "I have not watched anything yet: the source is offline.",
		ingest.Stalled:    "I have not watched anything yet: the source is connected but sends no pictures.",
		ingest.Ended:      "I have not watched anything yet: the source has ended.",
		ingest.Live:       "I have not watched anything yet: the first picture is still on its way.",
	} {
		model := &fakeModel{}
		var said string
		a, err := NewSession(memorybank.New(epoch, memorybank.Flash{}), model, &fakeWatched{state: state}, at(5)).
			Ask(t.Context(), Question{Text: "What do you see?"}, func(s string) error { said += s; return nil })
		require.NoError(t, err)
		require.Equal(t, want, a.Text)
		require.Equal(t, want, said)
		require.True(t, a.FromCoverage)
		require.Empty(t, a.Evidence.Items)
		require.True(t, a.Evidence.AsOf.IsZero())
		require.Empty(t, model.prompts)
	}
	w := &fakeWatched{state: ingest.Live}
	w.mark(0, 2)
	a, err := NewSession(memorybank.New(epoch, memorybank.Flash{}), &fakeModel{}, w, at(2)).Ask(t.Context(), Question{Text: "Anything?"}, nil)
	require.NoError(t, err)
	require.Equal(t, "I have nothing in memory yet, though pictures have arrived. I have watched from 14:00:00 until now (14:00:02).", a.Text)
}

func TestAskCancelAndEmitError(t *testing.T) {
	w := &fakeWatched{state: ingest.Live}
	w.mark(0, 5)
	model := &fakeModel{words: []string{"one ", "two ", "three"}, steps: make(chan struct{}, 3)}
	s := NewSession(filledBank(memorybank.Flash{}, 5), model, w, at(5))
	ctx, cancel := context.WithCancel(t.Context())
	model.steps <- struct{}{}
	a, err := s.Ask(ctx, Question{ID: "c", Text: "Count."}, func(string) error { cancel(); return nil })
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, "one ", a.Text, "what was said stays said")
	require.Equal(t, "cancelled", a.Stats.Finish)
	require.NotEmpty(t, a.Evidence.Items)

	_, err = s.Ask(ctx, Question{Text: "What was there at 03:00:00?"}, nil)
	require.ErrorIs(t, err, context.Canceled, "also without the model")

	gone := errors.New("connection lost")
	model.steps = nil
	a, err = s.Ask(t.Context(), Question{Text: "Count."}, func(string) error { return gone })
	require.ErrorIs(t, err, gone)
	require.Equal(t, "one ", a.Text)
}

// Questions asked while frames arrive each have the snapshot of their moment, and an answer under way is not touched by what comes.
func TestManyQuestionsWhileWatching(t *testing.T) {
	bank := memorybank.New(epoch, memorybank.Flash{Synopsis: 4, Detail: 2})
	w := &fakeWatched{state: ingest.Live}
	w.mark(0, 1)
	first := compute.NewMatrix(4, 3)
	bank.Add(memorybank.Entry{Grid: memorybank.Grid{H: 2, W: 2}, Tokens: first})
	slow := &fakeModel{words: []string{"so", " it", " was"}, steps: make(chan struct{})}
	s := NewSession(bank, slow, w, at(1))
	type result struct {
		a   Answer
		err error
	}
	early := make(chan result)
	go func() {
		a, err := s.Ask(t.Context(), Question{Text: "What is there now?"}, nil)
		early <- result{a, err}
	}()
	slow.steps <- struct{}{}
	require.NoError(t, Watch(t.Context(), &fakeSource{n: 200, err: io.EOF}, &fakeEncoder{}, bank), "the answer under way holds nothing up")
	require.EqualValues(t, 201, bank.Snapshot().Version)
	slow.steps <- struct{}{}
	slow.steps <- struct{}{}
	r := <-early
	require.NoError(t, r.err)
	require.EqualValues(t, 1, r.a.Version)
	require.Equal(t, "so it was", r.a.Text)

	quick := NewSession(bank, &fakeModel{words: strings.SplitAfter("many words are said here", " ")}, w, at(1))
	ctx, stop := context.WithCancel(t.Context())
	var watching, wg sync.WaitGroup
	watching.Go(func() { _ = Watch(ctx, &fakeSource{n: 1 << 30}, &fakeEncoder{}, bank) })
	for i := range 8 {
		wg.Go(func() {
			for range 25 {
				a, err := quick.Ask(ctx, Question{ID: fmt.Sprint(i), Text: "What?"}, nil)
				if err != nil || a.ID != fmt.Sprint(i) || a.Text != "many words are said here" || len(a.Evidence.Items) != 7 {
					t.Errorf("%+v %v", a, err)
				}
			}
		})
	}
	wg.Wait()
	stop()
	watching.Wait()
}
