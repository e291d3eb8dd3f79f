//go:build cuda

package cuda

import (
	"fmt"

	"afterimage/internal/compute"
)

// Products of 1 to skinnyRows rows with packed weights: the decode step. All launches are programmatic, so kernels before and after
// them wait (griddepcontrol.wait) before they touch what others write. A row's results do not depend, to the bit, on how many rows run.

const skinnyRows = 32

// What skinny.h says.
const (
	skinnyWarps = 15
	skinnyWide  = 16 // rows of one launch
	skinnyStrip = 32
	skinnyParts = 1024
	skinnySlots = 16
	skinnyHead  = 2176
)

// skinny is a weight [out, in] packed for such products, as BF16, I8 or I4.
type skinny struct {
	out, in int
	as      compute.DType
	order   rowOrder
	headDim int

	p, scales devptr // scales: float32 of each row, I8 only
	packing
}

// packing is how the rows lie in memory, see skinny.h.
type packing struct {
	strips, base, extra, unit int
	strip                     int // rows that a strip has room for
	blocks, block, width      int // blocks along in, bytes of one, columns of one
}

// rowOrder is how a weight's rows are dealt out when packed. Results are in checkpoint order all the same.
type rowOrder int32

const (
	rowsPlain  rowOrder = iota
	rowsPaired          // within each head, row j beside row j+headDim/2: q, k, v
	rowsGated           // of [2n, in], gate row i beside up row i
)

// residual is the residual stream between fused products. RMSNorm is split: who writes x also writes h = x · the weight of the norm
// that comes next, as bf16, and its share of the sum of squares; who reads h multiplies its result by 1/sqrt(mean+eps). So there is
// no kernel for the norm, and no block reads a whole row of x to scale it.
type residual struct {
	x    devptr // float32 [skinnyRows][hidden]
	h    devptr // bf16 [skinnyRows][hidden]
	sums devptr // float32 [skinnyRows][skinnyParts]

	hidden int
	parts  int // of sums, left by whoever wrote x last
}

// newResidual allocates a residual stream; graphs keep its addresses. hidden is a multiple of 8.
func (d *device) newResidual(hidden int) (*residual, error) {
	r := &residual{hidden: hidden}
	for _, b := range []struct {
		to    *devptr
		bytes int
	}{{&r.x, skinnyRows * 4 * hidden}, {&r.h, skinnyRows * 2 * hidden}, {&r.sums, skinnyRows * 4 * skinnyParts}} {
		var err error
		if *b.to, err = d.alloc(int64(b.bytes)); err != nil {
			d.freeResidual(r)
			return nil, fmt.Errorf("residual stream of %d: %w", hidden, err)
		}
		d.stream.zero(*b.to, int64(b.bytes))
	}
	return r, nil
}

func (d *device) freeResidual(r *residual) {
	if r != nil {
		d.free(r.x)
		d.free(r.h)
		d.free(r.sums)
	}
}

// The structs below mirror skinny.h.

type skinnyArgs struct {
	w, rowScale, x, pick, sums, out, h, next, sumsOut devptr
	bias, table, position, slot, k, v                 devptr
	rows, n, in                                       int32
	strips, base, extra, unit                         int32
	strip, blocks, block                              int32
	ldx, ldo, ldh                                     int32
	mode, parts                                       int32
	invIn, eps                                        float32
	heads, kvHeads, headDim                           int32
	xStride, window, slots, depth                     int32
	_                                                 int32
}

const ( // mode
	modeLogits = iota
	modeAdd
	modeGate
	modeQKV
)

// skinnyQKVArgs say where queries, keys and values go.
type skinnyQKVArgs struct {
	heads, kvHeads, headDim, rows int
	eps                           float32
	bias                          devptr // float32 [(heads+2*kvHeads)*headDim], or 0
	table                         devptr // float32 [position][headDim]: cosines, then sines
	position                      devptr // int32 [rows]
	slot                          devptr // int32 [rows], page*compute.PageRows + row; negative: not kept
	q                             devptr // bf16 [rows][ldq]
	ldq                           int
	k, v                          devptr // bf16 pools of the layer [page][kvHeads][compute.PageRows][headDim]
}

