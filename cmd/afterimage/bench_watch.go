package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"afterimage/bench"
	"afterimage/qa"
)

type benchWatchCmd struct {
	Seeds    string        `default:"900000-900003" help:"Which streets are reported: 900000-900003, or 900000,900003."`
	Tune     string        `placeholder:"FROM-TO" help:"Other streets, on which threshold, hysteresis and hold are chosen; without them the defaults of standing questions are taken."`
	Minutes  float64       `default:"60" help:"Length of each stream."`
	Every    time.Duration `default:"1s" help:"Between two checks."`
	Cooldown time.Duration `default:"1m" help:"From a firing to the next, at least."`
	All      bool          `help:"Leave out the second run, which checks only where the picture changed."`
	Together int           `default:"1" help:"Streams watched at once, on one engine."`
	Strategy MemoryConfig  `default:"flash" placeholder:"NAME" help:"How to remember (${default})."`
	JSON     string        `name:"json" placeholder:"FILE" type:"path" help:"Write the report here; - for standard output instead of the table."`
}

func (c *benchWatchCmd) Help() string {
	return `Six standing questions stand on every street, and go through the code that a served stream's go through. What fires is held against the script: a
firing is right when it is the first of a stretch in which the answer is yes; expected is what would have fired had every check known the truth.

Example:
  afterimage bench watch --tune 800000-800003 --seeds 900000-900003 --json watch.json`
}

func (c *benchWatchCmd) Run(ctx context.Context, a *app) error {
	o := bench.WatchOptions{
		Length: time.Duration(c.Minutes * float64(time.Minute)), Camera: plainCamera, OnlyAll: c.All, Together: c.Together,
		Spec: qa.WatchSpec{Every: c.Every, Cooldown: c.Cooldown},
	}
	var err error
	if o.Seeds, err = parseSeeds(c.Seeds); err != nil {
		return err
	}
	if c.Tune != "" {
		if o.Tune, err = parseSeeds(c.Tune); err != nil {
			return err
		}
	}
	if !(c.Minutes >= 1 && c.Minutes <= 240) {
		return errors.New("bench: --minutes: want 1 to 240")
	}
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	m, err := openMachine(a)
	if err != nil {
		return err
	}
	defer m.close(a.log)
	strategy, err := c.Strategy.open(m, a.log)
	if err != nil {
		return err
	}
	var bar *progress
	o.Progress = func(done, total int, what string) {
		if bar == nil {
			bar = newProgress(a, "watching", total)
		}
		bar.set(done, what)
	}
	report, err := bench.Watch(ctx, m.rig(a, strategy), o)
	if err != nil {
		return err
	}
	if bar != nil {
		bar.done()
	}
	return finish(a, c.JSON, report, report.Markdown())
}
