// Hopper's own instructions (sm_90a only): mbarriers, bulk tensor copies (TMA), warpgroup matrix products (wgmma), named barriers
// and register reallocation, each as one thin function. Shared memory is named by 32-bit addresses in its own window.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <stdint.h>

namespace hopper {

#define AF_INLINE static __device__ __forceinline__

AF_INLINE uint32_t smem_addr(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// elect is true in one lane of a converged warp, known to the compiler as uniform.
AF_INLINE bool elect() {
  uint32_t one;
  asm volatile("{.reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p;}" : "=r"(one));
  return one != 0;
}

// ---- mbarriers: a phase ends when `count` threads have arrived and all expected bytes have landed.

AF_INLINE void mbar_init(uint32_t bar, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}

// mbar_init_done makes initialised barriers visible to TMA and to the other blocks of the cluster; a thread barrier follows it.
AF_INLINE void mbar_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

AF_INLINE void mbar_arrive(uint32_t bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }

// mbar_arrive_at arrives at the same barrier of block `rank` of the cluster. It orders nothing but this block's own accesses: enough to
// hand back what was only read (releasing to the whole cluster is a fence of all memory, hundreds of cycles each time).
AF_INLINE void mbar_arrive_at(uint32_t bar, uint32_t rank) {
  asm volatile("{.reg .b32 r; mapa.shared::cluster.u32 r, %0, %1; mbarrier.arrive.shared::cluster.b64 _, [r];}" ::"r"(bar),
               "r"(rank)
               : "memory");
}

// mbar_expect arrives and adds the bytes that copies will deliver in this phase.
AF_INLINE void mbar_expect(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

// mbar_wait returns once the phase of this parity has ended (a fresh barrier: parity 1 has, parity 0 has not).
AF_INLINE void mbar_wait(uint32_t bar, uint32_t parity) {
  asm volatile(
      "{.reg .pred p;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra done;\n"
      "bra again;\n"
      "done:}" ::"r"(bar),
      "r"(parity)
      : "memory");
}

// ---- Named barriers: `threads` is how many threads, syncing and arriving together, complete one.

AF_INLINE void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
AF_INLINE void bar_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// ---- Clusters.

AF_INLINE uint32_t cluster_rank() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
AF_INLINE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// ---- TMA: one thread copies a box of a tensor; c0 is the coordinate of the fastest dimension. What lies outside the tensor reads as
// zero and is not written. A load's bytes, those outside included, count towards the phase of `bar`.

AF_INLINE void tma_prefetch_map(const CUtensorMap *m) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(m)) : "memory");
}
AF_INLINE void tma_load_2d(uint32_t dst, const CUtensorMap *m, uint32_t bar, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(dst),
               "l"(reinterpret_cast<uint64_t>(m)), "r"(bar), "r"(c0), "r"(c1)
               : "memory");
}
AF_INLINE void tma_load_3d(uint32_t dst, const CUtensorMap *m, uint32_t bar, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(dst),
               "l"(reinterpret_cast<uint64_t>(m)), "r"(bar), "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}
AF_INLINE void tma_load_4d(uint32_t dst, const CUtensorMap *m, uint32_t bar, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(dst),
               "l"(reinterpret_cast<uint64_t>(m)), "r"(bar), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}

// tma_load_2d_multicast delivers the box, and its bytes to the barrier, at the same addresses in each block whose bit is set in `blocks`.
AF_INLINE void tma_load_2d_multicast(uint32_t dst, const CUtensorMap *m, uint32_t bar, int c0, int c1, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(
          dst),
      "l"(reinterpret_cast<uint64_t>(m)), "r"(bar), "r"(c0), "r"(c1), "h"(blocks)
      : "memory");
}

AF_INLINE void smem_clear16(uint32_t at) { asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0) : "memory"); }

// smem_written makes this thread's ordinary writes to shared memory visible to TMA and wgmma; a barrier among the writers follows it.
AF_INLINE void smem_written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

AF_INLINE void tma_store_2d(const CUtensorMap *m, uint32_t src, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(reinterpret_cast<uint64_t>(m)), "r"(src),
               "r"(c0), "r"(c1)
               : "memory");
}
AF_INLINE void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// tma_store_wait_read waits until all but the last N committed groups have read their shared memory; tma_store_wait until they are written.
template <int N>
AF_INLINE void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
template <int N>
AF_INLINE void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}

