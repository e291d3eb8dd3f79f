// Sixteen floats: AVX-512 F, BW, DQ, VL.
#include <immintrin.h>

#define AF_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")))
#define FN static AF_TARGET
#define INL static inline __attribute__((always_inline)) AF_TARGET
#define UNROLL _Pragma("GCC unroll 32")
typedef __m512 vf;
enum { VN = 16, NV = 2, MR = 12 }; // 24 sums and 2 weights in 32 registers, activations broadcast from memory

INL __mmask16 v_mask(int n) { return (__mmask16)((1u << n) - 1); }
INL vf v_set1(float x) { return _mm512_set1_ps(x); }
INL vf v_load(const float *p) { return _mm512_loadu_ps(p); }
INL void v_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
INL vf v_loadn(const float *p, int n) { return _mm512_maskz_loadu_ps(v_mask(n), p); }
INL void v_storen(float *p, vf v, int n) { _mm512_mask_storeu_ps(p, v_mask(n), v); }
INL vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INL vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INL vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INL vf v_abs(vf a) { return _mm512_abs_ps(a); }
INL float v_sum(vf a) { return _mm512_reduce_add_ps(a); }
// The sums of sixteen vectors.
INL vf v_sums(vf a[16]) {
  vf b[8], c[4], d[2];
  UNROLL for (int i = 0; i < 8; i++) b[i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]) + _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  UNROLL for (int i = 0; i < 4; i++) {
    __m512d x = _mm512_castps_pd(b[2 * i]), y = _mm512_castps_pd(b[2 * i + 1]);
    c[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y)) + _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
  }
  UNROLL for (int i = 0; i < 2; i++) d[i] = _mm512_shuffle_f32x4(c[2 * i], c[2 * i + 1], 0x88) + _mm512_shuffle_f32x4(c[2 * i], c[2 * i + 1], 0xdd);
  return _mm512_shuffle_f32x4(d[0], d[1], 0x88) + _mm512_shuffle_f32x4(d[0], d[1], 0xdd);
}
INL float v_peak(vf a) { return _mm512_reduce_max_ps(a); }
// c - 128·w
INL vf v_less128(const int32_t *c, const int32_t *w) {
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(c), _mm512_slli_epi32(_mm512_loadu_si512(w), 7)));
}
INL vf v_i8(const int8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }
INL void v_i4x2(const uint8_t *p, vf *low, vf *high) { // a table look-up by the lowest four bits
  __m512i v = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
  __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  *low = _mm512_permutexvar_ps(v, table);
  *high = _mm512_permutexvar_ps(_mm512_srli_epi32(v, 4), table);
}
INL void v_bf16x2(const uint16_t *p, vf *even, vf *odd) {
  __m512i v = _mm512_loadu_si512(p);
  *even = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
  *odd = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)));
}
INL vf v_ldexp(vf x, vf n) { return _mm512_scalef_ps(x, n); }
INL vf v_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
