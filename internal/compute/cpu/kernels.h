// What the drivers (linear.c, attention.c, rows.c) share with the kernels of each instruction set.
#ifndef AF_KERNELS_H
#define AF_KERNELS_H

#include "device.h"

enum { AF_MAX_MR = 12, AF_MAX_NR = 32, AF_SKINNY = 8, AF_SPLIT_ROWS = 4 };

// What happens to a tile of sums on its way to dst: for int8, sums become floats; then scale, bias, activation, gain, residual.
typedef struct {
  const int32_t *wsum;   // not NULL: c holds int32 sums over unsigned activations; 128 * wsum[col] is taken off
  const float *rowscale; // by absolute row, or NULL
  const float *colscale; // by absolute column, or NULL
  const float *bias;     // by absolute column, or NULL
  int act;
  const float *gain; // by absolute column, or NULL
  const float *res;  // or NULL
  ptrdiff_t ldres;
  float *dst;
  ptrdiff_t lddst;
} af_finish;

// One instruction set's kernels. A panel is nr neighbouring outputs of a weight, stored k by k.
typedef struct {
  int mr, nr; // the tile kernels do up to mr rows by exactly nr columns
  // c [rows, nr] = (add ? c : 0) + a [rows, k] · b, b [k, nr] with rows ldb apart
  void (*tile_f32)(int rows, int k, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc, int add);
  // the same from a panel of bfloat16 [k/2, nr, 2], widened exactly, so sums equal tile_f32's bit for bit
  void (*tile_bf16)(int rows, int k, const float *a, ptrdiff_t lda, const uint16_t *b, float *c, ptrdiff_t ldc);
  // the same from a panel of int8 [k, nr]
  void (*tile_i8)(int rows, int k, const float *a, ptrdiff_t lda, const int8_t *b, float *c, ptrdiff_t ldc);
  // the same from a panel of int4 [k, nr/2] and its scales [groups, nr]
  void (*tile_i4)(int rows, int k, const float *a, ptrdiff_t lda, const uint8_t *b, const float *scale, float *c, ptrdiff_t ldc);
  void (*widen_bf16)(int k, const uint16_t *b, float *out); // to [k, nr]
  void (*widen_i8)(int k, const int8_t *b, float *out);
  void (*widen_i4)(int k, const uint8_t *b, const float *scale, float *out); // k of one group, times its scales [nr]
  void (*finish)(const af_finish *f, int row, int rows, int col, int cols, const float *c, ptrdiff_t ldc);

  void (*rmsnorm)(float *dst, const float *x, const float *w, int n, float eps);
  void (*layernorm)(float *dst, const float *x, const float *w, const float *b, int n, float eps);
  void (*rope)(float *x, int heads, int half, const float *cos, const float *sin);
  float (*peak)(const float *x, int n); // max |x|
  void (*swiglu)(float *dst, const float *gate, const float *up, int n);
  void (*add)(float *dst, const float *x, int n);
  void (*scale)(float *dst, const float *x, float s, int n);
  // One row of a block of scores: the first seen of n count. They become exp(s-m), the rest 0; m, l and o move along.
  void (*softmax)(float *s, int seen, int n, float *m, float *l, float *o, int dim);
  // out [dim, ld] = k [n, dim] transposed, columns n..ld zero
  void (*transpose)(const float *k, ptrdiff_t ldk, int n, int dim, float *out, int ld);
  // s [rows, keys] = q [rows, dim] · k [keys, dim]ᵀ, each without an order that depends on rows; s has room for whole vectors. NULL: by
  // transpose and tiles
  void (*dots)(int rows, int keys, int dim, const float *q, const float *k, ptrdiff_t ldk, float *s, ptrdiff_t lds);
} af_kernels;

extern const af_kernels af_scalar;
#ifdef __x86_64__
extern const af_kernels af_avx2, af_avx512;
#endif

// Kernels that also round the activations: rows of 64-byte steps (32 bfloat16 or 64 uint8, offset 128), panels of 32 outputs.
// "row": c [rows <= 12, 32], a with rows lda bytes apart. "block": c [rows <= 32, 32], a in blocks of 16 rows, step by step.
typedef void (*af_row_kernel)(int rows, int steps, const uint8_t *a, ptrdiff_t lda, const void *b, void *c);
typedef void (*af_block_kernel)(int rows, int steps, const uint8_t *a, const void *b, void *c);

void af_row_bf16(int rows, int steps, const uint8_t *a, ptrdiff_t lda, const void *b, void *c);
void af_row_u8(int rows, int steps, const uint8_t *a, ptrdiff_t lda, const void *b, void *c);
void af_block_bf16(int rows, int steps, const uint8_t *a, const void *b, void *c);
void af_block_u8(int rows, int steps, const uint8_t *a, const void *b, void *c);
void af_model_block_bf16(int rows, int steps, const uint8_t *a, const void *b, void *c);
void af_model_block_u8(int rows, int steps, const uint8_t *a, const void *b, void *c);

