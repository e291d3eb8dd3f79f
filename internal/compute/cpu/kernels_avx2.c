#ifdef __x86_64__
#include "kernels.h"

#include "vec_avx2.h"

#include "tile.h"

#include "rows.h"

#include "dots.h"
#include "transpose8.h"

const af_kernels af_avx2 = {
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
    .dots = dots,
};
#endif
