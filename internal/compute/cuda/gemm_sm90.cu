// Large matrix products on Hopper: x [rows, in] · wᵀ, w [out, in], bf16 with float32 sums, and what follows the product fused to it.
//
// One block of three warpgroups to a multiprocessor stays for the whole launch. The first warpgroup's one thread streams tiles of x
// and w, 64 of `in` at a time, through a ring of stages in shared memory by TMA; each of the two others multiplies 64 rows by all
// columns of a tile, and each of their warps sends its 16 rows of results off on its own. Both only ever wait for the ring, so one's
// waits hide behind the other's products. A cluster's two blocks own neighbouring rows and the same columns, and each fetches
// half of their w for both. What was tried and measured is in NOTES-gemm.md.
#include "common.cuh"
#include "gemm.h"
#include "hopper.cuh"

namespace {

using namespace hopper;

constexpr int kRows = 128, kDepth = 64, kThreads = 384;

enum Act { kIdentity, kGELU, kGELUTanh, kQuickGELU };

// Shape is how a kernel cuts its work. A tile is kRows x COLUMNS for a block; CLUSTER blocks share out w; STAGES tiles deep is the
// ring; each warp's results leave through OUTS buffers.
template <int COLUMNS_, int CLUSTER_, int STAGES_, int OUTS_>
struct Shape {
  static constexpr int COLUMNS = COLUMNS_, CLUSTER = CLUSTER_, STAGES = STAGES_, OUTS = OUTS_;
  // Shared memory; the stages' swizzle wants them on 1024-byte boundaries.
  static constexpr int X = kRows * kDepth * 2, W = COLUMNS * kDepth * 2, STAGE = X + W;
  static constexpr int OUT = 16 * 128; // 16 rows of 128 bytes
  static constexpr int out = STAGES * STAGE, bias = out + 8 * OUTS * OUT, bars = bias + 2 * COLUMNS * 4;
  static constexpr int bytes = bars + STAGES * 16;
};

AF_INLINE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

AF_INLINE float sigmoid(float x) { return __fdividef(1.f, 1.f + exp2_approx(-1.4426950408889634f * x)); }

// normal_cdf is Abramowitz and Stegun's 7.1.26, off by less than 1.5e-7.
AF_INLINE float normal_cdf(float x) {
  float u = fabsf(x) * 0.7071067811865475f;
  float t = __fdividef(1.f, 1.f + 0.3275911f * u);
  float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  float tail = 0.5f * p * exp2_approx(-1.4426950408889634f * u * u);
  return x < 0.f ? tail : 1.f - tail;
}

template <int ACT>
AF_INLINE float activate(float x) {
  if (ACT == kGELU) return x * normal_cdf(x);
  if (ACT == kGELUTanh) return x * sigmoid(1.5957691216057308f * x * (1.f + 0.044715f * x * x)); // x·(1+tanh(u))/2 is x·sigmoid(2u)
  if (ACT == kQuickGELU) return x * sigmoid(1.702f * x);
  return x;
}

// half_tanh makes x·(1+tanh(ux))/2 of two values, off by less than 3e-4·|x|, for results of bf16: at float32's accuracy the special
// functions would take as long as the products of 256 columns of `in`.
AF_INLINE void half_tanh(float &x, float &y, float ux, float uy) {
  float tx, ty;
  asm("{.reg .b32 t; .reg .b16 lo, hi;\n"
      "cvt.rn.f16x2.f32 t, %3, %2;\n"
      "tanh.approx.f16x2 t, t;\n"
      "mov.b32 {lo, hi}, t;\n"
      "cvt.f32.f16 %0, lo;\n"
      "cvt.f32.f16 %1, hi;}"
      : "=f"(tx), "=f"(ty)
      : "f"(ux), "f"(uy));
  x *= 0.5f, y *= 0.5f;
  x = fmaf(x, tx, x), y = fmaf(y, ty, y);
}

// normal_argument is what makes (1+tanh(u))/2 the normal distribution's, off by less than 2.6e-5/|x| (the usual cubic: 4.7e-4/|x|).
AF_INLINE float normal_argument(float x) {
  const float s = fminf(x * x, 18.f);
  return x * fmaf(s, fmaf(s, -3.5159843e-4f, 3.7006033e-2f), 0.79750754f);
}

template <int ACT, bool EXACT>
AF_INLINE void activate(float &x, float &y) {
  if (!EXACT && ACT == kGELU) {
    half_tanh(x, y, normal_argument(x), normal_argument(y));
  } else if (!EXACT && ACT == kQuickGELU) {
    half_tanh(x, y, 0.851f * x, 0.851f * y);
  } else if (!EXACT && ACT == kGELUTanh) {
    half_tanh(x, y, x * fmaf(0.035677408f * x, x, 0.79788456f), y * fmaf(0.035677408f * y, y, 0.79788456f));
  } else {
    x = activate<ACT>(x), y = activate<ACT>(y);
  }
}

// finish applies bias and activation to N columns' sums of a thread; bias is in shared memory, at this thread's first column.
template <int ACT, int N, bool EXACT>
AF_INLINE void finish(float *d, const float *bias) {
#pragma unroll
  for (int i = 0; i < N / 8; i++) {
    const float2 b = bias ? *reinterpret_cast<const float2 *>(bias + 8 * i) : make_float2(0.f, 0.f);
    d[4 * i] += b.x, d[4 * i + 1] += b.y, d[4 * i + 2] += b.x, d[4 * i + 3] += b.y;
    activate<ACT, EXACT>(d[4 * i], d[4 * i + 1]);
    activate<ACT, EXACT>(d[4 * i + 2], d[4 * i + 3]);
  }
}

template <int N, bool EXACT>
AF_INLINE void finish(uint32_t act, float *d, const float *bias) {
  switch (act) {
  case kGELU: return finish<kGELU, N, EXACT>(d, bias);
  case kGELUTanh: return finish<kGELUTanh, N, EXACT>(d, bias);
  case kQuickGELU: return finish<kQuickGELU, N, EXACT>(d, bias);
  default:
    if (bias) finish<kIdentity, N, EXACT>(d, bias);
  }
}

// Tiles deals the tiles of the result to clusters: in groups of `group` rows of tiles, within a group column by column.
struct Tiles {
  uint32_t down, across, group, count;

