package bench

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/ingest/simcam"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
)

// meanEncoder gives each of 4x8 cells the mean brightness of the picture: enough for a memory to be made of.
type meanEncoder struct{}

func (meanEncoder) Grid(w, h int) (gridH, gridW int) { return 4, 8 }

func (meanEncoder) Unit() int { return 1 }

func (meanEncoder) Encode(_ context.Context, frames ...ingest.Frame) ([]compute.Matrix, error) {
	var out []compute.Matrix
	for _, f := range frames {
		sum := 0
		for _, p := range f.Pix {
			sum += int(p)
		}
		m := compute.NewMatrix(32, 4)
		for i := range m.Data {
			m.Data[i] = float32(sum) / float32(len(f.Pix))
		}
		out = append(out, m)
	}
	return out, nil
}

// parrot answers every question with the same words and remembers what it was shown.
type parrot struct {
	answer string
	asked  *[]llm.Prompt
	fail   func(n int) error
}

func (p parrot) Generate(ctx context.Context, prompt llm.Prompt, _ llm.Options, emit func(llm.Token) error) (llm.Stats, error) {
	if p.asked != nil {
		*p.asked = append(*p.asked, prompt)
		if p.fail != nil {
			if err := p.fail(len(*p.asked)); err != nil {
				return llm.Stats{}, err
			}
		}
	}
	visual := 0
	for _, part := range prompt {
		visual += part.Visual.Rows
	}
	if err := emit(llm.Token{Text: p.answer}); err != nil {
		return llm.Stats{}, err
	}
	return llm.Stats{Generated: 3, VisualTokens: visual, FirstToken: time.Millisecond, Total: 3 * time.Millisecond, Finish: "stop"}, ctx.Err()
}

func smallCamera(_ context.Context, seed uint64, length time.Duration, epoch time.Time) (ingest.Source, error) {
	return simcam.Open(simcam.CameraOptions{Seed: seed, Length: length, Epoch: epoch, W: 64, H: 36})
}

func parrotRig(answer string, s memorybank.Strategy, asked *[]llm.Prompt) Rig {
	return Rig{
		Encoder: meanEncoder{}, Model: parrot{answer: answer, asked: asked},
		Strategy: func() memorybank.Strategy { return s }, Machine: Machine{CPU: "test", Model: "parrot"},
	}
}

func simOptions(seeds ...uint64) SimOptions {
	return SimOptions{Seeds: seeds, Length: 2 * time.Minute, PerMinute: 3, Strategy: "flash", Codec: "none", Camera: smallCamera}
}

func TestRate(t *testing.T) {
	for _, tt := range []struct {
		k, n   int
		lo, hi float64 // Wilson intervals worked out by hand
	}{{0, 0, 0, 1}, {0, 10, 0, .2775}, {10, 10, .7225, 1}, {92, 100, .8500, .9589}, {1, 2, .0945, .9055}} {
		r := NewRate(tt.k, tt.n)
		assert.InDelta(t, tt.lo, r.CI95[0], 5e-5, "%d of %d", tt.k, tt.n)
		assert.InDelta(t, tt.hi, r.CI95[1], 5e-5, "%d of %d", tt.k, tt.n)
		assert.Equal(t, tt.n, r.N)
	}
}

func TestPercentile(t *testing.T) {
	v := []float64{5, 1, 4, 2, 3}
	assert.Equal(t, 3.0, median(v))
	assert.Equal(t, 5.0, percentile(v, 1))
	assert.Equal(t, 1.0, percentile(v, 0))
	assert.Zero(t, median(nil))
	assert.Equal(t, []float64{5, 1, 4, 2, 3}, v, "the caller's slice was sorted")
}

func TestSimAsksAtTheMomentFromWhatWasSeen(t *testing.T) {
	var asked []llm.Prompt
	o := simOptions(900_100)
	o.PerMinute = 1
	r, err := Sim(t.Context(), parrotRig("No.", memorybank.Recent{N: 1000}, &asked), o)
	require.NoError(t, err)
	at := moments(900_100, o.Length)
	require.Len(t, asked, len(at))
	whole := 0
	for i, p := range asked {
		frames := 0
		for _, part := range p {
			if part.Visual.Rows > 0 {
				frames++
			}
		}
		// Two frames a second from 0 on: exactly those up to the moment, none after; fewer where the question names a time.
		want := int(at[i]/(500*time.Millisecond)) + 1
		assert.LessOrEqual(t, frames, want, "question %d at %s", i, at[i])
		assert.Positive(t, frames, "question %d at %s", i, at[i])
		if frames == want {
			whole++
		}
	}
	assert.Positive(t, whole, "no question was shown all there was")
	assert.Equal(t, len(at), r.Questions)
}

