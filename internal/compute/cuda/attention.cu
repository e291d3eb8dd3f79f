// Attention for what the tensor-core kernels do not take: float32 tensors and odd head sizes. Online softmax; a warp owns rows of q and
// walks the keys in tiles of 32, a lane a key for the scores and a lane a column for the sums. A row's arithmetic depends on its keys only.

#include "attention.h"
#include "views.cuh"

constexpr int kKeys = 32, kWarps = 4, kRows = 4; // kRows a warp, so that what is read from shared memory serves several

template <int D> // columns a lane
AF_INLINE void attend(const af_attention_args &a, float *shared) {
	const uint32_t dim = a.dim, pitch = dim | 1; // odd: a column of keys touches every bank
	float *qs = shared, *ks = qs + kWarps * kRows * dim, *vs = ks + kKeys * pitch;
	const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
	const uint32_t head = blockIdx.y, kv = head / (a.heads / a.kv_heads), block = kWarps * kRows;
	// A block stays within a segment, so that all its rows see the same keys.
	const uint32_t span = a.segment ? a.segment : a.q.rows, per = (span + block - 1) / block;
	const uint32_t base = blockIdx.x / per * span, r0 = base + blockIdx.x % per * block, end = min(base + span, a.q.rows);
	const uint32_t from = a.segment ? base : 0;
	const uint32_t last = min(end, r0 + block);
	const uint32_t to = a.causal ? a.past + last : a.segment ? base + span : a.keys;

	for (uint32_t i = threadIdx.x; i < block * dim; i += blockDim.x) {
		float v[1] = {0.f};
		if (r0 + i / dim < end) load(v, a.q, r0 + i / dim, head * dim + i % dim);
		qs[i] = v[0] * a.scale;
	}
	float m[kRows], l[kRows], o[kRows][D] = {};
#pragma unroll
	for (int i = 0; i < kRows; i++) m[i] = -INFINITY, l[i] = 0.f;

	for (uint32_t j0 = from; j0 < to; j0 += kKeys) {
		__syncthreads();
		for (uint32_t i = threadIdx.x; i < kKeys * dim; i += blockDim.x) {
			const uint32_t j = i / dim, c = i % dim;
			float k[1] = {0.f}, v[1] = {0.f};
			if (j0 + j < to) {
				uint32_t row = j0 + j;
				if (a.pages) row = ((const int32_t *)a.pages)[row / 64] * 64 + row % 64;
				load(k, a.k, row, kv * dim + c);
				load(v, a.v, row, kv * dim + c);
			}
			ks[j * pitch + c] = k[0];
			vs[i] = v[0];
		}
		__syncthreads();
		float s[kRows] = {};
		for (uint32_t c = 0; c < dim; c++) {
			const float k = ks[lane * pitch + c];
#pragma unroll
			for (int i = 0; i < kRows; i++) s[i] = fmaf(qs[(warp * kRows + i) * dim + c], k, s[i]);
		}
#pragma unroll
		for (int i = 0; i < kRows; i++) {
			const uint32_t seen = a.causal ? min(to, a.past + r0 + warp * kRows + i + 1) : to;
			if (j0 + lane >= seen) s[i] = -INFINITY;
			const float top = fmaxf(m[i], warp_max(s[i]));
			const float shrink = top == -INFINITY ? 1.f : exp2f(m[i] - top);
			s[i] = top == -INFINITY ? 0.f : exp2f(s[i] - top);
			m[i] = top;
			l[i] = l[i] * shrink + warp_sum(s[i]);
#pragma unroll
			for (int d = 0; d < D; d++) o[i][d] *= shrink;
		}
		const int keys = min((uint32_t)kKeys, to - j0);
		for (int j = 0; j < keys; j++) {
			float p[kRows];
#pragma unroll
			for (int i = 0; i < kRows; i++) p[i] = __shfl_sync(~0u, s[i], j);
#pragma unroll
			for (int d = 0; d < D; d++) {
				const uint32_t c = d * 32 + lane;
				if (c < dim) {
					const float v = vs[j * dim + c];
#pragma unroll
					for (int i = 0; i < kRows; i++) o[i][d] = fmaf(p[i], v, o[i][d]);
				}
			}
		}
	}
#pragma unroll
	for (int i = 0; i < kRows; i++) {
		const uint32_t r = r0 + warp * kRows + i;
		if (r >= end) break;
#pragma unroll
		for (int d = 0; d < D; d++) {
			const uint32_t c = d * 32 + lane;
			float v[1] = {o[i][d] / l[i]};
			if (c < dim) store(a.dst, r, head * dim + c, v);
		}
	}
}

AF_KERNEL(attention, 128) {
	extern __shared__ float shared[];
	if (a.dim <= 32) attend<1>(a, shared);
	else if (a.dim <= 64) attend<2>(a, shared);
	else if (a.dim <= 96) attend<3>(a, shared);
	else if (a.dim <= 128) attend<4>(a, shared);
	else attend<8>(a, shared);
}
