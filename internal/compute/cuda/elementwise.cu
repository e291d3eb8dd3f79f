// Ops that do little with each value and so run at the speed of memory: types of tensors are mixed freely, sums are float32.

#include "common.cuh"
#include "elementwise.h"
#include "views.cuh"

// each calls fn(row, column) for whole pieces of N columns of rows x cols, one piece a thread; cols need not be a multiple of N.
template <int N, typename F>
AF_INLINE void each(uint32_t rows, uint32_t cols, F fn) {
	const uint32_t pieces = (cols + N - 1) / N;
	const uint64_t total = (uint64_t)rows * pieces;
	for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < total; i += (uint64_t)gridDim.x * blockDim.x) {
		const uint32_t r = total <= 0xffffffffu ? (uint32_t)i / pieces : (uint32_t)(i / pieces);
		fn(r, (uint32_t)(i - (uint64_t)r * pieces) * N);
	}
}

template <int N>
AF_INLINE void copy(const af_copy_args &a) {
	each<N>(a.dst.rows, a.dst.cols, [&](uint32_t r, uint32_t c) {
		float v[N];
		load(v, a.src, r, c);
		store(a.dst, r, c, v);
	});
}

AF_KERNEL(copy, 256) {
	if (a.wide) copy<8>(a);
	else copy<1>(a);
}

template <int N>
AF_INLINE void add(const af_add_args &a) {
	each<N>(a.dst.rows, a.dst.cols, [&](uint32_t r, uint32_t c) {
		float v[N], x[N];
		load(v, a.dst, r, c);
		load(x, a.x, r % a.x.rows, c);
#pragma unroll
		for (int i = 0; i < N; i++) v[i] += x[i];
		store(a.dst, r, c, v);
	});
}

AF_KERNEL(add, 256) {
	if (a.wide) add<8>(a);
	else add<1>(a);
}

template <int N>
AF_INLINE void swiglu(const af_swiglu_args &a) {
	each<N>(a.dst.rows, a.dst.cols, [&](uint32_t r, uint32_t c) {
		float g[N], u[N];
		load(g, a.gate, r, c, a.dst.cols);
		load(u, a.gate, r, a.dst.cols + c);
#pragma unroll
		for (int i = 0; i < N; i++) g[i] = __fdividef(g[i], 1.f + __expf(-g[i])) * u[i];
		store(a.dst, r, c, g);
	});
}

AF_KERNEL(swiglu, 256) {
	if (a.wide) swiglu<8>(a); // wide includes that the second half of gate starts on 16 bytes
	else swiglu<1>(a);
}

// A row's weights and biases for N of its columns.
template <int N>
AF_INLINE void load_vector(float (&v)[N], uint64_t at, uint32_t c, uint32_t cols) {
	const af_view t = {at, 0, 1, cols, 0, 0};
	load_as<false>(v, t, 0, c, cols);
}

// R rows of whole pieces are held in registers by a group of threads, P pieces of 8 columns of each, so that R rows are on their way at
// once and share what is read of weights. group_sum adds over the group.
template <int R, int P, typename Sum>
AF_INLINE void norm_held(const af_norm_args &a, uint32_t row, uint32_t thread, uint32_t threads, Sum group_sum) {
	const uint32_t cols = a.x.cols, first = thread * 8, step = threads * 8;
	const float share = __frcp_rn((float)cols);
	float v[R][P][8], inv[R];
#pragma unroll
	for (int r = 0; r < R; r++) load_row(v[r], a.x, min(row + r, a.x.rows - 1), first, step);
#pragma unroll
	for (int r = 0; r < R; r++) {
		float sum = 0.f, mean = 0.f;
		if (a.bias) {
#pragma unroll
			for (int p = 0; p < P; p++)
#pragma unroll
				for (int i = 0; i < 8; i++) sum += v[r][p][i];
			mean = group_sum(sum) * share;
			sum = 0.f;
		}
#pragma unroll
		for (int p = 0; p < P; p++)
			if (first + p * step < cols) {
#pragma unroll
				for (int i = 0; i < 8; i++) {
					v[r][p][i] -= mean;
					sum += v[r][p][i] * v[r][p][i];
				}
			}
		inv[r] = rsqrtf(group_sum(sum) * share + a.eps);
	}
	const af_view weight = {a.weight, 0, 1, cols, 0, 0}, bias = {a.bias, 0, 1, cols, 0, 0};
#pragma unroll
	for (int p = 0; p < P; p++) {
		const uint32_t c = first + p * step;
		float w[1][8], b[1][8] = {};
		load_row(w, weight, 0, c, 0);
		if (a.bias) load_row(b, bias, 0, c, 0);
#pragma unroll
		for (int r = 0; r < R; r++) {
#pragma unroll
			for (int i = 0; i < 8; i++) v[r][p][i] = v[r][p][i] * inv[r] * w[0][i] + b[0][i];
			if (c < cols && row + r < a.x.rows) store(a.dst, row + r, c, v[r][p]);
		}
	}
}

