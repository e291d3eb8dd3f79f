// Weights into the order of the skinny products and back, rounded to int8 or int4 on the way.
#include "common.cuh"
#include "skinny.h"

namespace {

// packed_row is where row n of the checkpoint goes.
AF_INLINE int packed_row(int order, int rows, int head_dim, int n) {
	switch (order) {
	case AF_SKINNY_PAIRED: {
		int at = n % head_dim, half = head_dim >> 1;
		return n - at + (at < half ? 2 * at : 2 * (at - half) + 1);
	}
	case AF_SKINNY_GATED: return n < rows >> 1 ? 2 * n : 2 * (n - (rows >> 1)) + 1;
	}
	return n;
}

// place is the strip of a packed row and which of its rows it is.
template <typename Args>
AF_INLINE int2 place(const Args &a, int p) {
	int u = p / a.unit, tall = a.extra * (a.base + 1);
	int2 at = u < tall ? make_int2(u / (a.base + 1), u % (a.base + 1)) : make_int2(a.extra + (u - tall) / a.base, (u - tall) % a.base);
	return make_int2(at.x, at.y * a.unit + p % a.unit);
}

AF_INLINE float source(const af_skinny_pack_args &a, int c) {
	if (c >= a.in) return 0;
	int64_t at = blockIdx.x * a.ld + c;
	return a.wide ? static_cast<const float *>(a.src)[at] : __bfloat162float(static_cast<const bf16 *>(a.src)[at]);
}

AF_INLINE float to_int(float v, float inverse, float low, float high) {
	return fminf(fmaxf(rintf(v * inverse), low), high);
}

} // namespace

// Grid: one block a source row.
AF_KERNEL(skinny_pack, 128) {
	__shared__ float tops[4];
	int p = packed_row(a.order, a.n, a.head_dim, a.row0 + blockIdx.x);
	const int2 at = place(a, p);
	int i = at.y, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
	char *strip = static_cast<char *>(a.w) + int64_t(at.x) * a.blocks * a.block;
	if (a.kind == AF_SKINNY_BF16) {
		for (int u = threadIdx.x; u < a.blocks * 4; u += 128) { // 16 bytes, 8 columns
			float f[8];
#pragma unroll
			for (int e = 0; e < 8; e++) f[e] = source(a, u * 8 + e);
			*reinterpret_cast<uint4 *>(strip + int64_t(u >> 2) * a.block + i * 64 + (u & 3) * 16) =
				make_uint4(bf16_pack(f[0], f[1]), bf16_pack(f[2], f[3]), bf16_pack(f[4], f[5]), bf16_pack(f[6], f[7]));
		}
		return;
	}
	if (a.kind == AF_SKINNY_I8) {
		float top = 0;
		for (int c = threadIdx.x; c < a.in; c += 128) top = fmaxf(top, fabsf(source(a, c)));
		top = warp_max(top);
		if (lane == 0) tops[warp] = top;
		__syncthreads();
		top = fmaxf(fmaxf(tops[0], tops[1]), fmaxf(tops[2], tops[3]));
		float inverse = top > 0 ? 127 / top : 0;
		if (threadIdx.x == 0) a.row_scale[p] = top / 127;
		for (int u = threadIdx.x; u < a.blocks * 16; u += 128) { // a word: 4 columns, the middle two exchanged
			int word = u & 3, t = u >> 2 & 3, c = (u >> 4) * 64 + (word >> 1) * 32 + t * 8 + (word & 1) * 4;
			uint32_t bits = 0;
#pragma unroll
			for (int e = 0; e < 4; e++) {
				int q = int(to_int(source(a, c + e), inverse, -127, 127));
				bits |= uint32_t(q & 0xff) << 8 * (e == 1 ? 2 : e == 2 ? 1 : e);
			}
			*reinterpret_cast<uint32_t *>(strip + int64_t(u >> 4) * a.block + i * 64 + t * 16 + word * 4) = bits;
		}
		return;
	}
	// A warp takes a group, a lane four columns of it. The scale is the one of a few, from one that clips the extremes to one that
	// does not, whose squared error is least; its sign gives the largest value the code that only one side has, -8.
	for (int b = warp; b < a.blocks; b += 4) {
		float f[4], high = 0, low = 0;
#pragma unroll
		for (int e = 0; e < 4; e++) {
			f[e] = source(a, b * 128 + lane * 4 + e);
			high = fmaxf(high, f[e]);
			low = fmaxf(low, -f[e]);
		}
		high = warp_max(high), low = warp_max(low);
		float top = high > low ? -high : low, best = 0, least = INFINITY;
		for (int trial = 0; trial < 10; trial++) {
			float scale = __bfloat162float(__float2bfloat16_rn(top / (6.5f + 0.25f * trial)));
			float inverse = scale != 0 ? 1 / scale : 0, error = 0;
#pragma unroll
			for (int e = 0; e < 4; e++) {
				float d = to_int(f[e], inverse, -8, 7) * scale - f[e];
				error += d * d;
			}
			error = warp_sum(error);
			if (error < least) least = error, best = scale;
		}
		float inverse = best != 0 ? 1 / best : 0;
		uint32_t bits = 0;
#pragma unroll
		for (int e = 0; e < 4; e++) {
			uint32_t q = uint32_t(int(to_int(f[e], inverse, -8, 7)) + 8);
			bits |= q << ((e & 1) * 16 + (e >> 1) * 4 + (lane & 1) * 8);
		}
		bits |= __shfl_xor_sync(~0u, bits, 1);
		char *block = strip + int64_t(b) * a.block;
		if (!(lane & 1)) *reinterpret_cast<uint32_t *>(block + i * 64 + (lane >> 1 & 3) * 16 + (lane >> 3) * 4) = bits;
		if (lane == 0) *reinterpret_cast<bf16 *>(block + a.strip * 64 + i * 2) = __float2bfloat16_rn(best);
	}
}