// Kernels of up to AF_SPLIT_ROWS rows of activations that are held as two bytes, hi and lo, in rows lda bytes apart: c [rows, 32] without
// the rows' own scales. See linear.c.
// i8: 256·hi + lo - 32768, both unsigned, by a panel of steps of [16, 32, 4] int8, whose sums by output are wsum [32].
typedef void (*af_split_i8)(int rows, int steps, const uint8_t *hi, const uint8_t *lo, ptrdiff_t lda, const void *b, const int32_t *wsum, float *c);
// i4: 256·hi + lo, both signed, by a panel of groups of [AF_I4_GROUP/4, 16, 4] bytes with scales [groups, 32]; xsum [rows, groups] are the
// sums of a row's values by group.
typedef void (*af_split_i4)(int rows, int groups, const int8_t *hi, const int8_t *lo, ptrdiff_t lda, const uint8_t *b, const float *scale, const int32_t *xsum, float *c);
void af_row_i8(int rows, int steps, const uint8_t *hi, const uint8_t *lo, ptrdiff_t lda, const void *b, const int32_t *wsum, float *c);
void af_row_i4(int rows, int groups, const int8_t *hi, const int8_t *lo, ptrdiff_t lda, const uint8_t *b, const float *scale, const int32_t *xsum, float *c);
void af_model_row_i8(int rows, int steps, const uint8_t *hi, const uint8_t *lo, ptrdiff_t lda, const void *b, const int32_t *wsum, float *c);
void af_model_row_i4(int rows, int groups, const int8_t *hi, const int8_t *lo, ptrdiff_t lda, const uint8_t *b, const float *scale, const int32_t *xsum, float *c);
// A panel of such int4, times its scales, as bfloat16 [groups*AF_I4_GROUP/2, 32, 2].
void af_widen_i4(int groups, const uint8_t *b, const float *scale, uint16_t *out);
void af_model_widen_i4(int groups, const uint8_t *b, const float *scale, uint16_t *out);
void af_step_bf16(const float *x, int n, uint8_t *out); // one 64-byte step from n floats, the rest as if 0
// One row of scores, 32 in each panel (panel floats apart), in powers of two; the first seen count. Their exponentials leave as
// bfloat16 in 64-byte steps, step bytes apart, the rest as 0, within 1e-4 before they are rounded; m and l move along, and what was
// summed before is to be multiplied by the result.
float af_softmax_bf16(const float *s, ptrdiff_t panel, int panels, int seen, float *m, float *l, uint8_t *p, ptrdiff_t step);
float af_model_softmax_bf16(const float *s, ptrdiff_t panel, int panels, int seen, float *m, float *l, uint8_t *p, ptrdiff_t step);
void af_step_u8(const float *x, int n, float inv, uint8_t *out); // |x·inv| <= 127
void af_model_step_bf16(const float *x, int n, uint8_t *out);
void af_model_step_u8(const float *x, int n, float inv, uint8_t *out);
void af_amx_begin(void); // this thread's tile shapes, until af_amx_end
void af_amx_end(void);
int af_amx_permit(void);

typedef struct af_pool af_pool;
typedef void (*af_job)(void *ctx, int job, int worker);
af_pool *af_pool_new(int threads);
void af_pool_free(af_pool *p);
void af_pool_run(af_pool *p, int jobs, af_job fn, void *ctx); // fn(ctx, 0..jobs-1) in any order; worker < threads

struct af_device {
  int features, threads;
  const af_kernels *k;
  af_row_kernel row_bf16, row_u8;       // NULL: activations stay float, or there are tiles
  af_block_kernel block_bf16, block_u8; // NULL: no tiles
  void (*step_bf16)(const float *x, int n, uint8_t *out);
  void (*step_u8)(const float *x, int n, float inv, uint8_t *out);
  af_split_i8 row_i8; // NULL: activations stay float
  af_split_i4 row_i4; // likewise
  void (*widen_i4)(int groups, const uint8_t *b, const float *scale, uint16_t *out);
  float (*softmax_bf16)(const float *s, ptrdiff_t panel, int panels, int seen, float *m, float *l, uint8_t *p, ptrdiff_t step);
  af_pool *pool;
  uint8_t *scratch; // one block, grown by af_scratch, valid for one op
  size_t scratch_size;
  // The last table of cosines and sines: every layer of a pass asks for the same positions.
  float *rope_table; // [rows][2][half]
  int32_t *rope_pos;
  float *rope_freq;
  int rope_rows, rope_half, rope_cap;
};

int af_attention_bf16(af_device *d, af_view dst, af_view q, af_view k, af_view v, af_attention_args a, const int32_t *pages);
uint8_t *af_scratch(af_device *d, size_t bytes); // 64-byte aligned; NULL when there is none

enum { AF_PANEL_F32, AF_PANEL_BF16, AF_PANEL_I8, AF_PANEL_I8X4, AF_PANEL_I4, AF_PANEL_I4X4 };
enum { AF_I4_GROUP = 128 }; // neighbours of a row of int4 that share a scale

struct af_weight {
  int out, in, dtype, layout;
  int nr, panels;
  int kpad;             // in, rounded up to the layout's step
  size_t panel_bytes;
  // panels of [kpad, nr] | [kpad/2, nr, 2] | [kpad, nr] | [kpad/4, nr, 4] | [in, nr/2] | [kpad/4, nr/2, 4], zero beyond in and out; a byte
  // of the last two is a value + 8 of column j in its low half and of column j + nr/2 in its high half
  uint8_t *data;
  size_t bytes;
  float *colscale;      // I8: by output
  int32_t *wsum;        // I8X4: by output, the sum of its int8 values
  float *groupscale;    // I4: [panels, groups, nr]
};

static inline size_t af_round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
static inline int af_min(int a, int b) { return a < b ? a : b; }
static inline int af_max(int a, int b) { return a > b ? a : b; }

static inline float af_from_bf16(uint16_t h) {
  union { uint32_t u; float f; } v = {(uint32_t)h << 16};
  return v.f;
}

static inline uint16_t af_to_bf16(float f) { // to nearest, ties to even
  union { float f; uint32_t u; } v = {f};
  if ((v.u & 0x7fffffff) > 0x7f800000) return (uint16_t)(v.u >> 16 | 0x40);
  return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

#endif
