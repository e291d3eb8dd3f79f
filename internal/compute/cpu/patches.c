// Pictures to patches. Everything on the way is whole numbers, the same however it is computed.
#include "kernels.h"

#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

enum { TAP_BITS = 22 }; // compute.TapBits

// One side's weights as compute.Taps has them, and as the vectors want them: each split into the part below LOW_BITS and the part above,
// both 16 bits wide, so that one instruction takes two products and their sum. The two sums put together are the whole one.
enum { LOW_BITS = 11 };

typedef struct {
  int n, size;
  const int32_t *first, *count, *weight; // [n], [n], [n][size]
  int quads;                             // four neighbours each
  int16_t *split;                        // [n][quads][8]: four low parts, four high parts; zeros beyond count
} taps;

typedef struct {
  taps t;
  uint8_t *dst;
  const uint8_t *src;
  int src_w, w, rows, step; // rows of dst, and how many a job does
  size_t src_bytes;
} resize;

static int split(af_device *d, taps *t) {
  t->quads = (t->size + 3) / 4;
  t->split = (int16_t *)af_scratch(d, (size_t)t->n * (size_t)t->quads * 8 * sizeof *t->split);
  if (!t->split) return AF_NOMEM;
  memset(t->split, 0, (size_t)t->n * (size_t)t->quads * 8 * sizeof *t->split);
  for (int j = 0; j < t->n; j++)
    for (int i = 0; i < t->count[j]; i++) {
      int32_t w = t->weight[(size_t)j * (size_t)t->size + (size_t)i];
      int16_t *q = t->split + ((size_t)j * (size_t)t->quads + (size_t)i / 4) * 8 + i % 4;
      q[0] = (int16_t)(w & ((1 << LOW_BITS) - 1));
      q[4] = (int16_t)(w >> LOW_BITS);
    }
  return AF_OK;
}

static inline uint8_t clip(int32_t sum) {
  sum = (sum + (1 << (TAP_BITS - 1))) >> TAP_BITS;
  return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static void across_scalar(const resize *c, int y) {
  const uint8_t *row = c->src + (size_t)y * (size_t)c->src_w * 3;
  uint8_t *out = c->dst + (size_t)y * (size_t)c->w * 3;
  for (int x = 0; x < c->w; x++, out += 3) {
    const uint8_t *p = row + 3 * (size_t)c->t.first[x];
    const int32_t *w = c->t.weight + (size_t)x * (size_t)c->t.size;
    int32_t r = 0, g = 0, b = 0;
    for (int i = 0; i < c->t.count[x]; i++, p += 3) {
      r += w[i] * p[0];
      g += w[i] * p[1];
      b += w[i] * p[2];
    }
    out[0] = clip(r);
    out[1] = clip(g);
    out[2] = clip(b);
  }
}

static void down_columns(const resize *c, int y, size_t from, size_t to) {
  size_t wide = (size_t)c->w * 3;
  const uint8_t *p = c->src + (size_t)c->t.first[y] * wide;
  const int32_t *w = c->t.weight + (size_t)y * (size_t)c->t.size;
  uint8_t *out = c->dst + (size_t)y * wide;
  for (size_t j = from; j < to;) {
    enum { BLOCK = 256 };
    int32_t sum[BLOCK] = {0};
    size_t n = to - j < BLOCK ? to - j : BLOCK;
    for (int i = 0; i < c->t.count[y]; i++)
      for (size_t k = 0; k < n; k++) sum[k] += w[i] * p[(size_t)i * wide + j + k];
    for (size_t k = 0; k < n; k++) out[j + k] = clip(sum[k]);
    j += n;
  }
}

static void down_scalar(const resize *c, int y) { down_columns(c, y, 0, (size_t)c->w * 3); }

#ifdef __x86_64__
#define AVX2 __attribute__((target("avx2")))

// One pixel of a row in three lanes. A quad's twelve bytes become pairs of neighbours of one channel: r r, g g, b b, 0 0 of its first two pixels,
// then of the others. Sixteen are read for them, but none from end on; NULL: none of them are.
AVX2 static inline __m128i pixel_avx2(const taps *t, int x, const uint8_t *row, const uint8_t *end) {
  const __m256i spread = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, 6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11,
                                          -1, -1, -1, -1, -1);
  const __m256i lows = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), highs = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
  const uint8_t *p = row + 3 * (size_t)t->first[x];
  const int16_t *q = t->split + 8 * (size_t)x * (size_t)t->quads;
  __m256i low = _mm256_setzero_si256(), high = low;
  for (int i = 0; i < t->count[x]; i += 4, p += 12, q += 8) {
    uint8_t last[16] = {0};
    const uint8_t *from = p;
    if (end && end - p < 16) from = memcpy(last, p, (size_t)(end - p));
    __m256i v = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)from)), spread);
    __m256i w = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)q));
    low = _mm256_add_epi32(low, _mm256_madd_epi16(v, _mm256_permutevar8x32_epi32(w, lows)));
    high = _mm256_add_epi32(high, _mm256_madd_epi16(v, _mm256_permutevar8x32_epi32(w, highs)));
  }
  low = _mm256_add_epi32(low, _mm256_slli_epi32(high, LOW_BITS));
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
  return _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(1 << (TAP_BITS - 1))), TAP_BITS);
}

