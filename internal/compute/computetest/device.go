// Package computetest says what every compute.Device must do: a Device in plain Go that is the reference for each op, and a
// conformance table that compares any other Device with it. Nothing here is fast.
package computetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"afterimage/internal/compute"
)

// Open returns the reference Device. It accumulates in float64 and rounds weights to what their DType holds, activations only
// where they are written to a Tensor of BF16. Its memory is ordinary Go memory; Close only marks it closed.
func Open() compute.Device { return &device{turn: make(chan struct{}, 1)} }

type device struct {
	turn   chan struct{} // holding its one token is holding the device
	closed atomic.Bool   // set while holding turn
}

// buffer is what Tensor.Ptr points to; data is nil once its Arena is closed.
type buffer struct {
	dev  *device
	data []float32
}

type arena struct {
	buf  *buffer
	used int64 // bytes
	size int64
}

type weight struct {
	dev     *device
	out, in int
	dtype   compute.DType
	data    []float32 // [out, in], already rounded
}

func (w *weight) Out() int             { return w.out }
func (w *weight) In() int              { return w.in }
func (w *weight) DType() compute.DType { return w.dtype }

func (d *device) Name() string { return "reference" }

func (d *device) Activations(compute.DType) compute.DType { return compute.F32 }

func (d *device) NewArena(bytes int64) (compute.Arena, error) {
	if d.closed.Load() {
		return nil, errors.New("compute: NewArena: reference device is closed")
	}
	if bytes < 0 {
		return nil, fmt.Errorf("compute: NewArena: %d bytes", bytes)
	}
	return &arena{buf: &buffer{dev: d, data: make([]float32, (bytes+3)/4)}, size: bytes}, nil
}

func (a *arena) Alloc(rows, cols int) (compute.Tensor, error) {
	return a.AllocAs(rows, cols, compute.F32)
}

// AllocAs takes as much for BF16 as for F32: values are held as float32 either way.
func (a *arena) AllocAs(rows, cols int, as compute.DType) (compute.Tensor, error) {
	if a.buf.data == nil {
		return compute.Tensor{}, errors.New("compute: Alloc: arena is closed")
	}
	if err := compute.CheckAlloc(rows, cols, as); err != nil {
		return compute.Tensor{}, err
	}
	need := compute.AllocBytes(rows, cols)
	// The last tensor may end short of the alignment unit, so that an arena of exactly one tensor's bytes holds it.
	if exact := int64(rows) * int64(cols) * 4; a.used+exact > a.size {
		return compute.Tensor{}, fmt.Errorf("compute: Alloc [%d %d]: asked for %d bytes, %d of %d left", rows, cols, exact, max(a.size-a.used, 0), a.size)
	}
	t := compute.Tensor{Rows: rows, Cols: cols, Stride: cols, Ptr: a.buf, Off: int(a.used / 4), Type: as}
	a.used += need
	return t, nil
}

func (a *arena) Close() error {
	a.buf.data = nil
	return nil
}

func (d *device) NewWeight(w compute.Matrix, as compute.DType) (compute.Weight, error) {
	if err := compute.CheckWeight(w, as); err != nil {
		return nil, err
	}
	if d.closed.Load() {
		return nil, errors.New("compute: NewWeight: reference device is closed")
	}
	p := &weight{dev: d, out: w.Rows, in: w.Cols, dtype: as, data: make([]float32, w.Rows*w.Cols)}
	for r := range w.Rows {
		roundRow(p.data[r*w.Cols:(r+1)*w.Cols], w.Row(r), as)
	}
	return p, nil
}

// i4Group is how many neighbours of a row share a scale when held as I4.
const i4Group = 128

func roundRow(dst, src []float32, as compute.DType) {
	switch as {
	case compute.F32:
		copy(dst, src)
	case compute.BF16:
		for i, v := range src {
			dst[i] = bf16(v)
		}
	case compute.I8:
		quantise(dst, src, 127)
	case compute.I4:
		for at := 0; at < len(src); at += i4Group {
			end := min(at+i4Group, len(src))
			quantise(dst[at:end], src[at:end], 7)
		}
	}
}

// quantise rounds to whole multiples, at most steps, of one scale.
func quantise(dst, src []float32, steps float32) {
	var peak float32
	for _, v := range src {
		peak = max(peak, float32(math.Abs(float64(v))))
	}
	if scale := peak / steps; scale > 0 {
		for i, v := range src {
			dst[i] = scale * float32(math.RoundToEven(float64(v/scale)))
		}
	}
}

// bf16 rounds to the nearest bfloat16, ties to even. Not for NaN.
func bf16(v float32) float32 {
	b := math.Float32bits(v)
	b += 0x7fff + b>>16&1
	return math.Float32frombits(b &^ 0xffff)
}

func (d *device) Run(ctx context.Context, fn func(compute.Ops)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.turn }()
	if d.closed.Load() {
		return errors.New("compute: Run: reference device is closed")
	}
	o := &ops{dev: d}
	fn(o)
	return o.err
}

func (d *device) Close() error {
	d.turn <- struct{}{}
	d.closed.Store(true)
	<-d.turn
	return nil
}
