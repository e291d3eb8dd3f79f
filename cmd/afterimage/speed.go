package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"afterimage/bench"
	"afterimage/encoder"
	"afterimage/internal/compute"
	"afterimage/internal/weights"
	"afterimage/llm"
)

// rowOptions are the flags of every benchmark that gives rows.
type rowOptions struct {
	JSON  string `name:"json" placeholder:"FILE" type:"path" help:"Write one JSON object a measurement here; - for standard output instead of the table."`
	Peers string `placeholder:"FILE" type:"existingfile" help:"What other programs reached on this machine, as bench/peers/peers.py writes it."`
}

// finish puts the peers beside the rows and writes them where they were asked for. Rows that there are before an error are worth
// keeping.
func (o rowOptions) finish(a *app, rows []bench.Row, m bench.Machine, failed error) error {
	if o.Peers != "" {
		f, err := os.Open(o.Peers)
		if err != nil {
			return err
		}
		defer f.Close()
		peers, err := bench.ReadPeers(f)
		if err != nil {
			return err
		}
		bench.WithPeers(rows, peers)
	}
	if o.JSON == "-" {
		return errors.Join(bench.WriteRows(a.out, rows, m), failed)
	}
	if o.JSON != "" {
		var text strings.Builder
		if err := errors.Join(bench.WriteRows(&text, rows, m), os.WriteFile(o.JSON, []byte(text.String()), 0o644)); err != nil {
			return errors.Join(err, failed)
		}
	}
	_, err := fmt.Fprint(a.out, bench.RowsMarkdown(rows, m))
	return errors.Join(err, failed)
}

// rig is a device by itself, for benchmarks that bring their own models.
type rig struct {
	compute.Device // to be handed on as it is: what else it implements counts
	gpu            bool
	ordinal        int
	top            bench.Ceilings
	rows           []bench.Row // of the ceilings
	a              *app
}

