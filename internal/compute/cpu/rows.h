// Everything that works along one row, over the vectors of vec_*.h. Errors are near 1e-7 relative unless said otherwise.

// exp(x), 0 below -87.3 rounded away to 1e-38; x above 88 is not asked for.
INL vf v_exp(vf x) {
  x = v_max(v_set1(-87.3f), x); // in this order a NaN stays one
  vf n = v_round(x * v_set1(1.44269504f));
  vf r = v_fma(n, v_set1(-0.693145752f), x); // ln 2 in two parts, the first exact for |n| < 2^9
  r = v_fma(n, v_set1(-1.42860677e-6f), r);
  vf p = v_set1(1.38358018e-3f); // minimax on ±ln2/2, 2e-9
  p = v_fma(p, r, v_set1(8.37564503e-3f));
  p = v_fma(p, r, v_set1(4.16682887e-2f));
  p = v_fma(p, r, v_set1(0.166664102f));
  p = v_fma(p, r, v_set1(0.499999916f));
  p = v_fma(p, r, v_set1(1.00000004f));
  p = v_fma(p, r, v_set1(1.0f));
  return v_ldexp(p, n);
}

INL vf v_sigmoid(vf x) { return v_set1(1) / (v_set1(1) + v_exp(v_min(v_set1(87), v_set1(0) - x))); }

INL vf v_gelu(vf x) {
  // Φ(-|x|) = erfc(z)/2, z = |x|/√2; erfc(z) = t·P(t)·exp(-z²), t = 1/(1+0.3z): minimax over z <= 10, 2e-8
  vf z = v_abs(x) * v_set1(0.707106781f);
  vf t = v_set1(1) / v_fma(z, v_set1(0.3f), v_set1(1));
  vf p = v_set1(-0.129522734f);
  p = v_fma(p, t, v_set1(0.485562385f));
  p = v_fma(p, t, v_set1(-0.512276393f));
  p = v_fma(p, t, v_set1(0.547718099f));
  p = v_fma(p, t, v_set1(-0.0946494007f));
  p = v_fma(p, t, v_set1(0.214925497f));
  p = v_fma(p, t, v_set1(0.148339313f));
  p = v_fma(p, t, v_set1(0.170715207f));
  p = v_fma(p, t, v_set1(0.169188006f));
  vf tail = v_set1(0.5f) * t * p * v_exp(v_set1(0) - z * z);
  return v_max(x, v_set1(0)) - v_abs(x) * tail;
}

INL vf v_activate(int act, vf x) {
  switch (act) {
  case AF_GELU: return v_gelu(x);
  case AF_GELU_TANH: { // (1+tanh u)/2 = sigmoid(2u)
    vf u = x * v_fma(x * x, v_set1(0.0713548163f), v_set1(1.59576912f));
    return x * v_sigmoid(u);
  }
  case AF_QUICK_GELU: return x * v_sigmoid(x * v_set1(1.702f));
  }
  return x;
}

FN void finish(const af_finish *f, int row, int rows, int col, int cols, const float *c, ptrdiff_t ldc) {
  for (int r = 0; r < rows; r++, c += ldc) {
    float *dst = f->dst + (row + r) * f->lddst + col;
    const float *res = f->res ? f->res + (row + r) * f->ldres + col : NULL;
    vf rs = v_set1(f->rowscale ? f->rowscale[row + r] : 1);
    for (int j = 0; j < cols; j += VN) {
      int n = af_min(VN, cols - j);
      vf v;
      if (f->wsum) {
        // Differences below 2^24 are exact; above, one rounding of the sum is far below the rounding of its terms.
        v = v_less128((const int32_t *)c + j, f->wsum + col + j);
      } else {
        v = v_load(c + j);
      }
      if (f->rowscale) v = v * rs;
      if (f->colscale) v = v * v_loadn(f->colscale + col + j, n);
      if (f->bias) v = v + v_loadn(f->bias + col + j, n);
      v = v_activate(f->act, v);
      if (f->gain) v = v * v_loadn(f->gain + col + j, n);
      if (res) v = v + v_loadn(res + j, n);
      if (n == VN) v_store(dst + j, v);
      else v_storen(dst + j, v, n);
    }
  }
}

