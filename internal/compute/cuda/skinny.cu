// The decode step's products: y = x·Wᵀ for 1 to 16 rows of x, bound by the reading of W.
//
// A block takes whole strips of weight rows. Its warps share out K, block by block of the packed weight in turn, and each streams
// its own blocks through a ring of its own in shared memory, running on from strip to strip. At the end of a strip the warps leave
// their sums, and a strip later, when all have, some of them add these in order and finish the rows of x. The weights are the tensor
// cores' A operand, 16 rows a tile, and x is B, 8 rows a tile: a row's sums are formed in the same order however many rows run
// beside it.
//
// Kernels of a step overlap (programmatic launch): the ring is filled with weights before the kernel ahead has finished.
#include "common.cuh"
#include "skinny.h"

namespace {

constexpr int W = AF_SKINNY_WARPS, THREADS = W * 32 + 32; // one warp more brings x

// ---- Barriers in shared memory and what arrives at them.

#if __CUDA_ARCH__ >= 900
constexpr int COPIERS = 1; // arrivals that a copy makes
#else
constexpr int COPIERS = 32;
#endif

AF_INLINE void barrier_open(uint32_t bar, int arrivals) { asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory"); }

AF_INLINE void barrier_arrive(uint32_t bar) {
	asm volatile("{\n.reg .b64 t;\nmbarrier.arrive.shared.b64 t, [%0];\n}" ::"r"(bar) : "memory");
}

AF_INLINE void barrier_wait(uint32_t bar, int parity) {
	uint32_t done;
	do {
#if __CUDA_ARCH__ >= 900
		asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
					 : "=r"(done) : "r"(bar), "r"(parity) : "memory");
#else
		asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
					 : "=r"(done) : "r"(bar), "r"(parity) : "memory");
#endif
	} while (!done);
}

#if __CUDA_ARCH__ >= 900
AF_INLINE void expect(uint32_t bar, int bytes) { asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory"); }

constexpr uint64_t ONCE = 0x12f0000000000000, OFTEN = 0x14f0000000000000; // second-level cache: evict first, evict last

AF_INLINE void bulk_copy(uint32_t to, const void *from, int bytes, uint32_t bar, uint64_t policy) {
	asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from),
				 "r"(bytes), "r"(bar), "l"(policy)
				 : "memory");
}
#endif

AF_INLINE void arrive_when_copied(uint32_t bar) { asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(bar) : "memory"); }

// ---- Fragments.

AF_INLINE void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
	const uint32_t a[4] = {a0, a1, a2, a3};
	mma_bf16(c, a, b0, b1);
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

// a & b | c, which the compiler makes two instructions of when b and c are constants.
AF_INLINE uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
	uint32_t r;
	asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
	return r;
}

// A byte with 0x43 above it is a bf16: its low seven bits are an integer's, on top of 128. The sign bit, worth -128, is one
// exponent step of the 128 that is taken away, so both halves are exact.
AF_INLINE uint32_t int8_pair(uint32_t bytes) {
	return subtract2(and_or(bytes, 0x007f007fu, 0x43004300u), and_or(bytes, 0x00800080u, 0x43004300u));
}

// Likewise a nibble, which is the value + 8.
AF_INLINE uint32_t int4_pair(uint32_t nibbles) { return subtract2(and_or(nibbles, 0x000f000fu, 0x43004300u), 0x43084308u); }

// eight returns the eight values of sub-block j that a lane holds in its 16 bytes, as bf16.
template <int KIND>
AF_INLINE uint4 eight(const uint4 &q, int j) {
	if constexpr (KIND == AF_SKINNY_BF16) return q;
	if constexpr (KIND == AF_SKINNY_I8) {
		uint32_t a = j ? q.z : q.x, b = j ? q.w : q.y;
		return make_uint4(int8_pair(a), int8_pair(a >> 8), int8_pair(b), int8_pair(b >> 8));
	}
	uint32_t a = j == 0 ? q.x : j == 1 ? q.y : j == 2 ? q.z : q.w;
	return make_uint4(int4_pair(a), int4_pair(a >> 4), int4_pair(a >> 8), int4_pair(a >> 12));
}

