// The second half of attention of a few rows: the states of a row's chunks become its result.
#include "decode.cuh"

// Adds up the states of a row and query head, which a block has to itself: warp w those of chunks w, w+WARPS, ... in order, then the warps in order.
constexpr int WARPS = 16, BATCH = 8;

AF_KERNEL(decode_merge, 32 * WARPS) {
	__shared__ float tops[WARPS], weights[WARPS];
	__shared__ float4 parts[WARPS][32];
	const int head = blockIdx.x, row = blockIdx.y, warp = threadIdx.x >> 5, lane = threadIdx.x & 31, d = a.head_dim;
	pdl_launch();
	if (!a.early) pdl_wait();
	const int n = __ldg(&a.plan->row[row].chunks), slot = __ldg(&a.plan->row[row].slot);
	if (a.early) pdl_wait();
	const float *lse = a.lse + (int64_t)slot * a.heads + head;
	const float *o = a.o + ((int64_t)slot * a.heads + head) * d + 4 * lane;
	const int64_t step = (int64_t)a.heads * d;
	const bool on = 4 * lane < d;
	float4 v[BATCH];
	auto fetch = [&](int first) {
#pragma unroll
		for (int i = 0; i < BATCH; i++) {
			const int c = first + WARPS * i;
			v[i] = on && c < n ? *reinterpret_cast<const float4 *>(o + c * step) : make_float4(0, 0, 0, 0);
		}
	};
	fetch(warp);
	float top = -CUDART_INF_F;
	for (int c = warp + WARPS * lane; c < n; c += WARPS * 32) top = fmaxf(top, lse[(int64_t)c * a.heads]);
	top = warp_max(top);
	if (lane == 0) tops[warp] = top;
	__syncthreads();
#pragma unroll
	for (int i = 0; i < WARPS; i++) top = fmaxf(top, tops[i]);
	if (top == -CUDART_INF_F) top = 0;
	float4 acc = make_float4(0, 0, 0, 0);
	float weight = 0;
	for (int first = warp; first < n; first += WARPS * 32) {
		const int c = first + WARPS * lane;
		const float w = c < n ? exp2_fast((lse[(int64_t)c * a.heads] - top) * LOG2E) : 0;
		for (int j = 0; j < 32 && first + WARPS * j < n; j += BATCH) {
			if (first != warp || j) fetch(first + WARPS * j);
#pragma unroll
			for (int i = 0; i < BATCH; i++) {
				const float x = __shfl_sync(~0u, w, j + i);
				acc.x = fmaf(v[i].x, x, acc.x);
				acc.y = fmaf(v[i].y, x, acc.y);
				acc.z = fmaf(v[i].z, x, acc.z);
				acc.w = fmaf(v[i].w, x, acc.w);
				weight += x;
			}
		}
	}
	parts[warp][lane] = acc;
	if (lane == 0) weights[warp] = weight;
	__syncthreads();
	if (warp == 0 && on) {
		acc = make_float4(0, 0, 0, 0);
		weight = 0;
#pragma unroll
		for (int i = 0; i < WARPS; i++) {
			const float4 p = parts[i][lane];
			acc.x += p.x;
			acc.y += p.y;
			acc.z += p.z;
			acc.w += p.w;
			weight += weights[i];
		}
		const float inv = weight > 0 ? 1 / weight : 0;
		*reinterpret_cast<uint2 *>(a.out + (int64_t)row * a.stride + head * d + 4 * lane) =
			make_uint2(bf16_pack(acc.x * inv, acc.y * inv), bf16_pack(acc.z * inv, acc.w * inv));
	}
}
