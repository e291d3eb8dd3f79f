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

INL void row_i8(const int rows, int steps, const uint8_t *hi, const uint8_t *lo, ptrdiff_t lda, const uint8_t *b, const int32_t *wsum, float *c) {
  __m512i h[AF_SPLIT_ROWS][2], l[AF_SPLIT_ROWS][2];
  UNROLL for (int i = 0; i < rows; i++) h[i][0] = h[i][1] = l[i][0] = l[i][1] = _mm512_setzero_si512();
  for (int k = 0; k < steps * 16; k++, hi += 4, lo += 4, b += 128) {
    __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + 64);
    UNROLL for (int i = 0; i < rows; i++) {
      __m512i x = _mm512_set1_epi32(dword(hi + i * lda)), y = _mm512_set1_epi32(dword(lo + i * lda));
      h[i][0] = _mm512_dpbusd_epi32(h[i][0], x, b0);
      h[i][1] = _mm512_dpbusd_epi32(h[i][1], x, b1);
      l[i][0] = _mm512_dpbusd_epi32(l[i][0], y, b0);
      l[i][1] = _mm512_dpbusd_epi32(l[i][1], y, b1);
    }
  }
  UNROLL for (int j = 0; j < 2; j++) {
    __m512i off = _mm512_slli_epi32(_mm512_loadu_si512(wsum + 16 * j), 7);
    UNROLL for (int i = 0; i < rows; i++) {
      __m512 top = _mm512_cvtepi32_ps(_mm512_sub_epi32(h[i][j], off));
      _mm512_storeu_ps(c + i * 32 + 16 * j, _mm512_fmadd_ps(top, _mm512_set1_ps(256), _mm512_cvtepi32_ps(l[i][j])));
    }
  }
}

// Within a group everything is exact: 128 products of 15 and 2^15 at most.
INL void row_i4(const int rows, int groups, const uint8_t *hi, const uint8_t *lo, ptrdiff_t lda, const uint8_t *b, const float *scale, const int32_t *xsum, float *c) {
  __m512 s[AF_SPLIT_ROWS][2];
  UNROLL for (int i = 0; i < rows; i++) s[i][0] = s[i][1] = _mm512_setzero_ps();
  const __m512i half = _mm512_set1_epi8(15);
  for (int g = 0; g < groups; g++, scale += 32) {
    __m512i h[AF_SPLIT_ROWS][2], l[AF_SPLIT_ROWS][2];
    UNROLL for (int i = 0; i < rows; i++) h[i][0] = h[i][1] = l[i][0] = l[i][1] = _mm512_setzero_si512();
    for (int k = 0; k < AF_I4_GROUP / 4; k++, hi += 4, lo += 4, b += 64) {
      __m512i w = _mm512_loadu_si512(b), b0 = _mm512_and_si512(w, half), b1 = _mm512_and_si512(_mm512_srli_epi16(w, 4), half);
      UNROLL for (int i = 0; i < rows; i++) {
        __m512i x = _mm512_set1_epi32(dword(hi + i * lda)), y = _mm512_set1_epi32(dword(lo + i * lda));
        h[i][0] = _mm512_dpbusd_epi32(h[i][0], b0, x);
        h[i][1] = _mm512_dpbusd_epi32(h[i][1], b1, x);
        l[i][0] = _mm512_dpbusd_epi32(l[i][0], b0, y);
        l[i][1] = _mm512_dpbusd_epi32(l[i][1], b1, y);
      }
    }
    UNROLL for (int i = 0; i < rows; i++) {
      __m512i off = _mm512_set1_epi32(8 * xsum[i * groups + g]);
      UNROLL for (int j = 0; j < 2; j++) {
        __m512i t = _mm512_sub_epi32(_mm512_add_epi32(_mm512_slli_epi32(h[i][j], 8), l[i][j]), off);
        s[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(t), _mm512_loadu_ps(scale + 16 * j), s[i][j]);
      }
    }
  }
  UNROLL for (int i = 0; i < rows; i++) {
    _mm512_storeu_ps(c + i * 32, s[i][0]);
    _mm512_storeu_ps(c + i * 32 + 16, s[i][1]);
  }
}

TARGET void af_row_i8(int rows, int steps, const uint8_t *hi, const uint8_t *lo, ptrdiff_t lda, const void *b, const int32_t *wsum, float *c) {
  switch (rows) {
  case 1: row_i8(1, steps, hi, lo, lda, b, wsum, c); return;
  case 2: row_i8(2, steps, hi, lo, lda, b, wsum, c); return;
  case 3: row_i8(3, steps, hi, lo, lda, b, wsum, c); return;
  case 4: row_i8(4, steps, hi, lo, lda, b, wsum, c); return;
  }
}

TARGET void af_row_i4(int rows, int groups, const int8_t *hi, const int8_t *lo, ptrdiff_t lda, const uint8_t *b, const float *scale, const int32_t *xsum, float *c) {
  const uint8_t *h = (const uint8_t *)hi, *l = (const uint8_t *)lo;
  switch (rows) {
  case 1: row_i4(1, groups, h, l, lda, b, scale, xsum, c); return;
  case 2: row_i4(2, groups, h, l, lda, b, scale, xsum, c); return;
  case 3: row_i4(3, groups, h, l, lda, b, scale, xsum, c); return;
  case 4: row_i4(4, groups, h, l, lda, b, scale, xsum, c); return;
  }
}

// The values + 8 at a bit of every 32-bit lane, times scales.
INL __m512 value_i4(__m512i w, const int bit, __m512 scale) {
  __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  return _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(w, bit), table), scale); // by the lowest four bits
}

INL void store_pairs(__m512 even, __m512 odd, uint16_t *out) {
  static const uint16_t order[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  lanes v;
  v.h = _mm512_cvtne2ps_pbh(odd, even);
  _mm512_storeu_si512(out, _mm512_permutexvar_epi16(_mm512_loadu_si512(order), v.i));
}

TARGET void af_widen_i4(int groups, const uint8_t *b, const float *scale, uint16_t *out) {
  for (; groups > 0; groups--, scale += 32) {
    __m512 s0 = _mm512_loadu_ps(scale), s1 = _mm512_loadu_ps(scale + 16);
    for (int k = 0; k < AF_I4_GROUP; k += 4, b += 64, out += 128) {
      __m512i w = _mm512_loadu_si512(b);
      store_pairs(value_i4(w, 0, s0), value_i4(w, 8, s0), out);
      store_pairs(value_i4(w, 4, s1), value_i4(w, 12, s1), out + 32);
      store_pairs(value_i4(w, 16, s0), value_i4(w, 24, s0), out + 64);
      store_pairs(value_i4(w, 20, s1), value_i4(w, 28, s1), out + 96);
    }
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
