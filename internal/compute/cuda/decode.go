//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"unsafe"
)

// The structs below mirror decode.h.

type decodeArgs struct {
	q, k, v, plan, pages, o, lse devptr
	stride, heads, kvHeads       int32
	scale                        float32
	early, _                     int32
}

type decodeTMAArgs struct {
	k, v                   [2]tensorMap
	q, plan, pages, o, lse devptr
	stride, heads, kvHeads int32
	scale                  float32
	early                  int32
	_                      [17]int32
}

type decodeMergeArgs struct {
	out, o, lse, plan      devptr
	stride, heads, headDim int32
	early                  int32
}

// decodeAttention is attention of up to 32 new rows, of one or several sequences, over K/V in pages. It plans a pass on the host; the
// caller brings page tables and plan to the device; run then attends in each layer. A row's result depends, to the bit, on its
// own sequence only. Not safe for concurrent use.
type decodeAttention struct {
	d                       *device
	heads, kvHeads, headDim int
	keys                    int
	planner                 *decodePlanner
	kernels                 [2]decodeKernel // for groups of up to 16 rows times heads, and for more
	tma                     bool
	o, lse                  devptr // states of chunks, f32 [slot][heads][headDim], [slot][heads]
}

type decodeKernel struct {
	name            string
	threads, shared uint32
	perSM           int // blocks that a multiprocessor runs at a time
}

// newDecodeAttention is for sequences of up to so many keys and heads of 64, 80, 96 or 128; smaller ones are widened with zeros by the
// caller. It is closed before the device.
func (d *device) newDecodeAttention(heads, kvHeads, headDim, keys int) (*decodeAttention, error) {
	if headDim != nativeHead(headDim) || headDim == 0 {
		return nil, fmt.Errorf("cuda: decode attention: heads of %d", headDim)
	}
	a := &decodeAttention{d: d, heads: heads, kvHeads: kvHeads, headDim: headDim, keys: keys}
	wide := 64
	if a.tma = d.info.Major == 9; a.tma {
		wide = 128
	}
	for i, rows := range []int{16, wide} {
		if a.tma {
			a.kernels[i] = decodeTMAKernel(headDim, rows)
		} else {
			a.kernels[i] = decodeMMAKernel(headDim, rows/16)
		}
	}
	var err error
	grids := [2]int{d.info.SMs * a.kernels[0].perSM, d.info.SMs * a.kernels[1].perSM}
	if a.planner, err = newDecodePlanner(heads, kvHeads, wide, grids); err != nil {
		return nil, err
	}
	slots := int64(maxDecodeSlots(decodeRows, keys))
	if a.o, err = d.alloc(slots * int64(heads*headDim) * 4); err != nil {
		return nil, fmt.Errorf("states of attention: %w", err)
	}
	if a.lse, err = d.alloc(slots * int64(heads) * 4); err != nil {
		a.close()
		return nil, fmt.Errorf("states of attention: %w", err)
	}
	return a, nil
}

// decodeTMAKernel says what decode_sm90.cu says of its shared memory.
func decodeTMAKernel(headDim, rows int) decodeKernel {
	stages, threads, perSM := 4, 256+32, 1
	switch {
	case headDim == 64:
		stages = 6
	case headDim == 80 && rows <= 16:
		stages = 5
	}
	switch {
	case rows > 16:
		threads = 256 + 128
	case headDim < 128:
		perSM = 2
	}
	parts := (headDim + 63) / 64
	return decodeKernel{fmt.Sprintf("decode_tma_%d_%d", headDim, rows), uint32(threads),
		uint32(stages*(128*headDim*2+16) + rows*(128*parts+2*128+32+32+8+16+4) + 1024), perSM}
}

// decodeMMAKernel says what decode.cu says.
func decodeMMAKernel(headDim, tiles int) decodeKernel {
	const keys, slices, stages = 128, 8, 4
	warps := slices
	if tiles > 1 && headDim != 80 {
		warps *= 2
	}
	pitch, rows := 2*headDim+16, 16*tiles
	return decodeKernel{fmt.Sprintf("decode_%d_%d", headDim, tiles), uint32(32 * warps),
		uint32(stages*keys*pitch + rows*(pitch+2*keys+16+4*slices+16)), 1}
}

func (a *decodeAttention) close() {
	a.d.free(a.o)
	a.d.free(a.lse)
	a.o, a.lse = 0, 0
}

// planBytes and tableBytes are the most that plan returns.
func (a *decodeAttention) planBytes() int {
	most := 0
	for _, blocks := range a.planner.grids {
		most = max(most, (maxDecodeUnits(decodeRows, a.keys, a.kvHeads, blocks)+1)*blocks)
	}
	return decodeHeader + most*int(unsafe.Sizeof(decodeUnit{}))
}

func (a *decodeAttention) tableBytes() int {
	return decodeRows * 4 * ((a.keys + pageRows - 1) / pageRows)
}

// plan returns the page tables and the plan of a pass, valid until the next call, and whether it needs the kernel for many rows over
// the same keys.
func (a *decodeAttention) plan(segs []decodeSegment) (tables, plan []byte, wide bool, err error) {
	return a.planFor(segs, false)
}

