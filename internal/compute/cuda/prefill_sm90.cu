// Attention of many query rows on Hopper: softmax(q kᵀ · scale) v, causal or full, over rows or pages of keys and values.
//
// A thread block stays on its multiprocessor and works through a list of items. One warp copies: TMA brings the item's queries, then
// tiles of N keys and values round a ring of STAGES, last tile first. WG warpgroups multiply, 64 query rows each: scores of tile t are
// started before the softmax of tile t+1's is used, so that the tensor cores work while exponentials are taken; and the warpgroups
// take turns at starting products, so that one's exponentials run beside the other's products. Scores never leave registers: the
// exponentials, rounded to bf16, are the A operand of the product with v.
#include "hopper.cuh"
#include "prefill.h"

using namespace hopper;

// D is the head size, padded with zeros; M and N are the query rows and keys of a tile.
template <int D_, int WG_, int N_, int STAGES_>
struct Prefill {
  static constexpr int D = D_, WG = WG_, N = N_, STAGES = STAGES_;
  static constexpr int M = 64 * WG, THREADS = 128 * (WG + 1);
  static constexpr int REGS = WG == 2 ? 240 : 160, REGS_COPY = WG == 2 ? 24 : 32;
  // A tile lies in shared memory as chunks of W columns, each swizzled over its 2*W bytes of a row: the widest that divide D.
  static constexpr int W = D % 64 == 0 ? 64 : D % 32 == 0 ? 32 : 16, CHUNKS = D / W;
  static constexpr int PAGED_ROWS = N % 64 == 0 ? 64 : N % 32 == 0 ? 32 : 16; // that one copy takes from a page
  static constexpr uint32_t Q_CHUNK = 64 * W * 2, Q_BYTES = CHUNKS * Q_CHUNK; // of one warpgroup
  static constexpr uint32_t KV_CHUNK = N * W * 2, KV_BYTES = CHUNKS * KV_CHUNK;
  static constexpr uint32_t K_AT = WG * Q_BYTES, V_AT = K_AT + STAGES * KV_BYTES, BARS_AT = V_AT + STAGES * KV_BYTES;
  static constexpr uint32_t BARS = 2 * WG + 4 * STAGES;
  static constexpr uint32_t SMEM = BARS_AT + 8 * BARS;
  static_assert(Q_CHUNK % (W * 16) == 0 && KV_CHUNK % (W * 16) == 0 && SMEM <= 232448, "shared memory");
};

template <bool v>
struct Flag {
  static constexpr bool value = v;
};

// Addresses of an instance's barriers.
template <typename T>
struct Barriers {
  static constexpr int Q = T::WG, S = T::STAGES;
  uint32_t base;
  __device__ uint32_t q_full(int wg) const { return base + 8 * wg; }
  __device__ uint32_t q_empty(int wg) const { return base + 8 * (Q + wg); }
  __device__ uint32_t k_full(int slot) const { return base + 8 * (2 * Q + slot); }
  __device__ uint32_t k_empty(int slot) const { return base + 8 * (2 * Q + S + slot); }
  __device__ uint32_t v_full(int slot) const { return base + 8 * (2 * Q + 2 * S + slot); }
  __device__ uint32_t v_empty(int slot) const { return base + 8 * (2 * Q + 3 * S + slot); }
};

// A place in a ring of n slots, and the parity of the pass over it.
template <int n>
struct Ring {
  int slot = 0;
  uint32_t parity = 0;
  __device__ void next() {
    if (++slot == n) slot = 0, parity ^= 1;
  }
};

