package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
	"afterimage/qa"
)

// EngineOptions say what Engine times. The zero value of a count means its default.
type EngineOptions struct {
	Camera      Camera
	Frames      int // 240: encoded for the rate and kept for the memory
	Repetitions int // 9: of each first token
	// Progress is told what is being done; nil: nobody is.
	Progress func(what string)
}

// EngineReport is what a machine does in a second.
type EngineReport struct {
	Benchmark        string  `json:"benchmark"` // "engine"
	EncodeFPS        float64 `json:"encode_fps"`
	EncodeOneMS      float64 `json:"encode_one_ms"`         // a frame by itself, median
	IndicateMS       float64 `json:"indicate_ms,omitempty"` // what a frame shows, beside encoding it, median; 0 without a learned memory
	QueryMS          float64 `json:"query_ms,omitempty"`    // a question for the memory to select by, median; likewise
	FirstTokenMS     float64 `json:"first_token_ms"`        // full memory, nothing cached, median
	FirstTokenMaxMS  float64 `json:"first_token_max_ms"`    // the slowest of the repetitions
	FirstTokenWarmMS float64 `json:"first_token_warm_ms"`   // full memory prefilled, median
	TokensPerS       float64 `json:"tokens_per_s"`          // after the first
	PromptTokens     int     `json:"prompt_tokens"`
	VisualTokens     int     `json:"visual_tokens"`
	CPU              string  `json:"cpu"`
	Threads          int     `json:"threads"`
	Level            string  `json:"level"`
	Machine          Machine `json:"machine"`
	Rows             []Row   `json:"rows"` // the same, one row a measurement
}

// engineSeed is held out, like every seed of 100,000 and above.
const engineSeed = 900_000

var engineQuestions = []string{
	"What has happened so far, in order?",
	"Is the door open?",
	"How many cars have you seen?",
	"What colour was the coat of the last person?",
	"Describe the scene.",
}

