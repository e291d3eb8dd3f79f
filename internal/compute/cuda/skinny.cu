// The decode step's products: y = x·Wᵀ for 1 to 32 rows of x, bound by the reading of W.
//
// A block takes whole strips of weight rows. Its warps share out K, block by block of the packed weight in turn, and each streams
// its own blocks through a ring of its own in shared memory, so that nothing is synchronised until a strip ends; then the warps'
// sums are added in order and one warp finishes each row of x. The weights are the tensor cores' A operand, 16 rows a tile, and x
// is B, 8 rows a tile: a row's sums are formed in the same order however many rows run beside it.
//
// Kernels of a step overlap (programmatic launch): the ring is filled with weights before the kernel ahead has finished.
#include "common.cuh"
#include "skinny.h"

namespace {

constexpr int W = AF_SKINNY_WARPS, THREADS = W * 32;

AF_INLINE void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		: "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		: "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

AF_INLINE uint4 load16(uint32_t at) {
	uint4 v;
	asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
	return v;
}

AF_INLINE uint32_t subtract2(uint32_t a, uint32_t b) {
	__nv_bfloat162 r = __hsub2(*reinterpret_cast<__nv_bfloat162 *>(&a), *reinterpret_cast<__nv_bfloat162 *>(&b));
	return *reinterpret_cast<uint32_t *>(&r);
}

// A byte with 0x43 above it is a bf16: its low seven bits are an integer's, on top of 128. The sign bit, worth -128, is one
// exponent step of the 128 that is taken away, so both halves are exact.
AF_INLINE uint32_t int8_pair(uint32_t bytes) {
	return subtract2((bytes & 0x007f007fu) | 0x43004300u, (bytes & 0x00800080u) | 0x43004300u);
}

// Likewise a nibble, which is the value + 8.
AF_INLINE uint32_t int4_pair(uint32_t nibbles) {
	return subtract2((nibbles & 0x000f000fu) | 0x43004300u, 0x43084308u);
}

// eight returns the eight values of sub-block j that a lane holds in its 16 bytes, as bf16.
template <int KIND> AF_INLINE uint4 eight(const uint4 &q, int j) {
	if constexpr (KIND == AF_SKINNY_BF16) return q;
	if constexpr (KIND == AF_SKINNY_I8) {
		uint32_t a = j ? q.z : q.x, b = j ? q.w : q.y;
		return make_uint4(int8_pair(a), int8_pair(a >> 8), int8_pair(b), int8_pair(b >> 8));
	}
	uint32_t a = j == 0 ? q.x : j == 1 ? q.y : j == 2 ? q.z : q.w;
	return make_uint4(int4_pair(a), int4_pair(a >> 4), int4_pair(a >> 8), int4_pair(a >> 12));
}

AF_INLINE float bf16_at(const void *p, size_t i) { return __bfloat162float(static_cast<const bf16 *>(p)[i]); }
AF_INLINE uint16_t bf16_bits(float f) { return __bfloat16_as_ushort(__float2bfloat16_rn(f)); }

// ring is a warp's queue of weight blocks on their way.
struct ring {
	uint32_t at, bars; // shared addresses
	const char *w;
	int bytes, slots;
	int strip, strips, step;    // next to fetch
	int block, blocks, first;
	int slot, phase;            // next to use

	__device__ __forceinline__ void fetch(int into, int lane) {
#if __CUDA_ARCH__ >= 900
		if (lane != 0 || strip >= strips) return;
		const char *from = w + (int64_t(strip) * blocks + block) * bytes;
		uint32_t bar = bars + into * 8;
		asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
		asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(at + into * bytes),
			"l"(from), "r"(bytes), "r"(bar)
			: "memory");
#else
		if (strip < strips) {
			const char *from = w + (int64_t(strip) * blocks + block) * bytes;
			for (int c = lane * 16; c < bytes; c += 512) cp_async16(at + into * bytes + c, from + c);
		}
		cp_async_commit();
		if (strip >= strips) return;
#endif
		block += W;
		if (block >= blocks) {
			block = first;
			strip += step;
		}
	}

