#include "kernels.h"

#include "vec_scalar.h"

#include "tile.h"

#include "rows.h"

FN void transpose(const float *k, ptrdiff_t ldk, int n, int dim, float *out, int ld) {
  for (int c = 0; c < dim; c++)
    for (int i = 0; i < ld; i++) out[c * ld + i] = i < n ? k[i * ldk + c] : 0;
}

const af_kernels af_scalar = {
    .mr = MR,
    .nr = NR,
    .tile_f32 = tile_f32,
    .tile_bf16 = tile_bf16,
    .tile_i8 = tile_i8,
    .tile_i4 = tile_i4,
    .widen_bf16 = widen_bf16,
    .widen_i8 = widen_i8,
    .widen_i4 = widen_i4,
    .finish = finish,
    .rmsnorm = rmsnorm,
    .layernorm = layernorm,
    .rope = rope,
    .peak = peak,
    .swiglu = swiglu,
    .add = add,
    .scale = scale,
    .softmax = softmax,
    .transpose = transpose,
};
