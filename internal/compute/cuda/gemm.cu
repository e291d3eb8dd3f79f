// What follows a product that a library made, where no kernel has it fused: one pass over the sums.
#include "gemm_finish.h"
#include "views.cuh"

// A thread takes 8 columns of dst at a time.
AF_KERNEL(gemm_finish, 256) {
	pdl_wait();
	const uint32_t across = a.dst.cols / 8;
	const uint64_t n = (uint64_t)a.dst.rows * across;
	for (uint64_t i = (uint64_t)blockIdx.x * 256 + threadIdx.x; i < n; i += (uint64_t)gridDim.x * 256) {
		const uint32_t r = i / across, c = i % across * 8;
		float v[8];
		if (a.swiglu) {
			float up[8];
			load(v, a.sums, r, 2 * c);
			load(up, a.sums, r, 2 * c + 8);
#pragma unroll
			for (int j = 0; j < 8; j++) v[j] = v[j] / (1.f + expf(-v[j])) * up[j];
			store(a.dst, r, c, v);
			continue;
		}
		load(v, a.sums, r, c);
#pragma unroll
		for (int j = 0; j < 8; j++) {
			if (a.bias) v[j] += ((const float *)a.bias)[c + j];
			v[j] = activate(a.act, v[j]);
			if (a.scale) v[j] *= ((const float *)a.scale)[c + j];
		}
		if (a.add) {
			float old[8];
			load(old, a.dst, r, c);
#pragma unroll
			for (int j = 0; j < 8; j++) v[j] += old[j];
		}
		store(a.dst, r, c, v);
	}
}
