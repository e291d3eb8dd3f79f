//go:build cuda

package cuda

import (
	"context"
	"errors"
	"fmt"
	"math"

	"afterimage/internal/compute"
)

// buffer is what Tensor.Ptr points to; p is zero once its Arena or the device is closed.
type buffer struct {
	d     *device
	p     devptr
	bytes int64
}

type arena struct {
	buf    *buffer
	used   int64
	closed bool
}

func (d *device) NewArena(bytes int64) (compute.Arena, error) {
	if bytes < 0 {
		return nil, fmt.Errorf("cuda: NewArena: %d bytes", bytes)
	}
	b := &buffer{d: d, bytes: bytes}
	err := d.do(context.Background(), "NewArena", func(s *stream) error {
		var err error
		if b.p, err = d.alloc(bytes); err != nil {
			return err
		}
		s.zero(b.p, bytes)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &arena{buf: b}, nil
}

func (a *arena) Alloc(rows, cols int) (compute.Tensor, error) {
	return a.AllocAs(rows, cols, compute.F32)
}

func (a *arena) AllocAs(rows, cols int, as compute.DType) (compute.Tensor, error) {
	if a.closed {
		return compute.Tensor{}, errors.New("cuda: Alloc: arena is closed")
	}
	if err := compute.CheckAlloc(rows, cols, as); err != nil {
		return compute.Tensor{}, err
	}
	// The last tensor may end short of the alignment unit, so that an arena of exactly one tensor's bytes holds it.
	size := elementSize(as)
	if exact := int64(rows) * int64(cols) * size; a.used+exact > a.buf.bytes {
		return compute.Tensor{}, fmt.Errorf("cuda: Alloc [%d %d]: asked for %d bytes, %d of %d left", rows, cols, exact, max(a.buf.bytes-a.used, 0), a.buf.bytes)
	}
	t := compute.Tensor{Rows: rows, Cols: cols, Stride: cols, Ptr: a.buf, Off: int(a.used / size), Type: as}
	a.used += compute.AllocBytesAs(rows, cols, as)
	return t, nil
}

func elementSize(as compute.DType) int64 {
	if as == compute.BF16 {
		return 2
	}
	return 4
}

// Close frees the memory; on a device that is closed or lost it is gone already.
func (a *arena) Close() error {
	if a.closed {
		return nil
	}
	a.closed = true
	err := a.buf.d.do(context.Background(), "Arena.Close", func(*stream) error {
		a.buf.d.free(a.buf.p)
		a.buf.p = 0
		return nil
	})
	if errors.Is(err, errClosed) || errors.Is(err, compute.ErrDeviceLost) {
		return nil
	}
	return err
}

// view is a tensor's rows in device memory, as kernels take them.
type view struct {
	p          devptr
	stride     int64
	rows, cols uint32
	half       uint32 // bfloat16
	_          uint32
}

// at resolves a tensor; none becomes the zero view. What is not this device's, or not within an open arena, is an error.
func (o *ops) at(op string, t compute.Tensor) view {
	if o.err != nil || t.None() {
		return view{}
	}
	b, ok := t.Ptr.(*buffer)
	if !ok || b.d != o.d {
		o.fail(fmt.Errorf("cuda: %s: tensor %s belongs to another device", op, t.Shape()))
		return view{}
	}
	size := elementSize(t.Type)
	v := view{rows: uint32(t.Rows), cols: uint32(t.Cols), stride: int64(t.Stride)}
	if t.Type == compute.BF16 {
		v.half = 1
	}
	if t.Rows == 0 || t.Cols == 0 {
		v.rows = 0 // nothing to touch
		return v
	}
	if b.p == 0 || (int64(t.Off)+int64(t.Rows-1)*int64(t.Stride)+int64(t.Cols))*size > b.bytes || t.Rows > math.MaxInt32 || t.Cols > math.MaxInt32 {
		o.fail(fmt.Errorf("cuda: %s: tensor %s is not within an open arena", op, t.Shape()))
		return view{}
	}
	v.p = b.p + devptr(int64(t.Off)*size)
	return v
}

func (v view) size() int64 {
	if v.half != 0 {
		return 2
	}
	return 4
}

// wide reports whether every row starts on 16 bytes.
func (v view) wide() bool { return v.p%16 == 0 && (v.rows <= 1 || v.stride*v.size()%16 == 0) }

// packed reports whether rows follow each other without gaps.
func (v view) packed() bool { return v.rows <= 1 || v.stride == int64(v.cols) }

// rowsAt is a view of packed rows.
func rowsAt(p devptr, rows, cols uint32, as compute.DType) view {
	v := view{p: p, stride: int64(cols), rows: rows, cols: cols}
	if as == compute.BF16 {
		v.half = 1
	}
	return v
}

// all is 1 when every view is wide, as kernels want to hear it.
func allWide(vs ...view) uint32 {
	for _, v := range vs {
		if !v.wide() {
			return 0
		}
	}
	return 1
}