AF_INLINE uint16_t bf16_bits(float f) { return __bfloat16_as_ushort(__float2bfloat16_rn(f)); }

// ---- The ring of a warp: blocks of weights on their way, in the order in which the warp takes them.

struct ring {
	uint32_t at, bars;      // shared addresses
	int slots, slot, parity; // slot is the next to take
	int left, block;        // to fetch: strips of this block, and the block of K
	const char *from;       // where that is

	__device__ __forceinline__ void fetch(const af_skinny_args &a, int into, int lane) {
		if (left == 0) return;
		uint32_t to = at + into * a.block, bar = bars + into * 8;
#if __CUDA_ARCH__ >= 900
		if (lane == 0) {
			expect(bar, a.block);
			bulk_copy(to, from, a.block, bar, ONCE);
		}
#else
		for (int c = lane * 16; c < a.block; c += 512) cp_async16(to + c, from + c);
		arrive_when_copied(bar);
#endif
		block += W, from += W * a.block;
		settle(a);
	}

	// settle makes of a block past the strip's last one of a later strip.
	__device__ __forceinline__ void settle(const af_skinny_args &a) {
		while (block >= a.blocks && left > 0) {
			left--, block -= a.blocks;
			from += int64_t(gridDim.x - 1) * a.blocks * a.block;
		}
	}

	__device__ __forceinline__ void open(const af_skinny_args &a, int strips, int warp, int lane) {
		slot = parity = 0;
		left = strips, block = warp;
		from = static_cast<const char *>(a.w) + (int64_t(blockIdx.x) * a.blocks + warp) * a.block;
		settle(a);
		fetch(a, 0, lane);
	}

	// fill asks for the rest of what there is room for.
	__device__ __forceinline__ void fill(const af_skinny_args &a, int lane) {
#pragma unroll 1
		for (int i = 1; i < slots; i++) fetch(a, i, lane);
	}

	// take waits for the next block and returns its shared address.
	__device__ __forceinline__ uint32_t take(const af_skinny_args &a) {
		barrier_wait(bars + slot * 8, parity);
		return at + slot * a.block;
	}

	// give returns the block just taken, once all lanes have read it.
	__device__ __forceinline__ void give(const af_skinny_args &a, int lane) {
		__syncwarp();
		fetch(a, slot, lane);
		if (++slot == slots) slot = 0, parity ^= 1;
	}
};

// ---- x in shared memory: all of it, or windows of K that take turns in two buffers. A warp that does nothing else fills them.

struct window {
	uint32_t at, full, empty; // shared addresses; barriers of the two buffers
	int full_parity;          // a bit a buffer
	int now, count, per;      // window that this warp is in, of how many, windows a strip

	__device__ __forceinline__ void open(const af_skinny_args &p, int strips) {
		per = (p.blocks + p.window - 1) / p.window;
		count = per == 1 ? 1 : per * strips;
		now = -1;
		full_parity = 0;
	}

	// enter moves on to window v and returns its address.
	__device__ __forceinline__ uint32_t enter(const af_skinny_args &p, int v, int lane) {
		while (now < v) {
			if (now >= 0) { // through with this one
				barrier_arrive(empty + (now & 1) * 8);
			}
			now++;
			barrier_wait(full + (now & 1) * 8, full_parity >> (now & 1) & 1);
			full_parity ^= 1 << (now & 1);
		}
		return at + (v & 1) * p.rows * p.x_stride;
	}

