// Package llm answers from prompts of words and pictures. There are only a few types: a Prompt is Parts in order, an Engine runs
// a language model on a device for many askers at once and streams Tokens with Stats at the end, a Drafter guesses ahead so that
// the engine can verify several tokens in one pass, and a Recall is what a model has learned for remembering: it says what rows show, puts
// questions in the same space, and sums up what passed. Below them, unexported: the scheduler decides which rows of which request the
// next pass runs, the pool deals out pages of K/V and finds what is there already, and the device's decoder runs the pass.
//
// A question's walk is Engine.Generate: wait for a place, share the pages of the longest cached prefix, prefill the rest in chunks,
// then draft, verify, accept, in passes together with whoever else is answered.
package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
	"afterimage/llm/tokenizer"
)

// Options say how to generate. Equal options, seed included, give equal tokens on the same device, with or without a Drafter and
// whoever else is answered meanwhile.
type Options struct {
	MaxTokens         int     // 0 is 256
	Temperature, TopP float32 // Temperature 0 is greedy; TopP 0 or 1 keeps all tokens
	Seed              uint64
	Shares            bool   // tell Stats.Shares
	Client            uint64 // whose question it is: when many wait, clients take turns
}

// Token is one generated token. Text is what became certain with it: whole UTF-8 characters, "" while one is incomplete, and always
// "" from an engine without a tokenizer. What becomes certain only because the answer ends there comes last, with ID -1 and as no token.
type Token struct {
	ID   int32
	Text string
}

// Stats describe one Generate. Times are from the call's start, FirstToken therefore includes Queued.
type Stats struct {
	PromptTokens int // rows of the prompt, visual ones included
	CachedTokens int // of those, found in the K/V cache
	VisualTokens int
	Generated    int // tokens emitted
	Drafted      int // tokens a Drafter proposed
	Accepted     int // and those that were right
	Queued       time.Duration
	FirstToken   time.Duration
	Total        time.Duration
	// Shares is, of each Part of the prompt, its share of the attention that the model gave to visual parts as it was about to say its first
	// token: over all heads of the upper half of its layers (see shares), 0 of other parts. It was read; that does not prove that the answer
	// rests on it. nil when it was not asked for, or this device cannot tell.
	Shares []float32
	Chosen float64 // of Choose: how probable all choices were together
	Finish string  // "stop" (the model ended), "length" (MaxTokens or context) or "cancelled" (ctx, emit or Close)
}

// Counters say what an Engine holds now and has done so far.
type Counters struct {
	Waiting, Active int    // questions
	Refused         uint64 // with ErrBusy

	StepPasses, StepRows, StepRequests uint64           // passes that decode; StepRequests/StepPasses is how many answers share one
	PromptPasses, PromptRows           uint64           // passes of prompts
	WarmPasses, WarmRows               uint64           // passes of Warm
	Drafted, Accepted                  uint64           // tokens
	AcceptedAt                         [maxDraft]uint64 // of those, the ones at each place of their draft

	Pages, FreePages, CachedPages int // of K/V, 64 rows each: all, empty ones, and ones kept for prompts that begin alike
	EvictedPages                  uint64
	Bytes                         int64 // of device memory held, all together
	WeightBytes, KVBytes          int64 // of that, weights and K/V; the rest is buffers
}

const (
	defaultMaxTokens = 256
	defaultMaxQueue  = 64
)

// ErrClosed is what Generate returns once the Engine is closed. ErrBusy is wrapped by what it returns, at once, when as many
// questions wait already as the Engine lets wait.
var (
	ErrClosed = errors.New("llm: engine is closed")
	ErrBusy   = errors.New("busy")
)

// Engine holds one model and the K/V of many sequences. It is safe for concurrent use: requests share its passes, and tokens do not
// depend on that. What is waiting is served client by client. It has device memory, so it must be closed, before its device.
//
// An error of the device ends the requests that were in that pass. When the device is lost (compute.ErrDeviceLost), all end with
// that error, and so does every later call; the Engine still closes.
type Engine struct {
	c   *Config
	tok *tokenizer.Tokenizer // nil of LoadRandom
	eos []int32
	s   *scheduler
}

// LoadOptions say how an Engine is made.
type LoadOptions struct {
	Weights  compute.DType // of all products
	Drafter  Drafter       // may be nil
	Pages    int           // of K/V, 64 rows each, at least one context; 0: what the device thinks best
	MaxQueue int           // questions that may wait; 0 is 64
	// Context is how many positions a sequence may take; 0: what ReadConfig says. Less saves K/V memory. More is possible only for models
	// with longrope (Phi-3 128k, VideoChat-Online), which then turn by the frequencies of their long context throughout; up to the original
	// length they answer better with 0.
	Context int
	// Lean keeps device memory for others: weights are held once, K/V for one context unless Pages says more, and passes are of moderate
	// size. For a model that fills most of a GPU.
	Lean bool
	Seed uint64 // of LoadRandom's weights
}