// unpack_row writes a packed row, row i of its strip. A thread takes 16 bytes at a time and writes runs of 8 columns.
template <int KIND>
static __device__ __forceinline__ void unpack_row(const af_skinny_unpack_args &a, const char *strip, int i, float row_scale, uint16_t *dst) {
	const bool aligned = a.ld % 8 == 0 && reinterpret_cast<uintptr_t>(a.dst) % 16 == 0;
	for (int u = threadIdx.x; u < a.blocks * 4; u += 128) {
		const char *block = strip + int64_t(u >> 2) * a.block;
		const uint4 raw = *reinterpret_cast<const uint4 *>(block + i * 64 + (u & 3) * 16);
		const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
		float scale = row_scale;
		if (KIND == AF_SKINNY_I4) scale = __bfloat162float(reinterpret_cast<const bf16 *>(block + a.strip * 64)[i]);
#pragma unroll
		for (int sub = 0; sub < 1 << KIND; sub++) {
			const int c = (u >> 2) * (32 << KIND) + sub * 32 + (u & 3) * 8;
			uint16_t v[8];
#pragma unroll
			for (int e = 0; e < 8; e++) {
				if (KIND == AF_SKINNY_BF16) {
					v[e] = uint16_t(words[e >> 1] >> (e & 1) * 16);
				} else if (KIND == AF_SKINNY_I8) {
					const int byte = (e & 3) == 1 ? 2 : (e & 3) == 2 ? 1 : e & 3;
					v[e] = __bfloat16_as_ushort(__float2bfloat16_rn(float(int8_t(words[(sub * 2 + (e >> 2)) & 3] >> 8 * byte)) * scale));
				} else {
					const int q = int(words[sub] >> ((e & 1) * 16 + (e >> 1) * 4) & 15) - 8;
					v[e] = __bfloat16_as_ushort(__float2bfloat16_rn(q * scale));
				}
			}
			if (aligned && c + 8 <= a.in) {
				uint32_t out[4];
#pragma unroll
				for (int e = 0; e < 4; e++) out[e] = v[2 * e] | uint32_t(v[2 * e + 1]) << 16;
				*reinterpret_cast<uint4 *>(dst + c) = make_uint4(out[0], out[1], out[2], out[3]);
				continue;
			}
#pragma unroll
			for (int e = 0; e < 8; e++)
				if (c + e < a.in) dst[c + e] = v[e];
		}
	}
}

// Grid: one block a row.
AF_KERNEL(skinny_unpack, 128) {
	const int p = packed_row(a.order, a.n, a.head_dim, a.row0 + blockIdx.x);
	const int2 row_at = place(a, p);
	const char *strip = static_cast<const char *>(a.w) + int64_t(row_at.x) * a.blocks * a.block;
	uint16_t *dst = a.dst + blockIdx.x * a.ld;
	switch (a.kind) {
	case AF_SKINNY_BF16: unpack_row<AF_SKINNY_BF16>(a, strip, row_at.y, 1, dst); break;
	case AF_SKINNY_I8: unpack_row<AF_SKINNY_I8>(a, strip, row_at.y, a.row_scale[p], dst); break;
	default: unpack_row<AF_SKINNY_I4>(a, strip, row_at.y, 1, dst);
	}
}
