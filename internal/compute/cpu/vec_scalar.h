// One float at a time, in portable C. The same names as vec_avx2.h and vec_avx512.h; tile.h and rows.h are written on them.
#include <math.h>

#define FN static
#define INL static inline __attribute__((always_inline))
#define UNROLL // left to the compiler, which makes vectors of the loops across a panel
typedef float vf;
enum { VN = 1, NV = 32, MR = 1 }; // lanes, vectors across a panel (as AVX-512 and AMX have it), rows of a tile

INL vf v_set1(float x) { return x; }
INL vf v_load(const float *p) { return *p; }
INL void v_store(float *p, vf v) { *p = v; }
INL vf v_loadn(const float *p, int n) { return n > 0 ? *p : 0; }
INL void v_storen(float *p, vf v, int n) {
  if (n > 0) *p = v;
}
INL vf v_fma(vf a, vf b, vf c) { return a * b + c; }
INL vf v_max(vf a, vf b) { return a > b ? a : b; }
INL vf v_min(vf a, vf b) { return a < b ? a : b; }
INL vf v_abs(vf a) { return __builtin_fabsf(a); }
INL float v_sum(vf a) { return a; }
INL float v_peak(vf a) { return a; }
INL vf v_less128(const int32_t *c, const int32_t *w) { return (float)(*c - 128 * *w); }
INL vf v_i8(const int8_t *p) { return (float)*p; }
// 2·VN int4 values, each 8 too large: of the low halves of VN bytes, and of the high ones
INL void v_i4x2(const uint8_t *p, vf *low, vf *high) { *low = (float)((*p & 15) - 8), *high = (float)((*p >> 4) - 8); }
INL void v_bf16x2(const uint16_t *p, vf *even, vf *odd) { *even = af_from_bf16(p[0]), *odd = af_from_bf16(p[1]); }
// 2^n·x for whole n in [-126, 127]
INL vf v_ldexp(vf x, vf n) {
  union { uint32_t i; float f; } s = {((uint32_t)(int32_t)n + 127) << 23};
  return x * s.f;
}
INL vf v_round(vf a) { return (float)(int32_t)(a + (a < 0 ? -0.5f : 0.5f)); }
