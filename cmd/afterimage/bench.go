package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"afterimage/bench"
	"afterimage/ingest"
	"afterimage/ingest/simcam"
	"afterimage/memorybank"
)

type benchCmd struct {
	Sim     benchSimCmd     `cmd:"" help:"Score answers about simulated streams whose truth is known."`
	Engine  benchEngineCmd  `cmd:"" help:"Time encoding and answering."`
	Encoder benchEncoderCmd `cmd:"" help:"Time encoding alone, in batches of several sizes."`
	Kernels benchKernelsCmd `cmd:"" help:"Time the kernels of a GPU, each beside what the machine allows at best."`
	Memory  benchMemoryCmd  `cmd:"" help:"Compare memory strategies on the same frames, questions and budgets."`
	Soak    benchSoakCmd    `cmd:"" help:"Watch a camera for a while, and memory and CPU with it."`
	Watch   benchWatchCmd   `cmd:"" help:"Hold standing questions on simulated streams against the truth."`
	Live    benchLiveCmd    `cmd:"" help:"Ask through many sockets at once while simulated cameras are watched."`
	Month   benchMonthCmd   `cmd:"" help:"Remember thirty days of made-up frames, in memory and on disk, and time it day by day."`
}

type benchSimCmd struct {
	Seeds              string       `default:"900000-900019" help:"Which streets: 900000-900019, or 900000,900003."`
	Minutes            float64      `default:"10" help:"Length of each stream."`
	Strategy           MemoryConfig `default:"flash" placeholder:"NAME" help:"How to remember (${default}): a strategy that \"afterimage list strategies\" lists, with options as in flash:synopsis=32,detail=4."`
	JSON               string       `name:"json" placeholder:"FILE" type:"path" help:"Write the report here, and every question with its answer beside it in a .jsonl."`
	QuestionsPerMinute int          `default:"6" help:"Asked together at one moment of every minute."`
	Codec              string       `enum:"none,h264" default:"none" help:"Watch the drawn pictures (none), or through H.264 as a camera sends them (h264)."`
	Blind              bool         `xor:"baseline" help:"Baseline: the model is shown nothing."`
	NewestOnly         bool         `xor:"baseline" help:"Baseline: the model is shown the newest frame only."`
	Resume             bool         `help:"Go on where an interrupted run with the same --json stopped."`
}

func (c *benchSimCmd) Help() string {
	return `Streams are watched as fast as the machine can, through the same code as a live camera. The stream stands still at a moment until
everything before it is in memory, so each question is answered from what a live viewer would have seen by then.

Example:
  afterimage bench sim --seeds 900000-900019 --minutes 10 --strategy flash --json out.json`
}

func (c *benchSimCmd) Run(ctx context.Context, a *app) error {
	seeds, err := parseSeeds(c.Seeds)
	if err != nil {
		return err
	}
	if !(c.Minutes >= 1 && c.Minutes <= 240) {
		return errors.New("bench: --minutes: want 1 to 240")
	}
	if c.Resume && c.JSON == "" {
		return errors.New("bench: --resume goes with --json")
	}
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	m, err := openMachine(a)
	if err != nil {
		return err
	}
	defer m.close(a.log)
	o := bench.SimOptions{
		Seeds: seeds, Length: time.Duration(c.Minutes * float64(time.Minute)), PerMinute: c.QuestionsPerMinute,
		Strategy: c.Strategy.spec(), Codec: c.Codec, Camera: plainCamera, Resume: c.Resume,
	}
	strategy, err := c.Strategy.open(m, a.log)
	if err != nil {
		return err
	}
	switch {
	case c.Blind:
		o.Baseline, strategy = "blind", bench.Blind{}
	case c.NewestOnly:
		o.Baseline, strategy = "newest", bench.NewestOnly{}
	}
	if c.Codec == "h264" {
		o.Camera = h264Camera
	}
	if c.JSON != "" {
		o.Log = strings.TrimSuffix(c.JSON, ".json") + ".jsonl"
	}
	bar := newProgress(a, "watching and asking", len(seeds)*int(c.Minutes))
	o.Progress = func(done, _ int, what string) { bar.set(done, what) }
	report, err := bench.Sim(ctx, m.rig(a, strategy), o)
	if err != nil {
		return err
	}
	bar.done()
	return finish(a, c.JSON, report, report.Markdown())
}

type benchEngineCmd struct {
	rowOptions `embed:""`

	RandomWeights []string    `hidden:"" placeholder:"CONFIG.JSON" type:"existingfile" help:"Time language models of these shapes with random weights instead, one row a measurement."`
	Types         []quantName `hidden:"" default:"bf16,int8,int4" help:"How their weights are held, one after another; --quant leaves one."`
	Contexts      []int       `hidden:"" default:"681,11520" help:"Rows of memory that they answer from."`
}