// prefill_copy is the copying thread.
template <typename T>
static __device__ __forceinline__ void prefill_copy(const af_prefill_args &a, uint32_t smem, Barriers<T> bars) {
  Ring<1> qr;
  Ring<T::STAGES> kr, vr;
  // load brings tile t of an item to slot s of a ring. Page numbers are fetched before the wait for the slot.
  auto load = [&](const CUtensorMap *map, uint32_t ring, uint32_t full, uint32_t empty, Ring<T::STAGES> &r, const af_prefill_item &it, int t) {
    uint32_t dst = ring + r.slot * T::KV_BYTES, bar = full + 8 * r.slot;
    int page[T::N / T::PAGED_ROWS];
    if (a.pages != nullptr) {
#pragma unroll
      for (int p = 0; p < T::N / T::PAGED_ROWS; p++) {
        int row = t * T::N + p * T::PAGED_ROWS;
        page[p] = row < it.keys ? __ldg(a.pages + it.kv_row + row / 64) : -1;
      }
    }
    mbar_wait(empty + 8 * r.slot, r.parity ^ 1);
    mbar_expect(bar, T::KV_BYTES);
    if (a.pages == nullptr) {
#pragma unroll
      for (int c = 0; c < T::CHUNKS; c++) {
        tma_load_4d(dst + c * T::KV_CHUNK, map, bar, c * T::W, it.kv_row + t * T::N, it.kv_head, it.kv_seg);
      }
    } else {
#pragma unroll
      for (int p = 0; p < T::N / T::PAGED_ROWS; p++) {
        int row = page[p] < 0 ? 64 : (t * T::N + p * T::PAGED_ROWS) % 64; // row 64 is outside every page: zeros
#pragma unroll
        for (int c = 0; c < T::CHUNKS; c++) {
          tma_load_4d(dst + c * T::KV_CHUNK + p * T::PAGED_ROWS * T::W * 2, map, bar, c * T::W, row, it.kv_head, max(page[p], 0));
        }
      }
    }
    r.next();
  };
  auto keys = [&](const af_prefill_item &it, int t) { load(&a.k_map, smem + T::K_AT, bars.k_full(0), bars.k_empty(0), kr, it, t); };
  auto values = [&](const af_prefill_item &it, int t) { load(&a.v_map, smem + T::V_AT, bars.v_full(0), bars.v_empty(0), vr, it, t); };
  for (int i = a.first[blockIdx.x], n = a.first[blockIdx.x + 1]; i < n; i++) {
    const af_prefill_item it = a.items[i];
    int t = (it.keys + T::N - 1) / T::N - 1, last = it.from / T::N;
    keys(it, t);
#pragma unroll
    for (int w = 0; w < T::WG; w++) {
      uint32_t dst = smem + w * T::Q_BYTES, full = bars.q_full(w);
      mbar_wait(bars.q_empty(w), qr.parity ^ 1);
      mbar_expect(full, T::Q_BYTES);
#pragma unroll
      for (int c = 0; c < T::CHUNKS; c++) {
        tma_load_4d(dst + c * T::Q_CHUNK, &a.q_map, full, c * T::W, it.q_row + 64 * w, it.head, 0);
      }
    }
    qr.next();
    for (; t > last; t--) {
      keys(it, t - 1);
      values(it, t);
    }
    values(it, last);
  }
}

static __device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// pack_bf16 is lo in the low half.
static __device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}

static __device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}
static __device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffff, x, 1);
  return x + __shfl_xor_sync(0xffffffff, x, 2);
}

