//go:build cuda

package cuda

import "afterimage/internal/compute"

// The arguments of elementwise.cu, field by field.
type (
	copyArgs struct {
		dst, src view
		wide, _  uint32
	}
	addArgs struct {
		dst, x  view
		wide, _ uint32
	}
	swigluArgs struct {
		dst, gate view
		wide, _   uint32
	}
	normArgs struct {
		dst, x       view
		weight, bias devptr
		eps          float32
		wide         uint32
	}
	rotateArgs struct {
		x           view
		table       devptr
		tableStride int64
		pos, freq   devptr
		n, head     uint32
		wide, each  uint32
	}
	lookupArgs struct {
		dst   view
		table packed
		ids   devptr
	}
	poolArgs struct {
		dst, x       view
		gridH, gridW uint32
		kh, kw       uint32
		wide, _      uint32
	}
	quantiseArgs struct {
		src        devptr
		dst        packed
		row0, rows uint32
	}
	dequantiseArgs struct {
		src    packed
		dst    devptr
		stride int64
	}
)

func blocks(n, each int) uint32 { return uint32((n + each - 1) / each) }

// pieces is the grid for n pieces of work, a thread each in blocks of 256; beyond it kernels go round.
func pieces(n uint64) [3]uint32 { return [3]uint32{uint32(min((n+255)/256, 1<<20)), 1, 1} }

// over is the grid for rows x cols, taken 8 columns at a time when wide.
func over(rows, cols, wide uint32) [3]uint32 {
	if wide != 0 {
		cols = (cols + 7) / 8
	}
	return pieces(uint64(rows) * uint64(cols))
}

var threads256 = [3]uint32{256, 1, 1}

// convert writes dst = src, of the same shape and any types.
func (s *stream) convert(dst, src view) {
	if dst.half == src.half && dst.packed() && src.packed() {
		s.copy(dst.p, src.p, int64(dst.rows)*int64(dst.cols)*dst.size())
		return
	}
	a := copyArgs{dst: dst, src: src, wide: allWide(dst, src)}
	start(s, "copy", over(dst.rows, dst.cols, a.wide), threads256, 0, &a, 0)
}

func (s *stream) add(dst, x view) {
	a := addArgs{dst: dst, x: x, wide: allWide(dst, x)}
	start(s, "add", over(dst.rows, dst.cols, a.wide), threads256, 0, &a, 0)
}

func (s *stream) swiglu(dst, gateUp view) {
	up := gateUp
	up.p += devptr(int64(dst.cols) * up.size())
	a := swigluArgs{dst: dst, gate: gateUp, wide: allWide(dst, gateUp, up)}
	start(s, "swiglu", over(dst.rows, dst.cols, a.wide), threads256, 0, &a, 0)
}

// norm is LayerNorm, or RMSNorm when bias is zero.
func (s *stream) norm(dst, x view, weight, bias devptr, eps float32) {
	a := normArgs{dst: dst, x: x, weight: weight, bias: bias, eps: eps}
	if (weight|bias)%16 == 0 {
		a.wide = allWide(dst, x)
	}
	name, grid, threads := "norm", dst.rows, uint32(256)
	if dst.cols <= 1024 && dst.cols%8 == 0 && a.wide != 0 {
		name, grid = "norm_short", blocks(int(dst.rows), 16)
	} else if dst.cols <= 4096 {
		threads = 32 * blocks(int(dst.cols), 32*16) // two pieces of 8 each
	}
	start(s, name, [3]uint32{min(grid, 1<<20), 1, 1}, [3]uint32{threads, 1, 1}, 0, &a, launchPDL)
}

// rotate turns x by a table of cosines and sines, or by positions and frequencies.
func (s *stream) rotate(a rotateArgs) {
	second := a.x // where the second half of a head starts
	second.p += devptr(int64(a.head/2) * second.size())
	if a.head%16 == 0 && a.table%16 == 0 && a.tableStride%4 == 0 {
		a.wide = allWide(a.x, second)
	}
	// Angles from a table cost a few loads; those of positions, sines: then more heads share them.
	a.each = 1
	if a.table == 0 {
		a.each = 4
	}
	groups := (a.x.cols/a.head + a.each - 1) / a.each
	start(s, "rotate", over(a.x.rows*groups, a.head/2, a.wide), threads256, 0, &a, 0)
}

func (s *stream) lookup(dst view, table packed, ids []int32) {
	a := lookupArgs{dst: dst, table: table, ids: s.scratch(scratchTable, int64(4*len(ids)))}
	s.upload(a.ids, bytesOf(ids))
	start(s, "lookup", pieces(uint64(dst.rows)*uint64(dst.cols)), threads256, 0, &a, 0)
}

func (s *stream) pool(dst, x view, gridH, gridW, kh, kw int) {
	a := poolArgs{dst: dst, x: x, gridH: uint32(gridH), gridW: uint32(gridW), kh: uint32(kh), kw: uint32(kw), wide: allWide(dst, x)}
	start(s, "pool", over(dst.rows, dst.cols, a.wide), threads256, 0, &a, 0)
}

// uploadRows is upload into a view of any kind.
func (s *stream) uploadRows(dst view, src compute.Matrix) {
	data := bytesOf(src.Data[:src.Rows*src.Cols])
	if dst.half == 0 && dst.packed() {
		s.upload(dst.p, data)
		return
	}
	from := s.scratch(scratchHost, int64(len(data)))
	s.upload(from, data)
	s.convert(dst, rowsAt(from, dst.rows, dst.cols, compute.F32))
}

func (s *stream) downloadRows(dst compute.Matrix, src view) {
	data := bytesOf(dst.Data[:dst.Rows*dst.Cols])
	if src.half == 0 && src.packed() {
		s.download(data, src.p)
		return
	}
	to := s.scratch(scratchHost, int64(len(data)))
	s.convert(rowsAt(to, src.rows, src.cols, compute.F32), src)
	s.download(data, to)
}