// ---- Registers: warpgroups of one role give registers up, those of another take them. Multiples of 8; sums must fit the launch.

template <int N>
AF_INLINE void regs_shrink() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
AF_INLINE void regs_grow() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// ---- Programmatic dependent launch. Both are no-ops in an ordinary launch.

AF_INLINE void grid_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
AF_INLINE void grid_launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// ---- wgmma: D[64, N] (+)= A[64, 16] * B[16, N], bf16 operands, float32 sums, by the 128 threads of a warpgroup.
//
// Operands in shared memory are tiles of rows of 2*W bytes (W = 16, 32 or 64 elements) as TMA writes them with the swizzle of that
// many bytes, named by a descriptor. Fragments: thread t (warp t/32, lane l = t%32) holds of rows r = 16*(t/32%4) + l/4 and r+8 the
// columns c = 8*i + 2*(l%4) and c+1: d[4i], d[4i+1] in row r, d[4i+2], d[4i+3] in row r+8. An A fragment in registers holds the
// same places of two column groups as bf16 pairs: a[0] (r, group 0), a[1] (r+8, group 0), a[2] (r, group 1), a[3] (r+8, group 1).

// desc_k describes an operand whose rows (M or N) hold consecutive k. Steps of k inside a row: add 32 bytes to addr.
template <int W>
AF_INLINE uint64_t desc_k(uint32_t addr) {
  constexpr uint64_t swizzle = W == 64 ? 1 : W == 32 ? 2 : 3;
  constexpr uint64_t rows8 = W * 16; // bytes from one group of 8 rows to the next
  return (swizzle << 62) | ((rows8 >> 4) << 32) | (1ull << 16) | ((addr & 0x3ffff) >> 4);
}

// desc_mn describes an operand whose rows are k and hold W consecutive columns (M or N); the next W columns lie `chunk` bytes further.
template <int W>
AF_INLINE uint64_t desc_mn(uint32_t addr, uint32_t chunk) {
  constexpr uint64_t swizzle = W == 64 ? 1 : W == 32 ? 2 : 3;
  constexpr uint64_t rows8 = W * 16;
  return (swizzle << 62) | ((rows8 >> 4) << 32) | ((uint64_t)(chunk >> 4) << 16) | ((addr & 0x3ffff) >> 4);
}

// desc_step moves a descriptor by bytes; the sum stays inside shared memory.
AF_INLINE uint64_t desc_step(uint64_t desc, uint32_t bytes) { return desc + (bytes >> 4); }

// wgmma_fence comes before the first product that uses registers touched since the last one.
AF_INLINE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
AF_INLINE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// wgmma_wait waits for all but the last N committed groups.
template <int N>
AF_INLINE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// pin keeps the compiler from moving uses of registers across this point: around products in flight.
template <int N>
AF_INLINE void pin(float (&r)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(r[i])::"memory");
}
template <int N>
AF_INLINE void pin(uint32_t (&r)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+r"(r[i])::"memory");
}

// Wgmma<N>::ss takes both operands from shared memory (k-major A), ::rs takes A from registers. BT: B is desc_mn, else desc_k.
// acc 0: D is overwritten.
template <int N>
struct Wgmma;