// skinnyQKV is norm, product, bias, RoPE, and keys and values to their pages. w is in the order rowsPaired.
func (s *stream) skinnyQKV(w *skinny, r *residual, a skinnyQKVArgs) {
	if w.out != (a.heads+2*a.kvHeads)*a.headDim || w.order != rowsPaired || w.headDim != a.headDim {
		s.fail(fmt.Errorf("cuda: q, k, v: weight [%d %d] for %d+2*%d heads of %d", w.out, w.in, a.heads, a.kvHeads, a.headDim))
		return
	}
	s.skinny(w, r.normed(skinnyArgs{
		mode: modeQKV, rows: int32(a.rows), bias: a.bias, table: a.table, position: a.position, slot: a.slot, out: a.q, ldo: int32(a.ldq),
		k: a.k, v: a.v, heads: int32(a.heads), kvHeads: int32(a.kvHeads), headDim: int32(a.headDim), eps: a.eps,
	}))
}

// skinnyAdd adds from [rows][ld] (bf16) times w to the residual stream and makes its h and sums for the norm with weight next.
func (s *stream) skinnyAdd(w *skinny, r *residual, from devptr, ld int, next devptr, rows int) {
	if w.out != r.hidden || w.order != rowsPlain || w.strips > skinnyParts {
		s.fail(fmt.Errorf("cuda: weight [%d %d] to a residual stream of %d", w.out, w.in, r.hidden))
		return
	}
	s.skinny(w, skinnyArgs{
		mode: modeAdd, rows: int32(rows), x: from, ldx: int32(ld), out: r.x, ldo: int32(r.hidden), h: r.h, ldh: int32(r.hidden),
		next: next, sumsOut: r.sums,
	})
	r.parts = w.strips
}

// skinnyGated writes silu(gate)·up of the normed stream to dst [rows][ld], bf16. w is in the order rowsGated.
func (s *stream) skinnyGated(w *skinny, r *residual, eps float32, dst devptr, ld, rows int) {
	if w.order != rowsGated {
		s.fail(fmt.Errorf("cuda: gate and up: weight [%d %d] is not packed for it", w.out, w.in))
		return
	}
	s.skinny(w, r.normed(skinnyArgs{mode: modeGate, rows: int32(rows), out: dst, ldo: int32(ld), eps: eps}))
}

// skinnyLogits writes the normed stream times w to dst [rows][ld], float32. pick is int32 [rows], which row of the stream each is;
// 0: row i is row i.
func (s *stream) skinnyLogits(w *skinny, r *residual, eps float32, pick, dst devptr, ld, rows int) {
	s.skinny(w, r.normed(skinnyArgs{mode: modeLogits, rows: int32(rows), pick: pick, out: dst, ldo: int32(ld), eps: eps}))
}

func (r *residual) normed(p skinnyArgs) skinnyArgs {
	p.x, p.ldx, p.sums, p.parts = r.h, int32(r.hidden), r.sums, int32(r.parts)
	p.invIn = 1 / float32(r.hidden)
	return p
}

// skinny launches a product; what says where x and the result are is in a.
func (s *stream) skinny(w *skinny, a skinnyArgs) {
	if s.err != nil || a.rows == 0 {
		return
	}
	if a.rows < 0 || a.rows > skinnyRows || int(a.ldx) < w.in || a.ldx%8 != 0 || a.x%16 != 0 {
		s.fail(fmt.Errorf("cuda: %d rows, %d apart, for weight [%d %d]", a.rows, a.ldx, w.out, w.in))
		return
	}
	if a.rows > skinnyWide {
		// Reading the weights again costs less than what more rows would take from the rings.
		s.skinny(w, a.slice(0, skinnyWide))
		s.skinny(w, a.slice(skinnyWide, a.rows))
		return
	}
	a.w, a.rowScale, a.n, a.in = w.p, w.scales, int32(w.out), int32(w.in)
	a.strips, a.base, a.extra, a.unit = int32(w.strips), int32(w.base), int32(w.extra), int32(w.unit)
	a.strip, a.blocks, a.block = int32(w.strip), int32(w.blocks), int32(w.block)
	shared, err := a.fit(w, s.d.info)
	if err != nil {
		s.fail(err)
		return
	}
	grid := [3]uint32{uint32(min(w.strips, s.d.info.SMs)), 1, 1}
	start(s, skinnyNames[w.as-compute.BF16][(a.rows-1)/8], grid, [3]uint32{skinnyWarps*32 + 32, 1, 1}, uint32(shared), &a, launchPDL)
}

