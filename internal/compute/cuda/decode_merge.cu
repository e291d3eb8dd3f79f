// The second half of attention of a few rows: the states of a row's chunks become its result.
#include "decode.cuh"

constexpr int STREAMS = 16;

// A block has a row and query head to itself. Stream i adds up chunks i, i+16, ... in order; then the streams are added up in order. WARPS
// share the streams, more where there are few rows to keep the device busy; that does not show in the result.
template <int WARPS>
__device__ __forceinline__ void merge(const af_decode_merge_args &a) {
	constexpr int MINE = STREAMS / WARPS, DEEP = MINE == 1 ? 8 : 3; // of a warp: streams, and chunks of each at a time
	__shared__ float tops[WARPS], weights[STREAMS];
	__shared__ float4 parts[STREAMS][32];
	const int head = blockIdx.x, row = blockIdx.y, warp = threadIdx.x >> 5, lane = threadIdx.x & 31, d = a.head_dim;
	pdl_launch();
	if (!a.early) pdl_wait();
	const int n = __ldg(&a.plan->row[row].chunks), slot = __ldg(&a.plan->row[row].slot);
	if (a.early) pdl_wait();
	const float *lse = a.lse + (int64_t)slot * a.heads + head;
	const float *o = a.o + ((int64_t)slot * a.heads + head) * d + 4 * lane;
	const int64_t step = (int64_t)a.heads * d;
	const bool on = 4 * lane < d;
	float4 v[DEEP][MINE];
	float log[DEEP][MINE];
	auto fetch = [&](int first) {
#pragma unroll
		for (int i = 0; i < DEEP; i++)
#pragma unroll
			for (int j = 0; j < MINE; j++) {
				const int c = first + STREAMS * i + WARPS * j;
				v[i][j] = on && c < n ? *reinterpret_cast<const float4 *>(o + c * step) : make_float4(0, 0, 0, 0);
				log[i][j] = c < n ? lse[(int64_t)c * a.heads] : -CUDART_INF_F;
			}
	};
	fetch(warp);
	float top = -CUDART_INF_F;
	for (int c = threadIdx.x; c < n; c += 32 * WARPS) top = fmaxf(top, lse[(int64_t)c * a.heads]);
	top = warp_max(top);
	if (lane == 0) tops[warp] = top;
	__syncthreads();
#pragma unroll
	for (int i = 0; i < WARPS; i++) top = fmaxf(top, tops[i]);
	if (top == -CUDART_INF_F) top = 0;
	float4 acc[MINE];
	float weight[MINE];
#pragma unroll
	for (int j = 0; j < MINE; j++) acc[j] = make_float4(0, 0, 0, 0), weight[j] = 0;
	for (int first = warp; first < n; first += STREAMS * DEEP) {
		if (first != warp) fetch(first);
#pragma unroll
		for (int i = 0; i < DEEP; i++)
#pragma unroll
			for (int j = 0; j < MINE; j++) {
				const float x = exp2_fast(__fmul_rn(__fsub_rn(log[i][j], top), LOG2E));
				acc[j].x = __fmaf_rn(v[i][j].x, x, acc[j].x);
				acc[j].y = __fmaf_rn(v[i][j].y, x, acc[j].y);
				acc[j].z = __fmaf_rn(v[i][j].z, x, acc[j].z);
				acc[j].w = __fmaf_rn(v[i][j].w, x, acc[j].w);
				weight[j] = __fadd_rn(weight[j], x);
			}
	}
#pragma unroll
	for (int j = 0; j < MINE; j++) {
		parts[warp + WARPS * j][lane] = acc[j];
		if (lane == 0) weights[warp + WARPS * j] = weight[j];
	}
	__syncthreads();
	if (warp == 0 && on) {
		float4 all = make_float4(0, 0, 0, 0);
		float sum = 0;
#pragma unroll
		for (int i = 0; i < STREAMS; i++) {
			const float4 p = parts[i][lane];
			all.x += p.x;
			all.y += p.y;
			all.z += p.z;
			all.w += p.w;
			sum += weights[i];
		}
		const float inv = sum > 0 ? 1 / sum : 0;
		*reinterpret_cast<uint2 *>(a.out + (int64_t)row * a.stride + head * d + 4 * lane) =
			make_uint2(bf16_pack(all.x * inv, all.y * inv), bf16_pack(all.z * inv, all.w * inv));
	}
}

typedef af_decode_merge_args af_decode_merge_few_args, af_decode_merge_many_args;

AF_KERNEL(decode_merge_few, 512) { merge<16>(a); }
AF_KERNEL(decode_merge_many, 256, 4) { merge<8>(a); }
