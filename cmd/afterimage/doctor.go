package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"afterimage/bench"
	"afterimage/ingest"
	"afterimage/ingest/ffmpeg"
	"afterimage/ingest/simcam"
	"afterimage/internal/compute/cpu"
	"afterimage/internal/compute/cuda"
	"afterimage/memorybank"
)

type doctorCmd struct {
	Listen string `default:"${listen}" env:"AFTERIMAGE_LISTEN" placeholder:"HOST:PORT" help:"The address to check (${listen})."`
	Quick  bool   `help:"Leave out what takes long: loading the model and measuring it."`
}

func (c *doctorCmd) Help() string {
	return `Each line says ok, warn or fail, and what to do. Ends with status 1 when something has failed.

With --model it also says whether that model fits this machine and how fast it will be, for each way of holding its weights, and which is
advised: measured with random weights of its config.json, so before it is pulled, too. Of a large decoder a few layers are measured and
scaled to all; the lines say so. Memory includes the K/V of one whole context.

Examples:
  afterimage doctor
  afterimage doctor --model smolvlm2-256m`
}

// finding is one line of the doctor's report.
type finding struct {
	verdict string // "ok", "warn" or "fail"
	what    string
	found   string
	todo    string
}

func (c *doctorCmd) Run(ctx context.Context, a *app) error {
	_ = a.tryGPUs(ctx) // what is checked is what would run; why it cannot is one of the findings
	failed := false
	say := func(f finding) {
		fmt.Fprintf(a.out, "%-4s  %-9s %s\n", f.verdict, f.what, f.found)
		if f.todo != "" {
			fmt.Fprintf(a.out, "      %-9s -> %s\n", "", f.todo)
		}
		failed = failed || f.verdict == "fail"
	}
	say(finding{"ok", "version", versionString() + ", " + runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH, ""})
	say(checkFFmpeg())
	say(checkCores(a.Threads))
	say(checkLevel(a.CPU))
	for _, f := range checkGPUs(ctx, a) {
		say(f)
	}
	say(checkPort(c.Listen))
	say(checkTemp())
	if !c.Quick {
		load := true
		if a.Model != "" {
			var findings []finding
			findings, load = checkFit(ctx, a)
			for _, f := range findings {
				say(f)
			}
		}
		if load {
			for _, f := range checkModel(ctx, a) {
				say(f)
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if failed {
		return errSaid
	}
	return nil
}

func checkFFmpeg() finding {
	v := ffmpeg.Version()
	if !strings.HasPrefix(v, "7.") {
		return finding{"warn", "FFmpeg", v, "this program is made for FFmpeg 7; build with make, which brings its own"}
	}
	return finding{"ok", "FFmpeg", v, ""}
}

func checkCores(threads int) finding {
	n := runtime.NumCPU()
	found := fmt.Sprintf("%d cores", n)
	switch {
	case threads > n:
		return finding{"warn", "cores", found, fmt.Sprintf("%d threads are asked for; more than cores makes everything slower", threads)}
	case n < 2:
		return finding{"warn", "cores", found, "two or more let a stream be watched while an answer is written"}
	}
	return finding{"ok", "cores", found, ""}
}

// checkLevel says which kernels will run; an old machine works, slowly.
func checkLevel(forced string) finding {
	levels := cpu.Levels()
	best := levels[len(levels)-1]
	found := "best " + best + " of " + strings.Join(levels, ", ") + "; " + cpuName()
	switch {
	case forced != "" && !slices.Contains(levels, forced):
		return finding{"fail", "kernels", found, "this machine has no " + forced + "; leave --cpu and AFTERIMAGE_CPU out"}
	case forced != "" && forced != best:
		return finding{"warn", "kernels", found, forced + " is forced; leave --cpu and AFTERIMAGE_CPU out for the best"}
	case best == "scalar":
		return finding{"warn", "kernels", found, "a processor with AVX2 is many times faster"}
	}
	return finding{"ok", "kernels", found, ""}
}

// checkGPUs says which GPUs there are and whether this program can use them. Having none is no fault.
func checkGPUs(ctx context.Context, a *app) []finding {
	verdict := "warn"
	if a.Device.mustUseGPU() {
		verdict = "fail"
	}
	var gpus []cuda.Info
	var err error
	switch {
	case cuda.Built:
		gpus, err = listGPUs()
	case a.host != nil:
		_, gpus, err = a.findGPUs(ctx)
	default:
		err = errNoGPU
	}
	switch {
	case errors.Is(err, errNoGPU) && !a.Device.mustUseGPU():
		return []finding{{"ok", "GPU", "none: models run on the processor", ""}}
	case errors.Is(err, errNoProgram):
		return []finding{{verdict, "GPU", "here, but this program is for processors", "build afterimage-cuda beside it: make cuda"}}
	case err != nil:
		return []finding{{verdict, "GPU", err.Error(), "check NVIDIA's driver with nvidia-smi (550 or newer)"}}
	}
	var out []finding
	for _, g := range gpus {
		f := finding{"ok", "GPU", fmt.Sprintf("cuda:%d %s, %.0f of %.0f GiB free, compute %d.%d, driver %s", g.Ordinal, g.Name,
			float64(g.FreeBytes)/(1<<30), float64(g.TotalBytes)/(1<<30), g.Major, g.Minor, driverVersion(g)), ""}
		switch {
		case g.Major < 8:
			f.verdict, f.todo = verdict, "too old: this program needs compute capability 8.0 (Ampere) or newer"
		case !cuda.Built:
			f.todo = "not used: --device " + string(first(a.Device, "auto"))
		}
		out = append(out, f)
	}
	return out
}

// driverVersion is the driver's own version where Linux tells it, and in any case the CUDA version it speaks.
func driverVersion(g cuda.Info) string {
	text, _ := os.ReadFile("/proc/driver/nvidia/version")
	for f := range strings.FieldsSeq(string(text)) {
		if len(f) > 4 && f[0] >= '1' && f[0] <= '9' && strings.Count(f, ".") >= 1 {
			return f + " (CUDA " + g.Driver + ")"
		}
	}
	return "of CUDA " + g.Driver
}

func checkPort(listen string) finding {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return finding{"fail", "port", fmt.Sprintf("%s: %v", listen, err), "stop what uses it, or choose another with listen: or --listen"}
	}
	_ = ln.Close()
	return finding{"ok", "port", listen + " is free", ""}
}

func checkTemp() finding {
	f, err := os.CreateTemp("", "afterimage-doctor-")
	if err != nil {
		return finding{"warn", "files", err.Error(), "set TMPDIR to a directory that can be written to; only \"bench sim --codec h264\" needs it"}
	}
	err = errors.Join(f.Close(), os.Remove(f.Name()))
	if err != nil {
		return finding{"warn", "files", err.Error(), ""}
	}
	return finding{"ok", "files", os.TempDir() + " can be written to", ""}
}

// checkModel loads the model, watches two seconds of a simulated street through it and asks a question.
func checkModel(ctx context.Context, a *app) []finding {
	start := time.Now()
	m, err := openMachine(a)
	if err != nil {
		return []finding{{"fail", "model", err.Error(), "name a model directory with --model, or use a program built with the weights"}}
	}
	defer m.close(a.log)
	findings := []finding{{"ok", "model", fmt.Sprintf("%s on %s, loaded in %d ms", m.name, m.device, time.Since(start).Milliseconds()), ""}}
	r, err := bench.Engine(ctx, m.rig(a, memorybank.Flash{}), bench.EngineOptions{
		Frames: 96, Repetitions: 3,
		Camera: func(_ context.Context, seed uint64, length time.Duration, epoch time.Time) (ingest.Source, error) {
			return simcam.Open(simcam.CameraOptions{Seed: seed, Length: length, Epoch: epoch, W: 320, H: 180})
		},
	})
	if err != nil {
		return append(findings, finding{"fail", "answers", err.Error(), "the model does not work here; try --cpu avx2, then report this"})
	}
	speed := finding{"ok", "encoding", fmt.Sprintf("%.0f frames/s", r.EncodeFPS), ""}
	if r.EncodeFPS < 4 {
		speed.verdict, speed.todo = "warn", "a stream of 2 frames/s needs more than half of this machine; use fewer streams or a lower fps"
	}
	findings = append(findings, speed)
	answer := finding{"ok", "answers", fmt.Sprintf("first token after %.0f ms with a full memory (%.0f ms when it is prefilled), then %.0f tokens/s",
		r.FirstTokenMS, r.FirstTokenWarmMS, r.TokensPerS), ""}
	if r.FirstTokenMS > 2000 {
		answer.verdict, answer.todo = "warn", "slow; check that nothing else is running, or give it more cores"
	}
	return append(findings, answer)
}