  __device__ Tiles(const af_gemm_args &a, uint32_t rows, uint32_t columns)
      : down((a.rows + rows - 1) / rows), across((a.out + columns - 1) / columns), group(min(a.group, down)), count(down * across) {}

  __device__ void at(uint32_t i, uint32_t &row, uint32_t &column) const {
    uint32_t g = i / (group * across), in = i - g * group * across, height = min(group, down - g * group);
    row = g * group + in % height;
    column = in / height;
  }
};

// What leaves in one go: a warp's 16 rows of 128 bytes. Their 16-byte pieces lie as the map's swizzle wants them: piece p of row r at
// p ^ r%8.

// put_bf16 packs 64 columns' sums.
AF_INLINE void put_bf16(uint32_t out, const float *d, uint32_t lane) {
  const uint32_t row = lane & 15, at = out + row * 128;
#pragma unroll
  for (uint32_t i = 0; i < 8; i += 2) {
    const float *p = d + 4 * i;
    const uint32_t to = at + (((i + (lane >> 4)) ^ (row & 7)) << 4);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(bf16_pack(p[0], p[1])),
                 "r"(bf16_pack(p[2], p[3])), "r"(bf16_pack(p[4], p[5])), "r"(bf16_pack(p[6], p[7]))
                 : "memory");
  }
}

// put_f32 stores 32 columns' sums.
AF_INLINE void put_f32(uint32_t out, const float *d, uint32_t lane) {
#pragma unroll
  for (uint32_t i = 0; i < 4; i++) {
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
      const uint32_t row = h * 8 + (lane >> 2), piece = i * 2 + ((lane & 3) >> 1);
      const uint32_t to = out + row * 128 + ((piece ^ (row & 7)) << 4) + (lane & 1) * 8;
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(d[4 * i + 2 * h]), "f"(d[4 * i + 2 * h + 1]) : "memory");
    }
  }
}

AF_INLINE void tma_add_2d(const CUtensorMap *m, uint32_t src, int c0, int c1) {
  asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(
                   reinterpret_cast<uint64_t>(m)),
               "r"(src), "r"(c0), "r"(c1)
               : "memory");
}

enum Out { kBF16, kF32, kSwiGLU };