// Pixels of a row but for the last few, four at a time: what is written beyond the four is written over.
AVX2 static void across_avx2(const resize *c, int y) {
  const __m128i close = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  const uint8_t *row = c->src + (size_t)y * (size_t)c->src_w * 3, *end = c->src + c->src_bytes;
  uint8_t *out = c->dst + (size_t)y * (size_t)c->w * 3;
  int x = 0;
  if (end - row >= c->src_w * 3 + 16)
    for (; x + 6 <= c->w; x += 4) {
      __m128i a = pixel_avx2(&c->t, x, row, NULL), b = pixel_avx2(&c->t, x + 1, row, NULL);
      __m128i e = pixel_avx2(&c->t, x + 2, row, NULL), f = pixel_avx2(&c->t, x + 3, row, NULL);
      __m128i four = _mm_packus_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(e, f));
      _mm_storeu_si128((__m128i *)(out + 3 * x), _mm_shuffle_epi8(four, close));
    }
  for (; x < c->w; x++) {
    __m128i a = pixel_avx2(&c->t, x, row, end);
    a = _mm_packs_epi32(a, a);
    uint32_t rgb = (uint32_t)_mm_cvtsi128_si32(_mm_packus_epi16(a, a));
    for (int i = 0; i < 3; i++) out[3 * x + i] = (uint8_t)(rgb >> (8 * i));
  }
}

AVX2 static inline __m256i whole(__m256i low, __m256i high) {
  const __m256i half = _mm256_set1_epi32(1 << (TAP_BITS - 1));
  return _mm256_srai_epi32(_mm256_add_epi32(_mm256_add_epi32(low, _mm256_slli_epi32(high, LOW_BITS)), half), TAP_BITS);
}

// Thirty-two columns at a time: the bytes of two rows, side by side, are the pairs.
AVX2 static void down_avx2(const resize *c, int y) {
  size_t wide = (size_t)c->w * 3, j = 0;
  int n = c->t.count[y];
  const uint8_t *top = c->src + (size_t)c->t.first[y] * wide;
  const int16_t *q = c->t.split + (size_t)y * (size_t)c->t.quads * 8;
  const __m256i zero = _mm256_setzero_si256();
  for (; j + 32 <= wide; j += 32) {
    __m256i low[4] = {zero, zero, zero, zero}, high[4] = {zero, zero, zero, zero};
    for (int i = 0; i < n; i += 2) {
      const uint8_t *p = top + (size_t)i * wide + j;
      __m256i a = _mm256_loadu_si256((const __m256i *)p), b = i + 1 < n ? _mm256_loadu_si256((const __m256i *)(p + wide)) : zero;
      __m256i x = _mm256_unpacklo_epi8(a, b), z = _mm256_unpackhi_epi8(a, b);
      __m256i v[4] = {_mm256_unpacklo_epi8(x, zero), _mm256_unpackhi_epi8(x, zero), _mm256_unpacklo_epi8(z, zero), _mm256_unpackhi_epi8(z, zero)};
      int32_t pair[2];
      memcpy(&pair[0], q + i / 4 * 8 + i % 4, 4);
      memcpy(&pair[1], q + i / 4 * 8 + i % 4 + 4, 4);
      __m256i wl = _mm256_set1_epi32(pair[0]), wh = _mm256_set1_epi32(pair[1]);
      for (int k = 0; k < 4; k++) {
        low[k] = _mm256_add_epi32(low[k], _mm256_madd_epi16(v[k], wl));
        high[k] = _mm256_add_epi32(high[k], _mm256_madd_epi16(v[k], wh));
      }
    }
    // Each unpacking kept to its half of the vector, as packing does: what went in in order comes out in order.
    __m256i first = _mm256_packs_epi32(whole(low[0], high[0]), whole(low[1], high[1]));
    __m256i second = _mm256_packs_epi32(whole(low[2], high[2]), whole(low[3], high[3]));
    _mm256_storeu_si256((__m256i *)(c->dst + (size_t)y * wide + j), _mm256_packus_epi16(first, second));
  }
  down_columns(c, y, j, wide);
}
#endif