// openRig takes the first place that the settings name and measures its ceilings, where it can. The caller closes it.
func openRig(ctx context.Context, a *app) (*rig, error) {
	if err := a.handOver(ctx); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	where, err := places(a, 1)
	if err != nil {
		return nil, err
	}
	d, err := where[0].open(a, a.Threads)
	if err != nil {
		return nil, err
	}
	r := &rig{Device: d, gpu: where[0].gpu, ordinal: where[0].ordinal, a: a}
	if b, ok := d.(compute.Benchmarks); ok {
		const none = "\x00" // the ceilings come in any case
		if r.rows, r.top, err = bench.Kernels(ctx, b.Benchmarks(), none, r.say); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return r, nil
}

func (r *rig) say(what string) { fmt.Fprintln(r.a.err, what) }

func (r *rig) machine() bench.Machine {
	return bench.Machine{Device: r.Name(), Commit: versionString(), Date: stamp(time.Now().UTC())}
}

// named is a config.json with what rows call it: the file's name.
func named(file string) (name string, config []byte, err error) {
	config, err = os.ReadFile(file)
	return strings.TrimSuffix(filepath.Base(file), ".json"), config, err
}

type benchKernelsCmd struct {
	rowOptions `embed:""`

	Match string `placeholder:"TEXT" help:"Only what has this in its name or shape."`
}

func (c *benchKernelsCmd) Help() string {
	return `Times the GPU's kernels one by one on the shapes of well-known models, on random data, after two ceilings: a large copy and a large
matrix product. Each row says how near to its ceiling the kernel comes.

Example:
  afterimage bench kernels --match "decode attention" --json kernels.jsonl`
}

func (c *benchKernelsCmd) Run(ctx context.Context, a *app) error {
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	where, err := places(a, 1)
	if err != nil {
		return err
	}
	d, err := where[0].open(a, a.Threads)
	if err != nil {
		return err
	}
	defer d.Close()
	r := &rig{Device: d, a: a}
	list, ok := d.(compute.Benchmarks)
	if !ok || !where[0].gpu {
		return fmt.Errorf("bench: %s has no kernels that can be timed one by one; this needs a GPU", d.Name())
	}
	rows, _, err := bench.Kernels(ctx, list.Benchmarks(), c.Match, r.say)
	return c.finish(a, rows, r.machine(), err)
}

type benchEncoderCmd struct {
	rowOptions `embed:""`

	Batch         []int    `default:"1,8,32" help:"Frames encoded together (${default})."`
	RandomWeights []string `hidden:"" placeholder:"CONFIG.JSON" type:"existingfile" help:"Vision towers with random weights instead of the model."`
}

func (c *benchEncoderCmd) Help() string {
	return `Times pictures on their whole way, from memory to rows in memory.

Example:
  afterimage bench encoder --batch 32 --json encoder.jsonl`
}

func (c *benchEncoderCmd) Run(ctx context.Context, a *app) error {
	for _, n := range c.Batch {
		if n < 1 || n > 32 {
			return errors.New("bench: --batch: want 1 to 32")
		}
	}
	r, err := openRig(ctx, a)
	if err != nil {
		return err
	}
	defer r.Close()
	rows := r.rows
	files := c.RandomWeights
	if len(files) == 0 {
		files = []string{""}
	}
	var errs []error
	for _, file := range files {
		more, err := c.one(ctx, r, file)
		rows = append(rows, more...)
		errs = append(errs, err)
		if ctx.Err() != nil || errors.Is(err, compute.ErrDeviceLost) {
			break
		}
	}
	return c.finish(a, rows, r.machine(), errors.Join(errs...))
}

// one times the tower of a config.json with random weights, or the model's own when file is empty.
func (c *benchEncoderCmd) one(ctx context.Context, r *rig, file string) ([]bench.Row, error) {
	name := "embedded"
	if r.a.Model != "" {
		name = filepath.Base(r.a.Model)
	}
	model, err := modelFiles(r.a.Model)
	if file != "" {
		var config []byte
		name, config, err = named(file)
		model = weights.Random{Config: config}
	}
	if err != nil {
		return nil, err
	}
	_, as := weightTypes(r.a.Quant, r.gpu)
	cfg, err := encoder.ReadConfig(model)
	if err != nil {
		return nil, err
	}
	e, err := encoder.LoadFS(model, r.Device, as)
	if err != nil {
		return nil, err
	}
	timed := bench.TimedEncoder{Encoder: e, Name: name, FLOPs: e.FLOPs, W: cfg.Vision.Image.W, H: cfg.Vision.Image.H}
	if r.gpu { // a processor makes smaller passes of large batches
		timed.Tower = e.TowerTime
	}
	rows, err := bench.Encoder(ctx, timed, r.top, bench.EncoderOptions{Batches: c.Batch, Progress: r.say})
	return rows, errors.Join(err, e.Close())
}

// random times language models of the given config.json files with random weights, each in every type.
func (c *benchEngineCmd) random(ctx context.Context, a *app) error {
	types := c.Types
	if a.Quant != "" || len(types) == 0 {
		types = []quantName{first(a.Quant, "bf16")}
	}
	r, err := openRig(ctx, a)
	if err != nil {
		return err
	}
	defer r.Close()
	rows := r.rows
	var errs []error
	for _, file := range c.RandomWeights {
		for _, q := range types {
			more, err := c.one(ctx, r, file, q)
			rows = append(rows, more...)
			errs = append(errs, err)
			if ctx.Err() != nil || errors.Is(err, compute.ErrDeviceLost) {
				return c.finish(a, rows, r.machine(), errors.Join(errs...))
			}
		}
	}
	return c.finish(a, rows, r.machine(), errors.Join(errs...))
}

func (c *benchEngineCmd) one(ctx context.Context, r *rig, file string, q quantName) ([]bench.Row, error) {
	name, config, err := named(file)
	if err != nil {
		return nil, err
	}
	files := weights.Random{Config: config}
	cfg, err := llm.ReadConfig(files)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	name += " " + string(q)
	r.say(name)
	e, err := llm.LoadRandom(files, r.Device, llm.LoadOptions{Weights: quants[q], Seed: 1})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	rows, err := bench.Tokens(ctx, bench.NewTimedEngine(name, cfg, quants[q], e), r.top, bench.TokenOptions{Contexts: c.Contexts, Progress: r.say})
	return rows, errors.Join(err, e.Close())
}