func TestSimScoresAndReports(t *testing.T) {
	dir := t.TempDir()
	o := simOptions(900_101, 900_102)
	o.Log = filepath.Join(dir, "out.jsonl")
	steps := 0
	o.Progress = func(done, total int, _ string) {
		steps++
		assert.LessOrEqual(t, done, total)
	}
	r, err := Sim(t.Context(), parrotRig("No.", memorybank.Flash{}, nil), o)
	require.NoError(t, err)
	require.Positive(t, r.Questions)
	require.Positive(t, steps)
	n, yesno := 0, 0
	for _, x := range r.Types {
		n += x.N
	}
	assert.Equal(t, r.Questions, n, "every question belongs to one type")
	text, err := os.ReadFile(o.Log)
	require.NoError(t, err)
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n")[1:] {
		var x Record
		require.NoError(t, json.Unmarshal([]byte(line), &x))
		if x.Form == "yesno" {
			yesno++
			assert.Equal(t, x.Short == "no", x.Exact, "%s -> %s", x.Question, x.Truth)
		}
	}
	require.Positive(t, yesno, "no yes/no question in the log")

	file := filepath.Join(dir, "out.json")
	require.NoError(t, WriteJSON(file, r))
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var doc struct {
		Closed struct {
			Exact *float64
			CI95  []float64
		}
		Types map[string]struct {
			N     *int
			Exact *float64
			CI95  []float64 `json:"ci95"`
		}
		Order struct{ Exact, Kendall *float64 }
		Seeds []uint64

		Strategy     string
		VisualTokens *int `json:"visual_tokens"`
	}
	require.NoError(t, json.Unmarshal(raw, &doc))
	assert.NotNil(t, doc.Closed.Exact)
	assert.NotNil(t, doc.Order.Exact)
	assert.NotNil(t, doc.Order.Kendall)
	assert.NotNil(t, doc.VisualTokens)
	assert.Equal(t, []uint64{900_101, 900_102}, doc.Seeds)
	assert.Equal(t, "flash", doc.Strategy)
	for name, x := range doc.Types {
		assert.NotNil(t, x.N, name)
		assert.Len(t, x.CI95, 2, name)
	}
	assert.Contains(t, r.Markdown(), "| type | n | exact | 95 % |")
}

func TestBaselinesAreShownWhatTheySay(t *testing.T) {
	for name, tt := range map[string]struct {
		s    memorybank.Strategy
		rows int
	}{"blind": {Blind{}, 0}, "newest": {NewestOnly{}, 32}} {
		t.Run(name, func(t *testing.T) {
			r, err := Sim(t.Context(), parrotRig("Yes.", tt.s, nil), simOptions(900_103))
			require.NoError(t, err)
			assert.Equal(t, tt.rows, r.VisualTokens)
			assert.Positive(t, r.Questions)
		})
	}
}