// One block a row of any length, read again from cache for each pass.
template <int N>
AF_INLINE void norm_long(const af_norm_args &a, uint32_t r, float *slots) {
	const uint32_t cols = a.x.cols;
	float v[N], sum = 0.f, mean = 0.f;
	if (a.bias) {
		for (uint32_t c = threadIdx.x * N; c < cols; c += blockDim.x * N) {
			load(v, a.x, r, c);
#pragma unroll
			for (int i = 0; i < N; i++) sum += v[i];
		}
		mean = block_sum(sum, slots) / cols;
		sum = 0.f;
	}
	for (uint32_t c = threadIdx.x * N; c < cols; c += blockDim.x * N) {
		load(v, a.x, r, c);
#pragma unroll
		for (int i = 0; i < N; i++)
			if (c + i < cols) sum += (v[i] - mean) * (v[i] - mean);
	}
	const float inv = 1.f / sqrtf(block_sum(sum, slots) / cols + a.eps);
	for (uint32_t c = threadIdx.x * N; c < cols; c += blockDim.x * N) {
		float w[N], b[N] = {};
		load(v, a.x, r, c);
		load_vector(w, a.weight, c, cols);
		if (a.bias) load_vector(b, a.bias, c, cols);
#pragma unroll
		for (int i = 0; i < N; i++) v[i] = (v[i] - mean) * inv * w[i] + b[i];
		store(a.dst, r, c, v);
	}
}

// A warp two rows of up to 1024, wide and a multiple of 8.
AF_KERNEL(norm_short, 256) {
	const uint32_t lane = threadIdx.x & 31, warps = blockDim.x >> 5;
	auto sum = [](float v) { return warp_sum(v); };
	pdl_launch();
	pdl_wait();
	for (uint32_t r = 2 * (blockIdx.x * warps + (threadIdx.x >> 5)); r < a.x.rows; r += 2 * gridDim.x * warps) {
		if (a.x.cols <= 512) norm_held<2, 2>(a, r, lane, 32, sum);
		else norm_held<2, 4>(a, r, lane, 32, sum);
	}
}

AF_KERNEL(norm, 256) {
	__shared__ float slots[33];
	auto sum = [&](float v) { return block_sum(v, slots); };
	pdl_launch();
	pdl_wait();
	for (uint32_t r = blockIdx.x; r < a.x.rows; r += gridDim.x) {
		if (a.wide && a.x.cols <= 4096 && a.x.cols % 8 == 0) norm_held<1, 2>(a, r, threadIdx.x, blockDim.x, sum);
		else if (a.wide) norm_long<8>(a, r, slots);
		else norm_long<1>(a, r, slots);
	}
}

// A thread turns N neighbouring pairs of one row in some heads, for which it finds their angles once.
template <int N>
AF_INLINE void rotate(const af_rotate_args &a) {
	const uint32_t half = a.head / 2, some = a.heads_each * a.head, groups = (a.x.cols + some - 1) / some;
	each<N>(a.x.rows * groups, half, [&](uint32_t i, uint32_t j) {
		const uint32_t r = i / groups, from = i % groups * some, to = min(a.x.cols, from + some);
		float cosine[N], sine[N];
		if (a.table) {
			const uint64_t t = a.table + (r % a.n) * a.table_stride * 4;
			load_vector(cosine, t, j, half);
			load_vector(sine, t, half + j, a.head);
		} else {
			const float pos = (float)((const int32_t *)a.pos)[r];
#pragma unroll
			for (int k = 0; k < N; k++) sincosf(pos * ((const float *)a.freq)[j + k], &sine[k], &cosine[k]);
		}
		for (uint32_t h = from; h < to; h += a.head) {
			float v[2][N];
			load_row(v, a.x, r, h + j, half);
#pragma unroll
			for (int k = 0; k < N; k++) {
				const float t = v[0][k];
				v[0][k] = t * cosine[k] - v[1][k] * sine[k];
				v[1][k] = v[1][k] * cosine[k] + t * sine[k];
			}
			store(a.x, r, h + j, v[0]);
			store(a.x, r, h + half + j, v[1]);
		}
	});
}