	__device__ __forceinline__ void open(int lane) {
#if __CUDA_ARCH__ >= 900
		if (lane == 0) {
			for (int i = 0; i < slots; i++) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bars + i * 8) : "memory");
			asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
		}
		__syncwarp();
#endif
		slot = phase = 0;
		for (int i = 0; i < slots; i++) fetch(i, lane);
	}

	// take waits for the next block and returns its shared address.
	__device__ __forceinline__ uint32_t take() {
#if __CUDA_ARCH__ >= 900
		uint32_t bar = bars + slot * 8, done;
		do {
			asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
				: "=r"(done) : "r"(bar), "r"(phase) : "memory");
		} while (!done);
#else
		cp_async_wait<AF_SKINNY_SLOTS80 - 1>();
		__syncwarp();
#endif
		return at + slot * bytes;
	}

	// give returns the block just taken, once all lanes have read it.
	__device__ __forceinline__ void give(int lane) {
		__syncwarp();
		fetch(slot, lane);
		if (++slot == slots) slot = 0, phase ^= 1;
	}
};

// stage starts to bring columns [k0, k0+cols) of x to shared memory, as bf16, zeros past the last; the copies are committed.
AF_INLINE void stage(const af_skinny_args &a, char *to, int k0, int cols) {
	int end = min(cols, a.in - k0); // columns that there are
	bool wide = a.flags & AF_SKINNY_X32;
	bool fast = !wide && a.ldx % 8 == 0 && a.in % 8 == 0 && (reinterpret_cast<uintptr_t>(a.x) & 15) == 0;
	for (int r = 0; r < a.rows; r++) {
		int64_t from = int64_t(a.pick ? a.pick[r] : r) * a.ldx + k0;
		char *row = to + r * a.x_stride;
		if (fast) {
			const uint16_t *x = static_cast<const uint16_t *>(a.x) + from;
			for (int c = threadIdx.x * 8; c < cols; c += THREADS * 8) {
				if (c < end) cp_async16(shared_address(row + c * 2), x + c);
				else *reinterpret_cast<uint4 *>(row + c * 2) = make_uint4(0, 0, 0, 0);
			}
			continue;
		}
		for (int c = threadIdx.x; c < cols; c += THREADS) {
			float v = c >= end ? 0 : wide ? static_cast<const float *>(a.x)[from + c] : bf16_at(a.x, from + c);
			*reinterpret_cast<uint16_t *>(row + c * 2) = bf16_bits(v);
		}
	}
	cp_async_commit();
}

// column is what finishing one element needs from memory, asked for early.
struct column {
	float rms, scale, bias, other, next, cos, sin;
	int slot;
};

// place is where weight row p stands in the checkpoint.
AF_INLINE int checkpoint_row(int order, int n, int head_dim, int p) {
	switch (order) {
	case AF_SKINNY_PAIRED: return p - p % head_dim + (p % head_dim >> 1) + (p & 1) * (head_dim >> 1);
	case AF_SKINNY_GATED: return (p & 1) * (n >> 1) + (p >> 1);
	}
	return p;
}

