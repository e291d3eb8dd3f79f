// Access to views and weights of any type, for kernels that take them as they come.
#pragma once

#include "common.cuh"
#include "elementwise.h"

enum { AF_F32, AF_BF16, AF_I8, AF_I4 }; // compute.DType

// load_as reads columns c..c+N of row r as float32, zero from column end on. N is 1 or 8; 8 wants 16-byte alignment.
template <bool half, int N>
AF_INLINE void load_as(float (&v)[N], const af_view &t, uint32_t r, uint32_t c, uint32_t end) {
	const int64_t at = (int64_t)r * t.stride + c;
	if constexpr (N == 8) {
		if (c + 8 <= end) {
			if constexpr (half) {
				const uint4 u = *(const uint4 *)((const bf16 *)t.p + at);
				const uint32_t w[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
				for (int i = 0; i < 4; i++) {
					const float2 f = bf16_unpack(w[i]);
					v[2 * i] = f.x, v[2 * i + 1] = f.y;
				}
			} else {
				const float4 *p = (const float4 *)((const float *)t.p + at);
				const float4 lo = p[0], hi = p[1];
				v[0] = lo.x, v[1] = lo.y, v[2] = lo.z, v[3] = lo.w, v[4] = hi.x, v[5] = hi.y, v[6] = hi.z, v[7] = hi.w;
			}
			return;
		}
	}
#pragma unroll
	for (int i = 0; i < N; i++)
		v[i] = c + i >= end ? 0.f : half ? __bfloat162float(((const bf16 *)t.p)[at + i]) : ((const float *)t.p)[at + i];
}

template <int N>
AF_INLINE void load(float (&v)[N], const af_view &t, uint32_t r, uint32_t c, uint32_t end) {
	if (t.half) load_as<true>(v, t, r, c, end);
	else load_as<false>(v, t, r, c, end);
}

template <int N>
AF_INLINE void load(float (&v)[N], const af_view &t, uint32_t r, uint32_t c) {
	load(v, t, r, c, t.cols);
}

// load_row reads P pieces of a row, step columns apart, all on their way before the first is used. A piece lies within the row or
// beyond it, where it is zero: with N of 8 rows are multiples of 8.
template <int N, int P>
AF_INLINE void load_row(float (&v)[P][N], const af_view &t, uint32_t r, uint32_t c, uint32_t step) {
	const int64_t at = (int64_t)r * t.stride + c;
	if constexpr (N == 8) {
		if (t.half) {
			uint4 u[P];
#pragma unroll
			for (int p = 0; p < P; p++)
				u[p] = c + p * step < t.cols ? *(const uint4 *)((const bf16 *)t.p + at + p * step) : make_uint4(0, 0, 0, 0);
#pragma unroll
			for (int p = 0; p < P; p++) {
				const uint32_t w[4] = {u[p].x, u[p].y, u[p].z, u[p].w};
#pragma unroll
				for (int i = 0; i < 4; i++) {
					const float2 f = bf16_unpack(w[i]);
					v[p][2 * i] = f.x, v[p][2 * i + 1] = f.y;
				}
			}
		} else {
#pragma unroll
			for (int p = 0; p < P; p++)
#pragma unroll
				for (int i = 0; i < 2; i++) {
					float4 f = make_float4(0.f, 0.f, 0.f, 0.f);
					if (c + p * step < t.cols) f = *(const float4 *)((const float *)t.p + at + p * step + 4 * i);
					v[p][4 * i] = f.x, v[p][4 * i + 1] = f.y, v[p][4 * i + 2] = f.z, v[p][4 * i + 3] = f.w;
				}
		}
	} else {
#pragma unroll
		for (int p = 0; p < P; p++) load(v[p], t, r, c + p * step);
	}
}

// store is load's counterpart; columns beyond the view are not written.
template <int N>
AF_INLINE void store(const af_view &t, uint32_t r, uint32_t c, const float (&v)[N]) {
	const int64_t at = (int64_t)r * t.stride + c;
	if constexpr (N == 8) {
		if (c + 8 <= t.cols) {
			if (t.half) {
				*(uint4 *)((bf16 *)t.p + at) = make_uint4(bf16_pack(v[0], v[1]), bf16_pack(v[2], v[3]), bf16_pack(v[4], v[5]), bf16_pack(v[6], v[7]));
			} else {
				float4 *p = (float4 *)((float *)t.p + at);
				p[0] = make_float4(v[0], v[1], v[2], v[3]);
				p[1] = make_float4(v[4], v[5], v[6], v[7]);
			}
			return;
		}
	}
#pragma unroll
	for (int i = 0; i < N; i++) {
		if (c + i >= t.cols) break;
		if (t.half) ((bf16 *)t.p)[at + i] = __float2bfloat16_rn(v[i]);
		else ((float *)t.p)[at + i] = v[i];
	}
}

// whole is the stored number before its scale, for the integer types.
AF_INLINE float whole(const af_matrix &w, uint64_t r, uint32_t c) {
	if (w.as == AF_I8) return ((const int8_t *)w.p)[r * w.in + c];
	const int b = ((const uint8_t *)w.p)[r * ((w.in + 1) / 2) + c / 2];
	return (float)((int)((uint32_t)b << (c & 1 ? 24 : 28)) >> 28);
}

// element is W[r][c].
AF_INLINE float element(const af_matrix &w, uint64_t r, uint32_t c) {
	switch (w.as) {
	case AF_F32: return ((const float *)w.p)[r * w.in + c];
	case AF_BF16: return __bfloat162float(((const bf16 *)w.p)[r * w.in + c]);
	case AF_I8: return whole(w, r, c) * ((const float *)w.scales)[r];
	}
	return whole(w, r, c) * ((const float *)w.scales)[r * ((w.in + 127) / 128) + c / 128];
}