// A thread's part of the softmax of two query rows: largest score so far, and its share of the sum of exponentials.
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};

  // take turns scores into exponentials and returns in factor what earlier ones must be multiplied by. MASKED: some keys may be
  // invisible, those from see[row] on, counted from this thread's first column.
  template <bool MASKED, int R>
  __device__ __forceinline__ void take(float (&s)[R], float (&factor)[2], const int (&see)[2], float scale_log2) {
    if constexpr (MASKED) {
#pragma unroll
      for (int i = 0; i < R; i++) {
        int col = i / 4 * 8 + i % 2;
        if (col >= see[i / 2 % 2]) s[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float m0 = fmaxf(s[2 * r], s[2 * r + 1]), m1 = fmaxf(s[2 * r + 4], s[2 * r + 5]);
#pragma unroll
      for (int i = 8; i < R; i += 8) {
        m0 = fmaxf(fmaxf(m0, s[i + 2 * r]), s[i + 2 * r + 1]);
        m1 = fmaxf(fmaxf(m1, s[i + 2 * r + 4]), s[i + 2 * r + 5]);
      }
      float m = fmaxf(max[r], quad_max(fmaxf(m0, m1)));
      float at = (MASKED && m == -INFINITY ? 0.0f : m) * scale_log2; // a row may see none of the tile
      factor[r] = exp2_fast(max[r] * scale_log2 - at);
      max[r] = m;
      float a = 0, b = 0;
#pragma unroll
      for (int i = 2 * r; i < R; i += 4) {
        s[i] = exp2_fast(fmaf(s[i], scale_log2, -at));
        s[i + 1] = exp2_fast(fmaf(s[i + 1], scale_log2, -at));
        a += s[i];
        b += s[i + 1];
      }
      sum[r] = fmaf(sum[r], factor[r], a + b);
    }
  }
};

// store_rows writes a warp's 16 rows: a thread holds pairs of columns (hopper.cuh), and four threads trade them for 16 bytes each.
template <int D>
static __device__ __forceinline__ void store_rows(const af_prefill_args &a, const af_prefill_item &it, int row, const float (&o)[D / 2],
                                                  const float (&scale)[2]) {
  int quad = threadIdx.x & 3;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    bool mine = row + 8 * r < it.rows;
    uint16_t *out = a.out.p + (it.q_row + row + 8 * r) * a.out.row + it.head * a.out.head;
#pragma unroll
    for (int g = 0; g < D / 8; g += 4) {
      uint32_t w[4];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        w[j] = g + j < D / 8 ? pack_bf16(o[4 * (g + j) + 2 * r] * scale[r], o[4 * (g + j) + 2 * r + 1] * scale[r]) : 0;
      }
#pragma unroll
      for (int bit = 1; bit < 4; bit *= 2) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          if (j & bit) continue;
          uint32_t got = __shfl_xor_sync(0xffffffff, quad & bit ? w[j] : w[j | bit], bit);
          if (quad & bit) {
            w[j] = got;
          } else {
            w[j | bit] = got;
          }
        }
      }
      int col = 8 * (g + quad);
      if (mine && col < a.head_dim) *reinterpret_cast<uint4 *>(out + col) = make_uint4(w[0], w[1], w[2], w[3]);
    }
  }
}

// store_part writes a warp's 16 rows as they are, part pointing to the thread's first one.
template <int D>
static __device__ __forceinline__ void store_part(const af_prefill_args &a, const af_prefill_item &it, float *part, int row,
                                                  const float (&o)[D / 2], const float (&scale)[2]) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    if (row + 8 * r >= it.rows) continue;
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
      int col = 8 * i + 2 * (threadIdx.x & 3);
      if (col < a.head_dim) {
        *reinterpret_cast<float2 *>(part + 8 * r * a.head_dim + col) = make_float2(o[4 * i + 2 * r] * scale[r], o[4 * i + 2 * r + 1] * scale[r]);
      }
    }
  }
}