	// fill brings window v of the sequence.
	__device__ __forceinline__ void fill(const af_skinny_args &p, int width, int v, int lane) {
		int first = v % per * p.window, cols = min(p.window, p.blocks - first) * width, have = min(cols, p.in - first * width);
		uint32_t to = at + (v & 1) * p.rows * p.x_stride, bar = full + (v & 1) * 8;
		if (have < cols && lane < p.rows) { // weights there are zero, which takes finite numbers to be zero
			for (int c = have * 2; c < cols * 2; c += 16) asm volatile("st.shared.v4.u32 [%0], {%1,%1,%1,%1};" ::"r"(to + lane * p.x_stride + c), "r"(0) : "memory");
		}
		__syncwarp();
		const uint16_t *x = p.x + first * width;
#if __CUDA_ARCH__ >= 900
		if (p.rows * have > AF_SKINNY_SMALL) { // below that the copy engine takes longer to start than a warp to be done
			if (lane == 0) expect(bar, p.rows * have * 2);
			else barrier_arrive(bar);
			__syncwarp();
			if (lane < p.rows) {
				int row = p.pick ? __ldcg(p.pick + lane) : lane;
				bulk_copy(to + lane * p.x_stride, x + int64_t(row) * p.ldx, have * 2, bar, OFTEN);
			}
			return;
		}
#endif
		for (int r = 0; r < p.rows; r++) {
			const uint16_t *row = x + int64_t(p.pick ? __ldcg(p.pick + r) : r) * p.ldx;
			for (int c = lane * 8; c < have; c += 256) cp_async16(to + r * p.x_stride + c * 2, row + c);
		}
		arrive_when_copied(bar);
	}
};

// ---- Finishing a row of x and a weight row.

// column is what that needs from memory, asked for early.
struct column {
	float scale, bias, other, next, cos, sin;
	int slot;
};

AF_INLINE column ask(const af_skinny_args &p, int r, int at, bool live) {
	column c{1, 0, 0, 1, 1, 0, -1};
	if (!live) return c;
	if (p.row_scale) c.scale = __ldg(p.row_scale + at);
	if (p.mode == AF_SKINNY_ADD) {
		c.next = __ldg(p.next + at);
		c.other = __ldcg(static_cast<const float *>(p.out) + size_t(r) * p.ldo + at);
	}
	if (p.mode == AF_SKINNY_QKV) {
		int in_head = at % p.head_dim, half = p.head_dim >> 1;
		if (p.bias) c.bias = __ldg(p.bias + at - in_head + (in_head >> 1) + (at & 1) * half);
		c.slot = __ldcg(p.slot + r);
		if (at < (p.heads + p.kv_heads) * p.head_dim) {
			const float *angle = p.table + size_t(__ldcg(p.position + r)) * p.head_dim + (in_head >> 1);
			c.cos = __ldg(angle);
			c.sin = __ldg(angle + half);
		}
	}
	return c;
}

// warm asks for what ask will find in memory, of that which does not depend on the kernel ahead.
AF_INLINE void warm(const af_skinny_args &p, int at) {
	auto touch = [](const float *f) { asm volatile("prefetch.global.L2 [%0];" ::"l"(f)); };
	if (p.row_scale) touch(p.row_scale + at);
	if (p.mode == AF_SKINNY_ADD) touch(p.next + at);
	if (p.mode == AF_SKINNY_QKV && p.bias) touch(p.bias + at);
}

// finish stores the result v of row r of x and weight row at. All lanes of a warp call it, neighbours with neighbouring weight rows.
AF_INLINE void finish(const af_skinny_args &p, const column &c, int r, int at, int strip, bool live, float v) {
	switch (p.mode) {
	case AF_SKINNY_LOGITS:
		if (live) static_cast<float *>(p.out)[size_t(r) * p.ldo + at] = v;
		return;
	case AF_SKINNY_ADD: {
		v += c.other;
		if (live) {
			static_cast<float *>(p.out)[size_t(r) * p.ldo + at] = v;
			p.h[size_t(r) * p.ldh + at] = bf16_bits(v * c.next);
		}
		float sum = warp_sum(live ? v * v : 0);
		if ((threadIdx.x & 31) == 0) p.sums_out[r * AF_SKINNY_PARTS + strip] = sum;
		return;
	}
	case AF_SKINNY_GATE: {
		float up = __shfl_xor_sync(~0u, v, 1);
		if (live && !(at & 1)) static_cast<uint16_t *>(p.out)[size_t(r) * p.ldo + (at >> 1)] = bf16_bits(v / (1 + __expf(-v)) * up);
		return;
	}
	case AF_SKINNY_QKV: {
		v += c.bias;
		float pair = __shfl_xor_sync(~0u, v, 1);
		if (!live) return;
		uint16_t bits = bf16_bits(v * c.cos + (at & 1 ? pair : -pair) * c.sin);
		int head = at / p.head_dim, to = (at % p.head_dim >> 1) + (at & 1) * (p.head_dim >> 1);
		if (head < p.heads) {
			static_cast<uint16_t *>(p.out)[size_t(r) * p.ldo + head * p.head_dim + to] = bits;
			return;
		}
		if (c.slot < 0) return;
		head -= p.heads;
		uint16_t *pool = head < p.kv_heads ? p.k : p.v;
		if (head >= p.kv_heads) head -= p.kv_heads;
		pool[((size_t(c.slot >> 6) * p.kv_heads + head) * 64 + (c.slot & 63)) * p.head_dim + to] = bits;
	}
	}
}

