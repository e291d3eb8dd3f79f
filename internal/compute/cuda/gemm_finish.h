#pragma once
#include "elementwise.h"

// dst = act(sums + bias) · scale, or dst += that; with swiglu columns of sums alternate, 8 of the gate and 8 of the up projection, and
// dst is silu(gate)·up. Rows start on 16 bytes and dst.cols is a multiple of 8.
typedef struct {
	af_view dst, sums;
	uint64_t bias, scale; // float32, or 0
	uint32_t act, add, swiglu, zero;
} af_gemm_finish_args;
