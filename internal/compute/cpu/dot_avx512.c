// Products of rounded activations with AVX512-BF16 and AVX512-VNNI: each 32-bit lane multiplies 2 bfloat16 or 4 bytes at once.
#ifdef __x86_64__
#include <immintrin.h>
#include <math.h>

#include "kernels.h"

#define UNROLL _Pragma("GCC unroll 32")
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")))
#define INL static inline __attribute__((always_inline)) TARGET

typedef union {
  __m512i i;
  __m512bh h;
} lanes;

INL int32_t dword(const uint8_t *p) {
  int32_t v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

INL void row_bf16(const int rows, int steps, const uint8_t *a, ptrdiff_t lda, const uint8_t *b, float *c) {
  __m512 s[AF_MAX_MR][2];
  UNROLL for (int i = 0; i < rows; i++) s[i][0] = s[i][1] = _mm512_setzero_ps();
  for (int k = 0; k < steps * 16; k++, a += 4, b += 128) {
    lanes b0 = {_mm512_loadu_si512(b)}, b1 = {_mm512_loadu_si512(b + 64)};
    UNROLL for (int i = 0; i < rows; i++) {
      lanes x = {_mm512_set1_epi32(dword(a + i * lda))};
      s[i][0] = _mm512_dpbf16_ps(s[i][0], x.h, b0.h);
      s[i][1] = _mm512_dpbf16_ps(s[i][1], x.h, b1.h);
    }
  }
  UNROLL for (int i = 0; i < rows; i++) {
    _mm512_storeu_ps(c + i * 32, s[i][0]);
    _mm512_storeu_ps(c + i * 32 + 16, s[i][1]);
  }
}

INL void row_u8(const int rows, int steps, const uint8_t *a, ptrdiff_t lda, const uint8_t *b, int32_t *c) {
  __m512i s[AF_MAX_MR][2];
  UNROLL for (int i = 0; i < rows; i++) s[i][0] = s[i][1] = _mm512_setzero_si512();
  for (int k = 0; k < steps * 16; k++, a += 4, b += 128) {
    __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + 64);
    UNROLL for (int i = 0; i < rows; i++) {
      __m512i x = _mm512_set1_epi32(dword(a + i * lda));
      s[i][0] = _mm512_dpbusd_epi32(s[i][0], x, b0);
      s[i][1] = _mm512_dpbusd_epi32(s[i][1], x, b1);
    }
  }
  UNROLL for (int i = 0; i < rows; i++) {
    _mm512_storeu_si512(c + i * 32, s[i][0]);
    _mm512_storeu_si512(c + i * 32 + 16, s[i][1]);
  }
}

#define EACH_ROWS(CASE) \
  CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)

TARGET void af_row_bf16(int rows, int steps, const uint8_t *a, ptrdiff_t lda, const void *b, void *c) {
#define CASE(n) case n: row_bf16(n, steps, a, lda, b, c); return;
  switch (rows) { EACH_ROWS(CASE) }
#undef CASE
}

TARGET void af_row_u8(int rows, int steps, const uint8_t *a, ptrdiff_t lda, const void *b, void *c) {
#define CASE(n) case n: row_u8(n, steps, a, lda, b, c); return;
  switch (rows) { EACH_ROWS(CASE) }
#undef CASE
}

TARGET void af_step_bf16(const float *x, int n, uint8_t *out) {
  __mmask32 m = n >= 32 ? ~0u : (1u << n) - 1;
  __mmask16 lo = (__mmask16)m, hi = (__mmask16)(m >> 16);
  lanes v;
  v.h = _mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(hi, x + 16), _mm512_maskz_loadu_ps(lo, x));
  _mm512_storeu_si512(out, v.i);
}

// 2^x for x <= 0, within 1e-4: a minimax polynomial of what x has above a whole number, which vscalefps rounds down to by itself.
INL __m512 exp2_near(__m512 x) {
  __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), p = _mm512_set1_ps(0.0770669915f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.227645052f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.695116774f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1));
  return _mm512_scalef_ps(p, x);
}

// The lanes of two vectors that are among the first n.
INL void first_lanes(int n, __mmask16 *lo, __mmask16 *hi) {
  __mmask32 m = n >= 32 ? ~0u : (1u << n) - 1;
  *lo = (__mmask16)m;
  *hi = (__mmask16)(m >> 16);
}

TARGET float af_softmax_bf16(const float *s, ptrdiff_t panel, int panels, int seen, float *m, float *l, uint8_t *p, ptrdiff_t step) {
  __m512 none = _mm512_set1_ps(-INFINITY), top0 = _mm512_set1_ps(*m), top1 = none, sum0 = _mm512_setzero_ps(), sum1 = sum0;
  if (seen <= 0) {
    for (int i = 0; i < panels; i++) _mm512_storeu_si512(p + i * step, _mm512_setzero_si512());
    return 1;
  }
  __mmask16 lo, hi;
  int whole = seen / 32;
  for (int i = 0; i < whole; i++) {
    top0 = _mm512_max_ps(top0, _mm512_loadu_ps(s + i * panel));
    top1 = _mm512_max_ps(top1, _mm512_loadu_ps(s + i * panel + 16));
  }
  if (whole * 32 < seen) {
    first_lanes(seen - whole * 32, &lo, &hi);
    top0 = _mm512_max_ps(top0, _mm512_mask_loadu_ps(none, lo, s + whole * panel));
    top1 = _mm512_max_ps(top1, _mm512_mask_loadu_ps(none, hi, s + whole * panel + 16));
  }
  float top = _mm512_reduce_max_ps(_mm512_max_ps(top0, top1)), keep = 1;
  if (top > *m) {
    keep = *l == 0 ? 0 : exp2f(*m - top);
    *m = top;
  }
  __m512 base = _mm512_set1_ps(*m);
  for (int i = 0; i < panels; i++) {
    first_lanes(af_max(0, seen - i * 32), &lo, &hi);
    __m512 a = _mm512_maskz_loadu_ps(lo, s + i * panel), b = _mm512_maskz_loadu_ps(hi, s + i * panel + 16);
    a = _mm512_maskz_mov_ps(lo, exp2_near(_mm512_sub_ps(a, base)));
    b = _mm512_maskz_mov_ps(hi, exp2_near(_mm512_sub_ps(b, base)));
    sum0 = _mm512_add_ps(sum0, a);
    sum1 = _mm512_add_ps(sum1, b);
    lanes v;
    v.h = _mm512_cvtne2ps_pbh(b, a);
    _mm512_storeu_si512(p + i * step, v.i);
  }
  *l = *l * keep + _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1));
  return keep;
}

TARGET void af_step_u8(const float *x, int n, float inv, uint8_t *out) {
  for (int i = 0; i < 64; i += 16) {
    int m = af_max(0, af_min(16, n - i));
    __m512i q = _mm512_cvtps_epi32(_mm512_maskz_loadu_ps((__mmask16)((1u << m) - 1), x + i) * _mm512_set1_ps(inv));
    _mm_storeu_si128((__m128i *)(out + i), _mm512_cvtepi32_epi8(_mm512_add_epi32(q, _mm512_set1_epi32(128))));
  }
}
#endif
