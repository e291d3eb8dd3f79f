// Eight floats: AVX2 and FMA.
#include <immintrin.h>

#define AF_TARGET __attribute__((target("avx2,fma")))
#define FN static AF_TARGET
#define INL static inline __attribute__((always_inline)) AF_TARGET
#define UNROLL _Pragma("GCC unroll 32")
typedef __m256 vf;
enum { VN = 8, NV = 2, MR = 6 }; // 12 sums, 2 weights and 1 activation in 16 registers

INL __m256i v_mask(int n) {
  static const int32_t mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256((const __m256i *)(mask + 8 - n));
}
INL vf v_set1(float x) { return _mm256_set1_ps(x); }
INL vf v_load(const float *p) { return _mm256_loadu_ps(p); }
INL void v_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
// A masked store is microcode on AMD, some twenty cycles, so whole vectors go around it.
INL vf v_loadn(const float *p, int n) { return n >= 8 ? v_load(p) : _mm256_maskload_ps(p, v_mask(n)); }
INL void v_storen(float *p, vf v, int n) {
  if (n >= 8) v_store(p, v);
  else _mm256_maskstore_ps(p, v_mask(n), v);
}
INL vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INL vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INL vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INL vf v_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INL float v_sum(vf a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
// The sums of eight vectors.
INL vf v_sums(vf a[8]) {
  vf b[4], c[2];
  UNROLL for (int i = 0; i < 4; i++) b[i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]) + _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  UNROLL for (int i = 0; i < 2; i++) {
    __m256d x = _mm256_castps_pd(b[2 * i]), y = _mm256_castps_pd(b[2 * i + 1]);
    c[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(x, y)) + _mm256_castpd_ps(_mm256_unpackhi_pd(x, y));
  }
  return _mm256_permute2f128_ps(c[0], c[1], 0x20) + _mm256_permute2f128_ps(c[0], c[1], 0x31);
}
INL float v_peak(vf a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
INL vf v_less128(const int32_t *c, const int32_t *w) { // c - 128·w
  __m256i v = _mm256_loadu_si256((const __m256i *)c), u = _mm256_loadu_si256((const __m256i *)w);
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(v, _mm256_slli_epi32(u, 7)));
}
INL vf v_i8(const int8_t *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p))); }
INL void v_i4x2(const uint8_t *p, vf *low, vf *high) {
  __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)), eight = _mm256_set1_epi32(8);
  *low = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(v, _mm256_set1_epi32(15)), eight));
  *high = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(v, 4), eight));
}
INL void v_bf16x2(const uint16_t *p, vf *even, vf *odd) {
  __m256i v = _mm256_loadu_si256((const __m256i *)p);
  *even = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
  *odd = _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000)));
}
INL vf v_ldexp(vf x, vf n) {
  __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(x, _mm256_castsi256_ps(e));
}
INL vf v_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