template <class S>
AF_INLINE void produce(const af_gemm_args &a, uint32_t smem, uint32_t full, uint32_t empty) {
  const Tiles tiles(a, kRows * S::CLUSTER, S::COLUMNS);
  const uint32_t rank = S::CLUSTER > 1 ? cluster_rank() : 0, steps = (a.in + kDepth - 1) / kDepth;
  uint32_t stage = 0, parity = 1;
  auto load_w = [&](uint32_t stage, int k, int c) {
    const uint32_t bar = full + stage * 8, w = smem + stage * S::STAGE + S::X;
    if (S::CLUSTER == 1)
      tma_load_2d(w, &a.w, bar, k * kDepth, c);
    else
      tma_load_2d_multicast(w + rank * (S::W / S::CLUSTER), &a.w, bar, k * kDepth, c + rank * (S::COLUMNS / S::CLUSTER),
                            (1 << S::CLUSTER) - 1);
  };
  // A model's weights are there before the kernel ahead is done, so the ring fills with them meanwhile.
  uint32_t early = 0;
  if (a.early) {
    uint32_t row, column;
    tiles.at(blockIdx.x / S::CLUSTER, row, column);
    for (; early < min(steps, S::STAGES); early++) {
      mbar_expect(full + early * 8, S::STAGE);
      load_w(early, early, column * S::COLUMNS);
    }
  }
  grid_wait();
  for (uint32_t i = blockIdx.x / S::CLUSTER; i < tiles.count; i += gridDim.x / S::CLUSTER) {
    uint32_t row, column;
    tiles.at(i, row, column);
    const int r = (row * S::CLUSTER + rank) * kRows, c = column * S::COLUMNS;
    for (uint32_t k = 0; k < steps; k++) {
      if (early == 0) {
        mbar_wait(empty + stage * 8, parity);
        mbar_expect(full + stage * 8, S::STAGE);
        load_w(stage, k, c);
      } else {
        early--; // its w is on the way
      }
      tma_load_2d(smem + stage * S::STAGE, &a.x, full + stage * 8, k * kDepth, r);
      if (++stage == S::STAGES) stage = 0, parity ^= 1;
    }
  }
}

template <class S, Out OUT>
AF_INLINE void consume(const af_gemm_args &a, uint8_t *memory, uint32_t full, uint32_t empty) {
  constexpr int BN = S::COLUMNS;
  constexpr int kColumns = OUT == kBF16 ? 64 : OUT == kF32 ? 32 : 128; // of the product that fill 128 bytes of a row
  const Tiles tiles(a, kRows * S::CLUSTER, BN);
  const uint32_t rank = S::CLUSTER > 1 ? cluster_rank() : 0, steps = (a.in + kDepth - 1) / kDepth;
  const uint32_t group = __shfl_sync(~0u, threadIdx.x / 128 - 1, 0), thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const uint32_t smem = smem_addr(memory), out = smem + S::out + (group * 4 + warp) * S::OUTS * S::OUT;
  float *bias = a.bias ? reinterpret_cast<float *>(memory + S::bias) + group * BN : nullptr;
  const float *scale = reinterpret_cast<const float *>(a.scale);
  uint32_t stage = 0, parity = 0, buffer = 0;

  // release tells every block that fills this one's ring, by one thread each, that a stage was read.
  auto release = [&](uint32_t stage) {
    if (S::CLUSTER == 1) {
      if (thread == 0) mbar_arrive(empty + stage * 8);
    } else if (thread % 32 == 0 && warp < S::CLUSTER) {
      mbar_arrive_at(empty + stage * 8, warp);
    }
  };

  for (uint32_t i = blockIdx.x / S::CLUSTER; i < tiles.count; i += gridDim.x / S::CLUSTER) {
    uint32_t row, column;
    tiles.at(i, row, column);
    const int r = (row * S::CLUSTER + rank) * kRows + group * 64 + warp * 16, c = column * BN;
    if (bias) {
      bar_sync(1 + group, 128); // all have used the last tile's
      for (uint32_t j = thread; j < BN; j += 128) bias[j] = c + j < a.out ? __ldg(reinterpret_cast<const float *>(a.bias) + c + j) : 0.f;
    }

    float d[BN / 2];
#pragma unroll
    for (int j = 0; j < BN / 2; j++) d[j] = 0.f;
    pin(d);
    for (uint32_t k = 0; k < steps; k++) {
      mbar_wait(full + stage * 8, parity);
      const uint64_t x = desc_k<64>(smem + stage * S::STAGE + group * 64 * 128), w = desc_k<64>(smem + stage * S::STAGE + S::X);
      wgmma_fence();
#pragma unroll
      for (int j = 0; j < kDepth / 16; j++) Wgmma<BN>::template ss<false>(d, desc_step(x, j * 32), desc_step(w, j * 32), 1);
      wgmma_commit();
      wgmma_wait<0>(); // the other group's products fill the gap
      release(stage);
      if (++stage == S::STAGES) stage = 0, parity ^= 1;
    }
    pin(d);
    if (bias) bar_sync(1 + group, 128); // all of it is there

#pragma unroll
    for (int j = 0; j < BN / kColumns; j++) {
      float *p = d + j * kColumns / 2;
      const uint32_t to = out + buffer * S::OUT;
      if (c + j * kColumns >= a.out) break;
      if (++buffer == S::OUTS) buffer = 0;
      if (OUT == kSwiGLU) {
#pragma unroll
        for (int g = 0; g < kColumns / 16; g++)
#pragma unroll
          for (int e = 0; e < 4; e++) p[4 * g + e] = p[8 * g + e] * sigmoid(p[8 * g + e]) * p[8 * g + 4 + e];
      } else {
        finish<kColumns, OUT == kF32>(a.act, p, bias ? bias + j * kColumns + lane % 4 * 2 : nullptr);
        if (scale) {
#pragma unroll
          for (int g = 0; g < kColumns / 8; g++) {
            const uint32_t col = min(c + j * kColumns + g * 8 + lane % 4 * 2, a.out - 2); // out is even, and what lies beyond is not stored
            const float2 s = __ldg(reinterpret_cast<const float2 *>(scale + col));
            p[4 * g] *= s.x, p[4 * g + 1] *= s.y, p[4 * g + 2] *= s.x, p[4 * g + 3] *= s.y;
          }
        }
      }
      // What left OUTS pieces ago was read, so the buffer is free.
      if (lane == 0) tma_store_wait_read<S::OUTS - 1>();
      __syncwarp();
      if (OUT == kF32)
        put_f32(to, p, lane);
      else
        put_bf16(to, p, lane);
      smem_written();
      __syncwarp();
      if (lane == 0) {
        const int at = OUT == kSwiGLU ? c / 2 + j * 64 : c + j * kColumns;
        if (a.add)
          tma_add_2d(&a.dst, to, at, r);
        else
          tma_store_2d(&a.dst, to, at, r);
        tma_store_commit();
      }
    }
  }
  if (lane == 0) tma_store_wait<0>();
}