AF_INLINE column ask(const af_skinny_args &a, const float *rms, int r, int p, bool live) {
	column c{1, 1, 0, 0, 1, 1, 0, -1};
	if (!live) return c;
	if (a.sums) c.rms = rms[r];
	if (a.row_scale) c.scale = a.row_scale[p];
	switch (a.mode) {
	case AF_SKINNY_LINEAR:
		if (a.bias) c.bias = a.bias[p];
		if (a.scale) c.next = a.scale[p];
		if (a.residual) {
			size_t at = size_t(r) * a.ldr + p;
			c.other = a.flags & AF_SKINNY_RES32 ? static_cast<const float *>(a.residual)[at] : bf16_at(a.residual, at);
		}
		break;
	case AF_SKINNY_ADD:
		c.next = a.next[p];
		c.other = static_cast<const float *>(a.out)[size_t(r) * a.ldo + p];
		break;
	case AF_SKINNY_QKV:
		if (a.bias) c.bias = a.bias[checkpoint_row(AF_SKINNY_PAIRED, a.n, a.head_dim, p)];
		c.slot = a.slot[r];
		if (p < (a.heads + a.kv_heads) * a.head_dim) {
			const float *angle = a.table + size_t(a.position[r]) * a.head_dim + (p % a.head_dim >> 1);
			c.cos = angle[0];
			c.sin = angle[a.head_dim >> 1];
		}
	}
	return c;
}

// finish stores one element, or a pair of lanes their two: v is the sum for row r of x and weight row p. All lanes of a warp call it.
AF_INLINE void finish(const af_skinny_args &a, const column &c, int r, int p, int strip, bool live, float v) {
	v *= c.rms * c.scale;
	switch (a.mode) {
	case AF_SKINNY_LINEAR: {
		if (!live) return;
		v = activate(a.act, v + c.bias) * c.next + c.other;
		size_t at = size_t(r) * a.ldo + p;
		if (a.flags & AF_SKINNY_OUT32) static_cast<float *>(a.out)[at] = v;
		else static_cast<uint16_t *>(a.out)[at] = bf16_bits(v);
		return;
	}
	case AF_SKINNY_ADD: {
		v += c.other;
		if (live) {
			static_cast<float *>(a.out)[size_t(r) * a.ldo + p] = v;
			a.h[size_t(r) * a.ldh + p] = bf16_bits(v * c.next);
		}
		float sum = warp_sum(live ? v * v : 0);
		if ((threadIdx.x & 31) == 0) a.sums_out[r * AF_SKINNY_PARTS + strip] = sum;
		return;
	}
	case AF_SKINNY_GATE: {
		float up = __shfl_xor_sync(~0u, v, 1);
		if (live && !(p & 1)) static_cast<uint16_t *>(a.out)[size_t(r) * a.ldo + (p >> 1)] = bf16_bits(v / (1 + __expf(-v)) * up);
		return;
	}
	case AF_SKINNY_QKV: {
		v += c.bias;
		float pair = __shfl_xor_sync(~0u, v, 1);
		if (!live) return;
		uint16_t bits = bf16_bits(v * c.cos + (p & 1 ? pair : -pair) * c.sin);
		int head = p / a.head_dim, at = (p % a.head_dim >> 1) + (p & 1) * (a.head_dim >> 1);
		if (head < a.heads) {
			static_cast<uint16_t *>(a.out)[size_t(r) * a.ldo + head * a.head_dim + at] = bits;
			return;
		}
		if (c.slot < 0) return;
		head -= a.heads;
		uint16_t *pool = head < a.kv_heads ? a.k : a.v;
		if (head >= a.kv_heads) head -= a.kv_heads;
		pool[((size_t(c.slot >> 6) * a.kv_heads + head) * 64 + (c.slot & 63)) * a.head_dim + at] = bits;
	}
	}
}

