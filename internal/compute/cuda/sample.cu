// Drawing tokens. Sums are of integers (fixed point, 40 bits after the point), so the same logits and the same random number give
// the same token whatever order the threads run in.
#include "common.cuh"
#include "sample.h"

namespace {

constexpr int kThreads = 512;                     // both kernels
constexpr int kPiece = AF_SAMPLE_PIECE;           // four tokens a thread
constexpr int kListed = 3072;                     // candidates that fit into shared memory
constexpr uint64_t kBroken = ~0ull;               // a logit is not finite
static_assert(kPiece == 4 * kThreads, "a thread looks at four tokens");

// ordered maps floats to integers that compare as the floats do; -0 and 0 are equal.
AF_INLINE uint32_t ordered(float v) {
	uint32_t b = __float_as_uint(v + 0.0f);
	return b & 0x80000000u ? ~b : b | 0x80000000u;
}

AF_INLINE float unordered(uint32_t k) {
	return __uint_as_float(k & 0x80000000u ? k & 0x7fffffffu : ~k);
}

// mass is 2^((v-top)·scale) in units of 2^-40, v <= top. The exponent is split in double precision, so that the error is that of
// exp2f on a fraction, however far v is below top.
AF_INLINE uint64_t mass(float v, float top, double scale) {
	double e = (double(v) - double(top)) * scale;
	if (!(e > -42)) return 0;
	double whole = rint(e);
	float m = exp2f(float(e - whole)) * 16777216.0f; // at most 2^24.5
	int shift = 16 + int(whole);
	uint64_t bits = uint64_t(m);
	return shift >= 0 ? bits << shift : bits >> -shift;
}

AF_INLINE uint64_t max64(uint64_t a, uint64_t b) { return a > b ? a : b; }

template <class T, class F> __device__ T block_reduce(T v, T *room, F f) {
#pragma unroll
	for (int m = 16; m; m >>= 1) v = f(v, __shfl_xor_sync(~0u, v, m));
	__syncthreads();
	if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = v;
	__syncthreads();
	v = room[0];
#pragma unroll
	for (int i = 1; i < kThreads / 32; i++) v = f(v, room[i]);
	return v;
}

AF_INLINE uint64_t add64(uint64_t a, uint64_t b) { return a + b; }

AF_INLINE float4 load4(const float *row, int id, int vocab) {
	float4 v = *reinterpret_cast<const float4 *>(row + id);
	if (id + 1 >= vocab) v.y = v.x;
	if (id + 2 >= vocab) v.z = v.x;
	if (id + 3 >= vocab) v.w = v.x;
	return v;
}

struct Row {
	const float *logits;
	int vocab;
	float top;
	double scale;          // log2(e)/T
	uint64_t least;        // candidates have at least this mass
	int listed;            // candidates in list, or -1: they are too many and are looked up in logits
	uint2 *list;           // (ordered logit, token), in no order
};

// each calls f(ordered logit, token, mass) for every candidate.
template <class F> __device__ void each(const Row &r, F f) {
	if (r.listed >= 0) {
		for (int i = threadIdx.x; i < r.listed; i += kThreads) {
			uint2 e = r.list[i];
			f(e.x, int(e.y), mass(unordered(e.x), r.top, r.scale));
		}
		return;
	}
	for (int id = threadIdx.x; id < r.vocab; id += kThreads) {
		float v = r.logits[id];
		uint64_t m = mass(v, r.top, r.scale);
		if (m >= r.least) f(ordered(v), id, m);
	}
}

struct Found {
	uint32_t key;     // ordered logit at which the sum, from the most probable down, first exceeds the target
	uint64_t before;  // the sum over larger logits
};

// find goes down the candidates' logits digit by digit. hist has 2048 entries of two words.
__device__ Found find(const Row &r, uint64_t target, uint32_t *hist, uint64_t *room) {
	__shared__ uint32_t picked;
	__shared__ uint64_t below;
	Found out = {0, 0};
	uint32_t known = 0;
	for (int shift = 21; shift >= 0; shift = shift == 21 ? 10 : shift - 10) {
		int digits = shift == 0 ? 1024 : 2048;
		for (int i = threadIdx.x; i < 2 * 2048; i += kThreads) hist[i] = 0;
		__syncthreads();
		each(r, [&](uint32_t key, int, uint64_t m) {
			if ((key & known) != out.key) return;
			uint32_t *bin = hist + 2 * (key >> shift & (digits - 1));
			uint32_t low = uint32_t(m), old = atomicAdd(bin, low);
			atomicAdd(bin + 1, uint32_t(m >> 32) + (old + low < old));
		});
		__syncthreads();
		// Thread t sums the t-th stretch from the top; then one thread walks stretches, and bins of the one that crosses.
		int stretch = digits / 32;
		auto bin = [&](int from_top) {
			int i = 2 * (digits - 1 - from_top);
			return uint64_t(hist[i + 1]) << 32 | hist[i];
		};
		if (threadIdx.x < 32) {
			uint64_t sum = 0;
			for (int i = 0; i < stretch; i++) sum += bin(threadIdx.x * stretch + i);
			room[threadIdx.x] = sum;
			__syncwarp();
			if (threadIdx.x == 0) {
				uint64_t sum = out.before;
				int at = 0;
				while (at < 31 && sum + room[at] <= target) sum += room[at++];
				int i = at * stretch, last = -1;
				for (; i < digits; i++) {
					uint64_t b = bin(i);
					if (b) last = i;
					if (sum + b > target) break;
					if (i < digits - 1) sum += b;
				}
				if (i == digits) i = last < 0 ? digits - 1 : last; // only if target is not below the whole sum
				picked = digits - 1 - i;
				below = sum;
			}
		}
		__syncthreads();
		out.key |= picked << shift;
		out.before = below;
		known |= uint32_t(digits - 1) << shift;
		__syncthreads();
	}
	return out;
}

// nth returns the n-th token, from 0, whose logit has that key, narrowing the range of tokens down by a factor of the warps.
__device__ int nth(const Row &r, uint32_t key, uint32_t n, uint32_t *room) {
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int from = 0, to = r.vocab;
	while (to - from > 1) {
		int part = (to - from + kThreads / 32 - 1) / (kThreads / 32);
		uint32_t count = 0;
		int end = min(to, from + (warp + 1) * part);
		for (int id = from + warp * part + lane; id < end; id += 32) count += ordered(r.logits[id]) == key;
#pragma unroll
		for (int m = 16; m; m >>= 1) count += __shfl_xor_sync(~0u, count, m);
		__syncthreads();
		if (lane == 0) room[warp] = count;
		__syncthreads();
		int at = 0;
		while (at < kThreads / 32 - 1 && n >= room[at]) n -= room[at++];
		from += at * part;
		to = min(to, from + part);
	}
	return from;
}

} // namespace