// Engine times encoding and answering on pictures of a simulated street.
func Engine(ctx context.Context, rig Rig, o EngineOptions) (*EngineReport, error) {
	if o.Frames <= 0 {
		o.Frames = 240
	}
	if o.Repetitions <= 0 {
		o.Repetitions = 9
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	r := &EngineReport{Benchmark: "engine", CPU: rig.Machine.CPU, Threads: rig.Machine.Threads, Level: rig.Machine.Level, Machine: rig.Machine}
	o.Progress("drawing pictures")
	frames, err := readFrames(ctx, o)
	if err != nil {
		return nil, err
	}
	o.Progress("encoding")
	bank, err := r.encode(ctx, rig, frames)
	if err != nil {
		return nil, err
	}
	r.learned(rig, bank.Snapshot().Newest.Tokens)
	s := bank.Snapshot()
	entries := s.Select(nil, rig.Reading.Fit(s, rig.VisualTokens))
	o.Progress("answering")
	if err := r.answer(ctx, rig, s, entries, o.Repetitions); err != nil {
		return nil, err
	}
	name := filepath.Base(rig.Machine.Model)
	prompt := fmt.Sprintf("%s %d", name, r.PromptTokens)
	r.Rows = []Row{
		{What: "encoding", Shape: name + " batch 4", Value: r.EncodeFPS, Unit: unitFrames},
		{What: "encoding, one frame", Shape: name, Value: r.EncodeOneMS, Unit: unitMillis},
		{What: "first token, cold", Shape: prompt, Value: r.FirstTokenMS, Unit: unitMillis},
		{What: "first token, warm", Shape: prompt, Value: r.FirstTokenWarmMS, Unit: unitMillis},
		{What: "decoding", Shape: fmt.Sprintf("%s over %d", name, r.PromptTokens), Value: r.TokensPerS, Unit: unitTokens},
	}
	if r.IndicateMS > 0 {
		r.Rows = append(r.Rows, Row{What: "indicator, one frame", Shape: name, Value: r.IndicateMS, Unit: unitMillis},
			Row{What: "query, one question", Shape: name, Value: r.QueryMS, Unit: unitMillis})
	}
	return r, nil
}

// learned times the learned memory, where there is one, on a frame's rows and on questions.
func (r *EngineReport) learned(rig Rig, rows compute.Matrix) {
	indicator, ok := rig.Encoder.(qa.Indicator)
	if !ok || rig.Query == nil {
		return
	}
	const repetitions = 101
	var frame, question []float64
	for i := range repetitions {
		start := time.Now()
		indicator.Indicate(rows)
		frame = append(frame, ms(time.Since(start)))
		start = time.Now()
		rig.Query(engineQuestions[i%len(engineQuestions)])
		question = append(question, ms(time.Since(start)))
	}
	r.IndicateMS, r.QueryMS = median(frame), median(question)
}

// AddLikeness adds how near a model with weights held in fewer bits comes to the one that was timed.
func (r *EngineReport) AddLikeness(weights string, l compute.Likeness) {
	shape := fmt.Sprintf("%s %s, %d tokens", filepath.Base(r.Machine.Model), weights, l.Tokens)
	r.Rows = append(r.Rows,
		Row{What: "same next token as bf16", Shape: shape, Value: figures(100 * l.Agree), Unit: "%", Ceiling: 100},
		Row{What: "divergence from bf16", Shape: shape, Value: figures(l.KL), Unit: "nats"},
		Row{What: "largest divergence from bf16", Shape: shape, Value: figures(l.MaxKL), Unit: "nats"})
}

func readFrames(ctx context.Context, o EngineOptions) ([]ingest.Frame, error) {
	src, err := o.Camera(ctx, engineSeed, time.Duration(o.Frames)*time.Second/2+time.Minute, Epoch(engineSeed))
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer src.Close()
	frames := make([]ingest.Frame, 0, o.Frames)
	for len(frames) < o.Frames {
		f, err := src.Next(ctx)
		if err != nil {
			return nil, fmt.Errorf("bench: frame %d: %w", len(frames), err)
		}
		frames = append(frames, f)
	}
	return frames, nil
}

// encode times frames in groups of four, as a busy watcher takes them, then some units one by one, and returns the memory of them.
func (r *EngineReport) encode(ctx context.Context, rig Rig, frames []ingest.Frame) (*memorybank.Bank, error) {
	const group = 4
	unit := rig.Encoder.Unit()
	frames = frames[:len(frames)/unit*unit]
	if _, err := rig.Encoder.Encode(ctx, frames[:min(group, len(frames))]...); err != nil { // first touch of everything
		return nil, fmt.Errorf("bench: %w", err)
	}
	bank := memorybank.New(Epoch(engineSeed), rig.Strategy())
	var spent time.Duration
	for i := 0; i < len(frames); i += group {
		batch := frames[i:min(i+group, len(frames))]
		start := time.Now()
		rows, err := rig.Encoder.Encode(ctx, batch...)
		spent += time.Since(start)
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		for j, m := range rows {
			first := batch[j*unit]
			h, w := rig.Encoder.Grid(first.W, first.H)
			bank.Add(memorybank.Entry{At: first.PTS, Grid: memorybank.Grid{H: h, W: w}, Tokens: m})
		}
	}
	r.EncodeFPS = round3(float64(len(frames)) / spent.Seconds())
	var one []float64
	for i := 0; i+unit <= min(21*unit, len(frames)); i += unit {
		start := time.Now()
		if _, err := rig.Encoder.Encode(ctx, frames[i:i+unit]...); err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		one = append(one, ms(time.Since(start)))
	}
	r.EncodeOneMS = median(one)
	return bank, nil
}

// answer times first tokens with nothing of the memory cached, then with all of it, and the tokens after them.
func (r *EngineReport) answer(ctx context.Context, rig Rig, snap *memorybank.Snapshot, entries []memorybank.Entry, repetitions int) error {
	var cold, warm []float64
	tokens, spent := 0, time.Duration(0)
	for i := range repetitions {
		fresh := make([]memorybank.Entry, len(entries))
		for j, e := range entries {
			e.ID += uint64(i+1) << 48 // other IDs: other rows, as far as any cache can know
			fresh[j] = e
		}
		for k, text := range []string{engineQuestions[i%len(engineQuestions)], engineQuestions[(i+1)%len(engineQuestions)]} {
			prompt, err := rig.Reading.Prompt(ctx, snap, fresh, text, snap.Wall(snap.Now))
			if err != nil {
				return fmt.Errorf("bench: %w", err)
			}
			stats, err := rig.Model.Generate(ctx, prompt, llm.Options{MaxTokens: 128}, func(llm.Token) error { return nil })
			if err != nil {
				return fmt.Errorf("bench: %w", err)
			}
			if k == 0 {
				cold = append(cold, ms(stats.FirstToken))
				r.PromptTokens, r.VisualTokens = stats.PromptTokens, stats.VisualTokens
			} else {
				warm = append(warm, ms(stats.FirstToken))
			}
			if stats.Generated > 1 {
				tokens += stats.Generated - 1
				spent += stats.Total - stats.FirstToken
			}
		}
	}
	r.FirstTokenMS, r.FirstTokenMaxMS, r.FirstTokenWarmMS = median(cold), percentile(cold, 1), median(warm)
	if spent > 0 {
		r.TokensPerS = round3(float64(tokens) / spent.Seconds())
	}
	return nil
}
