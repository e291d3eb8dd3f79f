//go:build cuda

package cuda

import (
	"errors"
	"fmt"

	"afterimage/internal/compute"
)

// gemm is one large matrix product with what is fused to it: dst [rows, out] = act(x [rows, in] · wᵀ + bias) · scale, or that added
// to dst. x and w are bfloat16, sums float32. A row's result does not depend on the rows beside it on Hopper.
type gemm struct {
	rows, out, in int
	x             devptr // bf16 [rows, in]
	w             devptr // bf16 [out, in]
	dst           devptr // [rows, out] of type as; with swiglu [rows, out/2]
	ldx, ldw, ldd int    // elements from row to row
	as            compute.DType
	bias          devptr // float32 [out], or 0
	scale         devptr // float32 [out], or 0; multiplied after act
	act           compute.Activation
	add           bool // dst += instead of dst =, so that a residual stream is updated in place
	constant      bool // w was written before anything that is in the stream now, as a model's weights were
	// swiglu makes pairs of columns one: w's rows alternate, 8 of the gate and 8 of the up projection (gate 0..7, up 0..7, gate 8..15,
	// ...), and dst is silu(gate)·up, bfloat16. out counts both; bias, scale, act and add are then none.
	swiglu bool
}

func (g *gemm) float() bool { return g.as == compute.F32 }

// plain reports a product with nothing fused but the sum with dst.
func (g *gemm) plain() bool {
	return g.bias == 0 && g.scale == 0 && g.act == compute.Identity && !g.swiglu
}

// columns is how many columns dst has.
func (g *gemm) columns() int {
	if g.swiglu {
		return g.out / 2
	}
	return g.out
}

func (g *gemm) element() int {
	if g.float() {
		return 4
	}
	return 2
}

// aligned reports whether rows of x, w and dst start on 16 bytes, which the fast kernels and cuBLASLt's best ones want.
func (g *gemm) aligned() bool {
	return (g.x|g.w|g.dst)%16 == 0 && g.ldx%8 == 0 && g.ldw%8 == 0 && g.ldd*g.element()%16 == 0 && g.out%8 == 0
}

func (g *gemm) check() error {
	switch {
	case g.rows < 0 || g.out < 1 || g.in < 1 || g.ldx < g.in || g.ldw < g.in || g.ldd < g.columns():
		return fmt.Errorf("cuda: gemm of [%d, %d] by [%d, %d], strides %d, %d and %d", g.rows, g.in, g.out, g.in, g.ldx, g.ldw, g.ldd)
	case g.as != compute.F32 && g.as != compute.BF16:
		return fmt.Errorf("cuda: gemm to %v", g.as)
	case g.swiglu && (g.as != compute.BF16 || g.dst%16 != 0 || g.ldd%8 != 0 || g.out%16 != 0),
		g.swiglu && (g.bias != 0 || g.scale != 0 || g.act != compute.Identity || g.add):
		return errors.New("cuda: gemm: swiglu is for bfloat16 rows on 16 bytes, a multiple of 16 columns and nothing else")
	case !g.aligned() && g.ldw != g.in:
		return fmt.Errorf("cuda: gemm: rows of w [%d, %d] are %d apart, and something is not on 16 bytes", g.out, g.in, g.ldw)
	}
	return nil
}

// gemm queues a product: by a kernel with everything fused where this GPU has one, else by cuBLASLt and a pass over its sums, else by
// the kernel that takes anything.
func (s *stream) gemm(g gemm) {
	if s.err != nil || g.rows == 0 || !s.fail(g.check()) {
		return
	}
	switch {
	case g.aligned() && s.d.info.Major == 9:
		s.gemmHopper(g, s.d.gemmTile(&g))
	case g.aligned() && s.d.blas.open(s.d) == nil:
		s.gemmBlas(g)
	case !g.swiglu:
		s.linearAny(g.anyShape())
	default:
		s.inParts(g, func(part gemm) { s.linearAny(part.anyShape()) })
	}
}

