// Attention of a few rows for Hopper: decode.cu's work with the operands turned round. Keys stand on the M side of wgmma and the rows
// of a group on the N side, which comes in steps of 8, so that 7 rows cost what 8 do and 112 still read K and V once:
//
//   scores^T [128 keys, rows] = K [128, D] · q^T          two warpgroups, 64 keys each
//   out^T    [D, rows]       += V^T [D, 128] · p^T        two warpgroups, 64 columns each
//
// A ninth warp keeps a ring of K and V tiles filled by TMA. A row's arithmetic does not depend on how many rows there are.
#include "decode.cuh"
#include "hopper.cuh"

namespace {

using namespace hopper;

constexpr int KEYS = 128, CONSUMERS = 256;

// Product<N>::run: d [64, N] (+)= A · B with both in shared memory, B k-major; A k-major, or with AT m-major.
template <int N>
struct Product;

#define AF_PRODUCT(N, REGS, OUT, P, A, B, C, T)                                                                                 \
	template <>                                                                                                                 \
	struct Product<N> {                                                                                                         \
		template <int AT>                                                                                                       \
		AF_INLINE void run(float (&d)[N / 2], uint64_t a, uint64_t b, uint32_t acc) {                                           \
			asm volatile("{.reg .pred p; setp.ne.b32 p, %" #C ", 0;\n"                                                          \
						 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" P "}, %" #A ", %" #B ", p, 1, 1, %" #T ", 0;}" \
						 : OUT                                                                                                  \
						 : "l"(a), "l"(b), "r"(acc), "n"(AT));                                                                  \
		}                                                                                                                       \
	};
#define AF_D4 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define AF_P16 AF_P8(0, 1, 2, 3, 4, 5, 6, 7) "," AF_P8(8, 9, 10, 11, 12, 13, 14, 15)
#define AF_OUT(...) __VA_ARGS__
AF_PRODUCT(8, 4, AF_OUT(AF_D4), "%0,%1,%2,%3", 4, 5, 6, 7)
AF_PRODUCT(16, 8, AF_OUT(AF_D8(0)), AF_P8(0, 1, 2, 3, 4, 5, 6, 7), 8, 9, 10, 11)
AF_PRODUCT(32, 16, AF_OUT(AF_D8(0), AF_D8(8)), AF_P16, 16, 17, 18, 19)
AF_PRODUCT(64, 32, AF_OUT(AF_D32), AF_P32, 32, 33, 34, 35)
AF_PRODUCT(128, 64, AF_OUT(AF_D64), AF_P64, 64, 65, 66, 67)

AF_INLINE void stmatrix2_transposed(uint32_t at, uint32_t r0, uint32_t r1) {
	asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(at), "r"(r0), "r"(r1) : "memory");
}
AF_INLINE void stmatrix4_transposed(uint32_t at, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
	asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
}

// One row of a group, in shared memory.
struct row_info {
	int past;
	uint32_t mask;
	int state, chunks; // state: [slot][head] of its first chunk
};

// Columns come in two parts, 64 and the rest, each with the swizzle of its own width.
template <int D, int N, int STAGES>
struct layout {
	static constexpr int PARTS = D > 64 ? 2 : 1, REST = D > 64 ? D - 64 : 64;
	static constexpr int PAGE = 64 * D * 2, TILE = KEYS / 64 * PAGE, PART = 64 * 128; // PART: where the second part of a page begins
	static constexpr int Q = STAGES * TILE, Q_PART = N * 128, P = Q + PARTS * Q_PART, P_HALF = N * 128;
	static constexpr int TOP = P + 2 * P_HALF, SUM = TOP + N * 32, STEP = SUM + N * 32, ROW = STEP + N * 8, FROM = ROW + N * 16;
	static constexpr int BAR = FROM + N * 4, BYTES = BAR + 2 * STAGES * 8 + 1024; // 1024: to align the start
};

template <int D, int NMAX, int STAGES>
struct decode90 {
	using L = layout<D, NMAX, STAGES>;
	const af_decode_tma_args &a;
	uint8_t *smem;
	uint32_t base, warp, lane;
	int g, slot = 0, loaded = -1;
	uint32_t phase = 0;
	float scale2;
	bool waited;

