// The small kernels of a decoder's pass: everything between the products and attention. Rows are independent, and each element is
// computed by one thread (or one block, for a norm) in an order that does not depend on how many rows there are.
#include "common.cuh"
#include "pass.h"

AF_INLINE void unpack8(const uint4 &raw, float f[8]) {
	const uint32_t w[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
	for (int i = 0; i < 4; i++) {
		float2 p = bf16_unpack(w[i]);
		f[2 * i] = p.x, f[2 * i + 1] = p.y;
	}
}

AF_INLINE uint4 pack8(const float f[8]) {
	return make_uint4(bf16_pack(f[0], f[1]), bf16_pack(f[2], f[3]), bf16_pack(f[4], f[5]), bf16_pack(f[6], f[7]));
}

AF_INLINE int spread(const af_spread &s, int i) {
	int j = i % s.in_block;
	return i / s.in_block * s.out_block + (j < s.in_half ? j : s.out_half + j - s.in_half);
}

// mix is the finaliser of splitmix64: every output bit depends on every input bit.
AF_INLINE uint64_t mix(uint64_t z) {
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}


// Grid: one block a row.
AF_KERNEL(pass_embed, 128) {
	__shared__ float slots[33];
	pdl_launch();
	pdl_wait();
	int row = blockIdx.x;
	float *x = a.x + size_t(row) * a.hidden, sum = 0;
	bool live = a.count == nullptr || row < *a.count;
	int id = live ? a.ids[row] : 0;
	if (id < 0 && a.visual == nullptr) return;
	for (int c = threadIdx.x * 8; c < a.hidden; c += blockDim.x * 8) {
		float f[8] = {};
		if (live && id >= 0) {
			unpack8(*reinterpret_cast<const uint4 *>(a.table + size_t(id) * a.hidden + c), f);
		} else if (live) {
			const float4 *v = reinterpret_cast<const float4 *>(a.visual + size_t(-1 - id) * a.hidden + c);
			float4 lo = v[0], hi = v[1];
			f[0] = lo.x, f[1] = lo.y, f[2] = lo.z, f[3] = lo.w, f[4] = hi.x, f[5] = hi.y, f[6] = hi.z, f[7] = hi.w;
		}
		reinterpret_cast<float4 *>(x + c)[0] = make_float4(f[0], f[1], f[2], f[3]);
		reinterpret_cast<float4 *>(x + c)[1] = make_float4(f[4], f[5], f[6], f[7]);
		if (a.h == nullptr) continue;
#pragma unroll
		for (int e = 0; e < 8; e++) {
			sum += f[e] * f[e];
			f[e] *= a.next[c + e];
		}
		*reinterpret_cast<uint4 *>(a.h + size_t(row) * a.hidden + c) = pack8(f);
	}
	if (a.h == nullptr) return;
	sum = block_sum(sum, slots);
	if (threadIdx.x == 0) a.sums[size_t(row) * AF_SKINNY_PARTS] = sum;
}

// Grid: one block a row. The second reading of the row comes from the first-level cache.
AF_KERNEL(pass_norm, 256) {
	__shared__ float slots[33];
	pdl_launch();
	pdl_wait();
	const float4 *x = reinterpret_cast<const float4 *>(a.x + size_t(blockIdx.x) * a.hidden);
	int n = a.hidden / 4;
	float sum = 0;
	for (int c = threadIdx.x; c < n; c += 256) {
		float4 v = x[c];
		sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
	}
	sum = block_sum(sum, slots);
	float r = rsqrtf(sum / a.hidden + a.eps);
	const float4 *w = reinterpret_cast<const float4 *>(a.w);
	uint2 *h = reinterpret_cast<uint2 *>(a.h + size_t(blockIdx.x) * a.hidden);
	for (int c = threadIdx.x; c < n; c += 256) {
		float4 v = x[c], g = w[c];
		h[c] = make_uint2(bf16_pack(v.x * r * g.x, v.y * r * g.y), bf16_pack(v.z * r * g.z, v.w * r * g.w));
	}
}

// A thread rotates eight pairs, or carries eight values. Grid: one block a row.
AF_KERNEL(pass_rope, 256) {
	pdl_launch();
	pdl_wait();
	int row = blockIdx.x, d = a.head_dim, half = d / 2, per = half / 8;
	uint16_t *qkv = a.qkv + size_t(row) * a.stride;
	const float *angle = a.table + size_t(a.position[row]) * d;
	int slot = a.slot[row];
	size_t page = size_t(slot >> 6) * a.kv_heads * 64 * d + size_t(slot & 63) * d;
	int turns = (a.heads + a.kv_heads) * per;
	for (int i = threadIdx.x; i < turns; i += blockDim.x) {
		int head = i / per, j = i % per * 8;
		uint16_t *at = qkv + size_t(head) * d + j;
		float lo[8], hi[8], c[8], s[8], lo2[8], hi2[8];
		unpack8(*reinterpret_cast<const uint4 *>(at), lo);
		unpack8(*reinterpret_cast<const uint4 *>(at + half), hi);
		*reinterpret_cast<float4 *>(c) = *reinterpret_cast<const float4 *>(angle + j);
		*reinterpret_cast<float4 *>(c + 4) = *reinterpret_cast<const float4 *>(angle + j + 4);
		*reinterpret_cast<float4 *>(s) = *reinterpret_cast<const float4 *>(angle + half + j);
		*reinterpret_cast<float4 *>(s + 4) = *reinterpret_cast<const float4 *>(angle + half + j + 4);
#pragma unroll
		for (int e = 0; e < 8; e++) {
			lo2[e] = lo[e] * c[e] - hi[e] * s[e];
			hi2[e] = hi[e] * c[e] + lo[e] * s[e];
		}
		uint16_t *to = at;
		if (head >= a.heads) {
			if (slot < 0) continue;
			to = a.k + page + size_t(head - a.heads) * 64 * d + j;
		}
		*reinterpret_cast<uint4 *>(to) = pack8(lo2);
		*reinterpret_cast<uint4 *>(to + half) = pack8(hi2);
	}
	if (slot < 0) return;
	const uint16_t *v = qkv + size_t(a.heads + a.kv_heads) * d;
	for (int i = threadIdx.x; i < a.kv_heads * d / 8; i += blockDim.x) {
		int head = i / (d / 8), j = i % (d / 8) * 8;
		*reinterpret_cast<uint4 *>(a.v + page + size_t(head) * 64 * d + j) = *reinterpret_cast<const uint4 *>(v + i * 8);
	}
}

// Grid: one block a row.
AF_KERNEL(pass_gather, 256) {
	pdl_launch();
	pdl_wait();
	int from = a.index[blockIdx.x];
	uint4 *dst = a.dst + blockIdx.x * a.dst_stride;
	for (int i = threadIdx.x; i < a.units; i += 256) dst[i] = from < 0 ? make_uint4(0, 0, 0, 0) : a.src[from * a.src_stride + i];
}

// Grid: pairs x pools.
AF_KERNEL(pass_copy, 256) {
	pdl_launch();
	pdl_wait();
	uint4 *pool = a.pools + blockIdx.y * a.stride;
	uint4 *to = pool + size_t(a.to[blockIdx.x]) * a.units;
	const uint4 *from = pool + size_t(a.from[blockIdx.x]) * a.units;
	for (int i = threadIdx.x; i < a.units; i += 256) to[i] = from[i];
}

// Grid: one block a row.
AF_KERNEL(pass_convert, 256) {
	size_t row = size_t(spread(a.row, a.row0 + blockIdx.x)) * a.dst_stride;
	const float *src = a.src + size_t(blockIdx.x) * a.cols;
	for (int c = threadIdx.x; c < a.cols; c += 256) {
		size_t at = row + spread(a.col, c);
		float v = src[c] * a.scale;
		if (a.wide) static_cast<float *>(a.dst)[at] = v;
		else static_cast<__nv_bfloat16 *>(a.dst)[at] = __float2bfloat16_rn(v);
	}
}

// A thread makes eight values. Grid: any, of 256 threads.
AF_KERNEL(pass_random, 256) {
	float scale = a.scale * 1.7320508f / 32768; // a uniform variable over ±1 has deviation 1/√3
	for (uint64_t i = uint64_t(blockIdx.x) * 256 + threadIdx.x; i < a.n / 8; i += uint64_t(gridDim.x) * 256) {
		float f[8];
#pragma unroll
		for (int half = 0; half < 2; half++) {
			uint64_t z = mix(a.seed + (2 * i + half + 1) * 0x9e3779b97f4a7c15ull);
#pragma unroll
			for (int e = 0; e < 4; e++) f[4 * half + e] = (float(int(z >> (16 * e) & 0xffff)) - 32767.5f) * scale;
		}
		*reinterpret_cast<uint4 *>(a.dst + 8 * i) = pack8(f);
	}
}