// M tiles of 16 weight rows, N tiles of 8 rows of x.
template <int KIND, int M, int N> AF_INLINE void skinny(const af_skinny_args &a) {
	extern __shared__ __align__(128) char shared[];
	constexpr int PITCH = M * 16 + 4, SUBS = KIND == AF_SKINNY_BF16 ? 1 : KIND == AF_SKINNY_I8 ? 2 : 4;
	float *rms = reinterpret_cast<float *>(shared + AF_SKINNY_HEAD - 4 * AF_SKINNY_ROWS);
	char *ring_at = shared + AF_SKINNY_HEAD;
	float *sums = reinterpret_cast<float *>(ring_at + W * a.slots * a.block); // [warp][row of x][PITCH]
	char *xs = reinterpret_cast<char *>(sums + W * a.rows * PITCH);
	int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;

	pdl_launch();
	ring q;
	q.at = shared_address(ring_at) + warp * a.slots * a.block;
	q.bars = shared_address(shared) + warp * a.slots * 8;
	q.w = static_cast<const char *>(a.w);
	q.bytes = a.block, q.slots = a.slots;
	q.strip = warp < a.blocks ? blockIdx.x : a.strips, q.strips = a.strips, q.step = gridDim.x;
	q.block = q.first = warp, q.blocks = a.blocks;
	q.open(lane);

	uint32_t a_at[2 * M], b_at[N];
#pragma unroll
	for (int o = 0; o < 2 * M; o++) a_at[o] = min(o * 8 + g, a.strip - 1) * 64 + t * 16; // rows past the strip's read others, for nothing
#pragma unroll
	for (int n = 0; n < N; n++) b_at[n] = min(n * 8 + g, a.rows - 1) * a.x_stride + t * 16;

	pdl_wait();
	int windows = (a.blocks + a.window - 1) / a.window, width = 32 * SUBS; // width of a block in columns
	uint32_t x_buffer = a.rows * a.x_stride;
	stage(a, xs, 0, min(a.window, a.blocks) * width);
	int turn = 0, turns = windows * ((a.strips - int(blockIdx.x) + int(gridDim.x) - 1) / int(gridDim.x));
	if (a.sums) {
		for (int r = warp; r < a.rows; r += W) {
			const float *part = a.sums + size_t(a.pick ? a.pick[r] : r) * AF_SKINNY_PARTS;
			float sum = 0;
			for (int i = lane; i < a.parts; i += 32) sum += part[i];
			sum = warp_sum(sum);
			if (lane == 0) rms[r] = rsqrtf(sum * a.inv_in + a.eps);
		}
	}
	if (windows == 1) {
		cp_async_wait<0>();
		__syncthreads();
	}

	for (int strip = blockIdx.x; strip < a.strips; strip += gridDim.x) {
		int p = strip * a.strip + lane;
		bool live = lane < a.strip && p < a.n;
		column c = ask(a, rms, warp, p, live && warp < a.rows && windows == 1);
		float acc[M][N][4] = {};
		for (int from = 0; from < a.blocks; from += a.window, turn++) {
			uint32_t x_at = shared_address(xs);
			if (windows > 1) {
				cp_async_wait<0>();
				__syncthreads(); // this window is there, and the other buffer is no longer read
				if (turn + 1 < turns) {
					int next = from + a.window < a.blocks ? from + a.window : 0;
					stage(a, xs + (turn + 1 & 1) * x_buffer, next * width, min(a.window, a.blocks - next) * width);
				}
				x_at += (turn & 1) * x_buffer;
			}
			int end = min(a.blocks - from, a.window);
			for (int b = warp; b < end; b += W) {
				uint32_t w_at = q.take(), k_at = x_at + b * 64 * SUBS;
				uint4 packed[2 * M];
#pragma unroll
				for (int o = 0; o < 2 * M; o++) packed[o] = load16(w_at + a_at[o]);
				if constexpr (KIND != AF_SKINNY_I4) {
#pragma unroll
					for (int j = 0; j < SUBS; j++) {
						uint4 x[N];
#pragma unroll
						for (int n = 0; n < N; n++) x[n] = load16(k_at + b_at[n] + j * 64);
#pragma unroll
						for (int m = 0; m < M; m++) {
							uint4 lo = eight<KIND>(packed[2 * m], j), hi = eight<KIND>(packed[2 * m + 1], j);
#pragma unroll
							for (int n = 0; n < N; n++) {
								mma(acc[m][n], lo.x, hi.x, lo.y, hi.y, x[n].x, x[n].y);
								mma(acc[m][n], lo.z, hi.z, lo.w, hi.w, x[n].z, x[n].w);
							}
						}
					}
				} else {
					float group[M][N][4] = {};
#pragma unroll
					for (int j = 0; j < SUBS; j++) {
						uint4 x[N];
#pragma unroll
						for (int n = 0; n < N; n++) x[n] = load16(k_at + b_at[n] + j * 64);
#pragma unroll
						for (int m = 0; m < M; m++) {
							uint4 lo = eight<KIND>(packed[2 * m], j), hi = eight<KIND>(packed[2 * m + 1], j);
#pragma unroll
							for (int n = 0; n < N; n++) {
								mma(group[m][n], lo.x, hi.x, lo.y, hi.y, x[n].x, x[n].y);
								mma(group[m][n], lo.z, hi.z, lo.w, hi.w, x[n].z, x[n].w);
							}
						}
					}
#pragma unroll
					for (int m = 0; m < M; m++) {
						float s[2];
#pragma unroll
						for (int o = 0; o < 2; o++) {
							uint16_t bits;
							asm volatile("ld.shared.u16 %0, [%1];"
								: "=h"(bits) : "r"(w_at + a.strip * 64 + min((2 * m + o) * 8 + g, a.strip - 1) * 2));
							s[o] = __uint_as_float(uint32_t(bits) << 16);
						}
#pragma unroll
						for (int n = 0; n < N; n++) {
#pragma unroll
							for (int e = 0; e < 4; e++) acc[m][n][e] += group[m][n][e] * s[e >> 1];
						}
					}
				}
				q.give(lane);
			}
		}

		// Sums of the warps meet. The strip before may still be being finished, so wait before writing over its sums.
		__syncthreads();
#pragma unroll
		for (int n = 0; n < N; n++) {
#pragma unroll
			for (int e = 0; e < 4; e++) {
				int r = n * 8 + t * 2 + (e & 1);
				if (r < a.rows) {
#pragma unroll
					for (int m = 0; m < M; m++) sums[(warp * a.rows + r) * PITCH + m * 16 + (e >> 1) * 8 + g] = acc[m][n][e];
				}
			}
		}
		__syncthreads();
		for (int r = warp; r < a.rows; r += W) {
			if (r != warp || windows > 1) c = ask(a, rms, r, p, live);
			float v = 0;
			if (live) {
#pragma unroll
				for (int w = 0; w < W; w++) v += sums[(w * a.rows + r) * PITCH + lane];
			}
			finish(a, c, r, p, strip, live, v);
		}
	}
}

} // namespace