#define AF_P8(a, b, c, d, e, f, g, h) "%" #a ",%" #b ",%" #c ",%" #d ",%" #e ",%" #f ",%" #g ",%" #h
#define AF_P32 AF_P8(0, 1, 2, 3, 4, 5, 6, 7) "," AF_P8(8, 9, 10, 11, 12, 13, 14, 15) "," AF_P8(16, 17, 18, 19, 20, 21, 22, 23) "," AF_P8(24, 25, 26, 27, 28, 29, 30, 31)
#define AF_P40 AF_P32 "," AF_P8(32, 33, 34, 35, 36, 37, 38, 39)
#define AF_P48 AF_P40 "," AF_P8(40, 41, 42, 43, 44, 45, 46, 47)
#define AF_P56 AF_P48 "," AF_P8(48, 49, 50, 51, 52, 53, 54, 55)
#define AF_P64 AF_P56 "," AF_P8(56, 57, 58, 59, 60, 61, 62, 63)
#define AF_P72 AF_P64 "," AF_P8(64, 65, 66, 67, 68, 69, 70, 71)
#define AF_P80 AF_P72 "," AF_P8(72, 73, 74, 75, 76, 77, 78, 79)
#define AF_P88 AF_P80 "," AF_P8(80, 81, 82, 83, 84, 85, 86, 87)
#define AF_P96 AF_P88 "," AF_P8(88, 89, 90, 91, 92, 93, 94, 95)
#define AF_P104 AF_P96 "," AF_P8(96, 97, 98, 99, 100, 101, 102, 103)
#define AF_P112 AF_P104 "," AF_P8(104, 105, 106, 107, 108, 109, 110, 111)
#define AF_P120 AF_P112 "," AF_P8(112, 113, 114, 115, 116, 117, 118, 119)
#define AF_P128 AF_P120 "," AF_P8(120, 121, 122, 123, 124, 125, 126, 127)
#define AF_D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define AF_D32 AF_D8(0), AF_D8(8), AF_D8(16), AF_D8(24)
#define AF_D40 AF_D32, AF_D8(32)
#define AF_D48 AF_D40, AF_D8(40)
#define AF_D56 AF_D48, AF_D8(48)
#define AF_D64 AF_D56, AF_D8(56)
#define AF_D72 AF_D64, AF_D8(64)
#define AF_D80 AF_D72, AF_D8(72)
#define AF_D88 AF_D80, AF_D8(80)
#define AF_D96 AF_D88, AF_D8(88)
#define AF_D104 AF_D96, AF_D8(96)
#define AF_D112 AF_D104, AF_D8(104)
#define AF_D120 AF_D112, AF_D8(112)
#define AF_D128 AF_D120, AF_D8(120)

// R is the number of sums a thread holds, N/2; p0.. are the operand numbers that follow them.
#define AF_WGMMA(N, R, p0, p1, p2, p3, p4, p5, p6)                                                                              \
  template <>                                                                                                                   \
  struct Wgmma<N> {                                                                                                             \
    template <bool BT>                                                                                                          \
    AF_INLINE void ss(float (&d)[N / 2], uint64_t a, uint64_t b, uint32_t acc) {                                                \
      asm volatile("{.reg .pred p; setp.ne.b32 p, %" #p2 ", 0;\n"                                                               \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" AF_P##R "}, %" #p0 ", %" #p1                    \
                   ", p, 1, 1, 0, %" #p3 ";}"                                                                                   \
                   : AF_D##R                                                                                                    \
                   : "l"(a), "l"(b), "r"(acc), "n"(BT ? 1 : 0));                                                                \
    }                                                                                                                           \
    template <bool BT>                                                                                                          \
    AF_INLINE void rs(float (&d)[N / 2], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b, uint32_t acc) {        \
      asm volatile("{.reg .pred p; setp.ne.b32 p, %" #p5 ", 0;\n"                                                               \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" AF_P##R "}, {%" #p0 ",%" #p1 ",%" #p2 ",%" #p3   \
                   "}, %" #p4 ", p, 1, 1, %" #p6 ";}"                                                                           \
                   : AF_D##R                                                                                                    \
                   : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(acc), "n"(BT ? 1 : 0));                                    \
    }                                                                                                                           \
  };

AF_WGMMA(64, 32, 32, 33, 34, 35, 36, 37, 38)
AF_WGMMA(80, 40, 40, 41, 42, 43, 44, 45, 46)
AF_WGMMA(96, 48, 48, 49, 50, 51, 52, 53, 54)
AF_WGMMA(112, 56, 56, 57, 58, 59, 60, 61, 62)
AF_WGMMA(128, 64, 64, 65, 66, 67, 68, 69, 70)
AF_WGMMA(144, 72, 72, 73, 74, 75, 76, 77, 78)
AF_WGMMA(160, 80, 80, 81, 82, 83, 84, 85, 86)
AF_WGMMA(176, 88, 88, 89, 90, 91, 92, 93, 94)
AF_WGMMA(192, 96, 96, 97, 98, 99, 100, 101, 102)
AF_WGMMA(208, 104, 104, 105, 106, 107, 108, 109, 110)
AF_WGMMA(224, 112, 112, 113, 114, 115, 116, 117, 118)
AF_WGMMA(240, 120, 120, 121, 122, 123, 124, 125, 126)
AF_WGMMA(256, 128, 128, 129, 130, 131, 132, 133, 134)

} // namespace hopper
