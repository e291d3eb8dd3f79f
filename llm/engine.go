// Package llm answers from a prompt of words and pictures. There are only a few types: a Prompt is Parts in order, an Engine runs
// a language model on a device and streams Tokens with Stats at the end, and a Drafter guesses ahead so that the engine can
// verify several tokens in one pass.
//
// A question's walk is Engine.Generate: take a turn, reuse the longest cached prefix, prefill the rest, then draft, verify, accept.
package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
	"afterimage/llm/tokenizer"
)

// Options say how to generate. Equal options, seed included, give equal tokens on the same device, with or without a Drafter.
type Options struct {
	MaxTokens         int     // 0 is 256
	Temperature, TopP float32 // Temperature 0 is greedy; TopP 0 or 1 keeps all tokens
	Seed              uint64
}

// Token is one generated token. Text is what became certain with it: whole UTF-8 characters, "" while one is incomplete.
type Token struct {
	ID   int32
	Text string
}

// Stats describe one Generate. Times are from the call's start, FirstToken therefore includes Queued.
type Stats struct {
	PromptTokens int // rows of the prompt, visual ones included
	CachedTokens int // of those, found in the KV cache
	VisualTokens int
	Generated    int // tokens emitted
	Drafted      int // tokens a Drafter proposed
	Accepted     int // and those that were right
	Queued       time.Duration
	FirstToken   time.Duration
	Total        time.Duration
	Finish       string // "stop" (the model ended), "length" (MaxTokens or context) or "cancelled" (ctx, emit or Close)
}

const defaultMaxTokens = 256

// ErrClosed is what Generate returns once the Engine is closed.
var ErrClosed = errors.New("llm: engine is closed")

// Engine holds one model and the K/V of one sequence. It is safe for concurrent use: requests are served one at a time in the
// order they came. It has device memory, so it must be closed, before its device.
type Engine struct {
	c     *Config
	tok   *tokenizer.Tokenizer
	eos   []int32
	draft Drafter
	life  context.Context
	end   context.CancelFunc

	turn   chan struct{} // holding its one slot is owning all below; the runtime serves waiting senders in order
	m      *model        // nil once closed
	cached cache
	base   int // rows in the cache before the last verify
	spans  []span
}

// Load reads a Hugging Face directory (config.json, tokenizer.json, safetensors) and prepares the model on dev, its products in
// the given precision. d may be nil. The KV cache is sized here for the model's context, at most 16384 positions.
func Load(dir string, dev compute.Device, as compute.DType, d Drafter) (*Engine, error) {
	return LoadFS(os.DirFS(dir), dev, as, d)
}

// LoadFS is Load from any file system, such as one embedded in the program.
func LoadFS(fsys fs.FS, dev compute.Device, as compute.DType, d Drafter) (_ *Engine, err error) {
	c, err := ReadConfig(fsys)
	if err != nil {
		return nil, err
	}
	raw, err := fs.ReadFile(fsys, "tokenizer.json")
	if err != nil {
		return nil, fmt.Errorf("llm: %w", err)
	}
	tok, err := tokenizer.Load(raw)
	if err != nil {
		return nil, fmt.Errorf("llm: %w", err)
	}
	if n := tok.VocabSize(); n > c.Vocab {
		return nil, fmt.Errorf("llm: tokenizer.json has %d tokens, config.json says vocab_size %d", n, c.Vocab)
	}
	eos, err := stopTokens(fsys, c, tok)
	if err != nil {
		return nil, fmt.Errorf("llm: %w", err)
	}
	ck, err := weights.Open(fsys)
	if err != nil {
		return nil, fmt.Errorf("llm: %w", err)
	}
	defer func() { err = errors.Join(err, ck.Close()) }()
	m, err := newModel(context.Background(), c, ck, dev, as)
	if err != nil {
		return nil, fmt.Errorf("llm: load: %w", err)
	}
	return newEngine(m, tok, eos, d), nil
}

func newEngine(m *model, tok *tokenizer.Tokenizer, eos []int32, d Drafter) *Engine {
	e := &Engine{c: m.c, tok: tok, eos: eos, draft: d, turn: make(chan struct{}, 1), m: m}
	e.cached.keys = make([]key, 0, m.c.Context)
	e.life, e.end = context.WithCancel(context.Background())
	return e
}

// stopTokens gathers every token that ends an answer: from the two configs and by our own name for it.
func stopTokens(fsys fs.FS, c *Config, tok *tokenizer.Tokenizer) ([]int32, error) {
	eos := slices.Clone(c.EOS)
	if raw, err := fs.ReadFile(fsys, "generation_config.json"); err == nil {
		var gen struct {
			EOS json.RawMessage `json:"eos_token_id"`
		}
		if err := json.Unmarshal(raw, &gen); err != nil {
			return nil, fmt.Errorf("generation_config.json: %w", err)
		}
		more, err := ids(gen.EOS, c.Vocab)
		if err != nil {
			return nil, fmt.Errorf("generation_config.json: eos_token_id %s: %w", gen.EOS, err)
		}
		eos = append(eos, more...)
	}
	if id, ok := tok.Special("<|eos|>"); ok {
		eos = append(eos, id)
	}
	if len(eos) == 0 {
		return nil, errors.New("no end-of-sequence token: neither eos_token_id nor <|eos|> is given")
	}
	return eos, nil
}

// Dim is the width that visual rows must have.
func (e *Engine) Dim() int { return e.c.Hidden }

// Context is the rows that a prompt and its answer may take together.
func (e *Engine) Context() int { return e.c.Context }

