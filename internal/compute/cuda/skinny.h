#pragma once
// Products of few rows with packed weights. skinny.go and quant.go mirror the structs field by field.
//
// A packed weight is strips of rows, as equal as they can be: the first `extra` have base+1 units, the others base, a unit being one
// row or a pair that is finished together. A strip is `blocks` blocks along K, one after another; a block holds 64 bytes of each of
// its rows (32 values of bf16, 64 of int8, 128 of int4), `strip` of them, and then, int4 only, the rows' scales as bf16, rounded up to
// 16 bytes. Rows that the strip does not have are zero, and so are columns past the last.
#include <stdint.h>

enum {
	AF_SKINNY_WARPS = 15,   // of a block that multiply, beside one that brings x; they share out K, so the number is part of the result's bits
	AF_SKINNY_ROWS = 16,    // of x
	AF_SKINNY_STRIP = 32,   // weight rows a strip has at most
	AF_SKINNY_PARTS = 1024, // partial sums of squares a row of the residual stream has room for
	AF_SKINNY_SLOTS = 16,   // of a warp's ring, at most
	AF_SKINNY_SMALL = 8192, // values of x that a warp copies itself
	AF_SKINNY_HEAD = 2176,  // bytes of shared memory ahead of the rings: barriers, then 1/rms of each row
};

enum { AF_SKINNY_BF16, AF_SKINNY_I8, AF_SKINNY_I4 };                    // kind
enum { AF_SKINNY_PLAIN, AF_SKINNY_PAIRED, AF_SKINNY_GATED };            // order of packed rows
enum { AF_SKINNY_LOGITS, AF_SKINNY_ADD, AF_SKINNY_GATE, AF_SKINNY_QKV }; // what becomes of the sums

// A product, x·Wᵀ, and what is fused to it.
struct af_skinny_args {
	const void *w;           // packed
	const float *row_scale;  // [n] in packed order, int8 only
	const uint16_t *x;       // bf16 [rows][ldx]; rows begin on 16 bytes
	const int32_t *pick;     // [rows] row of x (and of sums) that takes part; null: row itself
	const float *sums;       // [..][AF_SKINNY_PARTS] of squares of each row of x, parts in use; null: no norm
	void *out;               // [rows][ldo]: LOGITS float32; ADD the residual stream, float32; GATE bf16; QKV queries, bf16
	uint16_t *h;             // ADD: bf16 [rows][ldh] of out · next
	const float *next;       // ADD: [n]
	float *sums_out;         // ADD: [rows][AF_SKINNY_PARTS], one part a strip
	const float *bias;       // QKV: [n] in checkpoint order, or null
	const float *table;      // QKV: [position][head_dim], cosines then sines
	const int32_t *position; // QKV: [rows]
	const int32_t *slot;     // QKV: [rows], page*64 + row; negative: not kept
	uint16_t *k, *v;         // QKV: pools [page][kv_heads][64][head_dim]
	int32_t rows, n, in;     // of x, of w, columns: a multiple of 8
	int32_t strips, base, extra, unit;
	int32_t strip, blocks, block; // block in bytes
	int32_t ldx, ldo, ldh;
	int32_t mode, parts;
	float inv_in, eps;       // of the norm
	int32_t heads, kv_heads, head_dim;
	int32_t x_stride;        // bytes of a row of x in shared memory
	int32_t window;          // blocks of K that x in shared memory covers at a time; all of them: x is there once and for all strips
	int32_t slots;           // of each warp's ring
	int32_t depth;           // strips whose sums there is room for, 1 or 2
	int32_t pad;
};

struct af_skinny_pack_args {
	void *w;
	float *row_scale;
	const void *src;         // rows row0.. of the checkpoint's matrix [n][in], ld elements apart, bf16 or float32
	int64_t ld;
	int32_t row0, n, in;
	int32_t base, extra, unit;
	int32_t strip, blocks, block;
	int32_t kind, order, head_dim;
	int32_t wide;            // 1: src is float32
	int32_t pad;
};

// dst [..][ld] receives rows row0.. in checkpoint order as bf16.
struct af_skinny_unpack_args {
	uint16_t *dst;
	const void *w;
	const float *row_scale;
	int64_t ld;
	int32_t row0, n, in;
	int32_t base, extra, unit;
	int32_t strip, blocks, block;
	int32_t kind, order, head_dim;
};