// Load reads a Hugging Face directory (config.json, the tokenizer's files, safetensors) and prepares the model on dev, its products in
// the given precision. d may be nil. A sequence may take the model's context, at most 16384 positions.
func Load(dir string, dev compute.Device, as compute.DType, d Drafter) (*Engine, error) {
	return LoadFS(os.DirFS(dir), dev, as, d)
}

// LoadFS is Load from any file system, such as one embedded in the program.
func LoadFS(fsys fs.FS, dev compute.Device, as compute.DType, d Drafter) (*Engine, error) {
	return LoadWith(fsys, dev, LoadOptions{Weights: as, Drafter: d})
}

// LoadWith is LoadFS with everything that can be chosen.
func LoadWith(fsys fs.FS, dev compute.Device, o LoadOptions) (_ *Engine, err error) {
	c, err := readConfig(fsys, o.Context)
	if err != nil {
		return nil, err
	}
	tok, err := readTokenizer(fsys, c)
	if err != nil {
		return nil, fmt.Errorf("llm: %w", err)
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
	return load(c, tok, eos, dev, o, ck)
}

func readTokenizer(fsys fs.FS, c *Config) (*tokenizer.Tokenizer, error) {
	tok, err := tokenizer.Open(fsys)
	if err != nil {
		return nil, err
	}
	if n := tok.VocabSize(); n > c.Vocab {
		return nil, fmt.Errorf("the tokenizer has %d tokens, config.json says vocab_size %d", n, c.Vocab)
	}
	return tok, nil
}

// LoadRandom makes an engine of config.json alone, with random weights, to time what a model of that size takes. It knows no words:
// prompts are Tokens and Visual rows, and an answer goes on until MaxTokens.
func LoadRandom(fsys fs.FS, dev compute.Device, o LoadOptions) (*Engine, error) {
	c, err := readConfig(fsys, o.Context)
	if err != nil {
		return nil, err
	}
	return load(c, nil, nil, dev, o, nil)
}

// load makes an engine of a decoder. ck is nil for random weights.
func load(c *Config, tok *tokenizer.Tokenizer, eos []int32, dev compute.Device, o LoadOptions, ck *weights.Checkpoint) (*Engine, error) {
	if c.tiedUnsaid && ck != nil {
		c.Tied = !newCheckpoint(c, ck).hasHead()
	}
	dc := c.decoder(o.Weights, o.Pages)
	dc.Seed, dc.Lean = o.Seed, o.Lean
	dec, err := newDecoder(dev, dc, c, ck)
	if err != nil {
		return nil, fmt.Errorf("llm: load: %w", err)
	}
	if ck != nil {
		debug.FreeOSMemory() // what weights were read through, which is gigabytes for a large model
	}
	return newEngine(c, tok, eos, dec, o), nil
}

// newDecoder makes the device's own decoder, or one from its Ops where the device has none of that kind.
func newDecoder(dev compute.Device, dc compute.DecoderConfig, c *Config, ck *weights.Checkpoint) (compute.Decoder, error) {
	if own, ok := dev.(compute.Decoders); ok {
		var w compute.DecoderWeights
		if ck != nil {
			w = newCheckpoint(c, ck)
		}
		if d, err := own.NewDecoder(context.Background(), dc, w); !errors.Is(err, errors.ErrUnsupported) {
			return d, err
		}
	}
	if ck == nil {
		var err error
		if ck, err = weights.Open(weights.Random{Seed: dc.Seed}); err != nil {
			return nil, err
		}
	}
	return newOpsDecoder(context.Background(), dev, dc, newCheckpoint(c, ck))
}

func newEngine(c *Config, tok *tokenizer.Tokenizer, eos []int32, dec compute.Decoder, o LoadOptions) *Engine {
	if o.MaxQueue == 0 {
		o.MaxQueue = defaultMaxQueue
	}
	return &Engine{c: c, tok: tok, eos: eos, s: newScheduler(dec, o.Drafter, c.Context, c.Vocab, o.MaxQueue)}
}

// stopTokens gathers every token that ends an answer: from the two configs, and by the names that chat templates end a turn with. Configs of
// models that were made out of others often name the other's alone.
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
	for _, name := range []string{"<|eos|>", "<|im_end|>", "<|end|>", "<end_of_utterance>"} {
		if id, ok := tok.Special(name); ok {
			eos = append(eos, id)
		}
	}
	if len(eos) == 0 {
		return nil, errors.New("no end-of-sequence token: eos_token_id is not given, and none of the known names is a special token")
	}
	return eos, nil
}

// Dim is the width that visual rows must have.
func (e *Engine) Dim() int { return e.c.Hidden }

// Axes is 3 where rows stand at positions of three axes (M-RoPE), which Part.Grid and Part.Positions say of visual rows, else 1.
func (e *Engine) Axes() int { return e.c.axes() }

// Context is the rows that a prompt and its answer may take together.
func (e *Engine) Context() int { return e.c.Context }

