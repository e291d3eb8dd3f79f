package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"afterimage/internal/compute/cuda"
)

// There are two programs, because the one for GPUs does not even start on a machine without NVIDIA's driver. Users type the name of
// the one that runs anywhere; it looks for a GPU and hands over to the other.

// host is what handing over needs of the machine. Tests replace it; without one, nothing is handed over.
type host struct {
	hasGPU  func() bool                                                 // an NVIDIA GPU and its kernel driver are here
	program func() (string, error)                                      // the one for GPUs
	gpus    func(ctx context.Context, file string) ([]cuda.Info, error) // which that program finds, asked without becoming it
	become  func(file string) error                                     // returns only when it fails
}

func realHost() *host {
	return &host{hasGPU: hasGPU, program: gpuProgram, gpus: askGPUs, become: become}
}

// Reasons for staying on the processor.
var (
	errNoGPU     = errors.New("this machine has no NVIDIA GPU (no /dev/nvidia0)")
	errNoProgram = errors.New("a GPU is here, but not the program for it: afterimage-cuda belongs beside this one, and \"make cuda\" builds it")
)

// handOver becomes the program for GPUs where the device allows that and a GPU works, and returns otherwise: an error where the
// device asks for a GPU.
func (a *app) handOver(ctx context.Context) error {
	err := a.tryGPUs(ctx)
	switch {
	case err == nil:
		return nil
	case a.Device.mustUseGPU():
		return fmt.Errorf("device %s: %w", a.Device, err)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errNoGPU): // nothing is wrong with that
	case errors.Is(err, errNoProgram):
		a.log.Info("models run on the processor", "reason", err)
	default:
		a.log.Warn("models run on the processor", "reason", err)
	}
	return nil
}

// tryGPUs becomes the program for GPUs, or returns why not; nil where that is not to be tried.
func (a *app) tryGPUs(ctx context.Context) error {
	if cuda.Built || a.host == nil || !a.Device.mayUseGPU() {
		return nil
	}
	file, _, err := a.findGPUs(ctx)
	if err != nil {
		return err
	}
	return a.host.become(file)
}

// findGPUs returns the program for GPUs and what it finds, or why there is none.
func (a *app) findGPUs(ctx context.Context) (file string, gpus []cuda.Info, err error) {
	if !a.host.hasGPU() {
		return "", nil, errNoGPU
	}
	if file, err = a.host.program(); err != nil {
		return "", nil, err
	}
	if gpus, err = a.host.gpus(ctx, file); err != nil {
		return "", nil, err
	}
	if len(gpus) == 0 {
		return "", nil, errors.New("the NVIDIA driver shows no GPU")
	}
	return file, gpus, nil
}

// hasGPU looks for the driver's device files, or for what stands for them under WSL.
func hasGPU() bool {
	nodes, _ := filepath.Glob("/dev/nvidia[0-9]*")
	_, err := os.Stat("/dev/dxg")
	return len(nodes) > 0 || err == nil
}

// gpuProgram is afterimage-cuda beside this program.
func gpuProgram() (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", err
	}
	file := filepath.Join(filepath.Dir(self), "afterimage-cuda")
	if info, err := os.Stat(file); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return "", errNoProgram
	}
	return file, nil
}

// askTimeout is generous: a driver that nothing has used yet takes seconds to start, more with many GPUs.
const askTimeout = 30 * time.Second

// askGPUs runs `afterimage-cuda gpus`. It is asked in a process of its own because a program whose driver does not work may end
// before its first line.
func askGPUs(ctx context.Context, file string) ([]cuda.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var out, errs bytes.Buffer
	c := exec.CommandContext(ctx, file, "gpus")
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		if line := lastLine(errs.String() + out.String()); line != "" {
			return nil, fmt.Errorf("%s finds no GPU that works: %s", filepath.Base(file), line)
		}
		return nil, fmt.Errorf("%s finds no GPU that works: %w", filepath.Base(file), err)
	}
	var gpus []cuda.Info
	if err := json.Unmarshal(out.Bytes(), &gpus); err != nil {
		return nil, fmt.Errorf("%s gpus: %w", filepath.Base(file), err)
	}
	return gpus, nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimPrefix(strings.TrimSpace(lines[len(lines)-1]), "afterimage: ")
}

func become(file string) error {
	return os.NewSyscallError("exec "+file, syscall.Exec(file, append([]string{file}, os.Args[1:]...), os.Environ()))
}

// gpusCmd is how the other program asks.
type gpusCmd struct{}

func (gpusCmd) Run(a *app) error {
	gpus, err := listGPUs()
	if err != nil {
		return err
	}
	return writeJSON(a.out, gpus)
}

func listGPUs() ([]cuda.Info, error) {
	n, err := cuda.Count()
	if err != nil {
		return nil, err
	}
	gpus := make([]cuda.Info, n)
	for i := range gpus {
		if gpus[i], err = cuda.Describe(i); err != nil {
			return nil, err
		}
	}
	return gpus, nil
}
