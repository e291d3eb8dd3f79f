package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/internal/compute/cuda"
	"afterimage/llm"
	"afterimage/qa"
)

func TestDeviceNames(t *testing.T) {
	for _, name := range []string{"", "auto", "cpu", "cuda", "cuda:0", "cuda:15", "cuda:all"} {
		assert.NoError(t, deviceName(name).check(), name)
	}
	for _, name := range []string{"gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:01", "cuda:1 ", "cuda:256", "CUDA", "cuda:all:1"} {
		assert.Error(t, deviceName(name).check(), name)
	}
	for _, tt := range []struct {
		name           deviceName
		count, streams int
		want           []int
	}{
		{"auto", 8, 3, []int{0, 1, 2}}, {"cuda:all", 2, 16, []int{0, 1}}, {"", 4, 0, []int{0}}, {"cuda", 4, 9, []int{0}}, {"cuda:3", 4, 9, []int{3}},
	} {
		got, err := tt.name.ordinals(tt.count, tt.streams)
		require.NoError(t, err, tt.name)
		assert.Equal(t, tt.want, got, tt.name)
	}
	_, err := deviceName("cuda:4").ordinals(4, 1)
	assert.ErrorContains(t, err, "no GPU 4: there are 4, numbered from 0")
	_, err = deviceName("auto").ordinals(0, 1)
	assert.Error(t, err)
}

func TestWeightTypes(t *testing.T) {
	for _, tt := range []struct {
		quant        quantName
		gpu          bool
		text, vision compute.DType
	}{
		{"", false, compute.BF16, compute.BF16}, {"int8", false, compute.I8, compute.I8}, {"i8", true, compute.I8, compute.BF16},
		{"int4", true, compute.I4, compute.BF16}, {"int4", false, compute.I4, compute.I8}, {"f32", true, compute.F32, compute.F32},
	} {
		text, vision := weightTypes(tt.quant, tt.gpu)
		assert.Equal(t, [2]compute.DType{tt.text, tt.vision}, [2]compute.DType{text, vision}, tt)
	}
}

// fakeHost is a machine that has what each field says; what this program would have become is in became.
type fakeHost struct {
	gpu, program bool
	gpus         []cuda.Info
	err          error
	became       string
}

func (f *fakeHost) host() *host {
	return &host{
		hasGPU: func() bool { return f.gpu },
		program: func() (string, error) {
			if !f.program {
				return "", errNoProgram
			}
			return "/bin/afterimage-cuda", nil
		},
		gpus:   func(context.Context, string) ([]cuda.Info, error) { return f.gpus, f.err },
		become: func(file string) error { f.became = file; return errors.New("replaced") },
	}
}

func TestHandOver(t *testing.T) {
	if cuda.Built {
		t.Skip("this is the program for GPUs already")
	}
	works := fakeHost{gpu: true, program: true, gpus: []cuda.Info{{Name: "H200"}}}
	broken := fakeHost{gpu: true, program: true, err: errors.New("driver too old")}
	for _, tt := range []struct {
		name    string
		device  deviceName
		host    fakeHost
		becomes bool
		err     string
		logs    string
	}{
		{"no GPU", "auto", fakeHost{}, false, "", ""},
		{"no GPU, asked for", "cuda", fakeHost{}, false, "device cuda: this machine has no NVIDIA GPU", ""},
		{"no program", "", fakeHost{gpu: true}, false, "", "level=INFO msg=\"models run on the processor\""},
		{"no program, asked for", "cuda:1", fakeHost{gpu: true}, false, "make cuda", ""},
		{"driver fails", "auto", broken, false, "", "level=WARN msg=\"models run on the processor\" reason=\"driver too old\""},
		{"driver fails, asked for", "cuda:all", broken, false, "device cuda:all: driver too old", ""},
		{"driver shows none", "cuda", fakeHost{gpu: true, program: true}, false, "shows no GPU", ""},
		{"processor asked for", "cpu", works, false, "", ""},
		{"works", "auto", works, true, "", "replaced"},
		{"works, asked for", "cuda:0", works, true, "replaced", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log lockedBuffer
			a := &app{Settings: Settings{Device: tt.device}, log: slog.New(slog.NewTextHandler(&log, nil)), host: tt.host.host()}
			err := a.handOver(t.Context())
			assert.Equal(t, tt.becomes, tt.host.became != "")
			if tt.err == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, tt.err)
			}
			if tt.logs == "" {
				assert.Empty(t, log.String())
			} else {
				assert.Contains(t, log.String(), tt.logs)
				assert.Equal(t, 1, strings.Count(log.String(), "\n"), "one line")
			}
		})
	}
}

// What the other program says on its way out is what the user is told.
func TestAskGPUs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "afterimage-cuda")
	write := func(script string) {
		require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o755))
	}
	write(`[ "$1" = gpus ] && echo '[{"Ordinal":0,"Name":"NVIDIA H200","Major":9}]'`)
	gpus, err := askGPUs(t.Context(), file)
	require.NoError(t, err)
	assert.Equal(t, []cuda.Info{{Name: "NVIDIA H200", Major: 9}}, gpus)
	write("echo started >&2; echo 'error while loading shared libraries: libcuda.so.1' >&2; exit 127")
	_, err = askGPUs(t.Context(), file)
	assert.EqualError(t, err, "afterimage-cuda finds no GPU that works: error while loading shared libraries: libcuda.so.1")
	write("kill -9 $$")
	_, err = askGPUs(t.Context(), file)
	assert.ErrorContains(t, err, "finds no GPU that works: signal: killed")
}

