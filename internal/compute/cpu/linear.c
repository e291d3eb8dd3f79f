// dst = act(x · wᵀ + bias) · gain + residual. Weights lie in panels of nr outputs; a tile of sums stays in registers for the whole
// inner dimension, so nothing is blocked over k: a panel streams through L2 once per block of rows.
//
//   rows <= AF_SKINNY   panels widened in registers: bound by memory, and each row's sums are the same whatever rows are with
//                       it. With VNNI, int8 and int4 weights meet activations of 16 bits, as two bytes.
//   rows >  AF_SKINNY   where the machine multiplies bfloat16 or int8 pairs, activations are rounded first;
//                       else a panel is widened to float32 once per block of rows. int4 is widened to bfloat16 there.
#include "kernels.h"

#include <math.h>
#include <string.h>

typedef struct {
  const af_device *d;
  const af_weight *w;
  af_view x;
  af_finish f;
  int rows_per_job, row_blocks, panels_per_job;
  int step_bytes, steps; // rounded activations: steps of 64 bytes
  uint8_t *rounded;
  float *rowscale;
  int32_t *xsum; // of split rows, by group of int4
  float *panel; // room for one widened panel a worker
  size_t panel_floats;
} linear;

static const uint8_t *panel_at(const linear *c, int p) { return c->w->data + (size_t)p * c->w->panel_bytes; }

static void finish(const linear *c, int row, int rows, int p, const float *sums) {
  int nr = c->w->nr, col = p * nr;
  c->d->k->finish(&c->f, row, rows, col, af_min(nr, c->w->out - col), sums, nr);
}

static const float *scales_at(const linear *c, int p) {
  const af_weight *w = c->w;
  return w->groupscale + (size_t)p * (size_t)((w->in + AF_I4_GROUP - 1) / AF_I4_GROUP) * (size_t)w->nr;
}

static void float_tile(const linear *c, int row, int rows, int p, const void *panel, int layout, float *sums) {
  const af_kernels *k = c->d->k;
  const float *a = c->x.p + row * c->x.stride;
  int in = c->w->in;
  switch (layout) {
  case AF_PANEL_F32: k->tile_f32(rows, in, a, c->x.stride, panel, k->nr, sums, k->nr, 0); return;
  case AF_PANEL_I4: k->tile_i4(rows, in, a, c->x.stride, panel, scales_at(c, p), sums, k->nr); return;
  case AF_PANEL_BF16: k->tile_bf16(rows, in, a, c->x.stride, panel, sums, k->nr); return;
  default: k->tile_i8(rows, in, a, c->x.stride, panel, sums, k->nr); return;
  }
}

static void widen_i4(const linear *c, int p, float *wide) {
  const af_weight *w = c->w;
  const uint8_t *panel = panel_at(c, p);
  const float *scale = scales_at(c, p);
  for (int k = 0; k < w->in; k += AF_I4_GROUP, scale += w->nr)
    c->d->k->widen_i4(af_min(AF_I4_GROUP, w->in - k), panel + (size_t)k * (size_t)w->nr / 2, scale, wide + (size_t)k * (size_t)w->nr);
}

// wide_panels makes room for one widened panel a worker.
static int wide_panels(af_device *d, linear *c) {
  c->panel_floats = (size_t)(c->w->kpad + 1) * (size_t)c->w->nr;
  c->panel = (float *)af_scratch(d, c->panel_floats * sizeof(float) * (size_t)d->threads);
  return c->panel ? AF_OK : AF_NOMEM;
}

