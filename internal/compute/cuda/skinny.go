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
	skinnyWarps = 16
	skinnyStrip = 32
	skinnyParts = 1024
	skinnyHead  = 1152
	skinnyRing  = (skinnyHead - 4*skinnyRows) / 8 / skinnyWarps // slots that there are barriers for
	slotsOld    = 4                                             // of a ring on GPUs before 9.0
)

// skinny is a weight [out, in] packed for such products, as BF16, I8 or I4.
type skinny struct {
	out, in int
	as      compute.DType
	order   rowOrder
	headDim int

	p, scales            devptr // scales: float32 of each row, I8 only
	strip, strips        int    // rows of a strip, strips
	blocks, block, width int    // blocks along in, bytes of one, columns of one
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

// newResidual allocates a residual stream; graphs keep its addresses.
func (d *device) newResidual(hidden int) (*residual, error) {
	r := &residual{hidden: hidden}
	for _, b := range []struct {
		to    *devptr
		bytes int
	}{{&r.x, 4 * hidden}, {&r.h, 2 * hidden}, {&r.sums, 4 * skinnyParts}} {
		var err error
		if *b.to, err = d.alloc(int64(skinnyRows * b.bytes)); err != nil {
			d.freeResidual(r)
			return nil, fmt.Errorf("residual stream of %d: %w", hidden, err)
		}
		d.stream.zero(*b.to, int64(skinnyRows*b.bytes))
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
	w, rowScale, x, pick, sums, bias, scale, residual, out devptr
	h, next, sumsOut                                       devptr
	table, position, slot, k, v                            devptr
	rows, n, in                                            int32
	strip, strips, blocks, block                           int32
	ldx, ldr, ldo, ldh                                     int32
	mode, flags                                            int32
	act                                                    int32
	parts                                                  int32
	invIn, eps                                             float32
	heads, kvHeads, headDim                                int32
	slots, xStride, window                                 int32
	_                                                      int32
}

type skinnyBeginArgs struct {
	x, next, h, sums devptr
	hidden, _        int32
}

const ( // mode
	skinnyLinear = iota
	skinnyAdd
	skinnyGate
	skinnyQKV
)

const ( // flags
	skinnyX32 = 1 << iota
	skinnyOut32
	skinnyRes32
)

// skinnyBegin makes h and sums of x, which something else wrote: next is the weight of the norm that comes next.
func (s *stream) skinnyBegin(r *residual, next devptr, rows int) {
	a := skinnyBeginArgs{x: r.x, next: next, h: r.h, sums: r.sums, hidden: int32(r.hidden)}
	start(s, "skinny_begin", rowGrid(rows), threads256, 0, &a, launchPDL)
	r.parts = 1
}

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
	k := skinnyArgs{
		mode: skinnyQKV, rows: int32(a.rows), bias: a.bias, table: a.table, position: a.position, slot: a.slot, out: a.q,
		ldo: int32(a.ldq), k: a.k, v: a.v, heads: int32(a.heads), kvHeads: int32(a.kvHeads), headDim: int32(a.headDim),
	}
	k.normed(r, a.eps)
	s.skinny(w, &k)
}

// skinnyAdd adds from [rows][ld] (bf16) times w to the residual stream and makes its h and sums for the norm with weight next.
func (s *stream) skinnyAdd(w *skinny, r *residual, from devptr, ld int, next devptr, rows int) {
	if w.out != r.hidden || w.order != rowsPlain || w.strips > skinnyParts {
		s.fail(fmt.Errorf("cuda: weight [%d %d] to a residual stream of %d", w.out, w.in, r.hidden))
		return
	}
	s.skinny(w, &skinnyArgs{
		mode: skinnyAdd, rows: int32(rows), x: from, ldx: int32(ld), out: r.x, ldo: int32(r.hidden), h: r.h, ldh: int32(r.hidden),
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
	k := skinnyArgs{mode: skinnyGate, rows: int32(rows), out: dst, ldo: int32(ld)}
	k.normed(r, eps)
	s.skinny(w, &k)
}

// skinnyLogits writes the normed stream times w to dst [rows][ld], float32. pick is int32 [rows], which row of the stream each is;
// 0: row i is row i.
func (s *stream) skinnyLogits(w *skinny, r *residual, eps float32, pick, dst devptr, ld, rows int) {
	k := skinnyArgs{mode: skinnyLinear, flags: skinnyOut32, rows: int32(rows), pick: pick, out: dst, ldo: int32(ld)}
	k.normed(r, eps)
	s.skinny(w, &k)
}

func (k *skinnyArgs) normed(r *residual, eps float32) {
	k.x, k.ldx, k.sums, k.parts, k.eps = r.h, int32(r.hidden), r.sums, int32(r.parts), eps
	k.invIn = 1 / float32(r.hidden)
}

// skinny launches a product; what says where x and the result are is in k.
func (s *stream) skinny(w *skinny, k *skinnyArgs) {
	if s.err != nil || k.rows == 0 {
		return
	}
	if k.rows < 0 || k.rows > skinnyRows || int(k.ldx) < w.in {
		s.fail(fmt.Errorf("cuda: %d rows of %d for weight [%d %d]", k.rows, k.ldx, w.out, w.in))
		return
	}
	f, err := w.fit(int(k.rows), s.d.info)
	if err != nil {
		s.fail(err)
		return
	}
	k.w, k.rowScale, k.n, k.in = w.p, w.scales, int32(w.out), int32(w.in)
	k.strip, k.strips, k.blocks, k.block = int32(w.strip), int32(w.strips), int32(w.blocks), int32(w.block)
	k.slots, k.xStride, k.window = int32(f.slots), int32(f.xStride), int32(f.window)
	wide, tall := 1, 1
	if w.strip > 16 {
		tall = 2
	}
	for wide*8 < int(k.rows) {
		wide *= 2
	}
	name := skinnyNames[w.as-compute.BF16][tall-1][wide/2]
	start(s, name, [3]uint32{uint32(min(w.strips, s.d.info.SMs)), 1, 1}, [3]uint32{skinnyWarps * 32, 1, 1}, uint32(f.shared), k, launchPDL)
}

// By type, tiles of 16 weight rows, tiles of 8 rows of x (1, 2, 4).
var skinnyNames = [3][2][3]string{
	{{"skinny_bf16_1x1", "skinny_bf16_1x2", "skinny_bf16_1x4"}, {"skinny_bf16_2x1", "skinny_bf16_2x2", "skinny_bf16_2x4"}},
	{{"skinny_i8_1x1", "skinny_i8_1x2", "skinny_i8_1x4"}, {"skinny_i8_2x1", "skinny_i8_2x2", "skinny_i8_2x4"}},
	{{"skinny_i4_1x1", "skinny_i4_1x2", "skinny_i4_1x4"}, {"skinny_i4_2x1", "skinny_i4_2x2", "skinny_i4_2x4"}},
}

// skinnyFit is how a product uses shared memory.
type skinnyFit struct {
	slots   int // of each warp's ring
	window  int // blocks of K that x there covers
	xStride int // bytes of a row of x there
	shared  int // bytes in all
}

// sharedMemory is what one block may have, and what it may have if the next kernel's block is to fit beside it.
func sharedMemory(info Info) (most, half int) {
	switch {
	case info.Major == 8 && info.Minor == 0:
		return 163 << 10, 81 << 10
	case info.Major == 9 || info.Major == 10:
		return 227 << 10, 112 << 10
	}
	return 99 << 10, 49 << 10
}

// fit looks for room for x and enough of the ring, best first: all of x and half a multiprocessor's memory; x by windows, where it is
// read once; all of x and all of the memory; x by windows.
func (w *skinny) fit(rows int, info Info) (skinnyFit, error) {
	tile := 16
	if w.strip > 16 {
		tile = 32
	}
	fixed := skinnyHead + skinnyWarps*rows*(tile+4)*4
	each := skinnyWarps * w.block // bytes of a slot of all rings
	turns := (w.blocks + skinnyWarps - 1) / skinnyWarps
	most := max(slotsOld, min(skinnyRing, turns*((w.strips+info.SMs-1)/info.SMs)))
	least := min(most, (44<<10+each-1)/each)
	if info.Major < 9 {
		most, least = slotsOld, slotsOld
	}
	// A row's stride is an odd number of 64 bytes, so that a tile's rows lie in different banks.
	stride := func(blocks int) int { return (blocks*w.width*2+63)/128*128 + 64 }
	try := func(limit, blocks, buffers, window int) (skinnyFit, bool) {
		x := buffers * rows * stride(blocks)
		slots := min(most, (limit-fixed-x)/each)
		return skinnyFit{slots, window, stride(blocks), fixed + x + slots*each}, slots >= least
	}
	all := func(limit int) (skinnyFit, bool) { return try(limit, w.blocks, 1, turns*skinnyWarps) }
	windows := func(limit int) (f skinnyFit, ok bool) {
		for n := turns - 1; n > 0; n-- {
			if f, ok = try(limit, n*skinnyWarps, 2, n*skinnyWarps); ok {
				return f, n*skinnyWarps*w.width >= 512 || n == 1
			}
		}
		return f, false
	}
	whole, half := sharedMemory(info)
	if f, ok := all(half); ok {
		return f, nil
	}
	if w.strips <= info.SMs {
		if f, ok := windows(half); ok {
			return f, nil
		}
	}
	if f, ok := all(whole); ok {
		return f, nil
	}
	if f, ok := windows(whole); ok {
		return f, nil
	}
	return skinnyFit{}, fmt.Errorf("cuda: %d rows with weight [%d %d] as %v do not fit shared memory", rows, w.out, w.in, w.as)
}
