package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync/atomic"

	"afterimage/encoder"
	"afterimage/internal/compute"
	"afterimage/internal/compute/cpu"
	"afterimage/llm"
	"afterimage/models"
	"afterimage/qa"
)

// machine is one encoder and one engine, shared by all streams. Each has its own device, so frames go on being encoded while an
// answer is written.
type machine struct {
	name    string // of the model
	device  string
	level   string
	threads int
	encoder *encoder.Encoder
	engine  *llm.Engine
	devices []compute.Device
	streams atomic.Uint32 // that share the engine
}

// openMachine loads the models as the settings say. The caller closes it.
func openMachine(a *app) (_ *machine, err error) {
	m := &machine{name: "embedded", threads: a.Threads}
	if m.threads == 0 {
		m.threads = runtime.NumCPU()
	}
	files, err := modelFiles(a.Model)
	if err != nil {
		return nil, err
	}
	if a.Model != "" {
		m.name = a.Model
	}
	defer func() {
		if err != nil {
			m.close(a.log)
		}
	}()
	// The two share the cores: an answer that is written while a frame is encoded takes some milliseconds longer, and neither
	// waits for the other. Whichever is alone has them all.
	watching, err := m.open(a, m.threads)
	if err != nil {
		return nil, err
	}
	answering, err := m.open(a, m.threads)
	if err != nil {
		return nil, err
	}
	m.device = answering.Name()
	_, m.level, _ = strings.Cut(strings.Fields(m.device)[0], "/")
	as := weightType(a.Weights)
	if m.encoder, err = encoder.LoadFS(files, watching, as); err != nil {
		return nil, err
	}
	if m.engine, err = llm.LoadFS(files, answering, as, llm.Lookup{}); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *machine) open(a *app, threads int) (compute.Device, error) {
	d, err := cpu.Open(threads, a.CPU)
	if err != nil {
		return nil, err
	}
	m.devices = append(m.devices, d)
	return d, nil
}

// weightType is how weights are held. bfloat16 is what the default model was trained in.
func weightType(name string) compute.DType {
	switch name {
	case "f32":
		return compute.F32
	case "i8":
		return compute.I8
	}
	return compute.BF16
}

// share is the engine as one more stream sees it.
func (m *machine) share() qa.Model { return qa.Shared(m.engine, uint16(m.streams.Add(1))) }

// close frees everything, models before their devices.
func (m *machine) close(log *slog.Logger) {
	var errs []error
	if m.engine != nil {
		errs = append(errs, m.engine.Close())
	}
	if m.encoder != nil {
		errs = append(errs, m.encoder.Close())
	}
	for _, d := range m.devices {
		errs = append(errs, d.Close())
	}
	if err := errors.Join(errs...); err != nil {
		log.Warn("close", "err", err)
	}
}

// modelFiles is a model directory, or the embedded default when dir is empty.
func modelFiles(dir string) (fs.FS, error) {
	if dir == "" {
		return models.Default()
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, fmt.Errorf("model: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("model: %s is a file; name the directory that holds config.json, tokenizer.json and *.safetensors", dir)
	}
	return os.DirFS(dir), nil
}