constexpr int PITCH = AF_SKINNY_STRIP + 4; // floats; with it the lanes' sums go to different banks

// sum_strip adds up this warp's blocks of a strip, from block `from` on, and leaves the sums at out [row of x][PITCH] when room says
// that it is free. It returns the block of the next strip to go on with. M tiles of 16 weight rows, N tiles of 8 rows of x.
template <int KIND, int M, int N, typename Room>
AF_INLINE int sum_strip(const af_skinny_args &p, ring &q, window &x, const uint32_t (&w_at)[4], const uint32_t (&x_at)[N], int from, int v0, int lane, float *out, Room room) {
	constexpr int SUBS = KIND == AF_SKINNY_BF16 ? 1 : KIND == AF_SKINNY_I8 ? 2 : 4;
	const int g = lane >> 2, t = lane & 3;
	float acc[M][N][4] = {};
	int b = from;
	for (; b < p.blocks; b += W) {
		uint32_t base;
		if (x.per == 1) base = x.enter(p, 0, lane) + b * 64 * SUBS;
		else base = x.enter(p, v0 + b / p.window, lane) + b % p.window * 64 * SUBS;
		const uint32_t w = q.take(p);
		uint4 packed[2 * M];
#pragma unroll
		for (int o = 0; o < 2 * M; o++) packed[o] = load16(w + w_at[o]);
		constexpr bool GROUPS = KIND == AF_SKINNY_I4; // with a scale each, by which their sums are multiplied; a group is a block
		float group[GROUPS ? M : 1][N][4] = {};
#pragma unroll
		for (int j = 0; j < SUBS; j++) {
			uint4 f[N], lo[M], hi[M];
#pragma unroll
			for (int n = 0; n < N; n++) f[n] = load16(base + x_at[n] + j * 64);
#pragma unroll
			for (int m = 0; m < M; m++) {
				lo[m] = eight<KIND>(packed[2 * m], j);
				hi[m] = eight<KIND>(packed[2 * m + 1], j);
			}
#pragma unroll
			for (int m = 0; m < M; m++) {
#pragma unroll
				for (int n = 0; n < N; n++) mma(GROUPS ? group[GROUPS ? m : 0][n] : acc[m][n], lo[m].x, hi[m].x, lo[m].y, hi[m].y, f[n].x, f[n].y);
			}
#pragma unroll
			for (int m = 0; m < M; m++) {
#pragma unroll
				for (int n = 0; n < N; n++) mma(GROUPS ? group[GROUPS ? m : 0][n] : acc[m][n], lo[m].z, hi[m].z, lo[m].w, hi[m].w, f[n].z, f[n].w);
			}
		}
		if constexpr (GROUPS) {
#pragma unroll
			for (int o = 0; o < 2 * M; o++) {
				uint16_t bits;
				asm volatile("ld.shared.u16 %0, [%1];" : "=h"(bits) : "r"(w + p.strip * 64 + min(o * 8 + g, p.strip - 1) * 2));
				const float scale = __uint_as_float(uint32_t(bits) << 16);
#pragma unroll
				for (int n = 0; n < N; n++) {
					acc[o / 2][n][o % 2 * 2] += group[o / 2][n][o % 2 * 2] * scale;
					acc[o / 2][n][o % 2 * 2 + 1] += group[o / 2][n][o % 2 * 2 + 1] * scale;
				}
			}
		}
		q.give(p, lane);
	}
	room();
#pragma unroll
	for (int n = 0; n < N; n++) {
#pragma unroll
		for (int e = 0; e < 4; e++) {
			const int r = n * 8 + t * 2 + (e & 1);
			if (r < p.rows) {
#pragma unroll
				for (int m = 0; m < M; m++) out[r * PITCH + m * 16 + (e >> 1) * 8 + g] = acc[m][n][e];
			}
		}
	}
	return b - p.blocks;
}

