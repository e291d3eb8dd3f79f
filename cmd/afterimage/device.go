package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"afterimage/internal/compute"
	"afterimage/internal/compute/cpu"
	"afterimage/internal/compute/cuda"
)

// deviceName is where models run: auto (the same as cuda:all where a GPU works, else cpu), cpu, cuda (the first GPU), cuda:N or
// cuda:all. Empty means that nobody has said.
type deviceName string

const errDevice = "want auto, cpu, cuda (the first GPU), cuda:N or cuda:all"

// UnmarshalText implements encoding.TextUnmarshaler, for flags and the environment.
func (d *deviceName) UnmarshalText(text []byte) error {
	*d = deviceName(text)
	return d.check()
}

func (d deviceName) check() error {
	switch d {
	case "", "auto", "cpu", "cuda", "cuda:all":
		return nil
	}
	if n, ok := strings.CutPrefix(string(d), "cuda:"); ok {
		if v, err := strconv.ParseUint(n, 10, 8); err == nil && strconv.FormatUint(v, 10) == n {
			return nil
		}
	}
	return errors.New(errDevice)
}

// mayUseGPU and mustUseGPU say whether the name allows, or asks for, a GPU.
func (d deviceName) mayUseGPU() bool  { return d != "cpu" }
func (d deviceName) mustUseGPU() bool { return strings.HasPrefix(string(d), "cuda") }

// ordinals are the GPUs that the name means on a machine of count GPUs, at most as many as there are streams to watch.
func (d deviceName) ordinals(count, streams int) ([]int, error) {
	if count < 1 {
		return nil, errors.New("no GPU that the driver shows this program")
	}
	from, n := 0, 1
	switch d {
	case "cuda":
	case "", "auto", "cuda:all":
		n = max(1, min(count, streams))
	default:
		n, _ := strings.CutPrefix(string(d), "cuda:")
		from, _ = strconv.Atoi(n)
		if from >= count {
			return nil, fmt.Errorf("no GPU %d: there are %d, numbered from 0", from, count)
		}
	}
	out := make([]int, n)
	for i := range out {
		out[i] = from + i
	}
	return out, nil
}

// place is one device that models can run on: a GPU by its ordinal, or all of the processor.
type place struct {
	gpu     bool
	ordinal int
}

// places are where models run, as the settings say: at least one. With "auto" in a program for GPUs on a machine without one that
// works, that is the processor.
func places(a *app, streams int) ([]place, error) {
	if !a.Device.mayUseGPU() || !cuda.Built && !a.Device.mustUseGPU() {
		return []place{{}}, nil
	}
	count, err := cuda.Count()
	var use []int
	if err == nil {
		use, err = a.Device.ordinals(count, streams)
	}
	if err != nil {
		if a.Device.mustUseGPU() {
			return nil, fmt.Errorf("device %s: %w", a.Device, err)
		}
		a.log.Warn("no GPU can be used: models run on the processor", "err", err)
		return []place{{}}, nil
	}
	out := make([]place, len(use))
	for i, n := range use {
		out[i] = place{gpu: true, ordinal: n}
	}
	return out, nil
}

// open returns a device of p. The caller closes it.
func (p place) open(a *app, threads int) (compute.Device, error) {
	if p.gpu {
		return cuda.Open(p.ordinal)
	}
	return cpu.Open(threads, a.CPU)
}

// quantName is how weights are held: bf16, f32 (exact, slow), int8 or int4.
type quantName string

// UnmarshalText implements encoding.TextUnmarshaler, for flags and the environment. i8 and i4 are older spellings.
func (q *quantName) UnmarshalText(text []byte) error {
	*q = quantName(text)
	return q.check()
}

func (q quantName) check() error {
	if _, ok := quants[q]; !ok && q != "" {
		return errors.New("want bf16, int8, int4 or f32")
	}
	return nil
}

var quants = map[quantName]compute.DType{
	"bf16": compute.BF16, "f32": compute.F32, "int8": compute.I8, "i8": compute.I8, "int4": compute.I4, "i4": compute.I4,
}

// weightTypes are how the language model's weights are held, and the encoder's. Fewer bits make tokens come sooner, since each reads
// every weight; a frame reads them once for hundreds of rows, so on a GPU the encoder gains nothing and stays exact.
func weightTypes(q quantName, gpu bool) (text, vision compute.DType) {
	text = quants[first(q, "bf16")] // what the default model was trained in
	vision = text
	switch {
	case gpu && text != compute.F32:
		vision = compute.BF16
	case text == compute.I4:
		vision = compute.I8
	}
	return text, vision
}