// slice returns a for rows [from, to) of x.
func (a skinnyArgs) slice(from, to int32) skinnyArgs {
	move := func(p *devptr, bytes int32) {
		if *p != 0 {
			*p += devptr(from) * devptr(bytes)
		}
	}
	if a.pick != 0 {
		move(&a.pick, 4)
	} else {
		move(&a.x, 2*a.ldx)
		move(&a.sums, 4*skinnyParts)
	}
	size := int32(4)
	if a.mode == modeGate || a.mode == modeQKV {
		size = 2
	}
	move(&a.out, size*a.ldo)
	move(&a.h, 2*a.ldh)
	move(&a.sumsOut, 4*skinnyParts)
	move(&a.position, 4)
	move(&a.slot, 4)
	a.rows = to - from
	return a
}

// By type and by tiles of 8 rows of x.
var skinnyNames = [3][2]string{{"skinny_bf16_1", "skinny_bf16_2"}, {"skinny_i8_1", "skinny_i8_2"}, {"skinny_i4_1", "skinny_i4_2"}}

// sharedMemory is what one block may have.
func sharedMemory(info Info) int {
	switch {
	case info.Major == 8 && info.Minor == 0:
		return 163 << 10
	case info.Major == 9 || info.Major == 10:
		return 227 << 10
	}
	return 99 << 10
}

// skinnyRing is what the rings of all warps may take: enough to keep memory busy. More of it only makes blocks unequal, except that int4,
// whose blocks are the smallest, gains where all of a multiprocessor's share is asked for at once.
const skinnyRing, skinnyWholeI4 = 64 << 10, 96 << 10

// fit divides shared memory: rings as deep as they need to be, two strips' sums where rows are few, and x. A weight of several strips a
// block wants all of x there; others read it once, so windows of it do as well. It returns the bytes in all.
func (a *skinnyArgs) fit(w *skinny, info Info) (int, error) {
	rows, limit := int(a.rows), sharedMemory(info)
	turns := ((w.strips+info.SMs-1)/info.SMs*w.blocks + skinnyWarps - 1) / skinnyWarps
	most := max(2, min(skinnySlots, skinnyRing/(skinnyWarps*w.block), turns))
	if w.as == compute.I4 && turns <= min(skinnySlots, skinnyWholeI4/(skinnyWarps*w.block)) {
		most = max(2, turns)
	}
	// A row's stride is an odd number of 64 bytes, so that a tile's rows lie in different banks.
	stride := func(blocks int) int { return (blocks*w.width*2+63)/128*128 + 64 }
	for _, windows := range []bool{false, true} {
		for depth := 2; depth > 0; depth-- {
			for slots := most; slots >= 2 && (depth == 1 || rows <= 8); slots-- {
				fixed := skinnyHead + skinnyWarps*(slots*w.block+depth*rows*(skinnyStrip+4)*4)
				n, buffers := w.blocks, 1
				if fixed+rows*stride(n) > limit {
					if w.strips > info.SMs && !windows {
						continue
					}
					buffers = 2
					for n--; n > 0 && fixed+2*rows*stride(n) > limit; n-- {
					}
					if n == 0 {
						continue
					}
				}
				a.slots, a.depth, a.window, a.xStride = int32(slots), int32(depth), int32(n), int32(stride(n))
				// More than half, so that no two blocks of a kernel meet on a multiprocessor while another has none.
				return max(fixed+buffers*rows*stride(n), limit/2+2<<10), nil
			}
		}
	}
	return 0, fmt.Errorf("cuda: %d rows with weight [%d %d] as %v do not fit shared memory", rows, w.out, w.in, w.as)
}
