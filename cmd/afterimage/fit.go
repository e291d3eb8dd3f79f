package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"afterimage/encoder"
	"afterimage/hub"
	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/internal/compute/cuda"
	"afterimage/internal/weights"
	"afterimage/llm"
)

// fit is what a model takes and does on one device with its weights held in one way, measured with random weights of its config.json.
type fit struct {
	quant  quantName
	bytes  int64         // decoder, tower and the K/V of one context
	load   int64         // on top of that, while it is loaded
	frames float64       // a second
	rows   int           // of a frame
	prompt int           // rows before the first token
	cold   time.Duration // to the first token, nothing cached
	token  time.Duration // for each further one
	layers int           // that were measured, of the decoder's
	of     int
}

// Pleasant, at least: a stream of two frames a second is kept up with, and an answer is read as it comes.
const (
	goodFrames = 2.0
	goodFirst  = 2 * time.Second
	goodToken  = 100 * time.Millisecond
)

func (f fit) pleasant() bool {
	return f.frames >= goodFrames && f.cold <= goodFirst && f.token <= goodToken
}

// modelConfig is the config.json of the model that the settings name: of the directory or the pulled model, or else as it was published.
func modelConfig(a *app) (config []byte, here bool, err error) {
	dir, err := hub.Resolve(a.Model)
	if err == nil {
		config, err = os.ReadFile(filepath.Join(dir, "config.json"))
		return config, true, err
	}
	n, nerr := hub.ParseName(a.Model)
	if nerr != nil || !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	e, ok := n.Entry()
	if !ok {
		return nil, false, err
	}
	if config = e.Config(); config == nil {
		return nil, false, fmt.Errorf("what %s takes is not known before it is here (its config.json could not be established): afterimage pull %s", n, n)
	}
	return config, false, nil
}

// checkFit says whether the model that --model names fits this machine, what is advised and how fast it will be. The second result says
// whether it can be loaded here.
func checkFit(ctx context.Context, a *app) ([]finding, bool) {
	config, here, err := modelConfig(a)
	if err != nil {
		return []finding{{"fail", "model", err.Error(), ""}}, false
	}
	files := weights.Random{Config: config, Seed: 1}
	found := a.Model + " is here"
	if !here {
		found = a.Model + " is not here; measured by the config.json that it was published with: afterimage pull " + a.Model
	}
	findings := []finding{{"ok", "model", found, ""}}
	text, err := llm.ReadConfig(files)
	if err == nil {
		_, err = encoder.ReadConfig(files)
	}
	if err != nil {
		return append(findings, finding{"fail", "config", err.Error(), "this program cannot read such a model; \"afterimage list models\" shows those that it can"}), false
	}
	where, err := places(a, 1)
	if err != nil {
		return append(findings, finding{"fail", "device", err.Error(), ""}), false
	}
	if load, ok := machineLoad(); ok && load > float64(runtime.NumCPU())/2 {
		findings = append(findings, finding{"warn", "load", fmt.Sprintf("other programs keep this machine busy (load %.1f on %d cores)", load, runtime.NumCPU()),
			"what is measured now is slower than it will be, and what is scaled from a few layers is rough"})
	}
	p := where[0]
	lines, fits := fitPlace(ctx, a, p, files, text)
	findings = append(findings, lines...)
	if len(fits) == 0 && p.gpu && !a.Device.mustUseGPU() && ctx.Err() == nil {
		p = place{} // what is too large for the GPU may still fit beside the processor
		lines, fits = fitPlace(ctx, a, p, files, text)
		findings = append(findings, lines...)
	}
	if len(fits) == 0 {
		return append(findings, finding{"fail", "advice", "it does not fit " + p.words(), "free some memory, or choose a smaller model (afterimage list models)"}), false
	}
	best, pleasant := advise(fits)
	f := finding{"ok", "advice", fmt.Sprintf("--device %s --quant %s", p.flag(), best.quant), ""}
	if !pleasant {
		f.verdict, f.todo = "warn", best.short()
	}
	// The real model is loaded next, as the settings say: only what fits.
	asked := slices.ContainsFunc(fits, func(f fit) bool { return f.quant == first(a.Quant, "bf16") })
	return append(findings, f), here && asked && p == where[0]
}

