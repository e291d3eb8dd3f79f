package weights

import (
	"context"
	"errors"

	"afterimage/internal/compute"
)

// Loader carries a checkpoint to a device so that loading reads like assignment: the first error sticks and Finish returns it.
// Large matrices become Weights at once; small vectors and working tensors are collected and placed in one Arena by Finish.
type Loader struct {
	c    *Checkpoint
	dev  compute.Device
	err  error
	want []placement
}

// Part is a tensor of Rows rows (or elements), stacked with others into one Weight or vector.
type Part struct {
	Name string
	Rows int
}

type placement struct {
	dst  *compute.Tensor
	rows int
	cols int
	data []float32 // nil: stays zero
	as   compute.DType
}

// NewLoader returns a Loader from c to dev.
func NewLoader(c *Checkpoint, dev compute.Device) *Loader { return &Loader{c: c, dev: dev} }

// Fail makes err stick unless an earlier one did.
func (l *Loader) Fail(err error) {
	if l.err == nil && err != nil {
		l.err = err
	}
}

// Weight stacks the parts, each [Rows, in], into one Weight [sum of Rows, in].
func (l *Loader) Weight(as compute.DType, in int, parts ...Part) compute.Weight {
	return l.Pack(l.Matrix(in, parts...), as)
}

// Matrix stacks the parts, each [Rows, in], on the host.
func (l *Loader) Matrix(in int, parts ...Part) compute.Matrix {
	return compute.Matrix{Rows: total(parts), Cols: in, Data: l.stack(parts, func(p Part) []int { return []int{p.Rows, in} })}
}

// stack reads the parts one after another; nil after an error.
func (l *Loader) stack(parts []Part, shape func(Part) []int) []float32 {
	n := 0
	for _, p := range parts {
		if l.err == nil {
			_, l.err = l.c.find(p.Name, shape(p)...)
		}
		n += product(shape(p))
	}
	if l.err != nil {
		return nil
	}
	data := make([]float32, n)
	rest := data
	for _, p := range parts {
		t, _ := l.c.find(p.Name, shape(p)...) // it was found just now
		n := product(shape(p))
		t.floats(rest[:n])
		t.drop()
		rest = rest[n:]
	}
	return data
}

// Pack makes a Weight of a matrix at hand.
func (l *Loader) Pack(m compute.Matrix, as compute.DType) compute.Weight {
	if l.err != nil {
		return nil
	}
	w, err := l.dev.NewWeight(m, as)
	l.Fail(err)
	return w
}

// Floats fetches one tensor to the host; nil after an error.
func (l *Loader) Floats(name string, shape ...int) []float32 {
	data, err := l.c.Floats(name, shape...)
	l.Fail(err)
	return data
}

// Vector makes *dst, at Finish, a row of the parts one after another.
func (l *Loader) Vector(dst *compute.Tensor, parts ...Part) {
	data := l.stack(parts, func(p Part) []int { return []int{p.Rows} })
	l.Put(dst, compute.Matrix{Rows: 1, Cols: len(data), Data: data})
}

// Put makes *dst, at Finish, a tensor that holds m.
func (l *Loader) Put(dst *compute.Tensor, m compute.Matrix) {
	l.PutAs(dst, m, compute.F32)
}

// PutAs is Put of a tensor whose elements are of a type.
func (l *Loader) PutAs(dst *compute.Tensor, m compute.Matrix, as compute.DType) {
	l.want = append(l.want, placement{dst: dst, rows: m.Rows, cols: m.Cols, data: m.Data, as: as})
}

// Room makes *dst, at Finish, a zeroed tensor [rows, cols] of a type.
func (l *Loader) Room(dst *compute.Tensor, rows, cols int, as compute.DType) {
	l.want = append(l.want, placement{dst: dst, rows: rows, cols: cols, as: as})
}

// Finish places everything asked for in one Arena, which the caller owns, or returns the first error of the whole load.
func (l *Loader) Finish(ctx context.Context) (compute.Arena, error) {
	if l.err != nil {
		return nil, l.err
	}
	var bytes int64
	for _, p := range l.want {
		bytes += compute.AllocBytesAs(p.rows, p.cols, p.as)
	}
	arena, err := l.dev.NewArena(bytes)
	if err != nil {
		return nil, err
	}
	for _, p := range l.want {
		if *p.dst, err = arena.AllocAs(p.rows, p.cols, p.as); err != nil {
			return nil, errors.Join(err, arena.Close())
		}
	}
	err = l.dev.Run(ctx, func(ops compute.Ops) {
		for _, p := range l.want {
			if p.data != nil {
				ops.Upload(*p.dst, compute.Matrix{Rows: p.rows, Cols: p.cols, Data: p.data})
			}
		}
	})
	if err != nil {
		return nil, errors.Join(err, arena.Close())
	}
	l.want = nil // lets the host copies go
	return arena, nil
}

func total(parts []Part) int {
	n := 0
	for _, p := range parts {
		n += p.Rows
	}
	return n
}
