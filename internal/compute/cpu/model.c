// The instructions of dot_avx512.c and amx.c in plain C, on the same packed memory: what proves the packing on a machine that
// lacks them.
#include <math.h>
#include <string.h>

#include "kernels.h"

// One tile: c [16, 16 of 32] += a [16 rows, 64 bytes] · b [16 groups, 64 bytes of 128]
static void tile_bf16(const uint8_t *a, const uint8_t *b, float *c) {
  for (int r = 0; r < 16; r++)
    for (int g = 0; g < 16; g++)
      for (int n = 0; n < 16; n++)
        for (int i = 0; i < 2; i++) {
          uint16_t x, w;
          memcpy(&x, a + r * 64 + g * 4 + i * 2, 2);
          memcpy(&w, b + g * 128 + n * 4 + i * 2, 2);
          c[r * 32 + n] += af_from_bf16(x) * af_from_bf16(w);
        }
}

static void tile_u8(const uint8_t *a, const uint8_t *b, int32_t *c) {
  for (int r = 0; r < 16; r++)
    for (int g = 0; g < 16; g++)
      for (int n = 0; n < 16; n++)
        for (int i = 0; i < 4; i++) c[r * 32 + n] += a[r * 64 + g * 4 + i] * (int8_t)b[g * 128 + n * 4 + i];
}

void af_model_block_bf16(int rows, int steps, const uint8_t *a, const void *b, void *c) {
  memset(c, 0, (rows > 16 ? 32 : 16) * 128);
  for (int top = 0; top < rows; top += 16)
    for (int s = 0; s < steps; s++)
      for (int half = 0; half < 2; half++)
        tile_bf16(a + (top / 16 * steps + s) * 1024, (const uint8_t *)b + s * 2048 + half * 64, (float *)c + top * 32 + half * 16);
}

void af_model_block_u8(int rows, int steps, const uint8_t *a, const void *b, void *c) {
  memset(c, 0, (rows > 16 ? 32 : 16) * 128);
  for (int top = 0; top < rows; top += 16)
    for (int s = 0; s < steps; s++)
      for (int half = 0; half < 2; half++)
        tile_u8(a + (top / 16 * steps + s) * 1024, (const uint8_t *)b + s * 2048 + half * 64, (int32_t *)c + top * 32 + half * 16);
}

void af_model_row_i8(int rows, int steps, const uint8_t *hi, const uint8_t *lo, ptrdiff_t lda, const void *b, const int32_t *wsum, float *c) {
  for (int r = 0; r < rows; r++)
    for (int n = 0; n < 32; n++) {
      int32_t h = 0, l = 0;
      for (int k = 0; k < steps * 64; k++) {
        int w = ((const int8_t *)b)[(k / 4 * 32 + n) * 4 + k % 4];
        h += hi[r * lda + k] * w;
        l += lo[r * lda + k] * w;
      }
      c[r * 32 + n] = (float)(h - 128 * wsum[n]) * 256 + (float)l;
    }
}

static int value_i4(const uint8_t *b, int k, int n) { return (b[(k / 4 * 16 + n % 16) * 4 + k % 4] >> (n < 16 ? 0 : 4) & 15) - 8; }

void af_model_row_i4(int rows, int groups, const int8_t *hi, const int8_t *lo, ptrdiff_t lda, const uint8_t *b, const float *scale, const int32_t *xsum, float *c) {
  (void)xsum; // there is nothing to take off here
  for (int r = 0; r < rows; r++)
    for (int n = 0; n < 32; n++) {
      float sum = 0;
      for (int g = 0; g < groups; g++) {
        int32_t t = 0;
        for (int k = g * AF_I4_GROUP; k < (g + 1) * AF_I4_GROUP; k++) t += (hi[r * lda + k] * 256 + lo[r * lda + k]) * value_i4(b, k, n);
        sum = fmaf((float)t, scale[g * 32 + n], sum);
      }
      c[r * 32 + n] = sum;
    }
}

void af_model_widen_i4(int groups, const uint8_t *b, const float *scale, uint16_t *out) {
  for (int k = 0; k < groups * AF_I4_GROUP; k++)
    for (int n = 0; n < 32; n++) out[(k / 2 * 32 + n) * 2 + k % 2] = af_to_bf16((float)value_i4(b, k, n) * scale[k / AF_I4_GROUP * 32 + n]);
}

void af_model_step_bf16(const float *x, int n, uint8_t *out) {
  for (int i = 0; i < 32; i++) {
    uint16_t h = i < n ? af_to_bf16(x[i]) : 0;
    memcpy(out + 2 * i, &h, 2);
  }
}

float af_model_softmax_bf16(const float *s, ptrdiff_t panel, int panels, int seen, float *m, float *l, uint8_t *p, ptrdiff_t step) {
  float top = *m, sum = 0;
  for (int j = 0; j < seen; j++) top = fmaxf(top, s[j / 32 * panel + j % 32]);
  float keep = *l == 0 ? 0 : exp2f(*m - top);
  for (int j = 0; j < panels * 32; j++) {
    float e = j < seen ? exp2f(s[j / 32 * panel + j % 32] - top) : 0;
    uint16_t h = af_to_bf16(e);
    memcpy(p + j / 32 * step + j % 32 * 2, &h, 2);
    sum += e;
  }
  *m = top;
  *l = *l * keep + sum;
  return seen > 0 ? keep : 1;
}

void af_model_step_u8(const float *x, int n, float inv, uint8_t *out) {
  for (int i = 0; i < 64; i++) out[i] = i < n ? (uint8_t)((int)__builtin_rintf(x[i] * inv) + 128) : 128;
}
