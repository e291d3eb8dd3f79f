// Attention of 1 to 32 new rows over long paged K/V: decoding, verifying drafts, many questions over one memory.
//
// Work is cut into units: one chunk of keys of one K/V head, for a group of rows that all see it. The rows x query heads of the group
// are the M side of mma.m16n8k16, so that K and V are read once for all of them. The host deals units out to a fixed number of blocks
// (decode.go); each leaves its state (o, lse) of the chunk in memory, and a second kernel merges the states of a row in the order of
// chunks. Chunks lie at fixed keys and a row's arithmetic within one is the same in any group, so that a row's result depends to the
// bit on its own sequence only.
#include "decode.cuh"

namespace {

// Shared memory: a ring of STAGES tiles of KEYS rows of K or V, in turn; the queries; the probabilities of one tile; what warps tell
// each other. Rows are padded by 16 bytes, which spreads ldmatrix over all banks.
//
// Warps stand in a grid of SLICES by WM: a slice of the keys (scores) or columns (values), and every WM-th tile of 16 rows of the MT
// there are. WM does not show in the results.
constexpr int SLICES = 8;

template <int D, int MT, int WM, int KEYS, int STAGES>
struct decode_layout {
	static constexpr int THREADS = 32 * SLICES * WM, M = 16 * MT, PITCH = 2 * D + 16, P_PITCH = 2 * KEYS + 16, TILE = KEYS * PITCH;
	static constexpr int Q = STAGES * TILE, P = Q + M * PITCH, RED = P + M * P_PITCH, ROW = RED + M * SLICES * 4;
	static constexpr int BYTES = ROW + M * 16;
};

// tiles walks the K and V tiles of a block's units in order and starts copying them.
template <int D, int MT, int WM, int KEYS, int STAGES>
struct decode_tiles {
	using L = decode_layout<D, MT, WM, KEYS, STAGES>;
	static constexpr int PIECES = D / 8; // of 16 bytes, in a row
	static constexpr int COPIES = KEYS * PIECES / L::THREADS, PAGE = 64 * PIECES;
	const af_decode_args &a;
	const af_decode_unit *at;
	af_decode_unit unit, after;
	int off = 0, slot = 0;
	bool v = false;
	int page[KEYS / 64];
	uint32_t dst[COPIES]; // a tile's pieces lie one after another in a page, one more piece apart for each row in shared memory

	__device__ __forceinline__ decode_tiles(const af_decode_args &a, uint32_t ring) : a(a) {
#pragma unroll
		for (int i = 0; i < COPIES; i++) {
			const int n = threadIdx.x + L::THREADS * i;
			dst[i] = ring + 16 * (n + n / PIECES);
		}
		at = a.plan->unit + blockIdx.x;
		unit = load_unit(at);
		after = unit.keys ? load_unit(at += gridDim.x) : unit;
		find_pages();
	}
	__device__ __forceinline__ void find_pages() {
#pragma unroll
		for (int i = 0; i < KEYS / 64; i++)
			page[i] = off + 64 * i < unit.keys ? __ldg(a.pages + unit.page + off / 64 + i) : 0;
	}
	__device__ __forceinline__ bool done() const { return unit.keys == 0; }
	__device__ __forceinline__ bool fresh() const { return unit.group & 128; }

