package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync/atomic"

	"afterimage/encoder"
	"afterimage/hub"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
	"afterimage/models"
	"afterimage/qa"
)

// machine is one encoder and one engine on one place, shared by the streams that are placed there. Each has its own device, so frames
// go on being encoded while an answer is written.
type machine struct {
	name    string // of the model
	origin  memorybank.Origin
	device  string
	level   string
	threads int
	encoder loadedEncoder
	engine  loadedEngine
	recall  *llm.Recall // nil where the model has no learned memory
	family  family
	reading qa.Reading
	visual  int // see family.visual

	attention *memorybank.Attention
	devices   []compute.Device
	streams   atomic.Uint32 // that share the engine
}

// loadedEncoder and loadedEngine are an encoder.Encoder and an llm.Engine; tests have others.
type loadedEncoder interface {
	qa.Encoder
	io.Closer
}

type loadedEngine interface {
	qa.Model
	io.Closer
}

// openMachine loads the models on the first place that the settings name. The caller closes it.
func openMachine(a *app) (*machine, error) {
	f, err := openFleet(a, 1)
	if err != nil {
		return nil, err
	}
	return f.machines[0], nil
}

// loadMachine loads the models on p. The caller closes it.
func loadMachine(a *app, p place) (_ *machine, err error) {
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
	if m.origin, err = modelOrigin(files); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.close(a.log)
		}
	}()
	// The two share what the place has: an answer that is written while a frame is encoded takes some milliseconds longer, and
	// neither waits for the other. Whichever is alone has all of it.
	watching, err := m.open(a, p)
	if err != nil {
		return nil, err
	}
	answering, err := m.open(a, p)
	if err != nil {
		return nil, err
	}
	m.device = answering.Name()
	m.level = "cuda"
	if !p.gpu {
		_, m.level, _ = strings.Cut(strings.Fields(m.device)[0], "/")
	}
	if m.family, err = readFamily(files); err != nil {
		return nil, err
	}
	text, vision := weightTypes(a.Quant, p.gpu)
	enc, err := encoder.LoadWith(files, watching, encoder.Options{Weights: vision, Pixels: a.Pixels, Lean: a.Lean})
	if err != nil {
		return nil, err
	}
	m.encoder = enc
	context, err := m.family.context(files, p.gpu)
	if err != nil {
		return nil, err
	}
	engine, err := llm.LoadWith(files, answering, llm.LoadOptions{Weights: text, Drafter: llm.Lookup{}, Context: first(a.Context, context), Lean: a.Lean})
	if err != nil {
		return nil, err
	}
	m.engine = engine
	m.visual = m.family.visual(engine.Context(), p.gpu)
	if m.reading, err = m.family.reading(files, enc, engine); err != nil {
		return nil, err
	}
	if m.attention, err = m.family.starAttention(files); err != nil {
		return nil, err
	}
	if err := m.loadRecall(a, files); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *machine) open(a *app, p place) (compute.Device, error) {
	d, err := p.open(a, m.threads)
	if err != nil {
		return nil, err
	}
	m.devices = append(m.devices, d)
	return d, nil
}

// share is the engine as one more stream sees it.
func (m *machine) share() qa.Model { return qa.Shared(m.engine, uint16(m.streams.Add(1))) }

// close frees everything, models before their devices.
func (m *machine) close(log *slog.Logger) {
	var errs []error
	if m.recall != nil {
		errs = append(errs, m.recall.Close())
	}
	if m.engine != nil {
		errs = append(errs, m.engine.Close())
	}
	if m.encoder != nil {
		errs = append(errs, m.encoder.Close())
	}
	for _, d := range m.devices {
		errs = append(errs, d.Close())
	}
	// What a lost device held is gone: that was said when it was lost.
	if err := errors.Join(errs...); err != nil && !errors.Is(err, compute.ErrDeviceLost) {
		log.Warn("close", "err", err)
	}
}

// modelFiles is a model directory or a model that was pulled, or the embedded default when name is empty.
func modelFiles(name string) (fs.FS, error) {
	if name == "" {
		return models.Default()
	}
	dir, err := hub.Resolve(name)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	return os.DirFS(dir), nil
}