// Grid: pieces x rows.
AF_KERNEL(sample_scan, kThreads) {
	__shared__ uint64_t room[kThreads / 32];
	pdl_launch();
	pdl_wait();
	int row = blockIdx.y, id = blockIdx.x * kPiece + threadIdx.x * 4;
	if (a.live != nullptr && row >= *a.live) return;
	uint64_t best = 0;
	float f[4];
	int n = min(4, a.vocab - id);
	if (n > 0) {
		float4 v = load4(a.logits + row * a.stride, id, a.vocab);
		f[0] = v.x, f[1] = v.y, f[2] = v.z, f[3] = v.w;
#pragma unroll
		for (int i = 0; i < 4; i++) {
			if (i >= n) break;
			best = max64(best, isfinite(f[i]) ? uint64_t(ordered(f[i])) << 32 | uint32_t(~(id + i)) : kBroken);
		}
	}
	best = block_reduce(best, room, max64);
	af_piece out = {best, 0};
	float t = a.draws[row].temperature;
	if (t > 0 && best != kBroken) {
		float top = unordered(uint32_t(best >> 32));
		double scale = 1.4426950408889634 / double(t);
		uint64_t sum = 0;
		if (n > 0) {
#pragma unroll
			for (int i = 0; i < 4; i++)
				if (i < n) sum += mass(f[i], top, scale);
		}
		out.mass = block_reduce(sum, room, add64);
	}
	if (threadIdx.x == 0) a.pieces[size_t(row) * gridDim.x + blockIdx.x] = out;
}

