package main

import (
	"context"
	"errors"
	"fmt"

	"afterimage/bench"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
)

// likeness adds to a report what holding the weights in fewer bits costs: the same questions are answered in bfloat16 while a second
// model, quantised, is given the same tokens and compared at each.
func (m *machine) likeness(ctx context.Context, a *app, report *bench.EngineReport, o bench.EngineOptions) error {
	answering := m.devices[len(m.devices)-1]
	files, err := modelFiles(a.Model)
	if err != nil {
		return err
	}
	for _, q := range []quantName{"int8", "int4"} {
		twin := &compute.Twin{Device: answering, As: quants[q], Make: llm.OpsDecoder}
		e, err := llm.LoadFS(files, twin, compute.BF16, nil)
		if err != nil {
			return fmt.Errorf("bench: comparing %s: %w", q, err)
		}
		rig := m.rig(a, memorybank.Flash{})
		rig.Model = e
		_, err = bench.Engine(ctx, rig, o)
		if err = errors.Join(err, e.Close()); err != nil {
			return fmt.Errorf("bench: comparing %s: %w", q, err)
		}
		report.AddLikeness(string(q), twin.Likeness())
	}
	return nil
}