// Counters are those of this moment.
func (e *Engine) Counters() Counters { return e.s.read() }

// Generate answers p: it calls emit for every token as it comes, on the caller's goroutine, and returns how it went. An error from
// emit, ctx or Close ends it between two passes, with Stats up to there and Finish "cancelled". Errors caused by the prompt wrap
// ErrPrompt and are found before anything runs.
func (e *Engine) Generate(ctx context.Context, p Prompt, o Options, emit func(Token) error) (Stats, error) {
	start := time.Now()
	if o.MaxTokens == 0 {
		o.MaxTokens = defaultMaxTokens
	}
	if o.MaxTokens < 0 || !(o.Temperature >= 0) || !(o.TopP >= 0 && o.TopP <= 1) {
		return Stats{}, fmt.Errorf("llm: %w: options out of range: %d tokens, temperature %g, top-p %g", ErrPrompt, o.MaxTokens, o.Temperature, o.TopP)
	}
	r, err := e.request(p)
	if err != nil {
		return Stats{}, err
	}
	r.limit = min(o.MaxTokens, e.c.Context-len(r.seq.keys)+1) // the last token drawn need not be run
	r.draw = compute.Draw{Temperature: o.Temperature, TopP: o.TopP}
	r.seed, r.client = o.Seed, o.Client
	r.committed = append(make([]int32, 0, len(r.seq.tokens)+r.limit), r.seq.tokens...)
	if o.Shares && r.seq.visual > 0 {
		r.shares = &compute.Shares{Bounds: r.seq.parts, From: e.c.Layers / 2}
	}
	r.out = make(chan int32, r.limit)
	stats := Stats{PromptTokens: len(r.seq.keys), VisualTokens: r.seq.visual}
	var text *tokenizer.Stream
	if e.tok != nil {
		text = e.tok.NewStream()
	}
	err = e.await(ctx, r, func(id int32) error {
		if stats.FirstToken == 0 {
			stats.FirstToken = time.Since(start)
		}
		stats.Generated++
		t := Token{ID: id}
		if text != nil {
			t.Text = text.Push(id)
		}
		return emit(t)
	})
	if err == nil && text != nil {
		if rest := strings.TrimRight(text.Flush(), string(utf8.RuneError)); rest != "" { // half a character stays unsaid
			err = emit(Token{ID: -1, Text: rest})
		}
	}
	stats.CachedTokens, stats.Drafted, stats.Accepted, stats.Finish = r.cached, r.drafted, r.accepts, r.finish
	if r.shares != nil {
		stats.Shares = shares(p, r.shares.Layers)
	}
	stats.Total = time.Since(start)
	if stats.Queued = stats.Total; !r.started.IsZero() {
		stats.Queued = r.started.Sub(start)
	}
	if err != nil {
		stats.Finish = "cancelled"
		return stats, failed("generate", err)
	}
	return stats, nil
}

// Warm makes the K/V cache hold p without generating, so that a later prompt that begins with it starts sooner. It runs only while
// no question does, in short passes, and keeps what it has when ctx ends.
func (e *Engine) Warm(ctx context.Context, p Prompt) error {
	r, err := e.request(p)
	if err != nil {
		return err
	}
	r.out = make(chan int32)
	if err := e.await(ctx, r, nil); err != nil {
		return failed("warm", err)
	}
	return nil
}

// Forget drops all K/V that was computed from visual parts whose IDs match, or after such a part, and returns when none of it can be found
// again. Prompts that have such parts and were given before go on, and what they compute is dropped when they end. The rows lie in device
// memory, unreachable, until their pages are used for others. match is called on another goroutine.
func (e *Engine) Forget(match func(id uint64) bool) { e.s.forget(match) }

func failed(op string, err error) error {
	if errors.Is(err, ErrClosed) {
		return err // says all there is to say
	}
	return fmt.Errorf("llm: %s: %w", op, err)
}

func (e *Engine) request(p Prompt) (*request, error) {
	s, err := p.rows(e.tok, e.c)
	if err != nil {
		return nil, fmt.Errorf("llm: %w", err)
	}
	return &request{seq: s, stop: func(id int32) bool { return slices.Contains(e.eos, id) }}, nil
}

// await has a request run and calls take for each token. The scheduler is done with it on return.
func (e *Engine) await(ctx context.Context, r *request, take func(id int32) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.ended = func() error { return context.Cause(ctx) }
	if err := e.s.submit(r); err != nil {
		return err
	}
	for ctx.Err() == nil {
		select {
		case id, ok := <-r.out:
			if !ok {
				return r.err
			}
			if err := take(id); err != nil {
				cancel(err)
			}
		case <-ctx.Done():
		}
	}
	e.s.withdraw(r)
	for range r.out { // what came too late
	}
	return context.Cause(ctx)
}

// Close cancels what is being generated, waits for the pass under way and frees the device memory. A second Close does nothing.
func (e *Engine) Close() error { return e.s.close() }
