//go:build cuda

package cuda

import (
	"context"
	"fmt"

	"afterimage/internal/compute"
)

// packed is a weight's memory, as kernels take it: [out, in] in checkpoint order. int8 has one float32 scale a row, int4 (two a byte,
// the even column in the low half, rows of whole bytes) one for each i4Group of a row.
type packed struct {
	p, scales devptr
	out, in   uint32
	as, _     uint32
}

const i4Group = 128

type weight struct {
	d *device
	packed
	dtype compute.DType
}

func (w *weight) Out() int             { return int(w.out) }
func (w *weight) In() int              { return int(w.in) }
func (w *weight) DType() compute.DType { return w.dtype }

// packedBytes is the memory of the elements and of the scales.
func packedBytes(out, in int, as compute.DType) (elements, scales int64) {
	n := int64(out) * int64(in)
	switch as {
	case compute.F32:
		return 4 * n, 0
	case compute.BF16:
		return 2 * n, 0
	case compute.I8:
		return n, 4 * int64(out)
	}
	return int64(out) * int64((in+1)/2), 4 * int64(out) * int64((in+i4Group-1)/i4Group)
}

func (d *device) NewWeight(w compute.Matrix, as compute.DType) (compute.Weight, error) {
	if err := compute.CheckWeight(w, as); err != nil {
		return nil, err
	}
	p := &weight{d: d, packed: packed{out: uint32(w.Rows), in: uint32(w.Cols), as: uint32(as)}, dtype: as}
	err := d.do(context.Background(), "NewWeight", func(s *stream) error {
		elements, scales := packedBytes(w.Rows, w.Cols, as)
		var err error
		if p.p, err = d.alloc(elements + compute.Align + scales); err != nil {
			return fmt.Errorf("%s as %v: %w", w.Shape(), as, err)
		}
		p.scales = p.p + devptr((elements+compute.Align-1)/compute.Align*compute.Align)
		s.pack(p.packed, w)
		if s.err != nil {
			d.free(p.p)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// pack uploads a whole matrix and rounds it on the device.
func (s *stream) pack(w packed, m compute.Matrix) {
	if w.as == uint32(compute.F32) {
		s.upload(w.p, bytesOf(m.Data[:m.Rows*m.Cols]))
		return
	}
	// Some rows at a time, so that scratch stays small beside the weights.
	some := max(1, min(m.Rows, 64<<20/4/m.Cols))
	src := s.scratch(scratchHost, int64(some)*int64(m.Cols)*4)
	for r := 0; r < m.Rows && s.err == nil; r += some {
		n := min(some, m.Rows-r)
		s.upload(src, bytesOf(m.Data[r*m.Cols:(r+n)*m.Cols]))
		if w.as == uint32(compute.BF16) {
			from := rowsAt(src, uint32(n), w.in, compute.F32)
			s.convert(rowsAt(w.p+devptr(r)*devptr(w.in)*2, uint32(n), w.in, compute.BF16), from)
			continue
		}
		a := quantiseArgs{src: src, dst: w, row0: uint32(r), rows: uint32(n)}
		groups := n
		if w.as == uint32(compute.I4) {
			groups *= (m.Cols + i4Group - 1) / i4Group
		}
		start(s, "quantise", [3]uint32{blocks(groups, 8), 1, 1}, [3]uint32{256, 1, 1}, 0, &a, 0)
	}
}

// dequantised returns w as bfloat16 rows and their stride in elements, whole 16 bytes; those of int8 and int4 weights in scratch.
func (s *stream) dequantised(w packed) (devptr, int) {
	if w.as == uint32(compute.BF16) {
		return w.p, int(w.in)
	}
	stride := (int(w.in) + 7) &^ 7
	a := dequantiseArgs{src: w, dst: s.scratch(scratchW, int64(w.out)*int64(stride)*2), stride: int64(stride)}
	start(s, "dequantise", pieces(uint64(w.out)*uint64(w.in)), [3]uint32{256, 1, 1}, 0, &a, 0)
	return a.dst, stride
}

func (o *ops) weight(op string, w compute.Weight) packed {
	p, ok := w.(*weight)
	if !ok || p.d != o.d {
		o.fail(fmt.Errorf("cuda: %s: weight [%d %d] belongs to another device", op, w.Out(), w.In()))
		return packed{}
	}
	return p.packed
}
