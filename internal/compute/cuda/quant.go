//go:build cuda

package cuda

import (
	"fmt"

	"afterimage/internal/compute"
)

// The structs below mirror skinny.h.

type skinnyPackArgs struct {
	w, rowScale            devptr
	src                    devptr
	ld                     int64
	row0, n, in            int32
	base, extra, unit      int32
	strip, blocks, block   int32
	kind, order, head, f32 int32
	_                      int32
}

type skinnyUnpackArgs struct {
	dst, w, rowScale     devptr
	ld                   int64
	row0, n, in          int32
	base, extra, unit    int32
	strip, blocks, block int32
	kind, order, head    int32
}

// newSkinny allocates a weight of zeros, in being a multiple of 8; packSkinny fills it. headDim matters to rowsPaired only. freeSkinny gives it back.
func (d *device) newSkinny(out, in int, as compute.DType, order rowOrder, headDim int) (*skinny, error) {
	w := &skinny{out: out, in: in, as: as, order: order, headDim: headDim}
	switch {
	case out <= 0 || in <= 0 || in%8 != 0 || as < compute.BF16 || as > compute.I4:
		return nil, fmt.Errorf("cuda: packing a weight [%d %d] as %v", out, in, as)
	case order == rowsPaired && (headDim <= 0 || headDim%2 != 0 || out%headDim != 0), order == rowsGated && out%2 != 0:
		return nil, fmt.Errorf("cuda: packing a weight [%d %d] in pairs, heads of %d", out, in, headDim)
	}
	w.pack(d.info.SMs)
	bytes := int64(w.strips) * int64(w.blocks) * int64(w.block)
	var err error
	if w.p, err = d.alloc(bytes); err != nil {
		return nil, fmt.Errorf("weight [%d %d] as %v: %w", out, in, as, err)
	}
	d.stream.zero(w.p, bytes)
	if as == compute.I8 {
		bytes = int64(out) * 4
		if w.scales, err = d.alloc(bytes); err != nil {
			d.freeSkinny(w)
			return nil, fmt.Errorf("weight [%d %d] as %v: %w", out, in, as, err)
		}
		d.stream.zero(w.scales, bytes)
	}
	return w, nil
}

// pack lays the rows out in equal shares for so many blocks, and those in as few strips as they fit.
func (w *skinny) pack(sms int) {
	w.unit = 1
	if w.order != rowsPlain {
		w.unit = 2
	}
	units := w.out / w.unit
	for shares := 1; w.strip == 0 || w.strip > skinnyStrip; shares++ {
		w.strips = min(units, shares*sms)
		w.base, w.extra = units/w.strips, units%w.strips
		w.strip = (units + w.strips - 1) / w.strips * w.unit
	}
	w.width = 32 << (w.as - compute.BF16)
	w.blocks = (w.in + w.width - 1) / w.width
	w.block = w.strip * 64
	if w.as == compute.I4 {
		w.block += (w.strip*2 + 15) &^ 15
	}
}

func (d *device) freeSkinny(w *skinny) {
	if w != nil {
		d.free(w.p)
		d.free(w.scales)
	}
}

// packSkinny rounds rows [row0, row0+rows) of the checkpoint's matrix to w's type, in any number of calls. src is where row row0 is,
// F32 or BF16, rows ld elements apart.
func (s *stream) packSkinny(w *skinny, src devptr, from compute.DType, ld, row0, rows int) {
	if row0 < 0 || rows < 0 || row0+rows > w.out || ld < w.in || from > compute.BF16 {
		s.fail(fmt.Errorf("cuda: packing rows [%d %d) of %d %v into a weight [%d %d]", row0, row0+rows, ld, from, w.out, w.in))
		return
	}
	a := skinnyPackArgs{
		w: w.p, rowScale: w.scales, src: src, ld: int64(ld), row0: int32(row0), n: int32(w.out), in: int32(w.in),
		base: int32(w.base), extra: int32(w.extra), unit: int32(w.unit), strip: int32(w.strip), blocks: int32(w.blocks), block: int32(w.block), kind: int32(w.as - compute.BF16), order: int32(w.order), head: int32(w.headDim),
	}
	if from == compute.F32 {
		a.f32 = 1
	}
	start(s, "skinny_pack", rowGrid(rows), [3]uint32{128, 1, 1}, 0, &a, 0)
}

// unpackSkinny writes the same rows to dst [rows][ld] in checkpoint order as bf16, int8 and int4 times their scales.
func (s *stream) unpackSkinny(dst devptr, ld int, w *skinny, row0, rows int) {
	if row0 < 0 || rows < 0 || row0+rows > w.out || ld < w.in {
		s.fail(fmt.Errorf("cuda: unpacking rows [%d %d) of a weight [%d %d] to rows of %d", row0, row0+rows, w.out, w.in, ld))
		return
	}
	start(s, "skinny_unpack", rowGrid(rows), [3]uint32{128, 1, 1}, 0, &skinnyUnpackArgs{
		dst: dst, w: w.p, rowScale: w.scales, ld: int64(ld), row0: int32(row0), n: int32(w.out), in: int32(w.in),
		base: int32(w.base), extra: int32(w.extra), unit: int32(w.unit), strip: int32(w.strip), blocks: int32(w.blocks), block: int32(w.block), kind: int32(w.as - compute.BF16), order: int32(w.order), head: int32(w.headDim),
	}, 0)
}
