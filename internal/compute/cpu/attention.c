// Fused attention: keys go by in blocks of 64 with an online softmax, so nothing of size queries x keys exists. The query
// heads that share a key head are rows of one product, which is what makes grouped queries cheap. A job is one block of
// queries for one key head and, when there are few queries, one stretch of keys; stretches merge as (m, l, o).
#include "kernels.h"

#include <math.h>
#include <string.h>

enum { KEYS = 64 /* a page, where there are pages */, ROWS = 96, STRETCH = 256 };

typedef struct {
  const af_device *d;
  af_view dst, q, k, v;
  af_attention_args a;
  const int32_t *pages;   // NULL, or where each block of keys lies
  int group;              // query heads of a key head
  int block, blocks;      // queries of a block, blocks of a segment
  int segments, seg_rows; // one segment of all rows when there is no segmenting
  int keys;               // keys of a segment
  int few;                // queries that may be drafted tokens: neither order nor kernels may depend on how many
  int stretches;          // key stretches; with more than one, each leaves its (m, l, o)
  int dim;                // head_dim in whole panels
  uint8_t *scratch;
  size_t per_worker;
  float *partial; // [segment][block][kv head][stretch][group*block][dim + 2]
} attention;

typedef struct {
  float *q, *s, *kt, *v, *o, *m, *l;
} work;

static size_t carve(const attention *c, uint8_t *base, work *w) {
  size_t rows = (size_t)(c->group * c->block), dim = (size_t)c->dim, at = 0;
  float **to[] = {&w->q, &w->s, &w->kt, &w->v, &w->o, &w->m, &w->l};
  size_t floats[] = {rows * (size_t)c->a.head_dim, rows * KEYS, (size_t)c->a.head_dim * KEYS, KEYS * dim, rows * dim, rows, rows};
  for (size_t i = 0; i < sizeof to / sizeof *to; i++) {
    if (base) *to[i] = (float *)(base + at);
    at += af_round_up(floats[i] * sizeof(float), 64);
  }
  return af_round_up(at, 4096);
}

static void tiles(const af_kernels *k, int rows, int inner, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc, int cols, int add) {
  for (int r = 0; r < rows; r += k->mr)
    for (int j = 0; j < cols; j += k->nr) k->tile_f32(af_min(k->mr, rows - r), inner, a + r * lda, lda, b + j, ldb, c + r * ldc + j, ldc, add);
}

static float *partial_at(const attention *c, int seg, int block, int head, int stretch) {
  size_t rows = (size_t)(c->group * c->block);
  size_t i = (size_t)(((seg * c->blocks + block) * c->a.kv_heads + head) * c->stretches + stretch);
  return c->partial + i * rows * (size_t)(c->dim + 2);
}

// Rows are (head of the group, query): row = head * n + query.
static float *row_at(af_view x, const attention *c, int first, int kv_head, int n, int row) {
  return x.p + (first + row % n) * x.stride + (kv_head * c->group + row / n) * c->a.head_dim;
}

// keys_at returns where the block of keys (or values) from j on begins.
static const float *keys_at(const attention *c, af_view x, int key0, int j) {
  ptrdiff_t row = c->pages ? (ptrdiff_t)c->pages[j / KEYS] * KEYS : key0 + j;
  return x.p + row * x.stride;
}

// ahead asks for the cache lines of a block of keys or values: rows lie too far apart for the machine to guess them.
static void ahead(const float *p, ptrdiff_t stride, int rows, int cols) {
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < cols; i += 16) __builtin_prefetch(p + r * stride + i);
}

static void one(void *ctx, int job, int worker) {
  const attention *c = ctx;
  const af_kernels *k = c->d->k;
  int hd = c->a.head_dim;
  // Heads first: what is next to each other in memory is read by jobs that follow each other.
  int kv_head = job % c->a.kv_heads, rest = job / c->a.kv_heads;
  int stretch = rest % c->stretches, block = rest / c->stretches % c->blocks, seg = rest / c->stretches / c->blocks;
  int from = block * c->block, n = af_min(c->block, c->seg_rows - from), rows = n * c->group;
  int key0 = seg * c->seg_rows, first = key0 + from; // key0 is 0 unless segmented
  int end = c->a.causal ? c->a.past + from + n : c->keys;
  int j = 0;
  if (c->stretches > 1) {
    j = stretch * STRETCH;
    end = af_min(end, j + STRETCH);
  }
  work w;
  carve(c, c->scratch + (size_t)worker * c->per_worker, &w);
  for (int r = 0; r < rows; r++) {
    k->scale(w.q + r * hd, row_at(c->q, c, first, kv_head, n, r), c->a.scale, hd);
    w.m[r] = -INFINITY;
    w.l[r] = 0;
  }
  memset(w.o, 0, (size_t)rows * (size_t)c->dim * sizeof(float));
  for (; j < end; j += KEYS) {
    int keys = af_min(KEYS, end - j), wide = (int)af_round_up((size_t)keys, (size_t)k->nr);
    const float *kp = keys_at(c, c->k, key0, j) + kv_head * hd, *vp = keys_at(c, c->v, key0, j) + kv_head * hd;
    ahead(vp, c->v.stride, keys, hd);
    if (end - j > KEYS) ahead(keys_at(c, c->k, key0, j + KEYS) + kv_head * hd, c->k.stride, af_min(KEYS, end - j - KEYS), hd);
    if (c->few && k->dots) {
      k->dots(rows, keys, hd, w.q, kp, c->k.stride, w.s, KEYS);
    } else {
      k->transpose(kp, c->k.stride, keys, hd, w.kt, wide);
      tiles(k, rows, hd, w.q, hd, w.kt, wide, w.s, KEYS, wide, 0);
    }
    for (int r = 0; r < rows; r++) {
      int seen = c->a.causal ? af_max(0, af_min(keys, c->a.past + from + r % n + 1 - j)) : keys;
      k->softmax(w.s + r * KEYS, seen, keys, &w.m[r], &w.l[r], w.o + r * c->dim, c->dim);
    }
    ptrdiff_t ldv = c->v.stride;
    if (c->dim != hd) { // a tile would read past the head
      for (int i = 0; i < keys; i++) {
        memcpy(w.v + i * c->dim, vp + i * ldv, (size_t)hd * sizeof(float));
        memset(w.v + i * c->dim + hd, 0, (size_t)(c->dim - hd) * sizeof(float));
      }
      vp = w.v;
      ldv = c->dim;
    }
    tiles(k, rows, keys, w.s, KEYS, vp, ldv, w.o, c->dim, c->dim, 1);
  }
  if (c->stretches == 1) {
    for (int r = 0; r < rows; r++) k->scale(row_at(c->dst, c, first, kv_head, n, r), w.o + r * c->dim, 1 / w.l[r], hd);
    return;
  }
  float *out = partial_at(c, seg, block, kv_head, stretch);
  for (int r = 0; r < rows; r++, out += c->dim + 2) {
    out[0] = w.m[r];
    out[1] = w.l[r];
    memcpy(out + 2, w.o + r * c->dim, (size_t)c->dim * sizeof(float));
  }
}