// fitPlace measures every way of holding the weights on one device, most exact first, and returns those that fit.
func fitPlace(ctx context.Context, a *app, p place, files weights.Random, text *llm.Config) (findings []finding, fits []fit) {
	fam, err := readFamily(files)
	usual := 0
	if err == nil {
		usual, err = fam.context(files, p.gpu) // as loadMachine does
	}
	if err != nil {
		return []finding{{"fail", "config", err.Error(), ""}}, nil
	}
	if context := first(a.Context, usual); context > 0 {
		held := *text
		held.Context = min(held.Context, context)
		text = &held
	}
	quants := []quantName{"bf16", "int8", "int4"}
	if a.Quant != "" {
		quants = []quantName{a.Quant}
	}
	free, err := p.freeBytes()
	if err != nil {
		findings = append(findings, finding{"warn", "memory", "how much is free cannot be told: " + err.Error(), ""})
	}
	for _, q := range quants {
		fmt.Fprintf(a.err, "measuring %s on %s with %s weights\n", a.Model, p.words(), q)
		f, err := measureFit(ctx, a, p, files, text, q, free)
		if ctx.Err() != nil {
			return findings, fits
		}
		if err != nil {
			findings = append(findings, finding{"warn", string(q), fmt.Sprintf("on %s: could not be measured: %v", p.words(), err), ""})
			continue
		}
		verdict, room := "ok", "how much is free is not known"
		switch {
		case free == 0:
			fits = append(fits, f)
		case f.bytes+f.load <= free:
			room = fmt.Sprintf("fits the %s that are free", size(free))
			fits = append(fits, f)
		default:
			verdict, room = "warn", fmt.Sprintf("does not fit the %s that are free", size(free))
		}
		findings = append(findings, finding{verdict, string(q), fmt.Sprintf("on %s: %s of memory with %d rows of K/V, %s: %s",
			p.words(), size(f.bytes), text.Context, room, f.words()), ""})
	}
	return findings, fits
}

// advise chooses the most exact that is pleasant, or else the one whose tokens come fastest.
func advise(fits []fit) (best fit, pleasant bool) {
	for _, f := range fits { // most exact first
		if f.pleasant() {
			return f, true
		}
	}
	best = fits[0]
	for _, f := range fits[1:] {
		if f.token < best.token {
			best = f
		}
	}
	return best, false
}

func (f fit) words() string {
	text := fmt.Sprintf("%.3g frames/s of %d rows, first token over %d rows %s, then %.3g tokens/s", f.frames, f.rows, f.prompt,
		f.cold.Round(time.Millisecond), 1/f.token.Seconds())
	if f.layers < f.of {
		text += fmt.Sprintf(" (of %d layers %d were measured and scaled)", f.of, f.layers)
	}
	return text
}

// short says in what the best falls short.
func (f fit) short() string {
	var bad []string
	if f.frames < goodFrames {
		bad = append(bad, fmt.Sprintf("watches at most %.2g frames/s: set fps lower than that", f.frames))
	}
	if f.cold > goodFirst {
		bad = append(bad, fmt.Sprintf("a question waits %s for its first word: set max_visual_tokens lower, or warm: newest", f.cold.Round(100*time.Millisecond)))
	}
	if f.token > goodToken {
		bad = append(bad, fmt.Sprintf("writes %.2g tokens/s", 1/f.token.Seconds()))
	}
	return strings.Join(bad, "; ")
}

func (p place) words() string {
	if p.gpu {
		return fmt.Sprintf("GPU %d", p.ordinal)
	}
	return "the processor"
}

func (p place) flag() string {
	if p.gpu {
		return fmt.Sprintf("cuda:%d", p.ordinal)
	}
	return "cpu"
}

// freeBytes is the memory of p that may still be taken.
func (p place) freeBytes() (int64, error) {
	if !p.gpu {
		return freeMemory()
	}
	g, err := cuda.Describe(p.ordinal)
	return g.FreeBytes, err
}

