//go:build cuda

package cuda

import "afterimage/internal/compute"

// The arguments of linear.cu.
type linearArgs struct {
	dst, x, residual view
	w                packed
	bias, scale      devptr
	act, wide        uint32
}

// linear is Ops.Linear. dst may be a.residual.
func (s *stream) linear(a linearArgs) {
	if s.linearGemm(&a) {
		return
	}
	s.linearAny(a)
}

// linearAny is linear for any shape, stride and type.
func (s *stream) linearAny(a linearArgs) {
	grid := [3]uint32{blocks(int(a.dst.cols), 64), blocks(int(a.dst.rows), 64), 1}
	if a.w.as == uint32(compute.F32) {
		start(s, "linear_f32", grid, threads256, 0, &a, 0)
		return
	}
	a.wide = allWide(a.x)
	if a.w.as == uint32(compute.BF16) && a.w.in%8 != 0 {
		a.wide = 0
	}
	start(s, "linear_bf16", grid, [3]uint32{128, 1, 1}, 0, &a, 0)
}