// Jobs of float products: a block of rows by some panels.
static void float_job(void *ctx, int job, int worker) {
  const linear *c = ctx;
  const af_kernels *k = c->d->k;
  _Alignas(64) float sums[AF_MAX_MR * AF_MAX_NR];
  int from = job % c->row_blocks * c->rows_per_job, to = af_min(from + c->rows_per_job, c->x.rows);
  int p = job / c->row_blocks * c->panels_per_job, end = af_min(p + c->panels_per_job, c->w->panels);
  for (; p < end; p++) {
    const void *panel = panel_at(c, p);
    int as = c->w->layout;
    if (c->panel && as != AF_PANEL_F32) {
      float *wide = c->panel + (size_t)worker * c->panel_floats;
      if (as == AF_PANEL_BF16) k->widen_bf16(c->w->in, panel, wide);
      else if (as == AF_PANEL_I4) widen_i4(c, p, wide);
      else k->widen_i8(c->w->in, panel, wide);
      panel = wide;
      as = AF_PANEL_F32;
    }
    for (int r = from; r < to; r += k->mr) {
      int rows = af_min(k->mr, to - r);
      float_tile(c, r, rows, p, panel, as, sums);
      finish(c, r, rows, p, sums);
    }
  }
}

// Where the 64-byte step s of row r lies: rows one after another, or for tiles in blocks of 16 rows.
static uint8_t *step_at(const linear *c, int r, int s) {
  if (!c->d->block_bf16) return c->rounded + ((size_t)r * (size_t)c->steps + (size_t)s) * 64;
  return c->rounded + ((size_t)(r / 16 * c->steps + s) * 16 + (size_t)(r % 16)) * 64;
}

static void round_bf16(void *ctx, int job, int worker) {
  (void)worker;
  const linear *c = ctx;
  int to = af_min((job + 1) * 32, c->x.rows);
  for (int r = job * 32; r < to; r++) {
    const float *x = c->x.p + r * c->x.stride;
    for (int s = 0; s < c->steps; s++) c->d->step_bf16(x + s * 32, af_max(0, c->w->in - s * 32), step_at(c, r, s));
  }
}

// To the nearest whole number without a call, for |v| < 2^22.
static int nearest(float v) {
  union { float f; int32_t i; } m = {v + 12582912.0f};
  return m.i - 0x4b400000;
}

static void round_u8(void *ctx, int job, int worker) {
  (void)worker;
  const linear *c = ctx;
  int to = af_min((job + 1) * 32, c->x.rows);
  for (int r = job * 32; r < to; r++) {
    const float *x = c->x.p + r * c->x.stride;
    float p = c->d->k->peak(x, c->w->in), inv = p > 0 ? 127 / p : 0;
    c->rowscale[r] = p / 127;
    for (int s = 0; s < c->steps; s++) c->d->step_u8(x + s * 64, c->w->in - s * 64, inv, step_at(c, r, s));
  }
}

// Jobs of rounded products.
static void rounded_job(void *ctx, int job, int worker) {
  const linear *c = ctx;
  const af_device *d = c->d;
  int bf16 = c->w->layout != AF_PANEL_I8X4, tiles = d->block_bf16 != NULL;
  _Alignas(64) float sums[32 * AF_MAX_NR];
  int from = job % c->row_blocks * c->rows_per_job, to = af_min(from + c->rows_per_job, c->x.rows);
  int p = job / c->row_blocks * c->panels_per_job, end = af_min(p + c->panels_per_job, c->w->panels);
  int at_once = tiles ? 32 : AF_MAX_MR;
  if (d->features & AF_AMX) af_amx_begin();
  for (; p < end; p++) {
    const void *panel = panel_at(c, p);
    if (c->w->layout == AF_PANEL_I4X4) {
      uint16_t *wide = (uint16_t *)(c->panel + (size_t)worker * c->panel_floats);
      d->widen_i4(c->w->kpad / AF_I4_GROUP, panel, scales_at(c, p), wide);
      panel = wide;
    }
    for (int r = from; r < to; r += at_once) {
      int rows = af_min(at_once, to - r);
      const uint8_t *a = step_at(c, r, 0);
      if (tiles) (bf16 ? d->block_bf16 : d->block_u8)(rows, c->steps, a, panel, sums);
      else (bf16 ? d->row_bf16 : d->row_u8)(rows, c->steps, a, (ptrdiff_t)c->steps * 64, panel, sums);
      finish(c, r, rows, p, sums);
    }
  }
  if (d->features & AF_AMX) af_amx_end();
}

