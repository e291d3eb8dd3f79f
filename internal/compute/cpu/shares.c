// What one row attends to: its scores against all keys, their softmax, summed by ranges of keys. A job is one key head.
#include "kernels.h"

#include <math.h>

enum { KEYS = 64 /* a page, where there are pages */ };

typedef struct {
  const af_device *d;
  float *q; // times scale
  af_view k;
  int group, kv_heads, head_dim, seen; // query heads of a key head; keys that the row sees
  const int32_t *pages, *bounds;
  int n;
  float *scores; // [kv head][group][room]
  int room;      // seen, in whole blocks
  double *sums;  // [kv head][n]
} shares;

static void score(const shares *c, const float *q, const float *k, int keys, float *s) {
  if (c->d->k->dots) {
    c->d->k->dots(c->group, keys, c->head_dim, q, k, c->k.stride, s, c->room);
    return;
  }
  for (int g = 0; g < c->group; g++)
    for (int j = 0; j < keys; j++) {
      float sum = 0;
      for (int i = 0; i < c->head_dim; i++) sum += q[g * c->head_dim + i] * k[j * c->k.stride + i];
      s[g * c->room + j] = sum;
    }
}

static void one(void *ctx, int head, int worker) {
  (void)worker;
  const shares *c = ctx;
  float *scores = c->scores + (size_t)head * (size_t)c->group * (size_t)c->room;
  double *sums = c->sums + (size_t)head * (size_t)c->n;
  for (int j = 0; j < c->seen; j += KEYS) {
    ptrdiff_t row = c->pages ? (ptrdiff_t)c->pages[j / KEYS] * KEYS : j;
    score(c, c->q + head * c->group * c->head_dim, c->k.p + row * c->k.stride + head * c->head_dim, af_min(KEYS, c->seen - j), scores + j);
  }
  for (int i = 0; i < c->n; i++) sums[i] = 0;
  for (int g = 0; g < c->group; g++) {
    float *s = scores + (size_t)g * (size_t)c->room, m = -INFINITY, l = 0;
    c->d->k->softmax(s, c->seen, c->seen, &m, &l, NULL, 0);
    double all = 0;
    for (int j = 0; j < c->seen; j++) all += s[j];
    for (int i = 0; i < c->n; i++) {
      double sum = 0;
      for (int j = c->bounds[i]; j < c->bounds[i + 1]; j++) sum += s[j];
      sums[i] += sum / all;
    }
  }
}

int af_shares(af_device *d, float *dst, const float *q, af_view k, int heads, int kv_heads, int head_dim, int past, float scale, const int32_t *pages,
              const int32_t *bounds, int n) {
  shares c = {.d = d, .k = k, .group = heads / kv_heads, .kv_heads = kv_heads, .head_dim = head_dim, .seen = past + 1,
              .pages = pages, .bounds = bounds, .n = n};
  if (scale == 0) scale = 1 / sqrtf((float)head_dim);
  c.room = (int)af_round_up((size_t)c.seen, KEYS);
  size_t scores = (size_t)heads * (size_t)c.room * sizeof(float), row = af_round_up((size_t)(heads * head_dim) * sizeof(float), 64);
  uint8_t *scratch = af_scratch(d, scores + row + (size_t)(kv_heads * n) * sizeof(double));
  if (!scratch) return AF_NOMEM;
  c.scores = (float *)scratch; // whole blocks, so that what follows is aligned
  c.q = (float *)(scratch + scores);
  c.sums = (double *)(scratch + scores + row);
  d->k->scale(c.q, q, scale, heads * head_dim);
  af_pool_run(d->pool, kv_heads, one, &c);
  for (int i = 0; i < n; i++) {
    double sum = 0;
    for (int h = 0; h < kv_heads; h++) sum += c.sums[h * n + i];
    dst[i] = (float)(sum / heads);
  }
  return AF_OK;
}
