// Attention of many queries with operands rounded to bfloat16, on machines that multiply pairs of them. Keys and values are rounded
// once a call, into panels as weights have them; then a job is a block of queries of one key head. It scores BLOCK keys at a time, so
// that scores and weights stay near the core, and goes on with an online softmax. Sums, maxima and the result are float32.
#include "kernels.h"

#include <math.h>
#include <string.h>

enum { PANEL = 32, BLOCK = 256 /* keys */, PACK = 128 /* keys of a packing job */ };

typedef struct {
  const af_device *d;
  af_view dst, q, k, v;
  af_attention_args a;
  const int32_t *pages;
  int group;              // query heads of a key head
  int block, blocks;      // queries of a job, jobs of a segment and head
  int segments, seg_rows; // one segment of all rows when there is no segmenting
  int keys, kpad;         // keys of a segment; in whole panels
  int at_once, room;      // rows of a tile, and of a job in whole tiles
  int steps;              // of a head: 32 values each
  uint8_t *packed;        // [segment][kv head]: keys as panels of PANEL keys, then values as panels of PANEL dimensions
  size_t head_bytes;      // of either
  uint8_t *scratch;
  size_t per_worker;
} attention;

typedef struct {
  float *s, *o, *t;         // [BLOCK/PANEL, room, PANEL], [steps, room, PANEL], [at_once, PANEL]
  float *m, *l, *keep, *x;  // [room] thrice, [steps*32]
  uint8_t *q, *p;           // room rows of steps, and of BLOCK/PANEL steps
} work;

static size_t carve(const attention *c, uint8_t *base, work *w) {
  size_t room = (size_t)c->room, steps = (size_t)c->steps, parts = BLOCK / PANEL, at = 0;
  void **to[] = {(void **)&w->s, (void **)&w->o, (void **)&w->t, (void **)&w->m, (void **)&w->l, (void **)&w->keep, (void **)&w->x, (void **)&w->q, (void **)&w->p};
  size_t bytes[] = {parts * room * PANEL * 4, steps * room * PANEL * 4, (size_t)c->at_once * PANEL * 4, room * 4, room * 4, room * 4,
                    steps * 32 * 4, room * steps * 64, room * parts * 64};
  for (size_t i = 0; i < sizeof to / sizeof *to; i++) {
    if (base) *to[i] = base + at;
    at += af_round_up(bytes[i], 64);
  }
  return af_round_up(at, 4096);
}

static uint8_t *packed_at(const attention *c, int seg, int head) { return c->packed + (size_t)(seg * c->a.kv_heads + head) * 2 * c->head_bytes; }

// row_of returns where key (or value) j of a segment and head lies.
static const float *row_of(const attention *c, af_view x, int seg, int head, int j) {
  ptrdiff_t row = c->pages ? (ptrdiff_t)c->pages[j / 64] * 64 + j % 64 : seg * c->seg_rows + j;
  return x.p + row * x.stride + head * c->a.head_dim;
}

static void pack(void *ctx, int job, int worker) {
  const attention *c = ctx;
  int parts = (c->kpad + PACK - 1) / PACK, steps = c->steps, hd = c->a.head_dim;
  int part = job % parts, head = job / parts % c->a.kv_heads, seg = job / parts / c->a.kv_heads;
  uint8_t *keys = packed_at(c, seg, head), *values = keys + c->head_bytes;
  uint8_t *rows = c->scratch + (size_t)worker * c->per_worker; // PANEL of them
  size_t row_bytes = (size_t)steps * 64;
  for (int j = part * PACK; j < af_min(part * PACK + PACK, c->kpad); j += PANEL) {
    int n = af_max(0, af_min(PANEL, c->keys - j));
    for (int i = 0; i < n; i++) {
      const float *x = row_of(c, c->k, seg, head, j + i);
      for (int s = 0; s < steps; s++) c->d->step_bf16(x + s * 32, hd - s * 32, rows + (size_t)i * row_bytes + s * 64);
    }
    // Pairs of bfloat16 move like floats, untouched.
    c->d->k->transpose((const float *)rows, steps * 16, n, steps * 16, (float *)(keys + (size_t)j * row_bytes), PANEL);
    for (int i = 0; i < n; i++) {
      const float *x = row_of(c, c->v, seg, head, j + i);
      for (int s = 0; s < steps; s++) c->d->step_bf16(x + s * 32, hd - s * 32, rows + (size_t)i * row_bytes + s * 64);
    }
    memset(rows + (size_t)n * row_bytes, 0, (size_t)(PANEL - n) * row_bytes);
    for (int s = 0; s < steps; s++)
      for (int i = 0; i < PANEL; i += 2) {
        const uint16_t *even = (const uint16_t *)(rows + (size_t)i * row_bytes + s * 64), *odd = even + steps * 32;
        uint16_t *out = (uint16_t *)(values + ((size_t)s * (size_t)c->kpad + (size_t)(j + i)) * 64);
        for (int e = 0; e < 32; e++) {
          out[2 * e] = even[e];
          out[2 * e + 1] = odd[e];
        }
      }
  }
}

// step_of returns where the 64-byte step s of row r lies, of rows of so many steps: see linear.c.
static uint8_t *step_of(const attention *c, uint8_t *rows, int steps, int r, int s) {
  if (!c->d->block_bf16) return rows + ((size_t)r * (size_t)steps + (size_t)s) * 64;
  return rows + ((size_t)(r / 16 * steps + s) * 16 + (size_t)(r % 16)) * 64;
}