// planFor is plan, or with wide for the kernel for many rows in any case.
func (a *decodeAttention) planFor(segs []decodeSegment, wide bool) (tables, plan []byte, _ bool, err error) {
	for i := range segs {
		if n := segs[i].past + segs[i].rows; n > a.keys {
			return nil, nil, false, fmt.Errorf("cuda: decode attention: segment %d: %d keys, at most %d", i, n, a.keys)
		}
	}
	if err := a.planner.plan(segs, wide); err != nil {
		return nil, nil, false, err
	}
	if len(a.planner.bytes) > a.planBytes() || len(a.planner.pages)*4 > a.tableBytes() {
		return nil, nil, false, fmt.Errorf("cuda: decode attention: a plan of %d bytes for %d pages", len(a.planner.bytes), len(a.planner.pages))
	}
	return bytesOf(a.planner.pages), a.planner.bytes, a.planner.wide, nil
}

// decodeKV is K and V of a layer: pools bf16 [page][kvHeads][64][headDim].
type decodeKV struct {
	k, v       devptr
	kMap, vMap [2]tensorMap // on Hopper, of the first 64 columns and of the rest
}

// kv describes pools of so many pages.
func (a *decodeAttention) kv(k, v devptr, pages int) (decodeKV, error) {
	x := decodeKV{k: k, v: v}
	if !a.tma {
		return x, nil
	}
	rows, row := uint64(pages)*uint64(a.kvHeads)*pageRows, uint64(2*a.headDim)
	if a.headDim == 128 { // one copy takes both halves
		for to, base := range map[*tensorMap]devptr{&x.kMap[0]: k, &x.vMap[0]: v} {
			m, err := a.d.tensorMap(mapBF16, base, []uint64{64, rows, 2}, []uint64{row, 128}, []uint32{64, pageRows, 2}, swizzle128)
			if err != nil {
				return x, err
			}
			*to = m
		}
		return x, nil
	}
	for i, cols := range []int{64, a.headDim - 64} {
		if cols == 0 {
			break
		}
		swizzle := map[int]int{64: swizzle128, 32: swizzle64, 16: swizzle32}[cols]
		for _, p := range []struct {
			to   *tensorMap
			base devptr
		}{{&x.kMap[i], k}, {&x.vMap[i], v}} {
			m, err := a.d.tensorMap(mapBF16, p.base, []uint64{uint64(a.headDim), rows}, []uint64{row}, []uint32{uint32(cols), pageRows}, swizzle)
			if err != nil {
				return x, err
			}
			*p.to = m
		}
	}
	return x, nil
}

// decodeCall is attention of one layer. Rows of q and out are bf16 [heads*headDim], the strides in elements, multiples of 8. Rows of
// out beyond those of the plan become zeros.
type decodeCall struct {
	q, out             devptr
	qStride, outStride int
	rows               int  // of q and out, at least as many as were planned
	wide               bool // as plan said, or true
	kv                 decodeKV
	tables, plan       devptr  // where the caller brought them
	scale              float64 // of scores; 0: 1/sqrt(headDim)
	// early: nothing that is still running may write tables, plan or K/V of past rows, so they are read before the kernel ahead is done.
	early bool
}

// run puts the call in the stream: two kernels.
func (a *decodeAttention) run(s *stream, c decodeCall) {
	scale := float32(c.scale)
	if scale == 0 {
		scale = float32(1 / math.Sqrt(float64(a.headDim)))
	}
	k, blocks, early := a.kernels[0], a.planner.grids[0], int32(0)
	if c.wide {
		k, blocks = a.kernels[1], a.planner.grids[1]
	}
	if c.early {
		early = 1
	}
	grid, block := [3]uint32{uint32(blocks), 1, 1}, [3]uint32{k.threads, 1, 1}
	if a.tma {
		start(s, k.name, grid, block, k.shared, &decodeTMAArgs{
			k: c.kv.kMap, v: c.kv.vMap, q: c.q, plan: c.plan, pages: c.tables, o: a.o, lse: a.lse, stride: int32(c.qStride),
			heads: int32(a.heads), kvHeads: int32(a.kvHeads), scale: scale, early: early,
		}, launchPDL)
	} else {
		start(s, k.name, grid, block, k.shared, &decodeArgs{
			q: c.q, k: c.kv.k, v: c.kv.v, plan: c.plan, pages: c.tables, o: a.o, lse: a.lse, stride: int32(c.qStride),
			heads: int32(a.heads), kvHeads: int32(a.kvHeads), scale: scale, early: early,
		}, launchPDL)
	}
	merge := "decode_merge_few"
	if c.rows*a.heads > 2*a.d.info.SMs {
		merge = "decode_merge_many"
	}
	start(s, merge, [3]uint32{uint32(a.heads), uint32(c.rows), uint32(a.headDim+31) / 32}, [3]uint32{128, 1, 1}, 0, &decodeMergeArgs{
		out: c.out, o: a.o, lse: a.lse, plan: c.plan, stride: int32(c.outStride), heads: int32(a.heads), headDim: int32(a.headDim), early: early,
	}, launchPDL)
}
