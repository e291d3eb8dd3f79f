// Products of any shape, stride and type: what the fast kernels do not take. Each sum runs along k in one order, so a row's result does not
// depend on the rows beside it.

#include "linear.h"
#include "views.cuh"

constexpr int kTile = 64; // rows and columns of a block's part of dst

AF_INLINE float finish(const af_linear_args &a, uint32_t r, uint32_t n, float v) {
	if (a.bias) v += ((const float *)a.bias)[n];
	v = activate(a.act, v);
	if (a.scale) v *= ((const float *)a.scale)[n];
	if (a.residual.p) {
		float res[1];
		load(res, a.residual, r, n);
		v += res[0];
	}
	return v;
}

// In float32 throughout: the reference precision.
AF_KERNEL(linear_f32, 256) {
	constexpr int kStep = 16, kPitch = kTile + 4;
	__shared__ __align__(16) float xs[kStep][kPitch], ws[kStep][kPitch];
	const uint32_t r0 = blockIdx.y * kTile, n0 = blockIdx.x * kTile, in = a.x.cols;
	const uint32_t tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
	float sum[4][4] = {};
	for (uint32_t k0 = 0; k0 < in; k0 += kStep) {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			const uint32_t k = tx, row = ty + 16 * i;
			float v[1] = {0.f};
			if (r0 + row < a.x.rows) load(v, a.x, r0 + row, k0 + k);
			xs[k][row] = v[0];
			ws[k][row] = n0 + row < a.w.out && k0 + k < in ? element(a.w, n0 + row, k0 + k) : 0.f;
		}
		__syncthreads();
#pragma unroll
		for (int k = 0; k < kStep; k++) {
			const float4 xv = *(const float4 *)&xs[k][ty * 4], wv = *(const float4 *)&ws[k][tx * 4];
			const float x4[4] = {xv.x, xv.y, xv.z, xv.w}, w4[4] = {wv.x, wv.y, wv.z, wv.w};
#pragma unroll
			for (int i = 0; i < 4; i++)
#pragma unroll
				for (int j = 0; j < 4; j++) sum[i][j] = fmaf(x4[i], w4[j], sum[i][j]);
		}
		__syncthreads();
	}
#pragma unroll
	for (int i = 0; i < 4; i++)
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const uint32_t r = r0 + ty * 4 + i, n = n0 + tx * 4 + j;
			if (r < a.dst.rows && n < a.dst.cols) {
				float v[1] = {finish(a, r, n, sum[i][j])};
				store(a.dst, r, n, v);
			}
		}
}

// Both sides rounded to bfloat16, float32 sums. Integers are exact in bfloat16; their scales come in afterwards.
AF_KERNEL(linear_bf16, 128) {
	constexpr int kStep = 32, kPitch = kStep + 8; // rows 80 bytes apart: eight of them touch every bank once
	__shared__ __align__(16) bf16 xs[kTile][kPitch], ws[kTile][kPitch];
	const uint32_t r0 = blockIdx.y * kTile, n0 = blockIdx.x * kTile, in = a.x.cols;
	const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
	const uint32_t wr = warp / 2 * 32, wn = warp % 2 * 32; // the warp's 32 x 32
	const bool integers = a.w.as == AF_I8 || a.w.as == AF_I4;
	float sum[2][4][4] = {}, total[2][4][4] = {}; // total is for groups with scales of their own
	for (uint32_t k0 = 0; k0 < in; k0 += kStep) {
#pragma unroll
		for (int i = 0; i < 2; i++) {
			const uint32_t piece = threadIdx.x + 128 * i, row = piece / 4, k = piece % 4 * 8;
			uint32_t p[4] = {};
			if (r0 + row < a.x.rows) {
				float v[8];
				if (a.wide) {
					load(v, a.x, r0 + row, k0 + k);
				} else {
#pragma unroll
					for (int j = 0; j < 8; j++) {
						float e[1];
						load(e, a.x, r0 + row, k0 + k + j);
						v[j] = e[0];
					}
				}
#pragma unroll
				for (int j = 0; j < 4; j++) p[j] = bf16_pack(v[2 * j], v[2 * j + 1]);
			}
			*(uint4 *)&xs[row][k] = make_uint4(p[0], p[1], p[2], p[3]);
			uint4 q = make_uint4(0, 0, 0, 0);
			const uint32_t n = n0 + row;
			if (n < a.w.out) {
				if (a.wide && a.w.as == AF_BF16) {
					if (k0 + k < in) q = *(const uint4 *)((const bf16 *)a.w.p + (uint64_t)n * in + k0 + k);
				} else {
					float v[8];
#pragma unroll
					for (int j = 0; j < 8; j++) {
						const uint32_t c = k0 + k + j;
						v[j] = c >= in ? 0.f : integers ? whole(a.w, n, c) : element(a.w, n, c);
					}
					q = make_uint4(bf16_pack(v[0], v[1]), bf16_pack(v[2], v[3]), bf16_pack(v[4], v[5]), bf16_pack(v[6], v[7]));
				}
			}
			*(uint4 *)&ws[row][k] = q;
		}
		__syncthreads();
#pragma unroll
		for (int k = 0; k < kStep; k += 16) {
			uint32_t x[2][4], w[2][4];
#pragma unroll
			for (int i = 0; i < 2; i++) {
				ldmatrix4(x[i], shared_address(&xs[wr + i * 16 + (lane & 15)][k + (lane >> 4) * 8]));
				ldmatrix4(w[i], shared_address(&ws[wn + i * 16 + (lane & 7) + (lane >> 4) * 8][k + (lane >> 3 & 1) * 8]));
			}
#pragma unroll
			for (int i = 0; i < 2; i++)
#pragma unroll
				for (int j = 0; j < 4; j++) mma_bf16(sum[i][j], x[i], w[j / 2][j % 2 * 2], w[j / 2][j % 2 * 2 + 1]);
		}
		__syncthreads();
		if (a.w.as == AF_I4 && ((k0 + kStep) % 128 == 0 || k0 + kStep >= in)) {
			const uint32_t groups = (in + 127) / 128;
#pragma unroll
			for (int i = 0; i < 2; i++)
#pragma unroll
				for (int j = 0; j < 4; j++)
#pragma unroll
					for (int e = 0; e < 4; e++) {
						const uint32_t n = n0 + wn + j * 8 + lane % 4 * 2 + (e & 1);
						if (n < a.w.out) total[i][j][e] += sum[i][j][e] * ((const float *)a.w.scales)[(uint64_t)n * groups + k0 / 128];
						sum[i][j][e] = 0.f;
					}
		}
	}
#pragma unroll
	for (int i = 0; i < 2; i++)
#pragma unroll
		for (int j = 0; j < 4; j++)
#pragma unroll
			for (int e = 0; e < 4; e++) {
				const uint32_t r = r0 + wr + i * 16 + lane / 4 + (e >> 1) * 8, n = n0 + wn + j * 8 + lane % 4 * 2 + (e & 1);
				if (r >= a.dst.rows || n >= a.dst.cols) continue;
				float v[1] = {a.w.as == AF_I4 ? total[i][j][e] : sum[i][j][e]};
				if (a.w.as == AF_I8) v[0] *= ((const float *)a.w.scales)[n];
				v[0] = finish(a, r, n, v[0]);
				store(a.dst, r, n, v);
			}
}