typedef struct {
  resize r;
  void (*one)(const resize *c, int y);
} pass;

static void some(void *ctx, int job, int worker) {
  (void)worker;
  const pass *c = ctx;
  int to = af_min(c->r.rows, (job + 1) * c->r.step);
  for (int y = job * c->r.step; y < to; y++) c->one(&c->r, y);
}

// A job is some 16k products, or a few rows so long that one is more.
static int job_rows(int w, int size) { return af_max(1, (1 << 14) / af_max(1, w * af_min(size, 1 << 10))); }

static int run(af_device *d, pass *c) {
  int vectors = 0;
#ifdef __x86_64__
  vectors = d->features & AF_AVX2;
#endif
  if (vectors && split(d, &c->r.t) != AF_OK) return AF_NOMEM;
  c->r.step = job_rows(c->r.w, c->r.t.size);
  af_pool_run(d->pool, (c->r.rows + c->r.step - 1) / c->r.step, some, c);
  return AF_OK;
}

int af_resize_across(af_device *d, uint8_t *dst, const uint8_t *src, int src_w, int h, const int32_t *first, const int32_t *count,
                     const int32_t *weight, int n, int size) {
  taps t = {.n = n, .size = size, .first = first, .count = count, .weight = weight};
  pass c = {.r = {.t = t, .dst = dst, .src = src, .src_w = src_w, .w = n, .rows = h, .src_bytes = (size_t)src_w * (size_t)h * 3},
            .one = across_scalar};
#ifdef __x86_64__
  if (d->features & AF_AVX2) c.one = across_avx2;
#endif
  return run(d, &c);
}

int af_resize_down(af_device *d, uint8_t *dst, const uint8_t *src, int w, const int32_t *first, const int32_t *count,
                   const int32_t *weight, int n, int size) {
  taps t = {.n = n, .size = size, .first = first, .count = count, .weight = weight};
  pass c = {.r = {.t = t, .dst = dst, .src = src, .w = w, .rows = n}, .one = down_scalar};
#ifdef __x86_64__
  if (d->features & AF_AVX2) c.one = down_avx2;
#endif
  return run(d, &c);
}

// How one side is averaged: compute.Refine.
typedef struct {
  uint64_t unit, total;
} axis;

// The source pixels first..last of destination pixel j: head is what the first counts, tail the last when they differ; those between count
// unit.
typedef struct {
  int first, last;
  uint64_t head, tail;
} span;

static span covered(axis a, int j) {
  uint64_t from = (uint64_t)j * a.total, to = from + a.total;
  span s = {.first = (int)(from / a.unit), .last = (int)((to - 1) / a.unit)};
  if (s.first == s.last) return (span){s.first, s.last, a.total, 0};
  s.head = ((uint64_t)s.first + 1) * a.unit - from;
  s.tail = to - (uint64_t)s.last * a.unit;
  return s;
}

typedef struct {
  af_view dst;
  const uint8_t *src;
  int src_w, w, h, patch;
  ptrdiff_t stride; // floats from one channel of a patch to the next
  const int32_t *down, *across;
  const float *table;
  axis x, y;
  const double *scale, *shift;
  const span *spans; // [w]
  uint64_t *sums;    // for each thread: one source row, and the sums of one destination row, [2][wide]
  size_t wide;
} cut;

// place is where the first channel of picture row y begins in the first patch of its row, but for across.
static float *place(const cut *c, int y) { return c->dst.p + c->down[y / c->patch] * c->dst.stride + y % c->patch * c->patch; }

static void cut_row(void *ctx, int y, int worker) {
  (void)worker;
  const cut *c = ctx;
  float *base = place(c, y);
  const uint8_t *p = c->src + (size_t)y * (size_t)c->w * 3;
  for (int px = 0; px < c->w / c->patch; px++, p += 3 * c->patch) {
    float *out = base + c->across[px] * c->dst.stride;
    for (int ch = 0; ch < 3; ch++, out += c->stride)
      for (int i = 0; i < c->patch; i++) out[i] = c->table[256 * ch + p[3 * i + ch]];
  }
}