// measureFit measures one way of holding the weights. What clearly does not fit is not tried.
func measureFit(ctx context.Context, a *app, p place, files weights.Random, c *llm.Config, q quantName, free int64) (f fit, err error) {
	dev, err := p.open(a, a.Threads)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	text, vision := weightTypes(q, p.gpu)
	f = fit{quant: q, of: c.Layers}
	if !p.gpu {
		f.load = 4 * int64(c.Vocab) * int64(c.Hidden) // the table of words passes through float32
	}
	if free > 0 && 2*f.load > free {
		return f, fmt.Errorf("the table of words alone takes %s while it is loaded", size(f.load))
	}
	towerBytes, err := measureTower(ctx, dev, files, vision, a.Pixels, &f)
	if err != nil {
		return f, err
	}
	if err := measureDecoder(ctx, dev, files, c, text, a.Lean, &f); err != nil {
		return f, err
	}
	f.bytes += towerBytes
	return f, nil
}

// counter is a device that counts what is asked of its memory.
type counter struct {
	compute.Device
	bytes int64
}

func (c *counter) NewArena(bytes int64) (compute.Arena, error) {
	c.bytes += bytes
	return c.Device.NewArena(bytes)
}

func (c *counter) NewWeight(w compute.Matrix, as compute.DType) (compute.Weight, error) {
	n := int64(w.Rows) * int64(w.Cols)
	c.bytes += [...]int64{4 * n, 2 * n, n, n / 2}[as]
	return c.Device.NewWeight(w, as)
}

// fitRounds are timed after one that warms up, and the fastest counts: what else the machine does only ever adds. Where a round takes
// long, there are fewer: a first one is timed in any case, and no further one is begun after fitPatience.
const (
	fitRounds   = 5
	fitPatience = 8 * time.Second
)

// rounds says whether another round is to be made, after so many, the first of which was begun then.
func rounds(made int, began time.Time) bool {
	return made < 2 || made <= fitRounds && time.Since(began) < fitPatience
}

// measureTower times frames from their pixels to their rows, two together.
func measureTower(ctx context.Context, dev compute.Device, files fs.FS, as compute.DType, pixels int, f *fit) (bytes int64, err error) {
	count := &counter{Device: dev}
	e, err := encoder.LoadWith(files, count, encoder.Options{Weights: as, Pixels: pixels})
	if err != nil {
		return 0, err
	}
	if err := e.Close(); err != nil { // counted without the device's own ways of doing things: timed with them
		return 0, err
	}
	if e, err = encoder.LoadWith(files, dev, encoder.Options{Weights: as, Pixels: pixels}); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	const w, h = 640, 360
	frames := make([]ingest.Frame, 2)
	rng := rand.NewChaCha8([32]byte{1})
	for i := range frames {
		frames[i] = ingest.Frame{Index: int64(i), PTS: time.Duration(i) * time.Second / 2, W: w, H: h, Pix: make([]byte, 3*w*h)}
		_, _ = rng.Read(frames[i].Pix)
	}
	var spent []time.Duration
	for began := time.Now(); rounds(len(spent), began); { // the first warms up
		start := time.Now()
		rows, err := e.Encode(ctx, frames...)
		if err != nil {
			return 0, err
		}
		spent = append(spent, time.Since(start))
		f.rows = 0
		for _, m := range rows {
			f.rows += m.Rows
		}
	}
	f.rows /= len(frames)
	f.frames = float64(len(frames)) / slices.Min(spent[1:]).Seconds()
	return count.bytes, nil
}

// Decoders of more numbers than wholeNumbers are measured with a few layers: making them all up would take minutes. Few and more are
// how many: what a further layer costs is the difference, and what does not depend on layers is the rest.
const (
	wholeNumbers = 400e6
	fewLayers    = 2
	moreLayers   = 6
)

// measureDecoder times the first token over a memory and those after it.
func measureDecoder(ctx context.Context, dev compute.Device, files weights.Random, c *llm.Config, as compute.DType, lean bool, f *fit) error {
	q, kv := float64(c.Heads*c.HeadDim), float64(c.KVHeads*c.HeadDim)
	numbers := float64(c.Layers)*float64(c.Hidden)*(2*q+2*kv+3*float64(c.MLP)) + float64(c.Vocab)*float64(c.Hidden)
	layers := []int{fewLayers, moreLayers}
	if numbers <= wholeNumbers || c.Layers <= moreLayers {
		layers = []int{c.Layers}
	}
	d, err := timeDecoders(ctx, dev, files, c, as, layers, lean, wallClock())
	if err != nil {
		return err
	}
	all := d[0]
	if len(d) > 1 {
		all = d[0].scaled(d[1], c.Layers)
	}
	f.bytes, f.cold, f.token, f.prompt, f.layers = all.bytes, all.cold, all.token, all.prompt, layers[len(layers)-1]
	return nil
}