AF_KERNEL(rotate, 256) {
	if (a.wide) rotate<8>(a); // wide includes that half a head is whole pieces
	else rotate<1>(a);
}

AF_KERNEL(lookup, 256) {
	each<1>(a.dst.rows, a.dst.cols, [&](uint32_t r, uint32_t c) {
		float v[1] = {element(a.table, ((const int32_t *)a.ids)[r], c)};
		store(a.dst, r, c, v);
	});
}

template <int N>
AF_INLINE void pool(const af_pool_args &a) {
	const uint32_t out_w = a.grid_w / a.kw, grid = a.grid_h / a.kh * out_w;
	each<N>(a.dst.rows, a.dst.cols, [&](uint32_t r, uint32_t c) {
		const uint32_t y = r % grid / out_w * a.kh, x = r % out_w * a.kw;
		float sum[N] = {}, v[N];
		for (uint32_t i = 0; i < a.kh; i++)
			for (uint32_t j = 0; j < a.kw; j++) {
				load(v, a.x, r / grid * (a.grid_h * a.grid_w) + (y + i) * a.grid_w + x + j, c);
#pragma unroll
				for (int k = 0; k < N; k++) sum[k] += v[k];
			}
#pragma unroll
		for (int k = 0; k < N; k++) sum[k] /= a.kh * a.kw;
		store(a.dst, r, c, sum);
	});
}

AF_KERNEL(pool, 256) {
	if (a.wide) pool<8>(a);
	else pool<1>(a);
}

// One warp a row of int8, or a group of 128 of a row of int4: the largest size is steps scales, values the nearest whole ones.
AF_KERNEL(quantise, 256) {
	const uint32_t lane = threadIdx.x & 31, in = a.dst.in;
	const bool four = a.dst.as == AF_I4;
	const uint32_t span = four ? 128 : in, groups = (in + span - 1) / span;
	const uint64_t g = blockIdx.x * (uint64_t)(blockDim.x >> 5) + (threadIdx.x >> 5);
	if (g >= (uint64_t)a.rows * groups) return;
	const uint32_t r = (uint32_t)(g / groups), from = (uint32_t)(g % groups) * span, to = min(in, from + span);
	const float *src = (const float *)a.src + (uint64_t)r * in;
	float peak = 0.f;
	for (uint32_t c = from + lane; c < to; c += 32) peak = fmaxf(peak, fabsf(src[c]));
	const float scale = __fdiv_rn(warp_max(peak), four ? 7.f : 127.f);
	const uint64_t row = a.row0 + r;
	if (lane == 0) ((float *)a.dst.scales)[row * groups + g % groups] = scale;
	auto whole = [&](uint32_t c) { return c < to && scale > 0.f ? (int)rintf(__fdiv_rn(src[c], scale)) : 0; };
	if (four) {
		for (uint32_t c = from + 2 * lane; c < to; c += 64)
			((uint8_t *)a.dst.p)[row * ((in + 1) / 2) + c / 2] = (uint8_t)((whole(c) & 15) | whole(c + 1) << 4);
	} else {
		for (uint32_t c = from + lane; c < to; c += 32) ((int8_t *)a.dst.p)[row * in + c] = (int8_t)whole(c);
	}
}

AF_KERNEL(dequantise, 256) {
	each<1>(a.src.out, a.src.in, [&](uint32_t r, uint32_t c) {
		((bf16 *)a.dst)[r * a.stride + c] = __float2bfloat16_rn(element(a.src, r, c));
	});
}