void af_patches(af_device *d, af_view dst, const uint8_t *src, int w, int h, int patch, int stride, const int32_t *down,
                const int32_t *across, const float *table) {
  cut c = {.dst = dst, .src = src, .w = w, .h = h, .patch = patch, .stride = stride, .down = down, .across = across, .table = table};
  af_pool_run(d->pool, h, cut_row, &c);
}

// Three channels side by side in a word, where their sums leave each other alone.
enum { LANE = 21 };

static inline uint64_t pack(const uint8_t *p) { return (uint64_t)p[0] | (uint64_t)p[1] << LANE | (uint64_t)p[2] << (2 * LANE); }

static void sum_packed(const cut *c, const uint8_t *row, uint64_t *out) {
  for (int x = 0; x < c->w; x++) {
    span s = c->spans[x];
    uint64_t sum = pack(row + 3 * s.first) * s.head;
    if (s.last > s.first) {
      uint64_t mid = 0;
      for (int i = s.first + 1; i < s.last; i++) mid += pack(row + 3 * i);
      sum += mid * c->x.unit + pack(row + 3 * s.last) * s.tail;
    }
    out[x] = sum;
  }
}

static void sum_wide(const cut *c, const uint8_t *row, uint64_t *out) {
  for (int x = 0; x < c->w; x++)
    for (int ch = 0; ch < 3; ch++) {
      span s = c->spans[x];
      uint64_t sum = row[3 * s.first + ch] * s.head;
      if (s.last > s.first) {
        uint64_t mid = 0;
        for (int i = s.first + 1; i < s.last; i++) mid += row[3 * i + ch];
        sum += mid * c->x.unit + row[3 * s.last + ch] * s.tail;
      }
      out[3 * x + ch] = sum;
    }
}

enum { AREA_ROWS = 8 }; // rows of a job: neighbours share a source row

// Two roundings in double precision and one to float32, everywhere: a product that is fused with the sum would have one less.
__attribute__((noinline)) static double times(double a, double b) { return a * b; }

static void area_rows(void *ctx, int job, int worker) {
  const cut *c = ctx;
  uint64_t *row = c->sums + (size_t)worker * 2 * c->wide, *sum = row + c->wide;
  int packed = c->wide == (size_t)c->w, done = -1, to = af_min(c->h, (job + 1) * AREA_ROWS);
  const uint64_t mask = (1 << LANE) - 1;
  for (int y = job * AREA_ROWS; y < to; y++) {
    span s = covered(c->y, y);
    memset(sum, 0, c->wide * sizeof *sum);
    for (int i = s.first; i <= s.last; i++) {
      uint64_t w = i == s.first ? s.head : i == s.last ? s.tail : c->y.unit;
      if (i != done) (packed ? sum_packed : sum_wide)(c, c->src + (size_t)i * (size_t)c->src_w * 3, row);
      done = i;
      for (size_t j = 0; j < c->wide; j++) sum[j] += row[j] * w;
    }
    float *base = place(c, y);
    for (int x = 0; x < c->w; x++) {
      float *out = base + c->across[x / c->patch] * c->dst.stride + x % c->patch;
      for (int ch = 0; ch < 3; ch++) {
        uint64_t v = packed ? sum[x] >> (ch * LANE) & mask : sum[3 * x + ch];
        out[ch * c->stride] = (float)(times((double)v, c->scale[ch]) + c->shift[ch]);
      }
    }
  }
}

int af_patches_area(af_device *d, af_view dst, const uint8_t *src, int src_w, int w, int h, uint64_t unit_x, uint64_t total_x, uint64_t unit_y,
                    uint64_t total_y, int patch, int stride, const int32_t *down, const int32_t *across, const double *scale, const double *shift) {
  cut c = {.dst = dst, .src = src, .src_w = src_w, .w = w, .h = h, .patch = patch, .stride = stride, .down = down, .across = across,
           .x = {unit_x, total_x}, .y = {unit_y, total_y}, .scale = scale, .shift = shift};
  c.wide = c.x.total * c.y.total * 255 < 1 << LANE ? (size_t)w : (size_t)w * 3;
  size_t spans = af_round_up((size_t)w * sizeof *c.spans, 64);
  uint8_t *room = af_scratch(d, spans + (size_t)d->threads * 2 * c.wide * sizeof *c.sums);
  if (!room) return AF_NOMEM;
  span *s = (span *)room;
  for (int x = 0; x < w; x++) s[x] = covered(c.x, x);
  c.spans = s;
  c.sums = (uint64_t *)(room + spans);
  af_pool_run(d->pool, (h + AREA_ROWS - 1) / AREA_ROWS, area_rows, &c);
  return AF_OK;
}