// merge joins the stretches of one block and key head, in order, so that the result does not depend on threads.
static void merge(const attention *c, int seg, int block, int kv_head) {
  const af_kernels *k = c->d->k;
  int from = block * c->block, n = af_min(c->block, c->seg_rows - from), hd = c->a.head_dim, width = c->dim + 2;
  for (int r = 0; r < n * c->group; r++) {
    float m = -INFINITY, l = 0;
    for (int s = 0; s < c->stretches; s++) {
      const float *p = partial_at(c, seg, block, kv_head, s) + r * width;
      if (p[1] != 0 && p[0] > m) m = p[0];
    }
    float *acc = partial_at(c, seg, block, kv_head, 0) + r * width;
    for (int s = 0; s < c->stretches; s++) {
      float *p = partial_at(c, seg, block, kv_head, s) + r * width;
      float keep = p[1] == 0 ? 0 : expf(p[0] - m); // a stretch that a row may not see is empty
      l += p[1] * keep;
      k->scale(p + 2, p + 2, keep, hd);
      if (s > 0) k->add(acc + 2, p + 2, hd);
    }
    k->scale(row_at(c->dst, c, seg * c->seg_rows + from, kv_head, n, r), acc + 2, 1 / l, hd);
  }
}

int af_attention(af_device *d, af_view dst, af_view q, af_view k, af_view v, af_attention_args a, const int32_t *pages) {
  if (q.rows == 0) return AF_OK;
  if (a.scale == 0) a.scale = 1 / sqrtf((float)a.head_dim);
  if (a.rounded && q.rows > AF_SKINNY && d->softmax_bf16) return af_attention_bf16(d, dst, q, k, v, a, pages);
  attention c = {.d = d, .dst = dst, .q = q, .k = k, .v = v, .a = a, .pages = pages, .group = a.heads / a.kv_heads, .segments = 1, .seg_rows = q.rows, .keys = k.rows, .stretches = 1};
  if (a.segment > 0) {
    c.seg_rows = c.keys = a.segment;
    c.segments = q.rows / a.segment;
  }
  c.dim = (int)af_round_up((size_t)a.head_dim, (size_t)d->k->nr);
  int most = af_max(1, ROWS / c.group);
  c.blocks = (c.seg_rows + most - 1) / most;
  c.block = (c.seg_rows + c.blocks - 1) / c.blocks; // of like size
  c.blocks = (c.seg_rows + c.block - 1) / c.block;
  int seen = a.causal ? a.past + q.rows : c.keys;
  // Decided by the keys alone, so that a row's result does not depend on the rows beside it, as speculation needs.
  c.few = q.rows <= AF_SKINNY && a.segment == 0;
  if (c.few) c.stretches = (seen + STRETCH - 1) / STRETCH;
  work w;
  c.per_worker = carve(&c, NULL, &w);
  size_t partial = c.stretches == 1 ? 0 : (size_t)(c.blocks * a.kv_heads * c.stretches) * (size_t)(c.group * c.block) * (size_t)(c.dim + 2) * sizeof(float);
  c.scratch = af_scratch(d, c.per_worker * (size_t)d->threads + partial);
  if (!c.scratch) return AF_NOMEM;
  c.partial = (float *)(c.scratch + c.per_worker * (size_t)d->threads);
  af_pool_run(d->pool, c.segments * c.blocks * a.kv_heads * c.stretches, one, &c);
  if (c.stretches > 1)
    for (int b = 0; b < c.blocks; b++)
      for (int h = 0; h < a.kv_heads; h++) merge(&c, 0, b, h);
  return AF_OK;
}
