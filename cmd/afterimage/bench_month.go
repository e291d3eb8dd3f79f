package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"afterimage/bench"
)

type benchMonthCmd struct {
	Days       float64  `default:"30" help:"How long a stream to make up."`
	FPS        float64  `name:"fps" default:"1" help:"Its pictures a second."`
	Strategies []string `default:"flash,recent" help:"What is remembered; the first one's store is on disk."`
	Dir        string   `placeholder:"DIR" type:"path" help:"Where the store is kept; a temporary directory that is removed afterwards, when not given."`
	DiskBudget size     `default:"1GiB" help:"Most that it takes on disk."`
	Budget     int      `default:"512" help:"Visual tokens that a question may be shown."`
	JSON       string   `name:"json" placeholder:"FILE" type:"path" help:"Write the report here; - for standard output instead of the table."`
}

func (c *benchMonthCmd) Help() string {
	return `No pictures and no models: rows as an encoder gives them wander at random, as fast as they can be remembered. 2.6 million take some minutes.

Example:
  afterimage bench month --days 30 --fps 1 --json month.json`
}

func (c *benchMonthCmd) Run(ctx context.Context, a *app) (err error) {
	if !(c.Days > 0 && c.Days <= 3650) || !(c.FPS > 0 && c.FPS <= 30) || c.Budget < 1 {
		return errors.New("bench: want up to 3650 days, up to 30 pictures a second, and a budget of at least a token")
	}
	o := bench.MonthOptions{Days: c.Days, FPS: c.FPS, Names: c.Strategies, Dir: c.Dir, Budget: int64(c.DiskBudget), Tokens: c.Budget, Usage: usage}
	for _, name := range c.Strategies {
		var memory MemoryConfig
		if err := memory.UnmarshalText([]byte(name)); err != nil {
			return fmt.Errorf("bench: --strategies: %w", err)
		}
		s, err := memory.open(&machine{name: "none"}, a.log)
		if err != nil {
			return fmt.Errorf("bench: --strategies: %w", err)
		}
		o.Strategies = append(o.Strategies, s)
	}
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "afterimage-month-"); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	}
	bar := newProgress(a, "remembering", 100)
	o.Progress = func(done, _ int, what string) { bar.set(done, what) }
	machine := bench.Machine{
		CPU: cpuName(), Level: "none", Device: "none", Threads: 1, Model: "none", Commit: versionString(), Date: stamp(time.Now().UTC()),
	}
	report, err := bench.Month(ctx, machine, o)
	if err != nil {
		return err
	}
	bar.done()
	return finish(a, c.JSON, report, report.Markdown())
}
