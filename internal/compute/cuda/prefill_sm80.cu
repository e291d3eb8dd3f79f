// Attention of many query rows on Ampere and later: softmax(q kᵀ · scale) v, causal or full, over rows or pages of keys and values.
//
// A thread block works through a list of items as prefill_sm90.cu does. Four warps take 32 query rows each; K and V of 64 keys at a time
// come by cp.async: V while scores are taken, the next K while exponentials and values are. Two blocks share a multiprocessor, so that
// one's products run beside the other's exponentials and waits. Rows in shared memory are padded by 16 bytes, which spreads ldmatrix
// over all banks.
#include "common.cuh"
#include "prefill.h"

#include <math_constants.h>

namespace {

constexpr int M = 128, N = 64, THREADS = 128;

template <int D>
struct Shape {
	static constexpr int PITCH = 2 * D + 16, PIECES = D / 8;
	static constexpr int K = M * PITCH, V = K + N * PITCH, BYTES = V + N * PITCH;
};

AF_INLINE float exp2_fast(float x) { // 0 for -inf
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

AF_INLINE float quad_max(float x) {
	x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
	return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

AF_INLINE float quad_sum(float x) {
	x += __shfl_xor_sync(~0u, x, 1);
	return x + __shfl_xor_sync(~0u, x, 2);
}

// copy_rows starts copying rows of a head to shared memory; rows from valid on, and columns beyond the head's, become zeros.
template <int D, int ROWS>
AF_INLINE void copy_rows(uint32_t dst, const uint16_t *src, int64_t stride, int valid, int head_dim) {
	using S = Shape<D>;
	static_assert(ROWS * S::PIECES % THREADS == 0, "pieces");
	if constexpr (THREADS % S::PIECES == 0) { // a thread stays in its column
		constexpr int STEP = THREADS / S::PIECES;
		int r = threadIdx.x / S::PIECES;
		const int c = threadIdx.x % S::PIECES;
		const bool col = 8 * c < head_dim;
		const uint16_t *from = src + r * stride + 8 * c;
		dst += r * S::PITCH + 16 * c;
#pragma unroll
		for (int i = 0; i < ROWS / STEP; i++, r += STEP, from += STEP * stride) {
			const bool ok = col && r < valid;
			cp_async16(dst + i * STEP * S::PITCH, ok ? from : src, ok);
		}
	} else {
#pragma unroll 1
		for (int n = threadIdx.x; n < ROWS * S::PIECES; n += THREADS) {
			const int r = n / S::PIECES, c = n % S::PIECES;
			const bool ok = r < valid && 8 * c < head_dim;
			cp_async16(dst + r * S::PITCH + 16 * c, ok ? src + r * stride + 8 * c : src, ok);
		}
	}
	cp_async_commit();
}

template <int D>
__device__ __forceinline__ void prefill(const af_prefill_args &a) {
	using S = Shape<D>;
	extern __shared__ __align__(128) uint8_t smem[];
	const uint32_t qs = shared_address(smem), ks = qs + S::K, vs = qs + S::V;
	const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
	const uint32_t q_at = qs + (32 * warp + (lane & 15)) * S::PITCH + (lane >> 4) * 16;
	const uint32_t k_at = ks + ((lane >> 4) * 8 + (lane & 7)) * S::PITCH + (lane & 8) * 2;
	const uint32_t v_at = vs + (lane & 15) * S::PITCH + (lane >> 4) * 16;

	for (int i = a.first[blockIdx.x], n = a.first[blockIdx.x + 1]; i < n; i++) {
		const af_prefill_item &it = a.items[i]; // read again where it is needed: registers are short
		const int keys = it.keys, diagonal = it.diagonal, last = it.from / N;
		auto rows_of = [&](const af_prefill_tensor &t, int tile) {
			const int64_t row = a.pages != nullptr ? __ldg(a.pages + it.kv_row + tile) * t.seg : it.kv_seg * t.seg + (int64_t)(it.kv_row + N * tile) * t.row;
			return t.p + row + it.kv_head * t.head;
		};
		int t = (keys + N - 1) / N - 1;
		copy_rows<D, M>(qs, a.q.p + it.q_row * a.q.row + it.head * a.q.head, a.q.row, it.rows, a.head_dim);
		copy_rows<D, N>(ks, rows_of(a.k, t), a.k.row, keys - N * t, a.head_dim);

		float o[2][D / 8][4], top[2][2], sum[2][2];
#pragma unroll
		for (int m = 0; m < 2; m++) {
#pragma unroll
			for (int j = 0; j < D / 8; j++) o[m][j][0] = o[m][j][1] = o[m][j][2] = o[m][j][3] = 0;
			top[m][0] = top[m][1] = -CUDART_INF_F;
			sum[m][0] = sum[m][1] = 0;
		}
		for (; t >= last; t--) {
			cp_async_wait<0>();
			__syncthreads(); // keys are there, and nobody needs the last values any more
			copy_rows<D, N>(vs, rows_of(a.v, t), a.v.row, keys - N * t, a.head_dim);

			float s[2][N / 8][4];
#pragma unroll
			for (int m = 0; m < 2; m++)
#pragma unroll
				for (int j = 0; j < N / 8; j++) s[m][j][0] = s[m][j][1] = s[m][j][2] = s[m][j][3] = 0;
#pragma unroll
			for (int c = 0; c < D / 16; c++) {
				uint32_t f[2][4];
				ldmatrix4(f[0], q_at + 32 * c);
				ldmatrix4(f[1], q_at + 16 * S::PITCH + 32 * c);
#pragma unroll
				for (int j = 0; j < N / 16; j++) {
					uint32_t b[4];
					ldmatrix4(b, k_at + 16 * j * S::PITCH + 32 * c);
#pragma unroll
					for (int m = 0; m < 2; m++) {
						mma_bf16(s[m][2 * j], f[m], b[0], b[1]);
						mma_bf16(s[m][2 * j + 1], f[m], b[2], b[3]);
					}
				}
			}
			cp_async_wait<0>();
			__syncthreads(); // values are there, and nobody needs the keys any more
			if (t > last) copy_rows<D, N>(ks, rows_of(a.k, t - 1), a.k.row, N, a.head_dim);

			if (N * (t + 1) > min(keys, diagonal + 32 * warp + 1)) {
#pragma unroll
				for (int m = 0; m < 2; m++)
#pragma unroll
					for (int j = 0; j < N / 8; j++)
#pragma unroll
						for (int e = 0; e < 4; e++) {
							const int key = N * t + 8 * j + 2 * (lane & 3) + (e & 1), row = 32 * warp + 16 * m + lane / 4 + 8 * (e >> 1);
							if (key >= min(keys, diagonal + row + 1)) s[m][j][e] = -CUDART_INF_F;
						}
			}
#pragma unroll
			for (int m = 0; m < 2; m++)
#pragma unroll
				for (int h = 0; h < 2; h++) {
					float x = -CUDART_INF_F;
#pragma unroll
					for (int j = 0; j < N / 8; j++) x = fmaxf(x, fmaxf(s[m][j][2 * h], s[m][j][2 * h + 1]));
					const float now = fmaxf(top[m][h], quad_max(x)), from = now == -CUDART_INF_F ? 0 : now * a.scale_log2;
					const float keep = exp2_fast(fmaf(top[m][h], a.scale_log2, -from));
					top[m][h] = now;
					float l = 0;
#pragma unroll
					for (int j = 0; j < N / 8; j++) {
						s[m][j][2 * h] = exp2_fast(fmaf(s[m][j][2 * h], a.scale_log2, -from));
						s[m][j][2 * h + 1] = exp2_fast(fmaf(s[m][j][2 * h + 1], a.scale_log2, -from));
						l += s[m][j][2 * h] + s[m][j][2 * h + 1];
					}
					sum[m][h] = fmaf(sum[m][h], keep, l);
#pragma unroll
					for (int j = 0; j < D / 8; j++) {
						o[m][j][2 * h] *= keep;
						o[m][j][2 * h + 1] *= keep;
					}
				}
#pragma unroll
			for (int c = 0; c < N / 16; c++) {
				uint32_t f[2][4];
#pragma unroll
				for (int m = 0; m < 2; m++)
#pragma unroll
					for (int e = 0; e < 4; e++) f[m][e] = bf16_pack(s[m][2 * c + e / 2][e % 2 * 2], s[m][2 * c + e / 2][e % 2 * 2 + 1]);
#pragma unroll
				for (int j = 0; j < D / 16; j++) {
					uint32_t b[4];
					ldmatrix4_transposed(b, v_at + 16 * c * S::PITCH + 32 * j);
#pragma unroll
					for (int m = 0; m < 2; m++) {
						mma_bf16(o[m][2 * j], f[m], b[0], b[1]);
						mma_bf16(o[m][2 * j + 1], f[m], b[2], b[3]);
					}
				}
			}
		}
#pragma unroll
		for (int m = 0; m < 2; m++)
#pragma unroll
			for (int h = 0; h < 2; h++) {
				const int row = 32 * warp + 16 * m + lane / 4 + 8 * h;
				const float l = quad_sum(sum[m][h]), inv = l > 0 ? 1 / l : 0; // of an item with some of the keys a row may see none
				if (row >= it.rows) continue;
				const float lse = l > 0 ? 0.6931471805599453f * (top[m][h] * a.scale_log2 + __log2f(l)) : -CUDART_INF_F;
				if (it.part >= 0) {
					float *part = a.parts + ((int64_t)it.part * M + row) * a.head_dim;
#pragma unroll
					for (int j = 0; j < D / 8; j++) {
						const int c = 8 * j + 2 * (lane & 3);
						if (c < a.head_dim) *reinterpret_cast<float2 *>(part + c) = make_float2(o[m][j][2 * h] * inv, o[m][j][2 * h + 1] * inv);
					}
					if ((lane & 3) == 0) a.parts[(int64_t)a.count * M * a.head_dim + it.part * M + row] = lse;
				} else {
					uint16_t *out = a.out.p + (it.q_row + row) * a.out.row + it.head * a.out.head;
#pragma unroll
					for (int j = 0; j < D / 8; j++) {
						const int c = 8 * j + 2 * (lane & 3);
						if (c < a.head_dim) *reinterpret_cast<uint32_t *>(out + c) = bf16_pack(o[m][j][2 * h] * inv, o[m][j][2 * h + 1] * inv);
					}
					if (a.lse != nullptr && (lane & 3) == 0) a.lse[(int64_t)(it.q_row + row) * a.heads + it.head] = lse;
				}
			}
	}
}

} // namespace

#define AF_PREFILL(D)                                        \
	typedef af_prefill_args af_prefill_sm80_##D##_args;      \
	AF_KERNEL(prefill_sm80_##D, THREADS, 2) {                \
		static_assert(Shape<D>::BYTES <= 99 << 10, "shared"); \
		pdl_launch();                                        \
		pdl_wait();                                          \
		prefill<D>(a);                                       \
	}

AF_PREFILL(64)
AF_PREFILL(80)
AF_PREFILL(96)
AF_PREFILL(128)