// product writes [rows, PANEL] to c: tiles of the first rows of a, from row r on, by a panel.
static void product(const attention *c, uint8_t *rows, int steps, int r, int n, const uint8_t *panel, float *out) {
  const uint8_t *a = step_of(c, rows, steps, r, 0);
  if (c->d->block_bf16) c->d->block_bf16(n, steps, a, panel, out);
  else c->d->row_bf16(n, steps, a, (ptrdiff_t)steps * 64, panel, out);
}

// Rows are (head of the group, query): row = head * n + query.
static float *row_at(af_view x, const attention *c, int first, int kv_head, int n, int row) {
  return x.p + (first + row % n) * x.stride + (kv_head * c->group + row / n) * c->a.head_dim;
}

static void one(void *ctx, int job, int worker) {
  const attention *c = ctx;
  const af_device *d = c->d;
  int hd = c->a.head_dim, steps = c->steps, room = c->room;
  int block = job % c->blocks, head = job / c->blocks % c->a.kv_heads, seg = job / c->blocks / c->a.kv_heads;
  int from = block * c->block, n = af_min(c->block, c->seg_rows - from), rows = n * c->group, first = seg * c->seg_rows + from;
  int end = c->a.causal ? c->a.past + from + n : c->keys;
  const uint8_t *keys = packed_at(c, seg, head), *values = keys + c->head_bytes;
  work w;
  carve(c, c->scratch + (size_t)worker * c->per_worker, &w);
  for (int r = 0; r < rows; r++) {
    d->k->scale(w.x, row_at(c->q, c, first, head, n, r), c->a.scale * 1.44269504f, hd); // scores in powers of two
    for (int s = 0; s < steps; s++) d->step_bf16(w.x + s * 32, hd - s * 32, step_of(c, w.q, steps, r, s));
    w.m[r] = -INFINITY;
    w.l[r] = 0;
  }
  if (d->features & AF_AMX) af_amx_begin();
  for (int j = 0; j < end; j += BLOCK) {
    int count = af_min(BLOCK, end - j), panels = (count + PANEL - 1) / PANEL;
    for (int p = 0; p < panels; p++)
      for (int r = 0; r < rows; r += c->at_once)
        product(c, w.q, steps, r, af_min(c->at_once, rows - r), keys + (size_t)(j + p * PANEL) * (size_t)steps * 64, w.s + (p * room + r) * PANEL);
    for (int r = 0; r < rows; r++) {
      int seen = c->a.causal ? af_max(0, af_min(count, c->a.past + from + r % n + 1 - j)) : count;
      uint8_t *p = step_of(c, w.p, panels, r, 0);
      w.keep[r] = d->softmax_bf16(w.s + r * PANEL, room * PANEL, panels, seen, &w.m[r], &w.l[r], p, d->block_bf16 ? 1024 : 64);
    }
    for (int s = 0; s < steps; s++)
      for (int r = 0; r < rows; r += c->at_once) {
        int tile = af_min(c->at_once, rows - r);
        const uint8_t *panel = values + ((size_t)s * (size_t)c->kpad + (size_t)j) * 64;
        float *o = w.o + (s * room + r) * PANEL;
        product(c, w.p, panels, r, tile, panel, j == 0 ? o : w.t);
        for (int i = 0; j > 0 && i < tile; i++) {
          if (w.keep[r + i] != 1) d->k->scale(o + i * PANEL, o + i * PANEL, w.keep[r + i], PANEL);
          d->k->add(o + i * PANEL, w.t + i * PANEL, PANEL);
        }
      }
  }
  if (d->features & AF_AMX) af_amx_end();
  for (int r = 0; r < rows; r++)
    for (int s = 0; s < steps; s++)
      d->k->scale(row_at(c->dst, c, first, head, n, r) + s * 32, w.o + (s * room + r) * PANEL, 1 / w.l[r], af_min(32, hd - s * 32));
}

int af_attention_bf16(af_device *d, af_view dst, af_view q, af_view k, af_view v, af_attention_args a, const int32_t *pages) {
  attention c = {.d = d, .dst = dst, .q = q, .k = k, .v = v, .a = a, .pages = pages, .group = a.heads / a.kv_heads, .segments = 1, .seg_rows = q.rows, .keys = k.rows};
  if (a.segment > 0) {
    c.seg_rows = c.keys = a.segment;
    c.segments = q.rows / a.segment;
  }
  if (a.causal) c.keys = a.past + q.rows;
  c.kpad = (int)af_round_up((size_t)c.keys, PANEL);
  c.steps = (a.head_dim + 31) / 32;
  c.at_once = d->block_bf16 ? 32 : AF_MAX_MR;
  int most = af_max(1, (d->block_bf16 ? 32 : 2 * AF_MAX_MR) / c.group);
  c.blocks = (c.seg_rows + most - 1) / most;
  c.block = (c.seg_rows + c.blocks - 1) / c.blocks; // of like size
  c.blocks = (c.seg_rows + c.block - 1) / c.block;
  c.room = (int)af_round_up((size_t)(c.block * c.group), (size_t)c.at_once);
  c.head_bytes = (size_t)c.kpad * (size_t)c.steps * 64;
  work w;
  c.per_worker = af_round_up((size_t)af_max((int)carve(&c, NULL, &w), PANEL * c.steps * 64), 4096);
  size_t packed = (size_t)(c.segments * a.kv_heads) * 2 * c.head_bytes;
  c.scratch = af_scratch(d, c.per_worker * (size_t)d->threads + packed);
  if (!c.scratch) return AF_NOMEM;
  c.packed = c.scratch + c.per_worker * (size_t)d->threads;
  af_pool_run(d->pool, c.segments * a.kv_heads * ((c.kpad + PACK - 1) / PACK), pack, &c);
  af_pool_run(d->pool, c.segments * a.kv_heads * c.blocks, one, &c);
  return AF_OK;
}
