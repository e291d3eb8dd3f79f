// What the kernels of several families share: how they are declared, conversions, reductions, and names for the instructions that
// C++ has none for. A kernel is
//
//   struct af_NAME_args {...};
//   AF_KERNEL(NAME, threads) { ... a.field ... }
//
// one struct passed by value as a, with pointers first where that avoids padding; Go mirrors it and compares sizes at load.
#pragma once

#include <cuda_bf16.h>
#include <stdint.h>

#define AF_KERNEL(name, ...)                                                           \
	extern "C" {                                                                       \
	__device__ uint32_t af_sizeof_##name = sizeof(af_##name##_args);                   \
	}                                                                                  \
	extern "C" __global__ void __launch_bounds__(__VA_ARGS__) af_##name(const __grid_constant__ af_##name##_args a)

#define AF_INLINE static __device__ __forceinline__

typedef __nv_bfloat16 bf16;

// ---- Bfloat16. Pairs are as in memory: the first element in the low half.

AF_INLINE float2 bf16_unpack(uint32_t v) { return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)); }

AF_INLINE uint32_t bf16_pack(float lo, float hi) { // to nearest, ties to even
	uint32_t v;
	asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
	return v;
}

AF_INLINE float bf16_round(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

AF_INLINE uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

// ---- Reductions. All lanes get the result.

AF_INLINE float warp_sum(float v) {
#pragma unroll
	for (int i = 16; i > 0; i /= 2) v += __shfl_xor_sync(~0u, v, i);
	return v;
}

AF_INLINE float warp_max(float v) {
#pragma unroll
	for (int i = 16; i > 0; i /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, i));
	return v;
}

// block_sum adds v over the block, always in the same order. slots are 33 floats of shared memory; every thread must call it.
AF_INLINE float block_sum(float v, float *slots) {
	const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
	v = warp_sum(v);
	if (lane == 0) slots[warp] = v;
	__syncthreads();
	if (warp == 0) {
		v = warp_sum(lane < warps ? slots[lane] : 0.f);
		if (lane == 0) slots[32] = v;
	}
	__syncthreads();
	v = slots[32];
	__syncthreads(); // slots may be used again
	return v;
}

// ---- Programmatic dependent launch. After wait, all that earlier kernels wrote can be seen; launch lets the next kernel begin.

AF_INLINE void pdl_wait() {
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

AF_INLINE void pdl_launch() {
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- Asynchronous copies, 16 bytes each, to shared memory past the first-level cache; with ok false the destination is zeroed.

AF_INLINE void cp_async16(uint32_t dst, const void *src, bool ok = true) {
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(ok ? 16 : 0) : "memory");
}

AF_INLINE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int pending>
AF_INLINE void cp_async_wait() {
	asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---- Matrix fragments.

AF_INLINE void ldmatrix4(uint32_t (&r)[4], uint32_t at) {
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

AF_INLINE void ldmatrix4_transposed(uint32_t (&r)[4], uint32_t at) {
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

AF_INLINE void ldmatrix2(uint32_t (&r)[2], uint32_t at) {
	asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
}

// d += a·b for tiles of 16x8x16, bfloat16 in, float32 out.
AF_INLINE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
				 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
				 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- Activations of compute.Activation, in float32.

enum { AF_IDENTITY, AF_GELU, AF_GELU_TANH, AF_QUICK_GELU };

AF_INLINE float activate(int act, float x) {
	switch (act) {
	case AF_GELU: return 0.5f * x * erfcf(-0.70710678118654752f * x);
	case AF_GELU_TANH: return x / (1.f + expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
	case AF_QUICK_GELU: return x / (1.f + expf(-1.702f * x));
	}
	return x;
}
