// Operations that go row by row: each splits its rows over the pool when there is enough to do.
#include "kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct rows rows;
struct rows {
  const af_kernels *k;
  void (*one)(const rows *c, int r); // does row r
  int total, step;
  af_view dst, x, y;
  const float *w, *b;
  float eps;
  int half, heads;
  int grid_h, grid_w, kh, kw;
};

static void some(void *ctx, int job, int worker) {
  (void)worker;
  const rows *c = ctx;
  int to = af_min(c->total, (job + 1) * c->step);
  for (int r = job * c->step; r < to; r++) c->one(c, r);
}

// Below some 16k values (2-5 µs) waking a thread costs more than it saves.
static void each(af_device *d, rows *c, int total, int cols) {
  enum { GRAIN = 1 << 14 };
  c->k = d->k;
  c->total = total;
  c->step = af_max(1, GRAIN / af_max(cols, 1));
  af_pool_run(d->pool, (total + c->step - 1) / c->step, some, c);
}

static float *at(af_view v, int r) { return v.p + r * v.stride; }

static void rmsnorm(const rows *c, int r) { c->k->rmsnorm(at(c->dst, r), at(c->x, r), c->w, c->dst.cols, c->eps); }

void af_rmsnorm(af_device *d, af_view dst, af_view x, const float *w, float eps) {
  rows c = {.one = rmsnorm, .dst = dst, .x = x, .w = w, .eps = eps};
  each(d, &c, dst.rows, dst.cols);
}

static void layernorm(const rows *c, int r) { c->k->layernorm(at(c->dst, r), at(c->x, r), c->w, c->b, c->dst.cols, c->eps); }

void af_layernorm(af_device *d, af_view dst, af_view x, const float *w, const float *b, float eps) {
  rows c = {.one = layernorm, .dst = dst, .x = x, .w = w, .b = b, .eps = eps};
  each(d, &c, dst.rows, dst.cols);
}

static void swiglu(const rows *c, int r) { c->k->swiglu(at(c->dst, r), at(c->x, r), at(c->x, r) + c->dst.cols, c->dst.cols); }

void af_swiglu(af_device *d, af_view dst, af_view gate_up) {
  rows c = {.one = swiglu, .dst = dst, .x = gate_up};
  each(d, &c, dst.rows, dst.cols * 4); // an exp and a division an element
}

static void add(const rows *c, int r) { c->k->add(at(c->dst, r), at(c->x, r % c->x.rows), c->dst.cols); }

void af_add(af_device *d, af_view dst, af_view x) {
  rows c = {.one = add, .dst = dst, .x = x};
  each(d, &c, dst.rows, dst.cols);
}

static void avgpool(const rows *c, int r) {
  int out_w = c->grid_w / c->kw, per_grid = c->grid_h / c->kh * out_w;
  int grid = r / per_grid, y = r % per_grid / out_w, x = r % out_w;
  float *dst = at(c->dst, r);
  for (int i = 0; i < c->kh * c->kw; i++) {
    const float *src = at(c->x, (grid * c->grid_h + y * c->kh + i / c->kw) * c->grid_w + x * c->kw + i % c->kw);
    if (i == 0) memcpy(dst, src, (size_t)c->dst.cols * sizeof *dst);
    else c->k->add(dst, src, c->dst.cols);
  }
  c->k->scale(dst, dst, 1.0f / (float)(c->kh * c->kw), c->dst.cols);
}

void af_avgpool(af_device *d, af_view dst, af_view x, int grid_h, int grid_w, int kh, int kw) {
  rows c = {.one = avgpool, .dst = dst, .x = x, .grid_h = grid_h, .grid_w = grid_w, .kh = kh, .kw = kw};
  each(d, &c, dst.rows, dst.cols * kh * kw);
}

static void angles(const rows *c, int r) {
  float *cosines = at(c->dst, r), *sines = cosines + c->half;
  for (int j = 0; j < c->half; j++) {
    double angle = (float)c->y.p[r] * c->w[j]; // rounded to float32, as checkpoints were trained with
    cosines[j] = (float)cos(angle);
    sines[j] = (float)sin(angle);
  }
}

static void rope(const rows *c, int r) {
  const float *cosines = at(c->y, r % c->y.rows);
  c->k->rope(at(c->x, r), c->heads, c->half, cosines, cosines + c->half);
}

static int rope_table(af_device *d, int n, int half, const int32_t *pos, const float *freq) {
  size_t count = (size_t)n, width = (size_t)half;
  if (d->rope_table && d->rope_half == half && d->rope_rows == n && memcmp(d->rope_pos, pos, count * sizeof *pos) == 0 &&
      memcmp(d->rope_freq, freq, width * sizeof *freq) == 0)
    return AF_OK;
  if (n > d->rope_cap || half != d->rope_half) {
    free(d->rope_table);
    free(d->rope_pos);
    free(d->rope_freq);
    size_t cap = count + count / 2;
    d->rope_table = malloc(cap * 2 * width * sizeof(float));
    d->rope_pos = malloc(cap * sizeof *pos);
    d->rope_freq = malloc(width * sizeof *freq);
    if (!d->rope_table || !d->rope_pos || !d->rope_freq) {
      free(d->rope_table);
      d->rope_table = NULL;
      d->rope_cap = 0;
      return AF_NOMEM;
    }
    d->rope_cap = (int)cap;
  }
  memcpy(d->rope_pos, pos, count * sizeof *pos);
  memcpy(d->rope_freq, freq, width * sizeof *freq);
  d->rope_rows = n;
  d->rope_half = half;
  float *positions = (float *)af_scratch(d, count * sizeof(float));
  if (!positions) return AF_NOMEM;
  for (int i = 0; i < n; i++) positions[i] = (float)pos[i];
  rows c = {.one = angles, .dst = {d->rope_table, n, 2 * half, 2 * half}, .y = {positions, n, 1, 1}, .w = freq, .half = half};
  each(d, &c, n, half * 32);
  return AF_OK;
}

int af_rope(af_device *d, af_view x, int head_dim, const int32_t *pos, const float *freq) {
  int half = head_dim / 2;
  if (x.rows == 0) return AF_OK;
  int err = rope_table(d, x.rows, half, pos, freq);
  if (err) return err;
  rows c = {.one = rope, .x = x, .y = {d->rope_table, x.rows, 2 * half, 2 * half}, .half = half, .heads = x.cols / head_dim};
  each(d, &c, x.rows, x.cols);
  return AF_OK;
}

void af_rotate(af_device *d, af_view x, af_view table, int head_dim) {
  rows c = {.one = rope, .x = x, .y = table, .half = head_dim / 2, .heads = x.cols / head_dim};
  each(d, &c, x.rows, x.cols);
}