// Skinny int8 or int4 with VNNI: activations of 16 bits, as two rows of bytes. int8 weights meet unsigned ones, x ≈ scale · (256·hi +
// lo - 32768); int4 weights, held as value + 8, are the unsigned ones themselves, and x ≈ scale · (256·hi + lo) with signed bytes.
static void split_rows(const linear *c) {
  int rows = c->x.rows, in = c->w->in, kpad = c->w->kpad;
  for (int r = 0; r < rows; r++) {
    const float *x = c->x.p + r * c->x.stride;
    uint8_t *hi = c->rounded + (size_t)r * (size_t)kpad, *lo = hi + (size_t)rows * (size_t)kpad;
    float p = c->d->k->peak(x, in), most = c->w->layout == AF_PANEL_I8X4 ? 32767 : 32512, inv = p > 0 ? most / p : 0;
    c->rowscale[r] = p / most;
    memset(hi + in, 0, (size_t)(kpad - in));
    memset(lo + in, 0, (size_t)(kpad - in));
    if (c->w->layout == AF_PANEL_I8X4) {
      for (int i = 0; i < in; i++) {
        unsigned v = (unsigned)(nearest(x[i] * inv) + 32768);
        hi[i] = (uint8_t)(v >> 8);
        lo[i] = (uint8_t)v;
      }
      continue;
    }
    for (int g = 0; g * AF_I4_GROUP < in; g++) {
      int32_t sum = 0;
      for (int i = g * AF_I4_GROUP; i < af_min((g + 1) * AF_I4_GROUP, in); i++) {
        int v = nearest(x[i] * inv), top = (v + 128) >> 8;
        hi[i] = (uint8_t)top;
        lo[i] = (uint8_t)(v - 256 * top);
        sum += v;
      }
      c->xsum[r * c->steps + g] = sum;
    }
  }
}

static void split_job(void *ctx, int job, int worker) {
  (void)worker;
  const linear *c = ctx;
  const af_device *d = c->d;
  _Alignas(64) float sums[AF_SKINNY * AF_MAX_NR];
  int rows = c->x.rows, end = af_min((job + 1) * c->panels_per_job, c->w->panels);
  ptrdiff_t lda = c->w->kpad;
  for (int p = job * c->panels_per_job; p < end; p++) {
    for (int r = 0; r < rows; r += AF_SPLIT_ROWS) {
      int n = af_min(AF_SPLIT_ROWS, rows - r);
      const uint8_t *hi = c->rounded + r * lda, *lo = hi + rows * lda;
      if (c->w->layout == AF_PANEL_I8X4) d->row_i8(n, c->steps, hi, lo, lda, panel_at(c, p), c->w->wsum + p * AF_MAX_NR, sums + r * AF_MAX_NR);
      else d->row_i4(n, c->steps, (const int8_t *)hi, (const int8_t *)lo, lda, panel_at(c, p), scales_at(c, p), c->xsum + r * c->steps, sums + r * AF_MAX_NR);
    }
    finish(c, 0, rows, p, sums);
  }
}

static size_t reserve(size_t *total, size_t bytes) {
  size_t at = *total;
  *total += af_round_up(bytes, 64);
  return at;
}

// split chooses jobs: blocks of rows whose activations stay in half of L2, and panels so that every thread has a few jobs. Blocks are
// some times larger where a panel is widened for each, which then costs more than L2 gains, and for tiles: they are done with a panel
// before the next comes from L3, and machines that have them have 2 MiB of L2.
static int split(linear *c, int multiple, size_t row_bytes, int times) {
  int fit = (int)((256u << 10) / row_bytes) * times / multiple * multiple;
  int most = af_min(af_max(fit, multiple), 192 * times / multiple * multiple);
  c->row_blocks = (c->x.rows + most - 1) / most;
  // Blocks of like size: the last one is not a sliver.
  c->rows_per_job = (int)af_round_up((size_t)((c->x.rows + c->row_blocks - 1) / c->row_blocks), (size_t)multiple);
  c->row_blocks = (c->x.rows + c->rows_per_job - 1) / c->rows_per_job;
  double work = (double)c->x.rows * c->w->out * c->w->in;
  int groups = c->d->threads == 1 || work < 1 << 16 ? 1 : (c->d->threads * 4 + c->row_blocks - 1) / c->row_blocks;
  c->panels_per_job = (c->w->panels + groups - 1) / groups;
  return (c->w->panels + c->panels_per_job - 1) / c->panels_per_job * c->row_blocks;
}

