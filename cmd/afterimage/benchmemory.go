package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"afterimage/bench"
	"afterimage/ingest"
	"afterimage/ingest/ffmpeg"
)

type benchMemoryCmd struct {
	Strategies         []string  `sep:"none" default:"flash,recent" placeholder:"A,B" help:"What is compared (flash,recent when not given): names, with options after a colon, as in flash:synopsis=28,detail=4,recent."`
	Budget             []int     `default:"512" placeholder:"N" help:"Most visual tokens of a question (512 when not given); a list such as 128,256,512,1024 asks everything within each."`
	Seeds              string    `placeholder:"FROM-TO" help:"Which simulated streets: 900000-900003 (the default, unless there are videos), or 900000,900003."`
	Minutes            []float64 `placeholder:"N,N" help:"Lengths of the simulated streams, up to 1440: 60 (the default), or a list such as 10,60,480."`
	QuestionsPerMinute int       `default:"6" placeholder:"N" help:"Asked together (6 when not given), at one moment of a minute."`
	Every              int       `placeholder:"N" help:"Of so many minutes one is asked in; as few as leave at most 20 moments a stream when not given: 1 of 10 minutes, 3 of an hour, 24 of 8 hours."`
	Disk               int       `placeholder:"MB" help:"Give every strategy so much of a disk for a stream, to read the past back from; none when not given."`
	Video              []string  `sep:"none" placeholder:"FILE" help:"A recorded stream to ask about; goes with --questions, and both may be repeated."`
	Questions          []string  `sep:"none" placeholder:"FILE.json" help:"Its questions, as \"afterimage simcam --questions\" writes them."`
	JSON               string    `name:"json" placeholder:"FILE" type:"path" help:"Write the report here, and every question with its answer beside it in a .jsonl."`
	HTML               string    `name:"html" placeholder:"FILE" type:"path" help:"Write the report as a page here; beside --json when not given."`
	Resume             bool      `help:"Go on where an interrupted run with the same --json stopped; streams may have been added."`
}

func (c *benchMemoryCmd) Help() string {
	return `Every stream is watched once. Each frame goes to one memory a strategy, and at the same moments the same questions are asked of each within
each budget, beside two baselines: newest, which is shown the newest frame, and blind, which is shown nothing. Equal prompts are asked once.

Examples:
  afterimage bench memory --strategies flash,recent --seeds 900000-900003 --minutes 60 --budget 512 --json out.json
  afterimage bench memory --strategies flash:synopsis=28,detail=4,flash,recent:frames=64 --minutes 10,60,480 --budget 128,256,512,1024 --json out.json
  afterimage simcam --out street.mp4 --questions street.json
  afterimage bench memory --video street.mp4 --questions street.json --html street.html`
}

func (c *benchMemoryCmd) Run(ctx context.Context, a *app) error {
	o, err := c.options(ctx)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	memories, err := c.subjects()
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	m, err := openMachine(a)
	if err != nil {
		return err
	}
	defer m.close(a.log)
	rig := m.rig(a, nil)
	for _, memory := range memories {
		s, err := memory.open(m, a.log)
		if err != nil {
			return fmt.Errorf("bench: --strategies: %w", err)
		}
		o.Subjects = append(o.Subjects, bench.Subject{Name: memory.spec(), Strategy: s})
	}
	if rig.Machine.ModelHash, err = modelHash(a.Model); err != nil {
		return err
	}
	var bar *progress
	o.Progress = func(done, total int, what string) {
		if bar == nil {
			bar = newProgress(a, "watching and asking", total)
		}
		bar.set(done, what)
	}
	report, err := bench.Memory(ctx, rig, o)
	if err != nil {
		if c.JSON != "" && ctx.Err() != nil {
			fmt.Fprintf(a.err, "finished streams are in %s: go on with --resume\n", o.Log)
		}
		return err
	}
	if bar != nil {
		bar.done()
	}
	page := c.HTML
	if page == "" && c.JSON != "" && c.JSON != "-" {
		page = strings.TrimSuffix(c.JSON, ".json") + ".html"
	}
	if page != "" {
		if err := report.WriteHTML(page); err != nil {
			return err
		}
	}
	return finish(a, c.JSON, report, report.Markdown())
}

const (
	defaultMemorySeeds   = "900000-900003"
	defaultMemoryMinutes = 60
)

