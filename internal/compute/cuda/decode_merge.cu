// The second half of attention of a few rows: the states of a row's chunks become its result.
#include "decode.cuh"

// A block has a row, a query head and 32 of the head's columns, so that one row of few heads is read by many multiprocessors. Eight
// threads have a stream: stream i adds up chunks i, i+16, ... in order, DEEP of them on their way at a time, more where there are few
// blocks; then the streams are added up in order. Nothing of that shows in the result.
constexpr int STREAMS = 16, LANES = 8, COLUMNS = 4 * LANES;

template <int DEEP>
__device__ __forceinline__ void merge(const af_decode_merge_args &a) {
	__shared__ float tops[STREAMS * LANES / 32], weights[STREAMS];
	__shared__ float4 parts[STREAMS][LANES];
	const int head = blockIdx.x, row = blockIdx.y, stream = threadIdx.x / LANES, lane = threadIdx.x % LANES, d = a.head_dim;
	const int column = blockIdx.z * COLUMNS + 4 * lane;
	pdl_launch();
	if (!a.early) pdl_wait();
	const int n = __ldg(&a.plan->row[row].chunks), slot = __ldg(&a.plan->row[row].slot);
	if (a.early) pdl_wait();
	const float *lse = a.lse + (int64_t)slot * a.heads + head;
	const float *o = a.o + ((int64_t)slot * a.heads + head) * d + column;
	const int64_t step = (int64_t)a.heads * d;
	const bool on = column < d;
	float4 v[DEEP];
	float log[DEEP];
	auto fetch = [&](int first) {
#pragma unroll
		for (int i = 0; i < DEEP; i++) {
			const int c = first + STREAMS * i;
			v[i] = on && c < n ? *reinterpret_cast<const float4 *>(o + c * step) : make_float4(0, 0, 0, 0);
			log[i] = c < n ? lse[(int64_t)c * a.heads] : -CUDART_INF_F;
		}
	};
	fetch(stream);
	float top = -CUDART_INF_F;
	for (int c = threadIdx.x; c < n; c += STREAMS * LANES) top = fmaxf(top, lse[(int64_t)c * a.heads]);
	top = warp_max(top);
	if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
	__syncthreads();
#pragma unroll
	for (int i = 0; i < STREAMS * LANES / 32; i++) top = fmaxf(top, tops[i]);
	if (top == -CUDART_INF_F) top = 0;
	float4 acc = make_float4(0, 0, 0, 0);
	float weight = 0;
	for (int first = stream; first < n; first += STREAMS * DEEP) {
		if (first != stream) fetch(first);
#pragma unroll
		for (int i = 0; i < DEEP; i++) {
			const float x = exp2_fast(__fmul_rn(__fsub_rn(log[i], top), LOG2E));
			acc.x = __fmaf_rn(v[i].x, x, acc.x);
			acc.y = __fmaf_rn(v[i].y, x, acc.y);
			acc.z = __fmaf_rn(v[i].z, x, acc.z);
			acc.w = __fmaf_rn(v[i].w, x, acc.w);
			weight = __fadd_rn(weight, x);
		}
	}
	parts[stream][lane] = acc;
	if (lane == 0) weights[stream] = weight;
	__syncthreads();
	if (stream == 0 && on) {
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
		*reinterpret_cast<uint2 *>(a.out + (int64_t)row * a.stride + head * d + column) =
			make_uint2(bf16_pack(all.x * inv, all.y * inv), bf16_pack(all.z * inv, all.w * inv));
	}
}

typedef af_decode_merge_args af_decode_merge_few_args, af_decode_merge_many_args;

AF_KERNEL(decode_merge_few, STREAMS * LANES) { merge<8>(a); }
AF_KERNEL(decode_merge_many, STREAMS * LANES) { merge<4>(a); }