#define SKINNY(NAME, KIND, M, N)                                                        \
	typedef af_skinny_args af_##NAME##_args;                                            \
	AF_KERNEL(NAME, THREADS) { skinny<KIND, M, N>(a); }

#define SKINNIES(KIND, NAME)         \
	SKINNY(NAME##_1x1, KIND, 1, 1) \
	SKINNY(NAME##_1x2, KIND, 1, 2) \
	SKINNY(NAME##_1x4, KIND, 1, 4) \
	SKINNY(NAME##_2x1, KIND, 2, 1) \
	SKINNY(NAME##_2x2, KIND, 2, 2) \
	SKINNY(NAME##_2x4, KIND, 2, 4)

SKINNIES(AF_SKINNY_BF16, skinny_bf16)
SKINNIES(AF_SKINNY_I8, skinny_i8)
SKINNIES(AF_SKINNY_I4, skinny_i4)

// Grid: one block a row.
AF_KERNEL(skinny_begin, 256) {
	__shared__ float slots[33];
	pdl_launch();
	pdl_wait();
	const size_t row = size_t(blockIdx.x) * a.hidden;
	float sum = 0;
	for (int c = threadIdx.x; c < a.hidden; c += 256) {
		float v = a.x[row + c];
		a.h[row + c] = bf16_bits(v * a.next[c]);
		sum += v * v;
	}
	sum = block_sum(sum, slots);
	if (threadIdx.x == 0) a.sums[size_t(blockIdx.x) * AF_SKINNY_PARTS] = sum;
}