func TestSimResumes(t *testing.T) {
	o := simOptions(900_104, 900_105)
	o.Log = filepath.Join(t.TempDir(), "out.jsonl")
	whole, err := Sim(t.Context(), parrotRig("Yes.", memorybank.Flash{}, nil), o)
	require.NoError(t, err)

	// The second run breaks in its second seed, with a half-written line at the end of its log.
	var asked []llm.Prompt
	broken := parrotRig("Yes.", memorybank.Flash{}, nil)
	broken.Model = parrot{answer: "Yes.", asked: &asked, fail: func(n int) error {
		if n > 3*2 {
			return errors.New("power cut")
		}
		return nil
	}}
	o.PerMinute = 3
	_, err = Sim(t.Context(), oneAtATime(broken), o)
	require.ErrorContains(t, err, "power cut")
	f, err := os.OpenFile(o.Log, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(`{"seed":900105,"ques`)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	o.Resume = true
	asked = nil
	again := parrotRig("Yes.", memorybank.Flash{}, nil)
	again.Model = parrot{answer: "Yes.", asked: &asked}
	resumed, err := Sim(t.Context(), oneAtATime(again), o)
	require.NoError(t, err)
	assert.Less(t, len(asked), whole.Questions, "the finished seed was asked again")
	assert.Equal(t, whole.Types, resumed.Types)
	assert.Equal(t, whole.Closed, resumed.Closed)

	o.Strategy = "recent"
	_, err = Sim(t.Context(), again, o)
	require.ErrorContains(t, err, "another run")
}

// oneAtATime makes a model that keeps notes safe to be asked by several questions at once.
func oneAtATime(r Rig) Rig {
	r.Model = &serial{turn: make(chan struct{}, 1), m: r.Model}
	return r
}

type serial struct {
	turn chan struct{}
	m    interface {
		Generate(context.Context, llm.Prompt, llm.Options, func(llm.Token) error) (llm.Stats, error)
	}
}

func (s *serial) Generate(ctx context.Context, p llm.Prompt, o llm.Options, emit func(llm.Token) error) (llm.Stats, error) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return s.m.Generate(ctx, p, o, emit)
}

func TestSimRefusesWhatItCannotDo(t *testing.T) {
	rig := parrotRig("Yes.", memorybank.Flash{}, nil)
	for name, change := range map[string]func(*SimOptions){
		"seeds":     func(o *SimOptions) { o.Seeds = nil },
		"a minute":  func(o *SimOptions) { o.PerMinute = 0 },
		"one minut": func(o *SimOptions) { o.Length = time.Second },
	} {
		o := simOptions(900_106)
		change(&o)
		_, err := Sim(t.Context(), rig, o)
		assert.ErrorContains(t, err, name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Sim(ctx, rig, simOptions(900_106))
	assert.ErrorIs(t, err, context.Canceled)
}

func TestEngineReports(t *testing.T) {
	var asked []llm.Prompt
	r, err := Engine(t.Context(), parrotRig("Words.", memorybank.Flash{}, &asked), EngineOptions{Camera: smallCamera, Frames: 100, Repetitions: 3})
	require.NoError(t, err)
	assert.Positive(t, r.EncodeFPS)
	assert.Equal(t, 1.0, r.FirstTokenMS)
	assert.Equal(t, 1000.0, r.TokensPerS, "two tokens after the first in two milliseconds")
	assert.Equal(t, 64*8+8*32+32, r.VisualTokens, "the memory was not full")
	ids := map[uint64]int{}
	for _, p := range asked {
		for _, part := range p {
			if part.Visual.Rows > 0 {
				ids[part.ID]++
			}
		}
	}
	for id, n := range ids {
		assert.Equal(t, 2, n, "ID %d: a cold question and a warm one", id)
	}
	assert.Contains(t, r.Markdown(), "frames encoded a second")
}

func TestSoakReportsEveryMinute(t *testing.T) {
	used := Usage{RSS: 100e6}
	r, err := Soak(t.Context(), parrotRig("Words.", memorybank.Flash{}, nil), SoakOptions{
		Minutes: 2, Every: 300 * time.Millisecond, FPS: 20, Seed: 900_107,
		Open: func(context.Context) (ingest.Source, error) {
			return simcam.Open(simcam.CameraOptions{Seed: 900_107, FPS: 20, W: 64, H: 36, Pace: true})
		},
		Usage: func() (Usage, error) { used.CPU += 30 * time.Millisecond; return used, nil },
	})
	require.NoError(t, err)
	assert.Equal(t, []float64{100, 100}, r.RSSMB)
	assert.Equal(t, []float64{.1, .1}, r.CoresByMinute)
	assert.Len(t, r.FirstTokenMS, 2)
	assert.Positive(t, r.FramesByMinute[1])
	assert.Positive(t, r.CPUCores)
	assert.Contains(t, r.Markdown(), "| 2 | 100.0 |")

	_, err = Soak(t.Context(), parrotRig("", memorybank.Flash{}, nil), SoakOptions{
		Minutes: 1, Every: time.Minute,
		Open: func(context.Context) (ingest.Source, error) {
			return smallCamera(t.Context(), 1, time.Second, time.Now())
		},
		Usage: func() (Usage, error) { return Usage{}, errors.New("no such thing") },
	})
	require.ErrorContains(t, err, "no such thing")
}