	__device__ __forceinline__ uint32_t full(int s) const { return base + L::BAR + 8 * s; }
	__device__ __forceinline__ uint32_t empty(int s) const { return base + L::BAR + 8 * (STAGES + s); }

	// produce fills the ring; one thread.
	__device__ __forceinline__ void produce() {
		int s = 0;
		uint32_t round = 1;
		for (const af_decode_unit *at = a.plan->unit + blockIdx.x;; at += gridDim.x) {
			const af_decode_unit u = load_unit(at);
			if (u.keys == 0) break;
			if (!waited && (u.group & 128)) {
				pdl_wait();
				waited = true;
			}
			for (int off = 0; off < u.keys; off += KEYS) {
				int row[KEYS / 64], pages = 0;
#pragma unroll
				for (int i = 0; i < KEYS / 64; i++)
					if (off + 64 * i < u.keys) row[i] = (__ldg(a.pages + u.page + off / 64 + i) * a.kv_heads + u.head) * 64, pages++;
#pragma unroll
				for (int v = 0; v < 2; v++) {
					mbar_wait(empty(s), round);
					mbar_expect(full(s), pages * 64 * D * 2);
					const auto *maps = reinterpret_cast<const CUtensorMap *>(v ? a.v : a.k);
#pragma unroll
					for (int i = 0; i < KEYS / 64; i++)
						if (i < pages) {
							const uint32_t to = base + s * L::TILE + i * L::PAGE;
							if (D == 128) {
								tma_load_3d(to, maps, full(s), 0, row[i], 0); // both parts
							} else {
								tma_load_2d(to, maps, full(s), 0, row[i]);
								if (L::PARTS > 1) tma_load_2d(to + L::PART, maps + 1, full(s), 64, row[i]);
							}
						}
					if (++s == STAGES) s = 0, round ^= 1;
				}
			}
		}
	}

	__device__ __forceinline__ uint32_t next_tile() {
		mbar_wait(full(slot), phase);
		return base + slot * L::TILE;
	}
	__device__ __forceinline__ void done_with_tile() {
		__syncwarp();
		if (lane == 0) mbar_arrive(empty(slot));
		if (++slot == STAGES) slot = 0, phase ^= 1;
	}

	// load_rows brings what is needed of a group's rows to shared memory, N of them.
	template <int N>
	__device__ __forceinline__ void load_rows(const af_decode_unit &u, int m_rows) {
		const int tid = threadIdx.x;
		const af_decode_group *group = a.plan->group + (u.group & 127);
		int *from = reinterpret_cast<int *>(smem + L::FROM);
		bar_sync(1, CONSUMERS);
		if (tid < N) {
			int4 w = make_int4(0, 0, 0, 0);
			if (tid < m_rows) {
				const int r = __ldg(group->row + tid / g), head = u.head * g + tid % g;
				w = __ldg(reinterpret_cast<const int4 *>(a.plan->row + r));
				w.z = w.z * a.heads + head;
				from[tid] = r * a.stride + head * D;
			}
			reinterpret_cast<int4 *>(smem + L::ROW)[tid] = w;
		}
		if (!waited) {
			pdl_wait();
			waited = true;
		}
		bar_sync(1, CONSUMERS);
		constexpr int PIECES = (N * (D / 8) + CONSUMERS - 1) / CONSUMERS;
		uint4 w[PIECES];
#pragma unroll
		for (int i = 0; i < PIECES; i++) {
			const int m = (tid + CONSUMERS * i) / (D / 8), c = (tid + CONSUMERS * i) % (D / 8);
			w[i] = m < m_rows ? *reinterpret_cast<const uint4 *>(a.q + from[m] + 8 * c) : make_uint4(0, 0, 0, 0);
		}
#pragma unroll
		for (int i = 0; i < PIECES; i++) {
			const int m = (tid + CONSUMERS * i) / (D / 8), c = (tid + CONSUMERS * i) % (D / 8);
			const int at = c < 8 ? m * 128 + (c ^ (m & 7)) * 16
								 : L::Q_PART + m * 2 * L::REST +
									   ((c - 8) ^ (L::REST == 64 ? m & 7 : L::REST == 32 ? m >> 1 & 3 : m >> 2 & 1)) * 16;
			if (m < N) *reinterpret_cast<uint4 *>(smem + L::Q + at) = w[i];
		}
		smem_written();
		bar_sync(1, CONSUMERS);
	}