// Generate answers p: it calls emit for every token as it comes, on the caller's goroutine, and returns how it went. An error from
// emit, ctx or Close ends it between two passes, with Stats up to there and Finish "cancelled". Errors caused by the prompt wrap
// ErrPrompt and are found before anything runs.
func (e *Engine) Generate(ctx context.Context, p Prompt, o Options, emit func(Token) error) (Stats, error) {
	start := time.Now()
	if o.MaxTokens == 0 {
		o.MaxTokens = defaultMaxTokens
	}
	if o.MaxTokens < 0 || !(o.Temperature >= 0) || !(o.TopP >= 0 && o.TopP <= 1) {
		return Stats{}, fmt.Errorf("llm: %w: options out of range: %+v", ErrPrompt, o)
	}
	s, err := p.rows(e.tok, e.c)
	if err != nil {
		return Stats{}, fmt.Errorf("llm: %w", err)
	}
	stats := Stats{PromptTokens: len(s.keys), VisualTokens: s.visual}
	done, err := e.take(ctx)
	stats.Queued = time.Since(start)
	if err != nil {
		stats.Total, stats.Finish = stats.Queued, "cancelled"
		return stats, err
	}
	defer done()

	sampler := newSampler(o)
	first, cached, err := e.prefill(ctx, s, sampler)
	stats.CachedTokens = cached
	if err == nil {
		text := e.tok.NewStream()
		d := decoder{target: e, drafter: e.draft, sampler: sampler, limit: o.MaxTokens, vocab: e.c.Vocab,
			stop:      func(id int32) bool { return slices.Contains(e.eos, id) },
			committed: append(make([]int32, 0, e.c.Context+1), s.tokens...),
			emit: func(id int32) error {
				if stats.FirstToken == 0 {
					stats.FirstToken = time.Since(start)
				}
				return emit(Token{ID: id, Text: text.Push(id)})
			}}
		stats.Finish, err = d.run(ctx, first)
		stats.Generated, stats.Drafted, stats.Accepted = d.generated, d.drafted, d.accepted
	}
	stats.Total = time.Since(start)
	if err != nil {
		stats.Finish = "cancelled"
		return stats, fmt.Errorf("llm: generate: %w", err)
	}
	return stats, nil
}

// Warm prefills p into the KV cache without generating, so that a later prompt that begins with it starts sooner. It takes a turn
// like Generate and keeps what it has when ctx ends.
func (e *Engine) Warm(ctx context.Context, p Prompt) error {
	s, err := p.rows(e.tok, e.c)
	if err != nil {
		return fmt.Errorf("llm: %w", err)
	}
	done, err := e.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	if _, _, err = e.prefill(ctx, s, nil); err != nil {
		return fmt.Errorf("llm: warm: %w", err)
	}
	return nil
}

// prefill makes the KV cache hold all of s and draws the token after it, unless sampler is nil.
func (e *Engine) prefill(ctx context.Context, s *sequence, sampler *sampler) (first int32, cached int, err error) {
	end := len(s.keys)
	cached = e.cached.reuse(s.keys)
	for from := cached; from < end; {
		if err := e.ended(ctx); err != nil {
			return 0, cached, err
		}
		to, want := min(from+chunk, end), 0
		if to == end && sampler != nil {
			want = 1
		}
		e.spans = s.slice(e.spans[:0], from, to)
		logits, err := e.m.forward(ctx, e.spans, from, want)
		if err != nil {
			return 0, cached, err
		}
		e.cached.keys = append(e.cached.keys, s.keys[from:to]...)
		if want == 1 {
			if !finite(logits.Data) {
				return 0, cached, errNotFinite
			}
			first = sampler.sample(logits.Row(0))
		}
		from = to
	}
	clear(e.spans) // the prompt's rows belong to the caller
	return first, cached, nil
}

// verify implements target.
func (e *Engine) verify(ctx context.Context, tokens []int32) (compute.Matrix, error) {
	if err := e.ended(ctx); err != nil {
		return compute.Matrix{}, err
	}
	e.base = len(e.cached.keys)
	e.spans = append(e.spans[:0], span{ids: tokens})
	logits, err := e.m.forward(ctx, e.spans, e.base, len(tokens))
	if err != nil {
		return logits, err
	}
	for _, id := range tokens {
		e.cached.keys = append(e.cached.keys, key{row: id})
	}
	return logits, nil
}

// keep implements target.
func (e *Engine) keep(n int) { e.cached.keys = e.cached.keys[:e.base+n] }

// room implements target.
func (e *Engine) room() int { return e.c.Context - len(e.cached.keys) }

// take waits for this caller's turn; done gives it back.
func (e *Engine) take(ctx context.Context) (done func(), err error) {
	if e.life.Err() != nil {
		return nil, ErrClosed
	}
	select {
	case e.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("llm: waiting for a turn: %w", ctx.Err())
	case <-e.life.Done():
		return nil, ErrClosed
	}
	if e.m == nil {
		<-e.turn
		return nil, ErrClosed
	}
	return func() { <-e.turn }, nil
}

// ended says why the request that has the turn should stop before its next pass, if it should.
func (e *Engine) ended(ctx context.Context) error {
	if e.life.Err() != nil {
		return ErrClosed
	}
	return ctx.Err()
}

// Close cancels what is being generated, waits for it and frees the device memory. A second Close does nothing.
func (e *Engine) Close() error {
	e.end()
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	if e.m == nil {
		return nil
	}
	err := e.m.close()
	e.m = nil
	return err
}