// prefill_multiply is a multiplying warpgroup, number wg of the block.
template <typename T>
static __device__ __forceinline__ void prefill_multiply(const af_prefill_args &a, uint32_t smem, Barriers<T> bars, int wg) {
  constexpr int D = T::D, N = T::N, W = T::W;
  int lane = threadIdx.x & 31, row = (threadIdx.x / 32 & 3) * 16 + lane / 4 + 64 * wg;
  uint64_t q_desc = desc_k<W>(smem + wg * T::Q_BYTES);
  uint64_t k_desc = desc_k<W>(smem + T::K_AT);
  uint64_t v_desc = desc_mn<W>(smem + T::V_AT, T::KV_CHUNK);
  Ring<1> qr;
  Ring<T::STAGES> kr, vr;
  float o[D / 2], s[N / 2];
  uint32_t p[N / 4];

  auto start_scores = [&] {
    uint64_t k = desc_step(k_desc, kr.slot * T::KV_BYTES);
#pragma unroll
    for (int i = 0; i < D; i += 16) {
      Wgmma<N>::template ss<false>(s, desc_step(q_desc, i / W * T::Q_CHUNK + i % W * 2), desc_step(k, i / W * T::KV_CHUNK + i % W * 2), i > 0);
    }
    wgmma_commit();
  };
  auto start_values = [&] {
    uint64_t v = desc_step(v_desc, vr.slot * T::KV_BYTES);
#pragma unroll
    for (int i = 0; i < N / 16; i++) {
      Wgmma<D>::template rs<true>(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], desc_step(v, i * 16 * W * 2), 1);
    }
    wgmma_commit();
  };
  auto round_scores = [&] {
#pragma unroll
    for (int i = 0; i < N / 4; i++) p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
  };
  auto release = [&](uint32_t bar) {
    if (lane == 0) mbar_arrive(bar);
  };
  int next_wg = wg + 1 == T::WG ? 0 : wg + 1;
  if (wg == T::WG - 1) bar_arrive(1, 256); // the first turn is warpgroup 0's

  for (int i = a.first[blockIdx.x], n = a.first[blockIdx.x + 1]; i < n; i++) {
    int keys = a.items[i].keys, diagonal = a.items[i].diagonal; // the rest is read when it is needed, to keep registers free
    int top = (keys + N - 1) / N - 1, last = a.items[i].from / N;
    // Of the tiles top..last this warpgroup's rows see none of those above t, and all see the whole of those below whole.
    int t = max(last, (min(keys, diagonal + 64 * wg + 64) + N - 1) / N - 1);
    int whole = max(last, min(keys, diagonal + 64 * wg + 1) / N);
    bool idle = 64 * wg >= a.items[i].rows; // it has no rows
    mbar_wait(bars.q_full(wg), qr.parity);
    for (int skip = top; skip > t || (idle && skip >= last); skip--) {
      if (skip < top) {
        bar_sync(1 + wg, 256);
        bar_arrive(1 + next_wg, 256);
      }
      mbar_wait(bars.k_full(kr.slot), kr.parity);
      release(bars.k_empty(kr.slot));
      kr.next();
      mbar_wait(bars.v_full(vr.slot), vr.parity);
      release(bars.v_empty(vr.slot));
      vr.next();
    }
    if (idle) {
      release(bars.q_empty(wg));
      qr.next();
      continue;
    }

    Softmax soft;
    float factor[2];
    int see[2];
    auto visible = [&](int tile) {
      int from = tile * N + 2 * (lane & 3);
      see[0] = min(keys, diagonal + row + 1) - from;
      see[1] = min(keys, diagonal + row + 9) - from;
    };
    mbar_wait(bars.k_full(kr.slot), kr.parity);
    if (t < top) bar_sync(1 + wg, 256);
    wgmma_fence();
    start_scores();
    if (t < top) bar_arrive(1 + next_wg, 256);
#pragma unroll
    for (int j = 0; j < D / 2; j++) o[j] = 0;
    wgmma_wait<0>();
    pin(s);
    release(bars.k_empty(kr.slot));
    kr.next();
    visible(t);
    soft.take<true>(s, factor, see, a.scale_log2);
    round_scores();
    if (a.pages != nullptr && t == top && keys % N != 0) {
      // What a page holds beyond the keys is anything, and even no number times a weight of 0 is none. Each warpgroup clears it for itself.
      mbar_wait(bars.v_full(vr.slot), vr.parity);
      uint32_t v = smem + T::V_AT + vr.slot * T::KV_BYTES, row_bytes = 2 * W;
      for (uint32_t at = keys % N * row_bytes + threadIdx.x % 128 * 16; at < T::KV_CHUNK; at += 128 * 16) {
#pragma unroll
        for (int c = 0; c < T::CHUNKS; c++) smem_clear16(v + c * T::KV_CHUNK + at);
      }
      smem_written();
      bar_sync(8 + wg, 128);
    }

    auto step = [&](auto masked) {
      mbar_wait(bars.k_full(kr.slot), kr.parity);
      bar_sync(1 + wg, 256);
      pin(s);
      pin(o);
      pin(p);
      wgmma_fence();
      start_scores();
      mbar_wait(bars.v_full(vr.slot), vr.parity);
      wgmma_fence();
      start_values();
      bar_arrive(1 + next_wg, 256);
      wgmma_wait<1>();
      pin(s);
      release(bars.k_empty(kr.slot));
      kr.next();
      if constexpr (masked.value) visible(t);
      soft.take<masked.value>(s, factor, see, a.scale_log2);
      wgmma_wait<0>();
      pin(o);
      pin(p);
      release(bars.v_empty(vr.slot));
      vr.next();
#pragma unroll
      for (int j = 0; j < D / 2; j++) o[j] *= factor[j / 2 % 2];
      round_scores();
    };
    for (t--; t >= whole; t--) step(Flag<true>());
    for (; t >= last; t--) step(Flag<false>());
    release(bars.q_empty(wg));
    qr.next();

    mbar_wait(bars.v_full(vr.slot), vr.parity);
    pin(o);
    pin(p);
    wgmma_fence();
    start_values();
    const af_prefill_item it = a.items[i];
    float scale[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float sum = quad_sum(soft.sum[r]);
      scale[r] = sum == 0 ? 0 : 1.0f / sum; // of an item with only some of the keys a row may see none
      float lse = 0.6931471805599453f * (soft.max[r] * a.scale_log2 + __log2f(sum));
      if (lane % 4 != 0 || row + 8 * r >= it.rows) continue;
      if (it.part >= 0) {
        a.parts[(int64_t)a.count * T::M * a.head_dim + it.part * T::M + row + 8 * r] = lse;
      } else if (a.lse != nullptr) {
        a.lse[(int64_t)(it.q_row + row + 8 * r) * a.heads + it.head] = lse;
      }
    }
    wgmma_wait<0>();
    pin(o);
    release(bars.v_empty(vr.slot));
    vr.next();
    if (it.part < 0) {
      store_rows<D>(a, it, row, o, scale);
    } else {
      store_part<D>(a, it, a.parts + ((int64_t)it.part * T::M + row) * a.head_dim, row, o, scale);
    }
  }
}

