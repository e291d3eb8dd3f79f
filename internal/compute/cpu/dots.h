// dots for both AVX levels: s [rows, keys up to whole vectors, lds apart] = q [rows, dim] · k [keys, dim]ᵀ, keys straight from memory. For
// few rows: to turn a block of keys around costs as much as some ten rows of products.
INL void dots_rows(const int n, int rows, int dim, const float *q, const float *k, ptrdiff_t ldk, float *s, ptrdiff_t lds) {
  for (int r = 0; r < rows; r++, q += dim, s += lds) {
    vf sum[VN];
    UNROLL for (int i = 0; i < VN; i++) sum[i] = v_set1(0);
    int c = 0;
    for (; c + VN <= dim; c += VN) {
      vf x = v_load(q + c);
      UNROLL for (int i = 0; i < VN; i++) sum[i] = v_fma(x, v_load(k + af_min(i, n - 1) * ldk + c), sum[i]);
    }
    if (c < dim) {
      vf x = v_loadn(q + c, dim - c);
      UNROLL for (int i = 0; i < VN; i++) sum[i] = v_fma(x, v_loadn(k + af_min(i, n - 1) * ldk + c, dim - c), sum[i]);
    }
    v_store(s, v_sums(sum));
  }
}

FN void dots(int rows, int keys, int dim, const float *q, const float *k, ptrdiff_t ldk, float *s, ptrdiff_t lds) {
  for (; keys >= VN; keys -= VN, k += VN * ldk, s += VN) dots_rows(VN, rows, dim, q, k, ldk, s, lds);
  if (keys > 0) dots_rows(keys, rows, dim, q, k, ldk, s, lds); // the last key again and again
}