FN void rmsnorm(float *dst, const float *x, const float *w, int n, float eps) {
  vf s = v_set1(0);
  for (int i = 0; i < n; i += VN) {
    vf v = v_loadn(x + i, af_min(VN, n - i));
    s = v_fma(v, v, s);
  }
  vf inv = v_set1(1 / __builtin_sqrtf(v_sum(s) / (float)n + eps));
  for (int i = 0; i < n; i += VN) {
    int m = af_min(VN, n - i);
    v_storen(dst + i, v_loadn(x + i, m) * inv * v_loadn(w + i, m), m);
  }
}

FN void layernorm(float *dst, const float *x, const float *w, const float *b, int n, float eps) {
  vf s = v_set1(0);
  for (int i = 0; i < n; i += VN) s = s + v_loadn(x + i, af_min(VN, n - i));
  vf mean = v_set1(v_sum(s) / (float)n);
  s = v_set1(0);
  int i = 0;
  for (; i + VN <= n; i += VN) {
    vf v = v_load(x + i) - mean;
    s = v_fma(v, v, s);
  }
  float var = v_sum(s), m0 = v_peak(mean);
  for (; i < n; i++) var += (x[i] - m0) * (x[i] - m0);
  vf inv = v_set1(1 / __builtin_sqrtf(var / (float)n + eps));
  for (i = 0; i < n; i += VN) {
    int m = af_min(VN, n - i);
    v_storen(dst + i, v_fma((v_loadn(x + i, m) - mean) * inv, v_loadn(w + i, m), v_loadn(b + i, m)), m);
  }
}

FN void rope(float *x, int heads, int half, const float *cos, const float *sin) {
  for (; heads > 0; heads--, x += 2 * half)
    for (int j = 0; j < half; j += VN) {
      int m = af_min(VN, half - j);
      vf a = v_loadn(x + j, m), b = v_loadn(x + half + j, m), c = v_loadn(cos + j, m), s = v_loadn(sin + j, m);
      v_storen(x + j, a * c - b * s, m);
      v_storen(x + half + j, b * c + a * s, m);
    }
}

FN float peak(const float *x, int n) {
  vf p = v_set1(0);
  for (int i = 0; i < n; i += VN) p = v_max(p, v_abs(v_loadn(x + i, af_min(VN, n - i))));
  return v_peak(p);
}

FN void swiglu(float *dst, const float *gate, const float *up, int n) {
  for (int i = 0; i < n; i += VN) {
    int m = af_min(VN, n - i);
    vf g = v_loadn(gate + i, m);
    v_storen(dst + i, g * v_sigmoid(g) * v_loadn(up + i, m), m);
  }
}

FN void add(float *dst, const float *x, int n) {
  for (int i = 0; i < n; i += VN) {
    int m = af_min(VN, n - i);
    v_storen(dst + i, v_loadn(dst + i, m) + v_loadn(x + i, m), m);
  }
}

FN void scale(float *dst, const float *x, float s, int n) {
  for (int i = 0; i < n; i += VN) {
    int m = af_min(VN, n - i);
    v_storen(dst + i, v_loadn(x + i, m) * v_set1(s), m);
  }
}

FN void softmax(float *s, int seen, int n, float *m, float *l, float *o, int dim) {
  if (seen > 0) {
    int whole = seen / VN * VN;
    vf top = v_set1(*m);
    for (int i = 0; i < whole; i += VN) top = v_max(top, v_load(s + i));
    float peak = v_peak(top);
    for (int i = whole; i < seen; i++) peak = s[i] > peak ? s[i] : peak;
    if (peak > *m) { // also from the empty state, m = -inf, l = 0, o = 0
      float keep = v_peak(v_exp(v_set1(*m - peak)));
      if (*l == 0) keep = 0;
      *m = peak;
      *l *= keep;
      for (int i = 0; i < dim; i += VN) {
        int c = af_min(VN, dim - i);
        v_storen(o + i, v_loadn(o + i, c) * v_set1(keep), c);
      }
    }
    vf sum = v_set1(0), base = v_set1(*m);
    for (int i = 0; i < whole; i += VN) {
      vf x = v_load(s + i) - base, p = v_exp(x);
      v_store(s + i, p);
      sum = sum + p;
    }
    if (whole < seen) { // lanes past seen hold scores of unseen keys: computed, then dropped
      vf p = v_exp(v_load(s + whole) - base);
      v_storen(s + whole, p, seen - whole);
      sum = sum + v_loadn(s + whole, seen - whole);
    }
    *l += v_sum(sum);
  }
  for (int i = seen; i < n; i++) s[i] = 0;
}