template <typename T>
static __device__ __forceinline__ void prefill(const af_prefill_args &a) {
  extern __shared__ __align__(1024) unsigned char shared[];
  uint32_t smem = smem_addr(shared);
  Barriers<T> bars = {smem + T::BARS_AT};
  int role = __shfl_sync(0xffffffff, threadIdx.x / 128, 0); // known to be the same in all lanes
  if (threadIdx.x == 0) {
    tma_prefetch_map(&a.q_map);
    tma_prefetch_map(&a.k_map);
    tma_prefetch_map(&a.v_map);
    for (int w = 0; w < T::WG; w++) {
      mbar_init(bars.q_full(w), 1);
      mbar_init(bars.q_empty(w), 4);
    }
    for (int s = 0; s < T::STAGES; s++) {
      mbar_init(bars.k_full(s), 1);
      mbar_init(bars.k_empty(s), 4 * T::WG);
      mbar_init(bars.v_full(s), 1);
      mbar_init(bars.v_empty(s), 4 * T::WG);
    }
    mbar_init_done();
  }
  __syncthreads();
  grid_wait();
  grid_launch_dependents();
  if (role == 0) {
    regs_shrink<T::REGS_COPY>();
    if (threadIdx.x == 0) prefill_copy<T>(a, smem, bars);
  } else {
    regs_grow<T::REGS>();
    prefill_multiply<T>(a, smem, bars, role - 1);
  }
}

#define AF_PREFILL(NAME, ...)                                                                                              \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__::THREADS, 1) af_##NAME(const __grid_constant__ af_prefill_args a) { \
    prefill<__VA_ARGS__>(a);                                                                                                \
  }                                                                                                                        \
  extern "C" __device__ const unsigned af_sizeof_##NAME = sizeof(af_prefill_args);

// The host's side of this list is in prefill.go.
using Prefill64 = Prefill<64, 3, 128, 2>;
using Prefill64Short = Prefill<64, 3, 96, 3>;
using Prefill80 = Prefill<80, 3, 96, 2>;
using Prefill96 = Prefill<96, 3, 96, 3>;
using Prefill128 = Prefill<128, 2, 128, 2>;
AF_PREFILL(prefill_sm90_64, Prefill64)
AF_PREFILL(prefill_sm90_64_short, Prefill64Short)
AF_PREFILL(prefill_sm90_80, Prefill80)
AF_PREFILL(prefill_sm90_96, Prefill96)
AF_PREFILL(prefill_sm90_128, Prefill128)
