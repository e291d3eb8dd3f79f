#pragma once
// Arguments of the small kernels between products and attention of a decoder's pass. pass.go mirrors them field by field.
#include <stdint.h>
#include "skinny.h"

struct af_pass_embed_args {
	float *x;                 // [rows][hidden] out
	const uint16_t *table;    // bf16 [vocab][hidden]
	const float *visual;      // [..][hidden] rows given as embeddings; null: they are in x already
	const int32_t *ids;       // [rows] token, or -1-i for row i of visual
	int32_t rows, hidden;     // hidden a multiple of 8
	const int32_t *count;     // rows from *count on are zeros; null: none
	// What skinny_begin would make of x, unless h is null.
	uint16_t *h;              // bf16 [rows][hidden] of x · next
	const float *next;        // [hidden]
	float *sums;              // [rows][AF_SKINNY_PARTS] of squares, one part
};

struct af_pass_norm_args {
	uint16_t *h;              // bf16 [rows][hidden] out
	const float *x;           // [rows][hidden]
	const float *w;           // [hidden]
	int32_t rows, hidden;     // hidden a multiple of 8
	float eps;
	int32_t pad;
};

// Rotates queries in place and sends keys, rotated, and values to their pages.
struct af_pass_rope_args {
	uint16_t *qkv;            // bf16 [rows][stride]: heads queries, kv_heads keys, kv_heads values of head_dim
	uint16_t *k, *v;          // bf16 pools of a layer [page][kv_heads][64][head_dim]
	const float *table;       // [position][head_dim]: cosines of head_dim/2 angles, then their sines
	const int32_t *position;  // [rows]
	const int32_t *slot;      // [rows] page*64 + row of the page; negative: not kept
	int32_t rows, stride, heads, kv_heads, head_dim; // stride and head_dim multiples of 16 elements
	int32_t pad;
};

// Copies row index[i] of src to row i of dst, in units of 16 bytes.
struct af_pass_gather_args {
	uint4 *dst;
	const uint4 *src;
	const int32_t *index;     // [rows]; negative: zeros
	int32_t rows, units;      // units a row
	int64_t dst_stride, src_stride; // units
};

// Copies pages of all pools; pools lie one after another, stride units of 16 bytes apart.
struct af_pass_copy_args {
	uint4 *pools;
	const int32_t *to, *from; // [n]
	int64_t stride;
	int32_t units, n, count;  // units a page, pairs, pools
	int32_t pad;
};

// Writes a float32 matrix as bf16 (or float32) into a wider one: index i of rows becomes out_block*(i/in_block) + j, where
// j = i%in_block below in_half and out_half + (i%in_block - in_half) from there on; columns likewise.
struct af_spread {
	int32_t in_block, in_half, out_block, out_half;
};
struct af_pass_convert_args {
	void *dst;
	const float *src;         // [rows][cols]
	int32_t rows, cols, row0; // row0 is the number of the first row in the whole matrix
	int32_t wide;             // 1: dst is float32
	int64_t dst_stride;       // elements
	af_spread row, col;
	float scale;
	int32_t pad;
};

// Fills bf16 with uniform noise of the given standard deviation: element i is a function of seed and i alone.
struct af_pass_random_args {
	uint16_t *dst;
	uint64_t n;               // a multiple of 8
	uint64_t seed;
	float scale;
	int32_t pad;
};