// What the block's barriers are for, after those of the rings; each is 8 bytes. Every lane arrives by itself: one lane of a warp that has
// met would do, but racecheck does not follow that, and the difference could not be measured (NOTES-skinny.md).
enum { FULL = 0, EMPTY = 16, LEFT = 32, CLEARED = 48, NORMED = 64 };

// supply is the life of the warp that brings x, once it is there.
template <int WIDTH>
AF_INLINE void supply(const af_skinny_args &a, window &x, uint32_t bars, float *rms, int lane) {
	pdl_wait();
	for (int v = 0; v < x.count; v++) {
		if (v > 1) barrier_wait(bars + EMPTY + (v & 1) * 8, (v >> 1) - 1 & 1);
		x.fill(a, WIDTH, v, lane);
		if (v > 0) continue;
		for (int r = 0; a.sums && r < a.rows; r++) {
			const float *part = a.sums + size_t(a.pick ? __ldcg(a.pick + r) : r) * AF_SKINNY_PARTS;
			float sum = 0;
			for (int k = lane; k < a.parts; k += 32) sum += __ldcg(part + k);
			sum = warp_sum(sum);
			if (lane == 0) rms[r] = rsqrtf(sum * a.inv_in + a.eps);
		}
		barrier_arrive(bars + NORMED);
	}
}

template <int KIND, int N>
AF_INLINE void skinny(const af_skinny_args &a) {
	extern __shared__ __align__(128) char shared[];
	constexpr int WIDTH = KIND == AF_SKINNY_BF16 ? 32 : KIND == AF_SKINNY_I8 ? 64 : 128;
	const int warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), lane = threadIdx.x & 31; // the shuffle tells the compiler that warp is uniform
	const uint32_t rings = shared_address(shared), bars = rings + W * AF_SKINNY_SLOTS * 8;
	float *rms = reinterpret_cast<float *>(shared + AF_SKINNY_HEAD - 4 * AF_SKINNY_ROWS);
	float *sums = reinterpret_cast<float *>(shared + AF_SKINNY_HEAD + W * a.slots * a.block); // [depth][warp][row of x][PITCH]
	const int room_of_sums = W * a.rows * PITCH, strips = (a.strips - int(blockIdx.x) + int(gridDim.x) - 1) / int(gridDim.x);

	// Little is done in a kernel so short, so setting up counts: a lane opens a barrier, and nothing is unrolled that runs once.
	pdl_launch();
	ring q;
	q.at = rings + AF_SKINNY_HEAD + warp * a.slots * a.block;
	q.bars = rings + warp * AF_SKINNY_SLOTS * 8;
	q.slots = a.slots;
	if (warp == W) {
		if (lane <= NORMED / 8) barrier_open(bars + lane * 8, 32 * (lane < EMPTY / 8 ? 1 : lane < CLEARED / 8 ? W : lane < NORMED / 8 ? min(a.rows, W) : 1));
	} else if (lane < a.slots) barrier_open(q.bars + lane * 8, COPIERS);
