package main

import (
	"log/slog"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"afterimage/llm"
	"afterimage/web"
)

// fleet is the machines that streams are spread over, one for each GPU in use, or one on the processor. A stream stays where it was
// placed: its memory is in the program's own memory, and only the models are the machine's. When a device is lost, questions about
// its streams say so and new frames of theirs are counted as failed; what the streams remember stays, and other machines go on.
type fleet struct {
	machines []*machine
	loads    []float64 // pictures a second that each machine was given
}

// openFleet loads the models on every place that the settings name, at most one place a stream. The caller closes it.
func openFleet(a *app, streams int) (*fleet, error) {
	where, err := places(a, streams)
	if err != nil {
		return nil, err
	}
	f, err := loadFleet(a, where)
	if err != nil && where[0].gpu && !a.Device.mustUseGPU() {
		a.log.Warn("the models cannot run on the GPU: they run on the processor", "err", err)
		return loadFleet(a, []place{{}})
	}
	return f, err
}

func loadFleet(a *app, where []place) (*fleet, error) {
	f := &fleet{machines: make([]*machine, len(where)), loads: make([]float64, len(where))}
	var g errgroup.Group
	for i, p := range where {
		g.Go(func() (err error) {
			f.machines[i], err = loadMachine(a, p)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		f.close(a.log)
		return nil, err
	}
	return f, nil
}

// place returns the machine with the least to do, the first of equals, and counts fps pictures a second more on it.
func (f *fleet) place(fps float64) *machine {
	least := 0
	for i, load := range f.loads {
		if load < f.loads[least] {
			least = i
		}
	}
	f.loads[least] += fps
	return f.machines[least]
}

// leave takes back what place counted.
func (f *fleet) leave(m *machine, fps float64) {
	if i := slices.Index(f.machines, m); i >= 0 {
		f.loads[i] -= fps
	}
}

// device names what the models run on, for people.
func (f *fleet) device() string {
	names := make([]string, len(f.machines))
	for i, m := range f.machines {
		names[i] = m.device
	}
	return strings.Join(names, ", ")
}

// engines is what the language models count at this moment.
func (f *fleet) engines() []web.Engine {
	var list []web.Engine
	for _, m := range f.machines {
		if e, ok := m.engine.(interface{ Counters() llm.Counters }); ok {
			list = append(list, web.Engine{Model: m.name, Counters: e.Counters()})
		}
	}
	return list
}

func (f *fleet) close(log *slog.Logger) {
	for _, m := range f.machines {
		if m != nil {
			m.close(log)
		}
	}
}