template <class S, Out OUT>
AF_INLINE void multiply(const af_gemm_args &a) {
  extern __shared__ __align__(1024) uint8_t memory[];
  const uint32_t smem = smem_addr(memory), full = smem + S::bars, empty = full + S::STAGES * 8;
  static_assert(S::bytes <= 227 * 1024, "what a block may have");
  if (threadIdx.x == 0) {
    if (smem % 1024) __trap();
    tma_prefetch_map(&a.x), tma_prefetch_map(&a.w), tma_prefetch_map(&a.dst);
    for (int i = 0; i < S::STAGES; i++) {
      mbar_init(full + i * 8, 1);
      mbar_init(empty + i * 8, 2 * S::CLUSTER);
    }
    mbar_init_done();
  }
  if (S::CLUSTER > 1)
    cluster_sync();
  else
    __syncthreads();
  grid_launch_dependents();
  if (threadIdx.x < 128) {
    regs_shrink<40>();
    if (threadIdx.x == 0) produce<S>(a, smem, full, empty);
  } else {
    regs_grow<232>();
    consume<S, OUT>(a, memory, full, empty);
  }
  if (S::CLUSTER > 1) cluster_sync(); // the other block may still read here, or signal here
}

} // namespace

// A kernel for each shape and kind of result.
#define AF_GEMM(name, OUT, ...)                                                                                        \
  extern "C" {                                                                                                         \
  __device__ uint32_t af_sizeof_##name = sizeof(af_gemm_args);                                                         \
  }                                                                                                                    \
  extern "C" __global__ void __cluster_dims__(Shape<__VA_ARGS__>::CLUSTER, 1, 1)                                       \
      __launch_bounds__(kThreads, 1) af_##name(const __grid_constant__ af_gemm_args a) {      \
    multiply<Shape<__VA_ARGS__>, OUT>(a);                                                                              \
  }

#ifndef AF_GEMM_VARIANTS
AF_GEMM(gemm_bf16_256, kBF16, 256, 2, 4, 2)
AF_GEMM(gemm_f32_256, kF32, 256, 2, 4, 2)
AF_GEMM(gemm_swiglu_256, kSwiGLU, 256, 2, 4, 2)
AF_GEMM(gemm_bf16_192, kBF16, 192, 2, 5, 1)
AF_GEMM(gemm_f32_192, kF32, 192, 2, 5, 1)
AF_GEMM(gemm_bf16_128, kBF16, 128, 2, 6, 2)
AF_GEMM(gemm_f32_128, kF32, 128, 2, 6, 2)
AF_GEMM(gemm_swiglu_128, kSwiGLU, 128, 2, 6, 2)
AF_GEMM(gemm_bf16_128alone, kBF16, 128, 1, 6, 2)
AF_GEMM(gemm_f32_128alone, kF32, 128, 1, 6, 2)
AF_GEMM(gemm_swiglu_128alone, kSwiGLU, 128, 1, 6, 2)
#endif