// Grid: one block a row.
AF_KERNEL(sample_pick, kThreads) {
	__shared__ uint64_t room[32];
	__shared__ uint32_t counts[kThreads / 32];
	__shared__ uint32_t hist[2 * 2048];
	__shared__ uint2 list[kListed];
	__shared__ int listed, token, piece;
	__shared__ double share[2];
	pdl_launch();
	pdl_wait();
	int row = blockIdx.x;
	if (a.live != nullptr && row >= *a.live) return;
	int pieces = (a.vocab + kPiece - 1) / kPiece;
	const af_piece *p = a.pieces + size_t(row) * pieces;
	uint64_t best = 0;
	for (int i = threadIdx.x; i < pieces; i += kThreads) best = max64(best, p[i].best);
	best = block_reduce(best, room, max64);
	af_draw d = a.draws[row];
	int result = best == kBroken ? -1 : int(~uint32_t(best));

	if (d.temperature > 0 && result >= 0) {
		Row r;
		r.logits = a.logits + row * a.stride;
		r.vocab = a.vocab;
		r.top = unordered(uint32_t(best >> 32));
		r.scale = 1.4426950408889634 / double(d.temperature);
		r.list = list;
		// The pieces' masses are relative to their own largest logits; in units of the row's they are real numbers.
		auto weight = [&](int i) {
			return double(p[i].mass) * exp2((double(unordered(uint32_t(p[i].best >> 32))) - double(r.top)) * r.scale);
		};
		bool cut = d.top_p > 0 && d.top_p < 1;
		if (threadIdx.x == 0) {
			double sum = 0;
			for (int i = 0; i < pieces; i++) sum += weight(i);
			share[0] = sum;
			listed = 0;
			if (!cut) {
				double u = d.u * sum;
				int at = 0, last = 0;
				for (; at < pieces; at++) {
					double w = weight(at);
					if (w > 0) last = at;
					if (u < w) break;
					u -= w;
				}
				bool past = at == pieces; // by rounding
				piece = past ? last : at;
				share[1] = past ? 1 : u / weight(piece);
			}
		}
		__syncthreads();
		if (!cut) {
			// Tokens in order: the one at which the running sum over the piece first exceeds its share.
			float top = unordered(uint32_t(p[piece].best >> 32));
			uint64_t all = p[piece].mass, target = uint64_t(share[1] * double(all));
			if (target >= all) target = all - 1;
			int id = piece * kPiece + threadIdx.x * 4;
			uint64_t m[4] = {}, mine = 0;
			if (id < a.vocab) {
				float4 v = load4(r.logits, id, a.vocab);
				float f[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
				for (int i = 0; i < 4; i++)
					if (id + i < a.vocab) mine += m[i] = mass(f[i], top, r.scale);
			}
			uint64_t run = mine;
#pragma unroll
			for (int o = 1; o < 32; o <<= 1) {
				uint64_t left = __shfl_up_sync(~0u, run, o);
				if (threadIdx.x % 32 >= o) run += left;
			}
			__syncthreads();
			if (threadIdx.x % 32 == 31) room[threadIdx.x / 32] = run;
			__syncthreads();
			for (int i = 0; i < threadIdx.x / 32; i++) run += room[i];
			uint64_t sum = run - mine;
#pragma unroll
			for (int i = 0; i < 4; i++) {
				if (sum <= target && target < sum + m[i]) token = id + i;
				sum += m[i];
			}
			__syncthreads();
			result = token;
		} else {
			// Tokens below this mass are together less than 1-topP, so they lie outside the set.
			double keep = double(d.top_p) * share[0];
			r.least = uint64_t((share[0] - keep) / a.vocab * 0.999999);
			if (r.least == 0) r.least = 1;
			for (int i = 0; i < pieces; i++) {
				if (mass(unordered(uint32_t(p[i].best >> 32)), r.top, r.scale) < r.least) continue;
				int id = i * kPiece + threadIdx.x * 4;
				if (id >= a.vocab) continue;
				float4 v = load4(r.logits, id, a.vocab);
				float f[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
				for (int k = 0; k < 4; k++) {
					if (id + k >= a.vocab || mass(f[k], r.top, r.scale) < r.least) continue;
					int at = atomicAdd(&listed, 1);
					if (at < kListed) list[at] = make_uint2(ordered(f[k]), id + k);
				}
			}
			__syncthreads();
			r.listed = listed <= kListed ? listed : -1;
			// The set is the smallest that holds keep: the sum first reaches it where it first exceeds keep-1 units.
			uint64_t target = uint64_t(ceil(keep));
			if (target > 0) target--;
			Found last = find(r, target, hist, room);
			uint64_t m = mass(unordered(last.key), r.top, r.scale);
			uint64_t ties = m ? (target - min(target, last.before)) / m + 1 : 1;
			uint64_t held = last.before + ties * m;
			target = uint64_t(d.u * double(held));
			if (target >= held) target = held - 1;
			Found at = find(r, target, hist, room);
			m = mass(unordered(at.key), r.top, r.scale);
			uint32_t n = m ? uint32_t((target - min(target, at.before)) / m) : 0;
			result = nth(r, at.key, n, counts);
		}
	}
	if (threadIdx.x == 0) {
		a.tokens[row] = result;
		if (a.host != nullptr) a.host[row] = result;
	}
}
