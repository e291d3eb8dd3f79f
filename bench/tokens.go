package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"afterimage/internal/compute"
	"afterimage/llm"
)

// TimedEngine is an engine without a tokenizer (llm.LoadRandom) with what its rows are called after, for example "qwen2-7b int8".
type TimedEngine struct {
	*llm.Engine
	Name  string
	Bytes float64 // of weights that one token reads
	Row   float64 // bytes of K/V that one row takes
	Vocab int
}

// NewTimedEngine counts what a token of e must read. e was made of c with products held as such a type.
func NewTimedEngine(name string, c *llm.Config, as compute.DType, e *llm.Engine) TimedEngine {
	q, kv := float64(c.Heads*c.HeadDim), float64(c.KVHeads*c.HeadDim)
	hidden, mlp := float64(c.Hidden), float64(c.MLP)
	numbers := float64(c.Layers)*hidden*(2*q+2*kv+3*mlp) + float64(c.Vocab)*hidden
	width := [...]float64{4, 2, 1, 0.5}[as]
	return TimedEngine{Engine: e, Name: name, Bytes: numbers * width, Row: float64(c.Layers) * 2 * kv * 2, Vocab: c.Vocab}
}

// TokenOptions say how Tokens times. The zero value of a field means its default.
type TokenOptions struct {
	Contexts    []int // 681, 11520: rows of memory before the question
	Questions   int   // 16: asked at once in the last measurement
	Repetitions int   // 3: of each first token
	Tokens      int   // 64: of each answer
	Progress    func(what string)
}

// question is rows of a question's own, of any content.
const question = 16

// Tokens times answers from a memory of so many rows: the first token with nothing of it cached and with all of it, the tokens after
// it, and many questions at once over the same memory. All is by the clock, from asking to having.
func Tokens(ctx context.Context, e TimedEngine, top Ceilings, o TokenOptions) ([]Row, error) {
	if len(o.Contexts) == 0 {
		o.Contexts = []int{681, 11520}
	}
	o.Questions, o.Repetitions, o.Tokens = def(o.Questions, 16), def(o.Repetitions, 3), def(o.Tokens, 64)
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	t := &tokens{e: e, o: o, top: top, rng: rand.New(rand.NewPCG(3, 4))}
	for _, n := range o.Contexts {
		if n+question+o.Tokens > e.Context() {
			continue // a model that takes less
		}
		o.Progress(fmt.Sprintf("%s, memory of %d rows", e.Name, n))
		if err := t.context(ctx, n); err != nil {
			return t.rows, fmt.Errorf("bench: %s, memory of %d rows: %w", e.Name, n, err)
		}
	}
	t.add("device memory", e.Name, float64(e.Counters().Bytes)/1e9, unitBytesGB, 0)
	return t.rows, nil
}

func def(v, otherwise int) int {
	if v == 0 {
		return otherwise
	}
	return v
}

type tokens struct {
	e    TimedEngine
	o    TokenOptions
	top  Ceilings
	rng  *rand.Rand
	rows []Row
}

func (t *tokens) add(what, shape string, value float64, unit string, ceiling float64) {
	t.rows = append(t.rows, Row{What: what, Shape: shape, Value: figures(value), Unit: unit, Ceiling: figures(ceiling)})
}

// ids are random tokens: a cache never knows them.
func (t *tokens) ids(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(t.rng.IntN(t.e.Vocab))
	}
	return out
}

func (t *tokens) context(ctx context.Context, n int) error {
	var cold, warm, rate []float64
	var memory llm.Part
	for i := range t.o.Repetitions + 1 { // the first one warms up
		memory = llm.Part{Tokens: t.ids(n)}
		for range 2 {
			s, err := t.answer(ctx, llm.Prompt{memory, {Tokens: t.ids(question)}})
			switch {
			case err != nil:
				return err
			case i == 0:
			case s.CachedTokens < compute.PageRows:
				cold = append(cold, ms(s.FirstToken))
			default:
				warm = append(warm, ms(s.FirstToken))
			}
			if i > 0 && s.Generated > 1 {
				rate = append(rate, float64(s.Generated-1)/(s.Total-s.FirstToken).Seconds())
			}
		}
	}
	if len(cold) == 0 || len(warm) == 0 || len(rate) == 0 {
		return errors.New("the cache does not keep a prompt")
	}
	name := t.e.Name
	t.add("first token, cold", fmt.Sprintf("%s %d", name, n), median(cold), unitMillis, 0)
	t.add("first token, warm", fmt.Sprintf("%s %d", name, n), median(warm), unitMillis, 0)
	t.add("decoding", fmt.Sprintf("%s over %d", name, n), median(rate), unitTokens, t.ceiling(1, n))

	all, err := t.together(ctx, memory)
	if err != nil {
		return err
	}
	t.add("decoding, all questions", fmt.Sprintf("%s %d questions over %d", name, t.o.Questions, n), all, unitTokens, t.ceiling(t.o.Questions, n))
	return nil
}

// ceiling is the tokens a second of so many questions when a pass does nothing but read each weight and each row of K/V once.
func (t *tokens) ceiling(questions, memory int) float64 {
	own := float64(questions) * (question + float64(t.o.Tokens)/2)
	return float64(questions) * t.top.Bytes / (t.e.Bytes + t.e.Row*(float64(memory)+own))
}

func (t *tokens) answer(ctx context.Context, p llm.Prompt) (llm.Stats, error) {
	return t.e.Generate(ctx, p, llm.Options{MaxTokens: t.o.Tokens}, func(llm.Token) error { return nil })
}

// together asks all questions at once over a memory that is cached and returns the tokens a second of all, first tokens left out.
func (t *tokens) together(ctx context.Context, memory llm.Part) (float64, error) {
	prompts := make([]llm.Prompt, t.o.Questions)
	for i := range prompts {
		prompts[i] = llm.Prompt{memory, {Tokens: t.ids(question)}}
	}
	var best float64
	for range 2 {
		var wg sync.WaitGroup
		errs := make([]error, len(prompts))
		first, last := make([]time.Time, len(prompts)), make([]time.Time, len(prompts))
		count := make([]int, len(prompts))
		for i, p := range prompts {
			wg.Go(func() {
				_, errs[i] = t.e.Generate(ctx, p, llm.Options{MaxTokens: t.o.Tokens, Client: uint64(i)}, func(llm.Token) error {
					last[i] = time.Now()
					if count[i]++; count[i] == 1 {
						first[i] = last[i]
					}
					return nil
				})
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return 0, err
		}
		from, to, n := first[0], last[0], 0
		for i := range prompts {
			if first[i].Before(from) {
				from = first[i]
			}
			if last[i].After(to) {
				to = last[i]
			}
			n += count[i] - 1
		}
		if d := to.Sub(from).Seconds(); d > 0 {
			best = max(best, float64(n)/d)
		}
	}
	return best, nil
}
