//go:build cuda

package cuda

// The structs below mirror pass.h; addresses first, so that both compilers lay them out alike.

type passEmbedArgs struct {
	x, table, visual, ids devptr
	rows, hidden          int32
	count, h, next, sums  devptr
}

type passNormArgs struct {
	h, x, w      devptr
	rows, hidden int32
	eps          float32
	_            int32
}

type passRopeArgs struct {
	qkv, k, v, table, position, slot      devptr
	rows, stride, heads, kvHeads, headDim int32
	_                                     int32
}

type passGatherArgs struct {
	dst, src, index      devptr
	rows, units          int32
	dstStride, srcStride int64
}

type passCopyArgs struct {
	pools, to, from devptr
	stride          int64
	units, n, count int32
	_               int32
}

// spread says where index i of a matrix goes when blocks of it are made wider: block i/inBlk, and within a block the first inHalf
// stay at its start while the rest begin at outHalf.
type spread struct{ inBlock, inHalf, outBlock, outHalf int32 }

// unspread leaves indices below n where they are.
func unspread(n int) spread { return spread{int32(n), int32(n), int32(n), int32(n)} }

// spreadHeads widens heads of d values to wide ones, each half on its own: rotary pairs stay half a head apart.
func spreadHeads(d, wide int) spread {
	return spread{int32(d), int32(d / 2), int32(wide), int32(wide / 2)}
}

// spreadBlocks widens blocks of n to blocks of wide.
func spreadBlocks(n, wide int) spread {
	return spread{int32(n), int32(n), int32(wide), int32(wide)}
}

type passConvertArgs struct {
	dst, src               devptr
	rows, cols, row0, wide int32
	dstStride              int64
	row, col               spread
	scale                  float32
	_                      int32
}

type passRandomArgs struct {
	dst   devptr
	n     uint64
	seed  uint64
	scale float32
	_     int32
}

func rowGrid(rows int) [3]uint32 { return [3]uint32{uint32(rows), 1, 1} }

// passEmbed writes x f32 [rows, hidden]: row ids[i] of the bf16 table, or row -1-ids[i] of visual (visual 0: such rows are left alone).
func (s *stream) passEmbed(x, table, visual, ids devptr, rows, hidden int) {
	start(s, "pass_embed", rowGrid(rows), [3]uint32{128, 1, 1}, 0,
		&passEmbedArgs{x: x, table: table, visual: visual, ids: ids, rows: int32(rows), hidden: int32(hidden)}, launchPDL)
}

// passBegin is passEmbed for a step: the residual stream, and what the norm with weight next needs of it. Rows from *count on are zeros.
func (s *stream) passBegin(r *residual, table, visual, ids, count, next devptr, rows int) {
	start(s, "pass_embed", rowGrid(rows), [3]uint32{128, 1, 1}, 0, &passEmbedArgs{
		x: r.x, table: table, visual: visual, ids: ids, rows: int32(rows), hidden: int32(r.hidden), count: count, h: r.h, next: next, sums: r.sums,
	}, launchPDL)
	r.parts = 1
}

// passNorm writes h bf16 [rows, hidden], the RMSNorm of x f32 by w f32.
func (s *stream) passNorm(h, x, w devptr, rows, hidden int, eps float32) {
	start(s, "pass_norm", rowGrid(rows), [3]uint32{256, 1, 1}, 0,
		&passNormArgs{h: h, x: x, w: w, rows: int32(rows), hidden: int32(hidden), eps: eps}, launchPDL)
}

// passRope rotates the queries in qkv in place and sends keys, rotated, and values to their pages.
func (s *stream) passRope(a passRopeArgs) {
	start(s, "pass_rope", rowGrid(int(a.rows)), [3]uint32{256, 1, 1}, 0, &a, launchPDL)
}

// passGather writes row index[i] of src to row i of dst: rows of size bytes, the matrices' rows lying dstRow and srcRow bytes
// apart; all are multiples of 16.
func (s *stream) passGather(dst, src, index devptr, rows, size, dstRow, srcRow int) {
	start(s, "pass_gather", rowGrid(rows), [3]uint32{256, 1, 1}, 0,
		&passGatherArgs{dst, src, index, int32(rows), int32(size / 16), int64(dstRow / 16), int64(srcRow / 16)}, launchPDL)
}

// passCopy copies pages of size bytes within each of count pools that lie one behind the other: from[i] to to[i], n pairs in device
// memory, no page being both.
func (s *stream) passCopy(pools, to, from devptr, n, size int, pool int64, count int) {
	start(s, "pass_copy", [3]uint32{uint32(n), uint32(count), 1}, [3]uint32{256, 1, 1}, 0,
		&passCopyArgs{pools: pools, to: to, from: from, stride: pool / 16, units: int32(size / 16), n: int32(n), count: int32(count)}, launchPDL)
}

// passRandom fills n elements of bf16 with noise of a standard deviation. n is rounded up to 8.
func (s *stream) passRandom(dst devptr, n int64, seed uint64, deviation float64) {
	n = (n + 7) / 8 * 8
	blocks := min(n/8/256+1, 1<<14)
	start(s, "pass_random", [3]uint32{uint32(blocks), 1, 1}, [3]uint32{256, 1, 1}, 0,
		&passRandomArgs{dst: dst, n: uint64(n), seed: seed, scale: float32(deviation)}, 0)
}