	template <int N>
	__device__ __forceinline__ void run(const af_decode_unit &u, int m_rows) {
		const int now = (u.group & 127) << 8 | u.head;
		if (loaded != now) load_rows<N>(u, m_rows);
		loaded = now;
		const int tid = threadIdx.x, wg = warp / 4;
		float *tops = reinterpret_cast<float *>(smem + L::TOP), *sums = reinterpret_cast<float *>(smem + L::SUM); // [N][8 warps]
		float2 *steps = reinterpret_cast<float2 *>(smem + L::STEP);
		const row_info *rows = reinterpret_cast<const row_info *>(smem + L::ROW);
		const int key = 64 * wg + 16 * (warp % 4) + lane / 4; // and key+8, of a tile
		const int col = 2 * (lane & 3);                       // and col+1, and those 8, 16, ... further
		float o[N / 2], l[N / 4], top = -CUDART_INF_F;
#pragma unroll
		for (int i = 0; i < N / 2; i++) o[i] = 0;
#pragma unroll
		for (int i = 0; i < N / 4; i++) l[i] = 0;
		for (int off = 0; off < u.keys; off += KEYS) {
			float s[N / 2];
			const uint32_t kt = next_tile();
			wgmma_fence();
#pragma unroll
			for (int c = 0; c < D / 16; c++) {
				if (c < 4)
					Product<N>::template run<0>(s, desc_step(desc_k<64>(kt + wg * L::PAGE), 32 * c), desc_step(desc_k<64>(base + L::Q), 32 * c), c > 0);
				else
					Product<N>::template run<0>(s, desc_step(desc_k<L::REST>(kt + wg * L::PAGE + L::PART), 32 * (c - 4)),
												desc_step(desc_k<L::REST>(base + L::Q + L::Q_PART), 32 * (c - 4)), 1);
			}
			wgmma_commit();
			wgmma_wait<0>();
			pin(s);
			done_with_tile();
			if (u.group & 128) {
#pragma unroll
				for (int i = 0; i < N / 8; i++)
#pragma unroll
					for (int c = 0; c < 2; c++) {
						const row_info row = rows[8 * i + col + c];
						if (!sees(row.past, row.mask, u.key + off + key)) s[4 * i + c] = -CUDART_INF_F;
						if (!sees(row.past, row.mask, u.key + off + key + 8)) s[4 * i + 2 + c] = -CUDART_INF_F;
					}
			}
#pragma unroll
			for (int i = 0; i < N / 8; i++)
#pragma unroll
				for (int c = 0; c < 2; c++) {
					float x = fmaxf(s[4 * i + c], s[4 * i + 2 + c]);
					x = fmaxf(x, __shfl_xor_sync(~0u, x, 4));
					x = fmaxf(x, __shfl_xor_sync(~0u, x, 8));
					x = fmaxf(x, __shfl_xor_sync(~0u, x, 16));
					if (lane < 4) tops[(8 * i + col + c) * 8 + warp] = x;
				}
			bar_sync(1, CONSUMERS);
			if (tid < N) { // thread n keeps the maximum of row n
				const float4 x = *reinterpret_cast<float4 *>(tops + tid * 8), y = *reinterpret_cast<float4 *>(tops + tid * 8 + 4);
				const float old = top;
				top = fmaxf(fmaxf(fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w)), fmaxf(fmaxf(y.x, y.y), fmaxf(y.z, y.w))), old);
				const float from = top == -CUDART_INF_F ? 0 : __fmul_rn(top, scale2);
				steps[tid] = make_float2(from, exp2_fast(__fmaf_rn(old, scale2, -from)));
			}
			bar_sync(1, CONSUMERS);
			uint32_t p[N / 4];
#pragma unroll
			for (int i = 0; i < N / 8; i++) {
				const float4 t = *reinterpret_cast<float4 *>(steps + 8 * i + col); // of the two columns: what to take off, what to keep
				const float p0 = exp2_fast(__fmaf_rn(s[4 * i], scale2, -t.x)), p1 = exp2_fast(__fmaf_rn(s[4 * i + 1], scale2, -t.z));
				const float p2 = exp2_fast(__fmaf_rn(s[4 * i + 2], scale2, -t.x)), p3 = exp2_fast(__fmaf_rn(s[4 * i + 3], scale2, -t.z));
				l[2 * i] = __fmaf_rn(l[2 * i], t.y, __fadd_rn(p0, p2));
				l[2 * i + 1] = __fmaf_rn(l[2 * i + 1], t.w, __fadd_rn(p1, p3));
				p[2 * i] = bf16_pack(p0, p1);
				p[2 * i + 1] = bf16_pack(p2, p3);
				o[4 * i] *= t.y;
				o[4 * i + 1] *= t.w;
				o[4 * i + 2] *= t.y;
				o[4 * i + 3] *= t.w;
			}
			const uint32_t to = base + L::P + wg * L::P_HALF;
			const int chunk = 2 * (warp % 4) + (lane >> 3 & 1);
			if (N == 8) {
				stmatrix2_transposed(to + (lane & 7) * 128 + (chunk ^ (lane & 7)) * 16, p[0], p[1]);
			} else {
#pragma unroll
				for (int i = 0; i < N / 16; i++) {
					const int n = 16 * i + (lane >> 4) * 8 + (lane & 7);
					stmatrix4_transposed(to + n * 128 + (chunk ^ (n & 7)) * 16, p[(4 * i) % (N / 4)], p[(4 * i + 1) % (N / 4)], p[(4 * i + 2) % (N / 4)],
										 p[(4 * i + 3) % (N / 4)]);
				}
			}
			const uint32_t vt = next_tile();
			if (off + KEYS > u.keys) { // the end of a sequence: what pages hold beyond it may be anything
				for (int i = (u.keys - off) * (D / 8) + tid; i < KEYS * (D / 8); i += CONSUMERS) {
					const int row = i / (D / 8), c = i % (D / 8); // zeros need not mind the swizzle
					uint8_t *page = smem + (vt - base) + row / 64 * L::PAGE;
					*reinterpret_cast<uint4 *>(c < 8 ? page + row % 64 * 128 + 16 * c : page + L::PART + row % 64 * 2 * L::REST + 16 * (c - 8)) =
						make_uint4(0, 0, 0, 0);
				}
			}
			smem_written();
			bar_sync(1, CONSUMERS);
			if (wg < L::PARTS) {
				pin(o);
				wgmma_fence();
#pragma unroll
				for (int c = 0; c < KEYS / 16; c++) {
					const uint64_t b = desc_step(desc_k<64>(base + L::P + c / 4 * L::P_HALF), 32 * (c % 4));
					if (wg == 0)
						Product<N>::template run<1>(o, desc_step(desc_mn<64>(vt, 0), c / 4 * L::PAGE + c % 4 * 16 * 128), b, 1);
					else
						Product<N>::template run<1>(o, desc_step(desc_mn<L::REST>(vt + L::PART, 0), c / 4 * L::PAGE + c % 4 * 16 * 2 * L::REST), b, 1);
				}
				wgmma_commit();
				wgmma_wait<0>();
				pin(o);
			}
			done_with_tile();
		}
		// The state of the chunk.
#pragma unroll
		for (int i = 0; i < N / 4; i++) {
			float x = l[i];
			x += __shfl_xor_sync(~0u, x, 4);
			x += __shfl_xor_sync(~0u, x, 8);
			x += __shfl_xor_sync(~0u, x, 16);
			if (lane < 4) sums[(8 * (i / 2) + col + i % 2) * 8 + warp] = x;
		}
		bar_sync(1, CONSUMERS);
		if (tid < N) {
			float x = 0;
#pragma unroll
			for (int i = 0; i < 8; i++) x += sums[tid * 8 + i];
			steps[tid].x = x > 0 ? 1 / x : 0;
			if (tid < m_rows && u.chunk < rows[tid].chunks)
				a.lse[rows[tid].state + (int64_t)u.chunk * a.heads] = x > 0 ? __fmaf_rn(top, a.scale, __logf(x)) : -CUDART_INF_F;
		}
		bar_sync(1, CONSUMERS);
		if (wg < L::PARTS && (wg == 0 || 16 * (warp % 4) < L::REST)) {
#pragma unroll
			for (int i = 0; i < N / 4; i++) {
				const int n = 8 * (i / 2) + col + i % 2;
				if (n < m_rows && u.chunk < rows[n].chunks) { // a row before the last may see nothing of the last chunk
					float *to = a.o + (rows[n].state + (int64_t)u.chunk * a.heads) * D + 64 * wg + 16 * (warp % 4) + lane / 4;
					const float inv = steps[n].x;
					to[0] = o[4 * (i / 2) + i % 2] * inv;
					to[8] = o[4 * (i / 2) + 2 + i % 2] * inv;
				}
			}
		}
	}

	__device__ __forceinline__ void consume() {
		for (const af_decode_unit *at = a.plan->unit + blockIdx.x;; at += gridDim.x) {
			const af_decode_unit u = load_unit(at);
			if (u.keys == 0) break;
			const int m_rows = __ldg(&a.plan->group[u.group & 127].rows) * g;
			if (m_rows <= 8)
				run<8>(u, m_rows);
			else if (m_rows <= 16)
				run<16>(u, m_rows);
			else if constexpr (NMAX > 16) {
				if (m_rows <= 32)
					run<32>(u, m_rows);
				else if (m_rows <= 64)
					run<64>(u, m_rows);
				else
					run<128>(u, m_rows);
			}
		}
	}
};

