#define _GNU_SOURCE
#include "kernels.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

int af_detect(void) {
  int f = 0;
#ifdef __x86_64__
  // These look at CPUID and at XCR0, so a kernel that does not save the wide registers counts as not having them.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) f |= AF_AVX2;
  if ((f & AF_AVX2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    f |= AF_AVX512;
  if ((f & AF_AVX512) && __builtin_cpu_supports("avx512bf16")) f |= AF_BF16;
  if ((f & AF_AVX512) && __builtin_cpu_supports("avx512vnni")) f |= AF_VNNI;
  unsigned a, b, c, d;
  const unsigned amx = 1u << 22 | 1u << 24 | 1u << 25; // bf16, tile, int8
  if ((f & AF_BF16) && (f & AF_VNNI) && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & amx) == amx && af_amx_permit()) f |= AF_AMX;
#endif
  return f;
}

void *af_map(size_t bytes) {
  if (bytes == 0) bytes = 1;
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
  if (bytes >= 4u << 20) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return p;
}

void af_unmap(void *p, size_t bytes) {
  if (p) munmap(p, bytes ? bytes : 1);
}

uint8_t *af_scratch(af_device *d, size_t bytes) {
  if (bytes > d->scratch_size) {
    af_unmap(d->scratch, d->scratch_size);
    d->scratch_size = af_round_up(bytes + bytes / 2, 4096);
    d->scratch = af_map(d->scratch_size);
    if (!d->scratch) d->scratch_size = 0;
  }
  return d->scratch;
}

af_device *af_open(int threads, int features) {
  af_device *d = calloc(1, sizeof *d);
  if (!d) return NULL;
  d->threads = threads;
  d->features = features;
  d->k = &af_scalar;
#ifdef __x86_64__
  if (features & AF_AVX512) d->k = &af_avx512;
  else if (features & AF_AVX2) d->k = &af_avx2;
  if (features & AF_BF16) {
    d->row_bf16 = af_row_bf16;
    d->step_bf16 = af_step_bf16;
    d->softmax_bf16 = af_softmax_bf16;
  }
  if (features & AF_VNNI) {
    d->row_u8 = af_row_u8;
    d->step_u8 = af_step_u8;
    d->row_i8 = af_row_i8;
  }
  if ((features & AF_BF16) && (features & AF_VNNI)) { // many rows of int4 go by bfloat16
    d->row_i4 = af_row_i4;
    d->widen_i4 = af_widen_i4;
  }
  if (features & AF_AMX) {
    d->block_bf16 = af_block_bf16;
    d->block_u8 = af_block_u8;
  }
#endif
  if (features & AF_AMX_MODEL) {
    d->row_i8 = af_model_row_i8;
    d->row_i4 = af_model_row_i4;
    d->widen_i4 = af_model_widen_i4;
    d->step_bf16 = af_model_step_bf16;
    d->softmax_bf16 = af_model_softmax_bf16;
    d->step_u8 = af_model_step_u8;
    d->block_bf16 = af_model_block_bf16;
    d->block_u8 = af_model_block_u8;
  }
  d->pool = af_pool_new(threads);
  if (!d->pool) {
    free(d);
    return NULL;
  }
  return d;
}

void af_close(af_device *d) {
  af_pool_free(d->pool);
  af_unmap(d->scratch, d->scratch_size);
  free(d->rope_table);
  free(d->rope_pos);
  free(d->rope_freq);
  free(d);
}

void af_weight_free(af_weight *w) {
  if (!w) return;
  af_unmap(w->data, w->bytes);
  free(w->colscale);
  free(w->wsum);
  free(w->groupscale);
  free(w);
}

static int groups(const af_weight *w) { return (w->in + AF_I4_GROUP - 1) / AF_I4_GROUP; }

static void layout(const af_device *d, af_weight *w) {
  size_t element = 0; // bytes
  w->nr = d->k->nr;
  w->kpad = w->in;
  switch (w->dtype) {
  case AF_F32:
    w->layout = AF_PANEL_F32;
    element = 4;
    break;
  case AF_DT_BF16:
    w->layout = AF_PANEL_BF16;
    w->kpad = (int)af_round_up((size_t)w->in, d->row_bf16 || d->block_bf16 ? 32 : 2);
    element = 2;
    break;
  case AF_I4:
    w->layout = d->row_i4 ? AF_PANEL_I4X4 : AF_PANEL_I4;
    if (d->row_i4) w->kpad = (int)af_round_up((size_t)w->in, AF_I4_GROUP);
    break;
  default:
    w->layout = d->row_i8 ? AF_PANEL_I8X4 : AF_PANEL_I8;
    if (d->row_i8) w->kpad = (int)af_round_up((size_t)w->in, 64);
    element = 1;
  }
  w->panels = (w->out + w->nr - 1) / w->nr;
  w->panel_bytes = (size_t)w->kpad * (size_t)w->nr * element;
  if (w->dtype == AF_I4) w->panel_bytes = (size_t)w->kpad * (size_t)w->nr / 2;
  w->bytes = w->panel_bytes * (size_t)w->panels;
}

static float peak_of(const float *x, int n) {
  float peak = 0;
  for (int k = 0; k < n; k++) {
    float a = __builtin_fabsf(x[k]);
    if (a > peak) peak = a;
  }
  return peak;
}

// nearest returns v in whole scales, at most steps of them.
static int nearest(float v, float scale, int steps) {
  return scale > 0 ? af_max(-steps, af_min(steps, (int)__builtin_rintf(v / scale))) : 0;
}

static float *group_scale(const af_weight *w, int n, int k) {
  return w->groupscale + (size_t)(n / w->nr * groups(w) + k / AF_I4_GROUP) * (size_t)w->nr + (size_t)(n % w->nr);
}

// i4_at is the byte of a panel in which row k of column col lies, low half or high half.
static size_t i4_at(const af_weight *w, int k, int col) {
  size_t half = (size_t)w->nr / 2, c = (size_t)col % half;
  return w->layout == AF_PANEL_I4 ? (size_t)k * half + c : ((size_t)(k / 4) * half + c) * 4 + (size_t)(k % 4);
}

static void pack_row_i4(const af_weight *w, const float *src, int n, uint8_t *panel) {
  int half = w->nr / 2, col = n % w->nr;
  for (int from = 0; from < w->in; from += AF_I4_GROUP) {
    int to = af_min(from + AF_I4_GROUP, w->in);
    float scale = *group_scale(w, n, from) = peak_of(src + from, to - from) / 7;
    for (int k = from; k < to; k++) panel[i4_at(w, k, col)] |= (uint8_t)((nearest(src[k], scale, 7) + 8) << (col < half ? 0 : 4));
  }
}

static void pack_row(const af_weight *w, const float *src, int n) {
  uint8_t *panel = w->data + (size_t)(n / w->nr) * w->panel_bytes;
  size_t nr = (size_t)w->nr, col = (size_t)(n % w->nr);
  switch (w->layout) {
  case AF_PANEL_F32:
    for (int k = 0; k < w->in; k++) ((float *)panel)[(size_t)k * nr + col] = src[k];
    return;
  case AF_PANEL_BF16:
    for (int k = 0; k < w->in; k++) ((uint16_t *)panel)[((size_t)(k / 2) * nr + col) * 2 + (size_t)(k % 2)] = af_to_bf16(src[k]);
    return;
  case AF_PANEL_I4:
  case AF_PANEL_I4X4: pack_row_i4(w, src, n, panel); return;
  }
  float scale = w->colscale[n] = peak_of(src, w->in) / 127;
  int32_t sum = 0;
  for (int k = 0; k < w->in; k++) {
    int q = nearest(src[k], scale, 127);
    sum += q;
    if (w->layout == AF_PANEL_I8) ((int8_t *)panel)[(size_t)k * nr + col] = (int8_t)q;
    else ((int8_t *)panel)[((size_t)(k / 4) * nr + col) * 4 + (size_t)(k % 4)] = (int8_t)q;
  }
  w->wsum[n] = sum;
}

af_weight *af_weight_new(af_device *d, const float *src, int out, int in, int dtype) {
  af_weight *w = calloc(1, sizeof *w);
  if (!w) return NULL;
  w->out = out;
  w->in = in;
  w->dtype = dtype;
  layout(d, w);
  // Padded to whole panels, so that kernels may read a vector past the last column.
  size_t columns = (size_t)w->panels * (size_t)w->nr;
  w->data = af_map(w->bytes);
  w->colscale = dtype == AF_I8 ? calloc(columns, sizeof *w->colscale) : NULL;
  w->wsum = dtype == AF_I8 ? calloc(columns, sizeof *w->wsum) : NULL;
  w->groupscale = dtype == AF_I4 ? calloc(columns * (size_t)groups(w), sizeof *w->groupscale) : NULL;
  if (!w->data || (dtype == AF_I4 && !w->groupscale) || (dtype == AF_I8 && (!w->colscale || !w->wsum))) {
    af_weight_free(w);
    return NULL;
  }
  for (int n = 0; n < out; n++) pack_row(w, src + (size_t)n * (size_t)in, n);
  return w;
}

static float element(const af_weight *w, int n, int k) {
  const uint8_t *panel = w->data + (size_t)(n / w->nr) * w->panel_bytes;
  size_t nr = (size_t)w->nr, col = (size_t)(n % w->nr);
  switch (w->layout) {
  case AF_PANEL_F32: return ((const float *)panel)[(size_t)k * nr + col];
  case AF_PANEL_BF16: return af_from_bf16(((const uint16_t *)panel)[((size_t)(k / 2) * nr + col) * 2 + (size_t)(k % 2)]);
  case AF_PANEL_I4:
  case AF_PANEL_I4X4: return *group_scale(w, n, k) * (float)((panel[i4_at(w, k, (int)col)] >> (col < nr / 2 ? 0 : 4) & 15) - 8);
  case AF_PANEL_I8: return w->colscale[n] * ((const int8_t *)panel)[(size_t)k * nr + col];
  default: return w->colscale[n] * ((const int8_t *)panel)[((size_t)(k / 4) * nr + col) * 4 + (size_t)(k % 4)];
  }
}

void af_embed(af_device *d, af_view dst, const af_weight *table, const int32_t *ids) {
  (void)d;
  for (int r = 0; r < dst.rows; r++)
    for (int k = 0; k < dst.cols; k++) dst.p[r * dst.stride + k] = element(table, ids[r], k);
}

typedef struct {
  const uint64_t *p;
  size_t words;
  _Atomic uint64_t sum;
} reading;

enum { READ_WORDS = 1 << 18 }; // of a job: 2 MiB

static void read_some(void *ctx, int job, int worker) {
  (void)worker;
  reading *c = ctx;
  size_t from = (size_t)job * READ_WORDS, to = from + READ_WORDS < c->words ? from + READ_WORDS : c->words;
  uint64_t sum = 0;
  for (size_t i = from; i < to; i++) sum |= c->p[i];
  c->sum |= sum;
}

uint64_t af_read(af_device *d, const void *p, size_t bytes) {
  reading c = {.p = p, .words = bytes / 8};
  af_pool_run(d->pool, (int)((c.words + READ_WORDS - 1) / READ_WORDS), read_some, &c);
  return c.sum;
}

void af_copy(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, int rows, int cols) {
  if (ldd == cols && lds == cols) {
    memcpy(dst, src, (size_t)rows * (size_t)cols * sizeof *dst);
    return;
  }
  for (int r = 0; r < rows; r++) memcpy(dst + r * ldd, src + r * lds, (size_t)cols * sizeof *dst);
}