// linearGemm makes a product by gemm, if it can be made one: bfloat16 inside, and rows on 16 bytes. A residual that is not dst is
// copied there first.
func (s *stream) linearGemm(a *linearArgs) bool {
	g := gemm{rows: int(a.dst.rows), out: int(a.w.out), in: int(a.w.in), x: a.x.p, ldx: int(a.x.stride), dst: a.dst.p, ldd: int(a.dst.stride),
		as: compute.F32, bias: a.bias, scale: a.scale, act: compute.Activation(a.act), add: a.residual.p != 0}
	if a.dst.half != 0 {
		g.as = compute.BF16
	}
	if a.x.half == 0 {
		g.x, g.ldx = 0, (g.in+7)&^7
	}
	g.ldw = (g.in + 7) &^ 7
	if a.w.as == uint32(compute.F32) || a.w.as == uint32(compute.BF16) && g.in%8 != 0 || !g.aligned() {
		return false
	}
	if s.d.info.Major != 9 && s.d.blas.open(s.d) != nil {
		return false
	}
	if a.x.half == 0 {
		to := view{p: s.scratch(scratchX, int64(g.rows)*int64(g.ldx)*2), stride: int64(g.ldx), rows: a.x.rows, cols: a.x.cols, half: 1}
		s.convert(to, a.x)
		g.x = to.p
	}
	g.w, g.ldw = s.dequantised(a.w)
	g.constant = a.w.as == uint32(compute.BF16)
	if g.add && a.residual != a.dst {
		s.convert(a.dst, a.residual)
	}
	s.gemm(g)
	return true
}

// gemmArgs are those of gemm_sm90.cu.
type gemmArgs struct {
	x, w, dst     tensorMap
	bias, scale   devptr
	rows, out, in uint32
	act, add      uint32
	group         uint32
	early         uint32
	_             [5]uint32
}

// A gemmTile is what a block computes at a time: rows of x by columns; clusters of blocks fetch w together.
type gemmTile struct {
	name             string
	columns, cluster int
	stages, outs     int     // see Shape in gemm_sm90.cu
	speed            float64 // of long products, of the fastest tile's
}

const (
	gemmRows    = 128 // of a tile
	gemmDepth   = 64  // of `in` that shared memory holds at a time
	gemmThreads = 384
	gemmGroup   = 8 // rows of clusters' tiles worked on together
)

// The kernels there are, with speeds as measured on an H200.
var gemmTiles = [...]gemmTile{
	{"256", 256, 2, 4, 2, 1},
	{"192", 192, 2, 5, 1, 0.985},
	{"128", 128, 2, 6, 2, 0.905},
	{"128alone", 128, 1, 6, 2, 0.82},
}

// shared is Shape::bytes of gemm_sm90.cu: stages of x and w, results on their way out, bias, and barriers.
func (t *gemmTile) shared() uint32 {
	return uint32(t.stages*(gemmRows+t.columns)*gemmDepth*2 + 8*t.outs*16*128 + 2*t.columns*4 + t.stages*16)
}

// gemmTile picks the tile with which g is done first: turns of all multiprocessors by the time of one.
func (d *device) gemmTile(g *gemm) *gemmTile {
	var best *gemmTile
	var least float64
	for i := range gemmTiles {
		t := &gemmTiles[i]
		if g.swiglu && t.columns%128 != 0 {
			continue // its results leave in pieces of 64 columns, from 128 of the product
		}
		slots := d.info.SMs / t.cluster
		turns := (t.down(g)*t.across(g) + slots - 1) / slots
		// What a tile costs beside its products is like so much more of `in`.
		if cost := float64(turns*t.columns*(g.in+200)) / t.speed; best == nil || cost < least {
			best, least = t, cost
		}
	}
	return best
}

// down and across count the tiles of clusters.
func (t *gemmTile) down(g *gemm) int {
	return (g.rows + gemmRows*t.cluster - 1) / (gemmRows * t.cluster)
}
func (t *gemmTile) across(g *gemm) int { return (g.out + t.columns - 1) / t.columns }

