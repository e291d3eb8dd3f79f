#pragma once
#include "elementwise.h"

// dst [rows, out] = act(x [rows, in] · wᵀ + bias) · scale + residual; residual may be dst.
typedef struct {
	af_view dst, x, residual; // residual.p 0: none
	af_matrix w;
	uint64_t bias, scale; // float32 [out], or 0
	uint32_t act;
	uint32_t wide; // x is read 16 bytes at a time, and so is w when bfloat16
} af_linear_args;

typedef af_linear_args af_linear_f32_args, af_linear_bf16_args;