static int skinny(af_device *d, linear *c) {
  const af_weight *w = c->w;
  // A job of less than some 32 KiB of weights is not worth a thread.
  int least = (int)((32u << 10) / w->panel_bytes) + 1, even = (w->panels + 4 * d->threads - 1) / (4 * d->threads);
  c->panels_per_job = af_max(least, even);
  int jobs = (w->panels + c->panels_per_job - 1) / c->panels_per_job;
  if (w->layout != AF_PANEL_I8X4 && w->layout != AF_PANEL_I4X4) {
    c->row_blocks = 1;
    c->rows_per_job = c->x.rows;
    af_pool_run(d->pool, jobs, float_job, c);
    return AF_OK;
  }
  size_t total = 0;
  c->steps = w->kpad / (w->layout == AF_PANEL_I8X4 ? 64 : AF_I4_GROUP);
  reserve(&total, 2 * (size_t)c->x.rows * (size_t)w->kpad);
  size_t scales = reserve(&total, (size_t)c->x.rows * sizeof(float)), sums = reserve(&total, (size_t)(c->x.rows * c->steps) * sizeof(int32_t));
  c->rounded = af_scratch(d, total);
  if (!c->rounded) return AF_NOMEM;
  c->f.rowscale = c->rowscale = (float *)(c->rounded + scales);
  c->xsum = (int32_t *)(c->rounded + sums);
  split_rows(c);
  af_pool_run(d->pool, jobs, split_job, c);
  return AF_OK;
}

static int blocked(af_device *d, linear *c) {
  const af_weight *w = c->w;
  size_t total = 0;
  int i4 = w->layout == AF_PANEL_I4X4, bf16 = i4 || (w->layout == AF_PANEL_BF16 && (d->row_bf16 || d->block_bf16));
  if (!bf16 && w->layout != AF_PANEL_I8X4) {
    int jobs = split(c, d->k->mr, (size_t)w->in * sizeof(float), 1);
    if (w->layout != AF_PANEL_F32 && wide_panels(d, c)) return AF_NOMEM;
    af_pool_run(d->pool, jobs, float_job, c);
    return AF_OK;
  }
  size_t row_bytes = (size_t)w->kpad * (bf16 ? 2 : 1);
  c->steps = (int)(row_bytes / 64);
  reserve(&total, af_round_up((size_t)c->x.rows, 32) * row_bytes);
  size_t scales = reserve(&total, (size_t)c->x.rows * sizeof(float));
  c->panel_floats = i4 ? (size_t)w->kpad * (size_t)w->nr / 2 : 0;
  size_t panels = reserve(&total, c->panel_floats * sizeof(float) * (size_t)d->threads);
  c->rounded = af_scratch(d, total);
  if (!c->rounded) return AF_NOMEM;
  c->rowscale = (float *)(c->rounded + scales);
  c->panel = (float *)(c->rounded + panels);
  if (!bf16) {
    c->f.rowscale = c->rowscale;
    c->f.wsum = w->wsum;
  }
  af_pool_run(d->pool, (c->x.rows + 31) / 32, bf16 ? round_bf16 : round_u8, c);
  af_pool_run(d->pool, split(c, d->block_bf16 ? 32 : AF_MAX_MR, row_bytes, i4 || d->block_bf16 ? 4 : 1), rounded_job, c);
  return AF_OK;
}

int af_linear(af_device *d, af_view dst, af_view x, const af_weight *w, const float *bias, int act, const float *gain, af_view residual) {
  linear c = {.d = d, .w = w, .x = x};
  c.f = (af_finish){.colscale = w->colscale, .bias = bias, .act = act, .gain = gain, .res = residual.p, .ldres = residual.stride, .dst = dst.p, .lddst = dst.stride};
  if (x.rows == 0) return AF_OK;
  return x.rows <= AF_SKINNY ? skinny(d, &c) : blocked(d, &c);
}