template <int D, int NMAX, int STAGES>
__device__ __forceinline__ void decode_tma(const af_decode_tma_args &a) {
	extern __shared__ uint8_t raw[];
	using L = layout<D, NMAX, STAGES>;
	static_assert(L::BYTES <= 227 << 10, "shared memory of a block");
	uint8_t *smem = raw + (-smem_addr(raw) & 1023);
	decode90<D, NMAX, STAGES> t{a, smem, smem_addr(smem), threadIdx.x / 32, threadIdx.x & 31, a.heads / a.kv_heads};
	t.scale2 = a.scale * LOG2E;
	t.waited = !a.early;
	pdl_launch();
	if (!a.early) pdl_wait();
	if (threadIdx.x == 0) {
		for (int s = 0; s < STAGES; s++) {
			mbar_init(t.full(s), 1);
			mbar_init(t.empty(s), CONSUMERS / 32);
		}
		mbar_init_done();
	}
	__syncthreads();
	if (t.warp >= CONSUMERS / 32) {
		if constexpr (NMAX > 16) regs_shrink<24>();
		if (t.warp == CONSUMERS / 32 && elect()) t.produce();
	} else {
		if constexpr (NMAX > 16) regs_grow<240>();
		t.consume();
	}
}

// Few rows need few registers; for many, a whole warpgroup beside the consumers gives its own up.
constexpr int threads(int nmax) { return nmax > 16 ? CONSUMERS + 128 : CONSUMERS + 32; }

// Tiles of small heads are soon used up, and units soon done: two blocks hide each other's waits.
constexpr int blocks(int d, int nmax) { return d < 128 && nmax <= 16 ? 2 : 1; }

} // namespace

#define AF_DECODE(D, NMAX, STAGES)                                                                                              \
	typedef af_decode_tma_args af_decode_tma_##D##_##NMAX##_args;                                                               \
	AF_KERNEL(decode_tma_##D##_##NMAX, threads(NMAX), blocks(D, NMAX)) { decode_tma<D, NMAX, STAGES>(a); }

#ifndef AF_HARNESS
AF_DECODE(64, 16, 6)
AF_DECODE(64, 128, 6)
AF_DECODE(80, 16, 5)
AF_DECODE(80, 128, 4)
AF_DECODE(96, 16, 4)
AF_DECODE(96, 128, 4)
AF_DECODE(128, 16, 4)
AF_DECODE(128, 128, 4)
#endif
