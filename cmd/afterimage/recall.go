package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"sync"

	"afterimage/internal/compute"
	"afterimage/internal/compute/cpu"
	"afterimage/llm"
)

// recallThreads are what the learned memory has: a frame's indicator and a question are small work, which would only wait for a
// device that is encoding or answering.
const recallThreads = 1

// loadRecall loads the learned memory of a model, where it has one, on a device of its own.
func (m *machine) loadRecall(a *app, files fs.FS) error {
	d, err := cpu.Open(recallThreads, a.CPU)
	if err != nil {
		return err
	}
	switch m.recall, err = llm.LoadRecall(files, d); {
	case errors.Is(err, llm.ErrNoRecall):
		a.log.Info("the model has no learned memory: questions select nothing, and strategies that need one cannot be used", "model", m.name)
		return d.Close()
	case err != nil:
		return errors.Join(err, d.Close())
	}
	m.devices = append(m.devices, d)
	m.encoder = &indicator{loadedEncoder: m.encoder, recall: m.recall, log: a.log}
	return nil
}

// query puts questions in the space of what indicator says of frames; nil where the model has no learned memory.
func (m *machine) query(log *slog.Logger) func(string) []float32 {
	if m.recall == nil {
		return nil
	}
	return func(question string) []float32 {
		v, err := m.recall.Query(question)
		if err != nil {
			log.Warn("a question selects nothing from the memory", "err", err)
			return nil
		}
		return v
	}
}

// indicator is an encoder that also says what its frames show. It is a qa.Indicator.
type indicator struct {
	loadedEncoder
	recall *llm.Recall
	log    *slog.Logger
	failed sync.Once
}

// Indicate implements qa.Indicator. Of a frame that it fails on nothing is said, and only the first failure is logged.
func (e *indicator) Indicate(rows compute.Matrix) []float32 {
	v, err := e.recall.Indicate(rows)
	if err != nil {
		e.failed.Do(func() { e.log.Warn("questions will not find some frames: what they show cannot be said", "err", err) })
		return nil
	}
	return v
}