func (c *benchEngineCmd) Help() string {
	return `Nothing else should run meanwhile. first_token_ms is with a full memory and nothing of it cached.

Example:
  afterimage bench engine --json -`
}

func (c *benchEngineCmd) Run(ctx context.Context, a *app) error {
	if len(c.RandomWeights) > 0 {
		return c.random(ctx, a)
	}
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	m, err := openMachine(a)
	if err != nil {
		return err
	}
	defer m.close(a.log)
	o := bench.EngineOptions{Camera: plainCamera, Progress: func(what string) { fmt.Fprintln(a.err, what) }}
	report, err := bench.Engine(ctx, m.rig(a, memorybank.Flash{}), o)
	if err != nil {
		return err
	}
	if err := m.likeness(ctx, a, report, o); err != nil {
		return err
	}
	return finish(a, c.JSON, report, report.Markdown())
}

type benchSoakCmd struct {
	Minutes int     `default:"10" help:"How long."`
	FPS     float64 `name:"fps" default:"2" help:"Pictures a second."`
	Seed    uint64  `default:"900000" help:"Which street."`
	JSON    string  `name:"json" placeholder:"FILE" type:"path" help:"Write the report here; - for standard output instead of the table."`
}

func (c *benchSoakCmd) Help() string {
	return `Watches in real time, with a question a minute, and writes down the memory and the CPU time of this process every minute.

Example:
  afterimage bench soak --minutes 10 --json soak.json`
}

func (c *benchSoakCmd) Run(ctx context.Context, a *app) error {
	if c.Minutes < 1 || !(c.FPS > 0 && c.FPS <= 30) {
		return errors.New("bench: want at least a minute, and up to 30 pictures a second")
	}
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	m, err := openMachine(a)
	if err != nil {
		return err
	}
	defer m.close(a.log)
	bar := newProgress(a, "watching", c.Minutes)
	report, err := bench.Soak(ctx, m.rig(a, memorybank.Flash{}), bench.SoakOptions{
		Minutes: c.Minutes, FPS: c.FPS, Seed: c.Seed, Usage: usage,
		Open: func(context.Context) (ingest.Source, error) {
			return simcam.Open(simcam.CameraOptions{Seed: c.Seed, FPS: c.FPS, Pace: true})
		},
		Progress: func(done, _ int, what string) { bar.set(done, what) },
	})
	if err != nil {
		return err
	}
	bar.done()
	return finish(a, c.JSON, report, report.Markdown())
}

// finish writes the report where it was asked for, and the table.
func finish(a *app, file string, report any, table string) error {
	switch file {
	case "-":
		return writeJSON(a.out, report)
	case "":
	default:
		if err := bench.WriteJSON(file, report); err != nil {
			return err
		}
	}
	_, err := fmt.Fprint(a.out, table)
	return err
}

// plainCamera draws a stream without a codec.
func plainCamera(_ context.Context, seed uint64, length time.Duration, epoch time.Time) (ingest.Source, error) {
	return simcam.Open(simcam.CameraOptions{Seed: seed, Length: length, Epoch: epoch})
}

// rig is the machine as a benchmark drives it.
func (m *machine) rig(a *app, s memorybank.Strategy) bench.Rig {
	return bench.Rig{
		Encoder: m.encoder, Query: m.query(a.log), Model: m.engine, Strategy: func() memorybank.Strategy { return s }, Reading: m.reading, VisualTokens: m.visual * max(1, m.reading.Merge),
		Machine: bench.Machine{
			CPU: cpuName(), Level: m.level, Device: m.device, Threads: m.threads, Model: m.name, Commit: versionString(), Date: stamp(time.Now().UTC()),
		},
	}
}

const maxSeeds = 10_000

// parseSeeds reads "900000-900019" and "1,5,7-9".
func parseSeeds(s string) ([]uint64, error) {
	var out []uint64
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		lo, err := strconv.ParseUint(from, 10, 64)
		hi := lo
		if err == nil && isRange {
			hi, err = strconv.ParseUint(to, 10, 64)
		}
		if err != nil || hi < lo || hi-lo >= maxSeeds || len(out) >= maxSeeds {
			return nil, fmt.Errorf("bench: --seeds %q: want numbers and ranges such as 900000-900019, at most %d", s, maxSeeds)
		}
		for ; lo <= hi; lo++ {
			out = append(out, lo)
			if lo == hi {
				break
			}
		}
	}
	return out, nil
}