func (s *stream) gemmHopper(g gemm, t *gemmTile) {
	kind := "bf16"
	boxColumns := uint32(64)
	as := mapBF16
	switch {
	case g.swiglu:
		kind = "swiglu"
	case g.float():
		kind, boxColumns, as = "f32", 32, mapF32
	}
	a := gemmArgs{bias: g.bias, scale: g.scale, rows: uint32(g.rows), out: uint32(g.out), in: uint32(g.in), act: uint32(g.act), group: gemmGroup}
	if g.add {
		a.add = 1
	}
	if g.constant {
		a.early = 1
	}
	matrix := func(m *tensorMap, as int, p devptr, rows, columns, ld, element int, boxRows, boxColumns uint32) {
		if s.err == nil {
			var err error
			*m, err = s.d.tensorMap(as, p, []uint64{uint64(columns), uint64(rows)}, []uint64{uint64(ld * element)}, []uint32{boxColumns, boxRows},
				swizzle128)
			s.fail(err)
		}
	}
	matrix(&a.x, mapBF16, g.x, g.rows, g.in, g.ldx, 2, gemmRows, gemmDepth)
	matrix(&a.w, mapBF16, g.w, g.out, g.in, g.ldw, 2, uint32(t.columns/t.cluster), gemmDepth)
	matrix(&a.dst, as, g.dst, g.rows, g.columns(), g.ldd, g.element(), 16, boxColumns)
	grid := uint32(min(t.down(&g)*t.across(&g), s.d.info.SMs/t.cluster) * t.cluster)
	start(s, "gemm_"+kind+"_"+t.name, [3]uint32{grid, 1, 1}, [3]uint32{gemmThreads, 1, 1}, t.shared(), &a, launchPDL)
}

// gemmBlas is the product by cuBLASLt. What is more than a product is made in float32 sums first, some rows at a time.
func (s *stream) gemmBlas(g gemm) {
	if g.plain() {
		s.blasMultiply(&g)
		return
	}
	s.inParts(g, func(part gemm) { s.blasMultiply(&part) })
}

func (s *stream) blasMultiply(g *gemm) {
	p, err := s.d.blas.plan(s.d, g)
	if err == nil {
		err = s.d.blas.run(s, p, 0, g)
	}
	s.fail(err)
}

// gemmFinishArgs are those of gemm.cu.
type gemmFinishArgs struct {
	dst, sums        view
	bias, scale      devptr
	act, add, swiglu uint32
	_                uint32
}

const gemmSums = 64 << 20 // bytes of sums made at a time

// inParts makes the sums of g's bare product in scratch by multiply, some rows at a time, and finishes them.
func (s *stream) inParts(g gemm, multiply func(gemm)) {
	each := max(1, min(g.rows, gemmSums/4/g.out))
	sums := s.scratch(scratchSums, int64(each)*int64(g.out)*4)
	for r := 0; r < g.rows && s.err == nil; r += each {
		n := min(each, g.rows-r)
		part := gemm{rows: n, out: g.out, in: g.in, x: g.x + devptr(2*r*g.ldx), w: g.w, dst: sums, ldx: g.ldx, ldw: g.ldw, ldd: g.out, as: compute.F32}
		multiply(part)
		a := gemmFinishArgs{dst: g.result(r, n), sums: part.result(0, n), bias: g.bias, scale: g.scale, act: uint32(g.act)}
		if g.add {
			a.add = 1
		}
		if g.swiglu {
			a.swiglu = 1
		}
		start(s, "gemm_finish", pieces(uint64(n)*uint64(g.columns()/8)), threads256, 0, &a, 0)
	}
}

// result is rows [r, r+n) of dst.
func (g *gemm) result(r, n int) view {
	v := view{p: g.dst + devptr(r*g.ldd*g.element()), stride: int64(g.ldd), rows: uint32(n), cols: uint32(g.columns())}
	if !g.float() {
		v.half = 1
	}
	return v
}

// anyShape is g, without swiglu, for the kernel that takes anything.
func (g *gemm) anyShape() linearArgs {
	a := linearArgs{
		dst:  g.result(0, g.rows),
		x:    view{p: g.x, stride: int64(g.ldx), rows: uint32(g.rows), cols: uint32(g.in), half: 1},
		w:    packed{p: g.w, out: uint32(g.out), in: uint32(g.in), as: uint32(compute.BF16)},
		bias: g.bias, scale: g.scale, act: uint32(g.act),
	}
	if g.add {
		a.residual = a.dst
	}
	return a
}
