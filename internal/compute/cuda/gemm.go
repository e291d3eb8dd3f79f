//go:build cuda

package cuda

import "afterimage/internal/compute"

// gemm is one large matrix product with what is fused to it: dst [rows, out] = act(x [rows, in] · wᵀ + bias) · scale, or that added
// to dst. x and w are bfloat16, sums float32. Rows of x, w and dst start on 16-byte boundaries (strides that are multiples of
// 8 elements) for the fast kernels; anything else goes to a plain one.
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
	// swiglu makes pairs of columns one: w's rows alternate, 8 of the gate and 8 of the up projection (gate 0..7, up 0..7, gate 8..15,
	// ...), and dst is silu(gate)·up, bfloat16. out counts both; bias, scale, act and add are then none.
	swiglu bool
}