#if __CUDA_ARCH__ >= 900
	asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
	__syncwarp();
	if (warp < W) q.open(a, strips, warp, lane); // a warp's ring is its own business
	__syncthreads();
	window x;
	x.at = shared_address(sums + a.depth * room_of_sums);
	x.full = bars + FULL, x.empty = bars + EMPTY;
	x.open(a, strips);
	if (warp == W) {
		supply<WIDTH>(a, x, bars, rms, lane);
		return;
	}

	auto start = [&](int strip) { return (strip * a.base + min(strip, a.extra)) * a.unit; };
	// complete finishes a strip, as far as that is this warp's share.
	auto complete = [&](int turn, int strip, int first, column c) {
		if (first >= a.rows) return;
		const int buffer = a.depth == 2 ? turn & 1 : 0, parity = a.depth == 2 ? turn >> 1 & 1 : turn & 1;
		const int at = start(strip) + lane;
		const bool live = at < start(strip + 1);
		const float *from = sums + buffer * room_of_sums + lane;
		for (int r = first; r < a.rows; r += W) {
			if (r == first) {
				barrier_wait(bars + LEFT + buffer * 8, parity);
				barrier_wait(bars + NORMED, 0);
			} else c = ask(a, r, at, live);
			float v = 0;
			if (live) {
#pragma unroll
				for (int w = 0; w < W; w++) v += from[(w * a.rows + r) * PITCH];
			}
			finish(a, c, r, at, strip, live, v * c.scale * (a.sums ? rms[r] : 1.f));
		}
		barrier_arrive(bars + CLEARED + buffer * 8);
	};
	const int g = lane >> 2, t = lane & 3;
	uint32_t w_at[4], x_at[N];
#pragma unroll
	for (int o = 0; o < 4; o++) w_at[o] = min(o * 8 + g, a.strip - 1) * 64 + t * 16; // rows past the strip's read others, for nothing
#pragma unroll
	for (int n = 0; n < N; n++) x_at[n] = min(n * 8 + g, a.rows - 1) * a.x_stride + t * 16;
	if (const int at = start(blockIdx.x) + lane; at < start(blockIdx.x + 1) && warp < a.rows) warm(a, at);
	x.enter(a, 0, lane); // from here on what the kernel ahead wrote can be read
	q.fill(a, lane);     // not before: that would have been at the cost of the last blocks ahead
	int block = warp, before = 0;
	int mine = warp; // the first row of x that this warp finishes; rows go round the warps, strip after strip
	column c_before{};
	const int lag = a.depth - 1; // strips between summing one and finishing it
#pragma unroll 1
	for (int turn = 0, strip = blockIdx.x; turn < strips + lag; turn++, strip += gridDim.x) {
		const int at = start(strip) + lane;
		column c{};
		if (turn < strips) {
			c = ask(a, mine, at, at < start(strip + 1) && mine < a.rows);
			const int buffer = a.depth == 2 ? turn & 1 : 0, round = a.depth == 2 ? turn >> 1 : turn;
			float *out = sums + buffer * room_of_sums + warp * a.rows * PITCH;
			auto room = [&] {
				if (round > 0) barrier_wait(bars + CLEARED + buffer * 8, round - 1 & 1);
			};
			block = a.strip > 16 ? sum_strip<KIND, 2, N>(a, q, x, w_at, x_at, block, turn * x.per, lane, out, room)
								 : sum_strip<KIND, 1, N>(a, q, x, w_at, x_at, block, turn * x.per, lane, out, room);
			barrier_arrive(bars + LEFT + buffer * 8);
			// All warps go through all windows, and none stays behind in one while it waits for others' sums.
			if (x.per > 1) x.enter(a, turn * x.per + x.per - 1, lane);
		}
		if (turn >= lag) complete(turn - lag, strip - lag * int(gridDim.x), lag ? before : mine, lag ? c_before : c);
		c_before = c, before = mine;
		mine -= a.rows;
		if (mine < 0) mine += W;
		if (mine < 0) mine += W;
	}
}

} // namespace

// Tiles of 8 rows of x: 1 or 2. A multiprocessor has one block at a time, so that registers are no reason to spill. Grid: at most as many
// blocks as there are multiprocessors.
#define SKINNY(NAME, KIND, N)                       \
	typedef af_skinny_args af_skinny_##NAME##_args; \
	AF_KERNEL(skinny_##NAME, THREADS, 1) { skinny<KIND, N>(a); }

SKINNY(bf16_1, AF_SKINNY_BF16, 1)
SKINNY(bf16_2, AF_SKINNY_BF16, 2)
SKINNY(i8_1, AF_SKINNY_I8, 1)
SKINNY(i8_2, AF_SKINNY_I8, 2)
SKINNY(i4_1, AF_SKINNY_I4, 1)
SKINNY(i4_2, AF_SKINNY_I4, 2)