func TestForcedGPUIsAnError(t *testing.T) {
	if cuda.Built {
		t.Skip("this is the program for GPUs")
	}
	clean(t)
	code, _, errs := command(t, t.Context(), "--device", "cuda", "ask", "sim://street", "what")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "device cuda: cuda: this program was built without")
}

func TestDoctorTellsOfGPUs(t *testing.T) {
	if cuda.Built {
		t.Skip("this is the program for GPUs")
	}
	h200 := cuda.Info{Name: "NVIDIA H200", Major: 9, TotalBytes: 140 << 30, FreeBytes: 139 << 30, Driver: "13.0"}
	a := &app{host: (&fakeHost{gpu: true, program: true, gpus: []cuda.Info{h200, {Ordinal: 1, Name: "Tesla T4", Major: 7, Minor: 5}}}).host()}
	f := checkGPUs(t.Context(), a)
	require.Len(t, f, 2)
	assert.Equal(t, "ok", f[0].verdict)
	assert.Contains(t, f[0].found, "cuda:0 NVIDIA H200, 139 of 140 GiB free, compute 9.0, driver ")
	assert.Equal(t, "warn", f[1].verdict)
	assert.Contains(t, f[1].todo, "too old")
	a.host = (&fakeHost{}).host()
	assert.Equal(t, finding{"ok", "GPU", "none: models run on the processor", ""}, checkGPUs(t.Context(), a)[0])
	a.Device = "cuda"
	assert.Equal(t, "fail", checkGPUs(t.Context(), a)[0].verdict)
}

// fakeModel answers with its name, or not at all.
type fakeModel struct {
	name string
	err  error
}

func (m *fakeModel) Generate(_ context.Context, _ llm.Prompt, _ llm.Options, emit func(llm.Token) error) (llm.Stats, error) {
	if m.err != nil {
		return llm.Stats{}, fmt.Errorf("llm: generate: %w", m.err)
	}
	return llm.Stats{Generated: 1}, emit(llm.Token{Text: m.name})
}

func (m *fakeModel) Encode(_ context.Context, frames ...ingest.Frame) ([]compute.Matrix, error) {
	if m.err != nil {
		return nil, fmt.Errorf("encoder: %w", m.err)
	}
	out := make([]compute.Matrix, len(frames))
	for i := range out {
		out[i] = compute.NewMatrix(1, 4)
	}
	return out, nil
}

func (m *fakeModel) Grid(w, h int) (gridH, gridW int) { return 1, 1 }

func (m *fakeModel) Unit() int    { return 1 }
func (m *fakeModel) Close() error { return nil }

func fakeFleet(models ...*fakeModel) *fleet {
	f := &fleet{loads: make([]float64, len(models))}
	for _, m := range models {
		f.machines = append(f.machines, &machine{name: "fake", device: m.name, encoder: m, engine: m})
	}
	return f
}

func TestStreamsGoWhereLeastIsToDo(t *testing.T) {
	f := fakeFleet(&fakeModel{name: "a"}, &fakeModel{name: "b"}, &fakeModel{name: "c"})
	var got []string
	for _, fps := range []float64{8, 2, 2, 2, 2, 2, 2, 2} {
		got = append(got, f.place(fps).device)
	}
	assert.Equal(t, []string{"a", "b", "c", "b", "c", "b", "c", "b"}, got)
	assert.Equal(t, "a, b, c", f.device())
}

// A device that falls away takes the answers about its streams with it, and nothing else.
func TestDeviceLost(t *testing.T) {
	first, second := &fakeModel{name: "first"}, &fakeModel{name: "second"}
	f := fakeFleet(first, second)
	a := &app{log: slog.New(slog.DiscardHandler)}
	u, err := ingest.ParseURL("sim://street?seed=900000")
	require.NoError(t, err)
	var streams []*stream
	for _, name := range []string{"door", "yard"} {
		sc := StreamConfig{Name: name, URL: u}
		sc.inherit(StreamConfig{})
		s, err := openStream(t.Context(), a, f.place(sc.FPS), sc)
		require.NoError(t, err)
		defer s.close()
		s.watchInBackground(t.Context())
		streams = append(streams, s)
	}
	for _, s := range streams {
		require.NoError(t, waitFor(t.Context(), 1e6, func() bool { return s.frames() >= 2 }))
		s.close()
	}
	held := streams[0].frames()
	first.err = fmt.Errorf("cuda:0: %w", compute.ErrDeviceLost)
	_, err = streams[0].Ask(t.Context(), qa.Question{Text: "What is there?"}, nil)
	require.ErrorIs(t, err, compute.ErrDeviceLost)
	assert.ErrorContains(t, err, "device lost")
	assert.Equal(t, held, streams[0].frames(), "what it remembers stays")
	answer, err := streams[1].Ask(t.Context(), qa.Question{Text: "What is there?"}, nil)
	require.NoError(t, err)
	assert.Equal(t, "second", answer.Text)
	first.err = nil // as after a restart on a machine that works: the memory answers again
	answer, err = streams[0].Ask(t.Context(), qa.Question{Text: "What is there?"}, nil)
	require.NoError(t, err)
	assert.Equal(t, "first", answer.Text)
}
