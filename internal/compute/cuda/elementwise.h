#pragma once
#include <stdint.h>

// A tensor's rows in device memory: float32, or bfloat16 when half is set. Strides are in elements.
typedef struct {
	uint64_t p;
	int64_t stride;
	uint32_t rows, cols;
	uint32_t half, zero;
} af_view;

// A weight [out, in] in checkpoint order. as is compute.DType; int8 has one scale a row, int4 (two a byte, the even column low)
// one for each 128 of a row.
typedef struct {
	uint64_t p, scales;
	uint32_t out, in;
	uint32_t as, zero;
} af_matrix;

// wide in the structs below: every view starts on, and steps by, whole 16 bytes, so that threads take 8 columns at once.

typedef struct {
	af_view dst, src;
	uint32_t wide, zero;
} af_copy_args; // dst = src

typedef struct {
	af_view dst, x;
	uint32_t wide, zero;
} af_add_args; // dst += x, x repeated

typedef struct {
	af_view dst, gate; // gate [rows, 2*dst.cols]: gate, then up
	uint32_t wide, zero;
} af_swiglu_args;

typedef struct {
	af_view dst, x;
	uint64_t weight, bias; // bias 0: RMSNorm
	float eps;
	uint32_t wide;        // and weight and bias start on 16 bytes
} af_norm_args;

typedef af_norm_args af_norm_short_args;

typedef struct {
	af_view x;
	uint64_t table; // float32 [n][head]: cosines, sines; row i of x uses row i mod n
	int64_t table_stride;
	uint64_t pos, freq; // when table is 0: int32 [rows], float32 [head/2]
	uint32_t n, head;
	uint32_t wide, heads_each; // wide: the table too; heads that a thread turns
} af_rotate_args;

typedef struct {
	af_view dst;
	af_matrix table;
	uint64_t ids; // int32 [dst.rows]
} af_lookup_args;

typedef struct {
	af_view dst, x;
	uint32_t grid_h, grid_w, kh, kw;
	uint32_t wide, zero;
} af_pool_args;

typedef struct {
	uint64_t src; // float32 [rows][in]
	af_matrix dst;
	uint32_t row0, rows; // of dst
} af_quantise_args;

typedef struct {
	af_matrix src;
	uint64_t dst; // bfloat16 [out][stride]
	int64_t stride;
} af_dequantise_args;