// options checks the flags and finds everything that they name.
func (c *benchMemoryCmd) options(ctx context.Context) (o bench.MemoryOptions, err error) {
	switch {
	case len(c.Video) != len(c.Questions):
		return o, fmt.Errorf("%d of --video and %d of --questions: each goes with one of the other", len(c.Video), len(c.Questions))
	case c.Resume && (c.JSON == "" || c.JSON == "-"):
		return o, errors.New("--resume goes with --json FILE")
	case c.QuestionsPerMinute < 1 || c.QuestionsPerMinute > 100:
		return o, errors.New("--questions-per-minute: want 1 to 100")
	case c.Disk < 0 || c.Disk > 1<<20:
		return o, errors.New("--disk: want 1 to 1048576 MB")
	case c.Every < 0:
		return o, errors.New("--every: want a number of minutes")
	}
	o = bench.MemoryOptions{PerMinute: c.QuestionsPerMinute, Every: c.Every, Budgets: c.Budget, Camera: plainCamera, Resume: c.Resume, Disk: int64(c.Disk) << 20}
	for i, b := range c.Budget {
		if b < 1 || b > 1<<16 || slices.Contains(c.Budget[:i], b) {
			return o, fmt.Errorf("--budget %d: want 1 to 65536, each once", b)
		}
	}
	if len(c.Video) == 0 || c.Seeds != "" || len(c.Minutes) > 0 {
		if o.Seeds, err = parseSeeds(first(c.Seeds, defaultMemorySeeds)); err != nil {
			return o, errors.New(strings.TrimPrefix(err.Error(), "bench: "))
		}
		minutes := c.Minutes
		if len(minutes) == 0 {
			minutes = []float64{defaultMemoryMinutes}
		}
		for _, m := range minutes {
			if !(m >= 1 && m <= 1440) {
				return o, fmt.Errorf("--minutes %g: want 1 to 1440", m)
			}
			if float64(c.Every) > m {
				return o, fmt.Errorf("--every %d: a stream of %g minutes would not be asked anything", c.Every, m)
			}
			o.Lengths = append(o.Lengths, time.Duration(m*float64(time.Minute)))
		}
	}
	for i, file := range c.Video {
		v, err := openVideo(ctx, file, c.Questions[i])
		if err != nil {
			return o, err
		}
		o.Videos = append(o.Videos, v)
	}
	if c.JSON != "" && c.JSON != "-" {
		o.Log = strings.TrimSuffix(c.JSON, ".json") + ".jsonl"
	}
	return o, nil
}

// openVideo finds a recorded stream and its questions, and makes sure that they fit together as far as the file tells.
func openVideo(ctx context.Context, file, questions string) (v bench.Video, err error) {
	v.Name = filepath.Base(file)
	if v.Epoch, v.Questions, err = bench.ReadQuestions(questions); err != nil {
		return v, err
	}
	u, err := ingest.ParseURL(file)
	if err != nil {
		return v, err
	}
	if u.Scheme() != ingest.FileScheme {
		return v, fmt.Errorf("--video %s: want a file", u)
	}
	if err := checkSource(u); err != nil {
		return v, err
	}
	v.Open = func(ctx context.Context) (ingest.Source, error) {
		d, err := ffmpeg.Open(ctx, u, ffmpeg.Options{FPS: 2, Epoch: v.Epoch})
		if err != nil {
			return nil, err // not d: a nil *Decoder in an interface is not nil
		}
		return d, nil
	}
	d, err := ffmpeg.Open(ctx, u, ffmpeg.Options{FPS: 2})
	if err != nil {
		return v, err
	}
	length := d.Length()
	if err := d.Close(); err != nil {
		return v, err
	}
	if last := v.Questions[len(v.Questions)-1]; length > 0 && last.At > length+time.Second {
		return v, fmt.Errorf("%s: question %s is to be asked at %s, but %s ends at %s", questions, last.ID, last.At, file, length.Round(time.Millisecond))
	}
	return v, nil
}

// subjects are the strategies that are named in lists, each once.
func (c *benchMemoryCmd) subjects() ([]MemoryConfig, error) {
	var out []MemoryConfig
	for _, list := range c.Strategies {
		parts := slices.DeleteFunc(strings.Split(list, ","), func(part string) bool { // always there
			return strings.TrimSpace(part) == bench.NewestName || strings.TrimSpace(part) == bench.BlindName
		})
		if len(parts) == 0 {
			continue
		}
		more, err := parseStrategies(strings.Join(parts, ","))
		if err != nil {
			return nil, fmt.Errorf("--strategies: %w", err)
		}
		for _, m := range more {
			if slices.ContainsFunc(out, func(o MemoryConfig) bool { return o.spec() == m.spec() }) {
				return nil, fmt.Errorf("--strategies: %s is named twice", m.spec())
			}
			out = append(out, m)
		}
	}
	return out, nil
}

// modelHash is the beginning of the SHA-256 of the files that a model is loaded from.
func modelHash(dir string) (string, error) {
	files, err := modelFiles(dir)
	if err != nil {
		return "", err
	}
	names, err := fs.Glob(files, "*.safetensors")
	if err != nil {
		return "", fmt.Errorf("model: %w", err)
	}
	h := sha256.New()
	for _, name := range append([]string{"config.json", "tokenizer.json"}, names...) { // Glob sorts
		f, err := files.Open(name)
		if err != nil {
			return "", fmt.Errorf("model: %w", err)
		}
		fmt.Fprintf(h, "%s\n", strconv.Quote(name))
		_, err = io.Copy(h, f)
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			return "", fmt.Errorf("model: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}