// stopwatch is what time is measured by: that on the wall, or in a test the processor's, which other programs do not change.
type stopwatch func() time.Duration

func wallClock() stopwatch {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}

// decoding is what a decoder of some layers took.
type decoding struct {
	bytes       int64
	cold, token time.Duration
	prompt      int
}

// scaled goes on from few and more layers to all of them, in a straight line; noise never makes a further layer cost less than nothing.
func (few decoding) scaled(more decoding, layers int) decoding {
	line := func(a, b float64) float64 { return a + max(0, b-a)/(moreLayers-fewLayers)*float64(layers-fewLayers) }
	return decoding{
		bytes:  int64(line(float64(few.bytes), float64(more.bytes))),
		cold:   time.Duration(line(float64(few.cold), float64(more.cold))),
		token:  time.Duration(line(float64(few.token), float64(more.token))),
		prompt: few.prompt,
	}
}

// timeDecoders makes decoders with so many layers and answers with each in turn, so that what else the machine does meets all alike.
func timeDecoders(ctx context.Context, dev compute.Device, files weights.Random, c *llm.Config, as compute.DType, layers []int, lean bool, now stopwatch) (out []decoding, err error) {
	const answer, question = 25, 16
	out = make([]decoding, len(layers))
	engines := make([]*llm.Engine, len(layers))
	for i, n := range layers {
		config, err := withLayers(files.Config, n)
		if err != nil {
			return nil, err
		}
		e, err := llm.LoadRandom(weights.Random{Config: config, Seed: files.Seed}, dev, llm.LoadOptions{Weights: as, Seed: files.Seed, Context: c.Context, Lean: lean,
			Pages: (c.Context + compute.PageRows - 1) / compute.PageRows})
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, e.Close()) }()
		engines[i], out[i].bytes, out[i].prompt = e, e.Counters().Bytes, min(1024+question, c.Context-answer)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	began := time.Now()
	for made := 0; rounds(made, began); made++ { // the first warms up
		for i, e := range engines {
			d := &out[i]
			cold, token, err := timeAnswer(ctx, e, rng, d.prompt, answer, c.Vocab, now)
			if err != nil {
				return nil, err
			}
			if made < 2 || cold < d.cold {
				d.cold = cold
			}
			if made < 2 || token < d.token {
				d.token = token
			}
		}
	}
	return out, nil
}

// timeAnswer asks over a prompt that no cache knows.
func timeAnswer(ctx context.Context, e *llm.Engine, rng *rand.Rand, prompt, answer, vocab int, now stopwatch) (cold, token time.Duration, err error) {
	ids := make([]int32, prompt)
	for i := range ids {
		ids[i] = int32(rng.IntN(vocab))
	}
	var at []time.Duration
	start := now()
	_, err = e.Generate(ctx, llm.Prompt{{Tokens: ids}}, llm.Options{MaxTokens: answer}, func(llm.Token) error {
		at = append(at, now()-start)
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	if len(at) < 2 {
		return 0, 0, errors.New("the decoder wrote nothing")
	}
	return at[0], (at[len(at)-1] - at[0]) / time.Duration(len(at)-1), nil
}

// withLayers is a config.json whose language model has so many layers.
func withLayers(config []byte, layers int) ([]byte, error) {
	var c map[string]any
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	at := c
	for _, name := range []string{"text_config", "llm_config"} {
		if inner, ok := c[name].(map[string]any); ok {
			at = inner
			break
		}
	}
	at["num_hidden_layers"] = layers
	if types, ok := at["layer_types"].([]any); ok && len(types) > layers {
		at["layer_types"] = types[:layers]
	}
	return json.Marshal(c)
}
