#pragma once
// Products of 1 to 32 rows with packed weights. skinny.go mirrors the structs field by field.
//
// A packed weight is strips of `strip` rows; a strip is `blocks` blocks along K, one after another; a block holds 64 bytes of each
// of its rows (32 values of bf16, 64 of int8, 128 of int4) and then, int4 only, the rows' scales as bf16, rounded up to 16 bytes.
// Rows past the last are zero, and so are columns.
#include <stdint.h>

enum {
	AF_SKINNY_WARPS = 16,   // of a block: they share out K, so the number is part of the result's bits
	AF_SKINNY_ROWS = 32,    // of x
	AF_SKINNY_STRIP = 32,   // weight rows a strip has at most
	AF_SKINNY_PARTS = 1024, // partial sums of squares a row of the residual stream has room for
	AF_SKINNY_SLOTS80 = 4,  // of a ring where copies are counted by group (sm_80)
	AF_SKINNY_HEAD = 1152,  // bytes of shared memory ahead of the ring: barriers, then 1/rms of each row
};

enum { AF_SKINNY_BF16, AF_SKINNY_I8, AF_SKINNY_I4 };              // kind
enum { AF_SKINNY_PLAIN, AF_SKINNY_PAIRED, AF_SKINNY_GATED };      // order of packed rows
enum { AF_SKINNY_LINEAR, AF_SKINNY_ADD, AF_SKINNY_GATE, AF_SKINNY_QKV }; // what becomes of the sums
enum { AF_SKINNY_X32 = 1, AF_SKINNY_OUT32 = 2, AF_SKINNY_RES32 = 4 };    // flags: float32 instead of bf16

struct af_skinny_args {
	const void *w;           // packed
	const float *row_scale;  // [strips*strip], int8 only
	const void *x;           // [rows][ldx]
	const int32_t *pick;     // [rows] row of x (and of sums) that takes part; null: row itself
	const float *sums;       // [..][AF_SKINNY_PARTS] of squares of each row of x, parts in use; null: no norm
	const float *bias;       // [n] in checkpoint order, or null
	const float *scale;      // [n], or null
	const void *residual;    // [rows][ldr], or null
	void *out;               // [rows][ldo]; ADD: the residual stream, float32; QKV: queries
	uint16_t *h;             // ADD: bf16 [rows][ldh] of out · next
	const float *next;       // ADD: [n]
	float *sums_out;         // ADD: [rows][AF_SKINNY_PARTS], one part a strip
	const float *table;      // QKV: [position][head_dim], cosines then sines
	const int32_t *position; // QKV: [rows]
	const int32_t *slot;     // QKV: [rows], page*64 + row; negative: not kept
	uint16_t *k, *v;         // QKV: pools [page][kv_heads][64][head_dim]
	int32_t rows, n, in;     // of x, of w, columns
	int32_t strip, strips, blocks, block; // block in bytes
	int32_t ldx, ldr, ldo, ldh;
	int32_t mode, flags, act;
	int32_t parts;
	float inv_in, eps;       // of the norm
	int32_t heads, kv_heads, head_dim;
	int32_t slots;           // of each warp's ring
	int32_t x_stride;        // bytes of a row of x in shared memory
	int32_t window;          // blocks of K that x in shared memory covers at a time, a multiple of the warps
};

struct af_skinny_begin_args {
	const float *x;          // [rows][hidden]
	const float *next;       // [hidden]
	uint16_t *h;             // bf16 [rows][hidden]
	float *sums;             // [rows][AF_SKINNY_PARTS], one part
	int32_t hidden, pad;
};

struct af_skinny_pack_args {
	void *w;
	float *row_scale;
	const void *src;         // rows row0.. of the checkpoint's matrix [n][in], ld elements apart, bf16 or float32
	int64_t ld;
	int32_t row0, n, in;
	int32_t strip, blocks, block;
	int32_t kind, order, head_dim;
	int32_t wide;            // 1: src is float32
};

// dst [..][ld] receives rows row0.. in checkpoint order as bf16.
struct af_skinny_unpack_args {
	uint16_t *dst;
	const void *w;
	const float *row_scale;
	int64_t ld;
	int32_t row0, n, in;
	int32_t strip, blocks, block;
	int32_t kind, order, head_dim;
	int32_t pad;
};
