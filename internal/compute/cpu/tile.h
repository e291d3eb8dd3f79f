// Matrix tiles over the vectors of vec_*.h: MR x NR sums held in registers over the whole inner dimension.

enum { NR = NV * VN };

INL void tile_load(const int rows, vf s[MR][NV], const float *c, ptrdiff_t ldc, int add) {
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < NV; j++) s[i][j] = add ? v_load(c + i * ldc + j * VN) : v_set1(0);
}

INL void tile_store(const int rows, vf s[MR][NV], float *c, ptrdiff_t ldc) {
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < NV; j++) v_store(c + i * ldc + j * VN, s[i][j]);
}

INL void tile_step(const int rows, vf s[MR][NV], const float *a, ptrdiff_t lda, vf b[NV]) {
  UNROLL for (int i = 0; i < rows; i++) {
    vf x = v_set1(a[i * lda]);
    UNROLL for (int j = 0; j < NV; j++) s[i][j] = v_fma(x, b[j], s[i][j]);
  }
}

INL void tile_f32_rows(const int rows, int k, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc, int add) {
  vf s[MR][NV], w[NV];
  tile_load(rows, s, c, ldc, add);
  for (int i = 0; i < k; i++, a++, b += ldb) {
    UNROLL for (int j = 0; j < NV; j++) w[j] = v_load(b + j * VN);
    tile_step(rows, s, a, lda, w);
  }
  tile_store(rows, s, c, ldc);
}

INL void tile_bf16_rows(const int rows, int k, const float *a, ptrdiff_t lda, const uint16_t *b, float *c, ptrdiff_t ldc) {
  vf s[MR][NV], even[NV], odd[NV];
  tile_load(rows, s, c, ldc, 0);
  int i = 0;
  for (; i + 2 <= k; i += 2, a += 2, b += 2 * NR) {
    UNROLL for (int j = 0; j < NV; j++) v_bf16x2(b + 2 * j * VN, &even[j], &odd[j]);
    tile_step(rows, s, a, lda, even);
    tile_step(rows, s, a + 1, lda, odd);
  }
  if (i < k) { // a has no partner for the last one
    UNROLL for (int j = 0; j < NV; j++) v_bf16x2(b + 2 * j * VN, &even[j], &odd[j]);
    tile_step(rows, s, a, lda, even);
  }
  tile_store(rows, s, c, ldc);
}

INL void tile_i8_rows(const int rows, int k, const float *a, ptrdiff_t lda, const int8_t *b, float *c, ptrdiff_t ldc) {
  vf s[MR][NV], w[NV];
  tile_load(rows, s, c, ldc, 0);
  for (int i = 0; i < k; i++, a++, b += NR) {
    UNROLL for (int j = 0; j < NV; j++) w[j] = v_i8(b + j * VN);
    tile_step(rows, s, a, lda, w);
  }
  tile_store(rows, s, c, ldc);
}

// Whole groups of int4 are summed before they are scaled.
INL void tile_i4_rows(const int rows, int k, const float *a, ptrdiff_t lda, const uint8_t *b, const float *scale, float *c, ptrdiff_t ldc) {
  for (int add = 0; k > 0; k -= AF_I4_GROUP, scale += NR, add = 1) {
    vf s[MR][NV], w[NV];
    tile_load(rows, s, c, ldc, 0);
    for (int i = 0; i < af_min(k, AF_I4_GROUP); i++, a++, b += NR / 2) {
      UNROLL for (int j = 0; j < NV / 2; j++) v_i4x2(b + j * VN, &w[j], &w[j + NV / 2]);
      tile_step(rows, s, a, lda, w);
    }
    UNROLL for (int i = 0; i < rows; i++)
      UNROLL for (int j = 0; j < NV; j++) s[i][j] = v_fma(s[i][j], v_load(scale + j * VN), add ? v_load(c + i * ldc + j * VN) : v_set1(0));
    tile_store(rows, s, c, ldc);
  }
}

// A constant number of rows keeps the sums in registers.
#define EACH_ROWS(CASE) \
  CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)

FN void tile_f32(int rows, int k, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc, int add) {
#define CASE(n) case n: if (n <= MR) tile_f32_rows(n <= MR ? n : 1, k, a, lda, b, ldb, c, ldc, add); return;
  switch (rows) { EACH_ROWS(CASE) }
#undef CASE
}

FN void tile_bf16(int rows, int k, const float *a, ptrdiff_t lda, const uint16_t *b, float *c, ptrdiff_t ldc) {
#define CASE(n) case n: if (n <= MR) tile_bf16_rows(n <= MR ? n : 1, k, a, lda, b, c, ldc); return;
  switch (rows) { EACH_ROWS(CASE) }
#undef CASE
}

FN void tile_i8(int rows, int k, const float *a, ptrdiff_t lda, const int8_t *b, float *c, ptrdiff_t ldc) {
#define CASE(n) case n: if (n <= MR) tile_i8_rows(n <= MR ? n : 1, k, a, lda, b, c, ldc); return;
  switch (rows) { EACH_ROWS(CASE) }
#undef CASE
}

FN void tile_i4(int rows, int k, const float *a, ptrdiff_t lda, const uint8_t *b, const float *scale, float *c, ptrdiff_t ldc) {
#define CASE(n) case n: if (n <= MR) tile_i4_rows(n <= MR ? n : 1, k, a, lda, b, scale, c, ldc); return;
  switch (rows) { EACH_ROWS(CASE) }
#undef CASE
}

FN void widen_bf16(int k, const uint16_t *b, float *out) {
  for (int i = 0; i < k; i += 2, b += 2 * NR, out += 2 * NR)
    for (int j = 0; j < NV; j++) {
      vf even, odd;
      v_bf16x2(b + 2 * j * VN, &even, &odd);
      v_store(out + j * VN, even);
      v_store(out + NR + j * VN, odd); // for an odd k this is a row more, which the caller has room for
    }
}

FN void widen_i8(int k, const int8_t *b, float *out) {
  for (ptrdiff_t i = 0; i < (ptrdiff_t)k * NR; i += VN) v_store(out + i, v_i8(b + i));
}

FN void widen_i4(int k, const uint8_t *b, const float *scale, float *out) {
  for (; k > 0; k--, b += NR / 2, out += NR)
    for (int j = 0; j < NV / 2; j++) {
      vf low, high;
      v_i4x2(b + j * VN, &low, &high);
      v_store(out + j * VN, low * v_load(scale + j * VN));
      v_store(out + NR / 2 + j * VN, high * v_load(scale + NR / 2 + j * VN));
    }
}
