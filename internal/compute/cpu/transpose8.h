// transpose for both AVX levels: blocks of 8x8 in registers. Wider blocks need as many shuffles an element.
FN void transpose(const float *k, ptrdiff_t ldk, int n, int dim, float *out, int ld) {
  for (int j = 0; j < ld; j += 8) {
    int c = 0;
    if (j + 8 <= n) {
      const float *p = k + j * ldk;
      for (; c + 8 <= dim; c += 8, p += 8) {
        __m256 a[8], b[8];
        for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(p + i * ldk);
        for (int i = 0; i < 8; i += 2) {
          b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
          b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
        }
        for (int i = 0; i < 8; i += 4) {
          a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
          a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
          a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
          a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
        }
        for (int i = 0; i < 4; i++) {
          _mm256_storeu_ps(out + (c + i) * ld + j, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
          _mm256_storeu_ps(out + (c + i + 4) * ld + j, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
        }
      }
    }
    for (; c < dim; c++)
      for (int i = j; i < j + 8; i++) out[c * ld + i] = i < n ? k[i * ldk + c] : 0;
  }
}