	// start begins the copy of the next tile; always one commit group.
	__device__ __forceinline__ void start() {
		if (!done()) {
			const uint4 *pool = reinterpret_cast<const uint4 *>(v ? a.v : a.k), *src[KEYS / 64];
#pragma unroll
			for (int i = 0; i < KEYS / 64; i++)
				src[i] = pool + (int64_t)(page[i] * a.kv_heads + unit.head) * PAGE + (int)threadIdx.x - i * PAGE;
			const int pieces = (unit.keys - off) * PIECES;
			const uint32_t ring = slot * L::TILE;
			auto copy = [&](bool whole) {
#pragma unroll
				for (int i = 0; i < COPIES; i++) {
					const int n = threadIdx.x + L::THREADS * i;
					const uint4 *s = src[0];
#pragma unroll
					for (int j = 1; j < KEYS / 64; j++) s = n >= j * PAGE ? src[j] : s;
					if (whole)
						cp_async16(dst[i] + ring, s + L::THREADS * i);
					else
						cp_async16(dst[i] + ring, n < pieces ? s + L::THREADS * i : pool, n < pieces);
				}
			};
			if (pieces >= KEYS * PIECES)
				copy(true);
			else
				copy(false);
			slot = slot + 1 == STAGES ? 0 : slot + 1;
			if (v) {
				off += KEYS;
				if (off >= unit.keys) {
					off = 0;
					unit = after;
					if (unit.keys) after = load_unit(at += gridDim.x);
				}
				find_pages();
			}
			v = !v;
		}
		cp_async_commit();
	}
};

template <int D, int MT, int WM, int KEYS, int STAGES>
__device__ __forceinline__ void decode_units(const af_decode_args &a, uint8_t *smem) {
	using L = decode_layout<D, MT, WM, KEYS, STAGES>;
	static_assert(D % 16 == 0 && KEYS % 128 == 0 && KEYS * D / 8 % L::THREADS == 0 && MT % WM == 0 && L::BYTES <= 227 << 10, "shapes");
	constexpr int NT = KEYS / SLICES / 8;               // tiles of 8 keys of a warp
	constexpr int DT = (D / 8 + SLICES - 1) / SLICES;   // tiles of 8 columns of a warp: slice, slice+8
	constexpr int RT = MT / WM;                         // tiles of 16 rows of a warp
	const uint32_t ring = shared_address(smem), qs = ring + L::Q, ps = ring + L::P;
	float *red = reinterpret_cast<float *>(smem + L::RED); // [M][SLICES]
	af_decode_row *rows = reinterpret_cast<af_decode_row *>(smem + L::ROW);
	const int tid = threadIdx.x, slice = (tid >> 5) % SLICES, wm = (tid >> 5) / SLICES, lane = tid & 31;
	const int g = a.heads / a.kv_heads;
	const float scale2 = a.scale * LOG2E;

	const bool early = a.early;
	if (!early) pdl_wait();
	decode_tiles<D, MT, WM, KEYS, STAGES> tiles(a, ring);
	const af_decode_unit *at = a.plan->unit + blockIdx.x;
	af_decode_unit unit = tiles.unit;
	// What older passes wrote can be fetched while the kernel ahead is still at work.
	int ahead = 0;
	while (ahead < STAGES - 1 && (tiles.done() || !tiles.fresh())) {
		tiles.start();
		ahead++;
	}
	if (early) pdl_wait();
	for (; ahead < STAGES - 1; ahead++) tiles.start();

	int slot = 0, loaded = -1;
	auto next_tile = [&] { // waits for the oldest tile on its way, and starts another in the place of the one used before
		cp_async_wait<STAGES - 2>();
		__syncthreads();
		tiles.start();
		const uint32_t t = ring + slot * L::TILE;
		slot = slot + 1 == STAGES ? 0 : slot + 1;
		return t;
	};

	while (unit.keys) {
		const int group = unit.group & 127, m_rows = __ldg(&a.plan->group[group].rows) * g;
		const int tiles16 = (m_rows + 15) / 16;
		if (loaded != (group << 8 | unit.head)) {
			loaded = group << 8 | unit.head;
			__syncthreads();
			if (tid < L::M) {
				const int r = tid < m_rows ? __ldg(a.plan->group[group].row + tid / g) : 0;
				reinterpret_cast<int4 *>(rows)[tid] = __ldg(reinterpret_cast<const int4 *>(a.plan->row + r));
			}
			for (int n = tid; n < L::M * (D / 8); n += L::THREADS) {
				const int m = n / (D / 8), c = n % (D / 8);
				uint4 w = make_uint4(0, 0, 0, 0);
				if (m < m_rows) {
					const int r = __ldg(a.plan->group[group].row + m / g);
					w = *reinterpret_cast<const uint4 *>(a.q + (int64_t)r * a.stride + (unit.head * g + m % g) * D + 8 * c);
				}
				*reinterpret_cast<uint4 *>(smem + L::Q + m * L::PITCH + 16 * c) = w;
			}
		}
		float o[RT][DT][4], mx[RT][2], sum[RT][2];
#pragma unroll
		for (int t = 0; t < RT; t++) {
#pragma unroll
			for (int i = 0; i < DT; i++) o[t][i][0] = o[t][i][1] = o[t][i][2] = o[t][i][3] = 0;
			mx[t][0] = mx[t][1] = -CUDART_INF_F;
			sum[t][0] = sum[t][1] = 0;
		}
		auto row_of = [&](int t, int h) { return 16 * (WM * t + wm) + lane / 4 + 8 * h; };
		for (int off = 0; off < unit.keys; off += KEYS) {
			// Scores: slice w has keys [w*KEYS/8, (w+1)*KEYS/8) of the tile.
			const uint32_t kt = next_tile() + (slice * (KEYS / SLICES) + (lane >> 4) * 8 + (lane & 7)) * L::PITCH + (lane & 8) * 2;
			float s[RT][NT][4];
#pragma unroll
			for (int t = 0; t < RT; t++)
#pragma unroll
				for (int i = 0; i < NT; i++) s[t][i][0] = s[t][i][1] = s[t][i][2] = s[t][i][3] = 0;
#pragma unroll
			for (int c = 0; c < D / 16; c++) {
				uint32_t b[NT / 2][4];
#pragma unroll
				for (int i = 0; i < NT / 2; i++) ldmatrix4(b[i], kt + 16 * i * L::PITCH + 32 * c);
#pragma unroll
				for (int t = 0; t < RT; t++) {
					if (MT > 1 && WM * t + wm >= tiles16) break;
					uint32_t f[4];
					ldmatrix4(f, qs + (16 * (WM * t + wm) + (lane & 15)) * L::PITCH + 32 * c + (lane >> 4) * 16);
#pragma unroll
					for (int i = 0; i < NT; i++) mma_bf16(s[t][i], f, b[i / 2][i % 2 * 2], b[i / 2][i % 2 * 2 + 1]);
				}
			}
			if (unit.group & 128) {
#pragma unroll
				for (int t = 0; t < RT; t++)
#pragma unroll
					for (int h = 0; h < 2; h++) {
						const af_decode_row row = rows[row_of(t, h)];
#pragma unroll
						for (int i = 0; i < 2 * NT; i++) {
							const int n = unit.key + off + slice * (KEYS / SLICES) + 8 * (i / 2) + 2 * (lane & 3) + i % 2;
							if (!sees(row.past, row.mask, n)) s[t][i / 2][2 * h + i % 2] = -CUDART_INF_F;
						}
					}
			}
#pragma unroll
			for (int t = 0; t < RT; t++) {
				if (MT > 1 && WM * t + wm >= tiles16) break;
#pragma unroll
				for (int h = 0; h < 2; h++) {
					float x = -CUDART_INF_F;
#pragma unroll
					for (int i = 0; i < NT; i++) x = fmaxf(x, fmaxf(s[t][i][2 * h], s[t][i][2 * h + 1]));
					x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
					x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
					if ((lane & 3) == 0) red[row_of(t, h) * SLICES + slice] = x;
				}
			}
			__syncthreads();
#pragma unroll
			for (int t = 0; t < RT; t++) {
				if (MT > 1 && WM * t + wm >= tiles16) break;
#pragma unroll
				for (int h = 0; h < 2; h++) {
					const int m = row_of(t, h);
					const float4 x = *reinterpret_cast<float4 *>(red + m * SLICES), y = *reinterpret_cast<float4 *>(red + m * SLICES + 4);
					const float old = mx[t][h];
					float top = fmaxf(fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w)), fmaxf(fmaxf(y.x, y.y), fmaxf(y.z, y.w)));
					top = fmaxf(top, old);
					mx[t][h] = top;
					const float base = top == -CUDART_INF_F ? 0 : __fmul_rn(top, scale2);
					const float keep = exp2_fast(__fmaf_rn(old, scale2, -base));
					float l = 0;
#pragma unroll
					for (int i = 0; i < NT; i++) {
						const float p0 = exp2_fast(__fmaf_rn(s[t][i][2 * h], scale2, -base)), p1 = exp2_fast(__fmaf_rn(s[t][i][2 * h + 1], scale2, -base));
						l = __fadd_rn(l, __fadd_rn(p0, p1));
						*reinterpret_cast<uint32_t *>(smem + L::P + m * L::P_PITCH + 2 * (slice * (KEYS / SLICES) + 8 * i + 2 * (lane & 3))) =
							bf16_pack(p0, p1);
					}
					sum[t][h] = __fmaf_rn(sum[t][h], keep, l);
#pragma unroll
					for (int i = 0; i < DT; i++) {
						o[t][i][2 * h] *= keep;
						o[t][i][2 * h + 1] *= keep;
					}
				}
			}
			// Values: slice w has columns [8w, 8w+8), and those 64 further.
			const uint32_t vt = next_tile() + lane * L::PITCH + 16 * slice;
#pragma unroll
			for (int c = 0; c < KEYS / 32; c++) {
				uint32_t b[DT][4];
#pragma unroll
				for (int i = 0; i < DT; i++)
					if (D % 64 == 0 || slice + SLICES * i < D / 8) ldmatrix4_transposed(b[i], vt + 32 * c * L::PITCH + 16 * SLICES * i);
#pragma unroll
				for (int t = 0; t < RT; t++) {
					if (MT > 1 && WM * t + wm >= tiles16) break;
#pragma unroll
					for (int j = 0; j < 2; j++) {
						uint32_t f[4];
						ldmatrix4(f, ps + (16 * (WM * t + wm) + (lane & 15)) * L::P_PITCH + 64 * c + 32 * j + (lane >> 4) * 16);
#pragma unroll
						for (int i = 0; i < DT; i++)
							if (D % 64 == 0 || slice + SLICES * i < D / 8) mma_bf16(o[t][i], f, b[i][2 * j], b[i][2 * j + 1]);
					}
				}
			}
		}
		// The state of the chunk.
#pragma unroll
		for (int t = 0; t < RT; t++)
#pragma unroll
			for (int h = 0; h < 2; h++) {
				float l = sum[t][h];
				l += __shfl_xor_sync(~0u, l, 1);
				l += __shfl_xor_sync(~0u, l, 2);
				if ((lane & 3) == 0) red[row_of(t, h) * SLICES + slice] = l;
			}
		__syncthreads();
#pragma unroll
		for (int t = 0; t < RT; t++)
#pragma unroll
			for (int h = 0; h < 2; h++) {
				const int m = row_of(t, h);
				if (m >= m_rows || unit.chunk >= rows[m].chunks) continue; // a row before the last may see nothing of the last chunk
				float l = 0;
#pragma unroll
				for (int i = 0; i < SLICES; i++) l += red[m * SLICES + i];
				const float inv = l > 0 ? 1 / l : 0;
				const int64_t at = (int64_t)(rows[m].slot + unit.chunk) * a.heads + unit.head * g + m % g;
#pragma unroll
				for (int i = 0; i < DT; i++) {
					const int c = 8 * (slice + SLICES * i) + 2 * (lane & 3);
					if (D % 64 == 0 || c < D)
						*reinterpret_cast<float2 *>(a.o + at * D + c) = make_float2(__fmul_rn(o[t][i][2 * h], inv), __fmul_rn(o[t][i][2 * h + 1], inv));
				}
				if (slice == 0 && (lane & 3) == 0) a.lse[at] = l > 0 ? __fmaf_rn(mx[t][h], a.scale, __logf(l)) : -CUDART_INF_F;
			}
		at += gridDim.x;
		unit = load_unit(at);
	}
	cp_async_wait<0>();
}

template <int D, int MT, int WM, int KEYS, int STAGES>
__device__ __forceinline__ void decode(const af_decode_args &a) {
	extern __shared__ __align__(128) uint8_t smem[];
	pdl_launch();
	decode_units<D, MT, WM, KEYS, STAGES>(a, smem);
}

} // namespace

// Two kernels for each head size: for groups of up to 16 rows, and of up to 64.
constexpr int KEYS = 128, STAGES = 4;

#define AF_DECODE(D, MT, WM)                                                                            \
	typedef af_decode_args af_decode_##D##_##MT##_args;                                                 \
	AF_KERNEL(decode_##D##_##MT, 32 * SLICES * WM, 1) { decode<D, MT, WM, KEYS, STAGES>(a); }

#ifndef AF_HARNESS
AF_DECODE(64, 1, 1)
AF_DECODE(64, 4, 2)
AF_DECODE(80, 1, 1)
AF_DECODE(80, 4, 1)
AF_DECODE(96, 1, 1)
AF_DECODE(96, 4, 2)
AF_DECODE(128, 1, 1)
AF_DECODE(128, 4, 2)
#endif
