// Pictures to patches. What is averaged is the exact integer sum of what a cell covers, then two roundings in double precision and one to
// float32; what is filtered is integers too, and then read from a table: the same on every machine.

#include "patches.h"
#include "views.cuh"

// put writes one pixel of a picture.
AF_INLINE void put(const af_cut &a, uint32_t picture, uint32_t x, uint32_t y, const float (&v)[3]) {
	const uint32_t across = a.w / a.patch, area = a.patch * a.patch;
	const uint32_t py = y / a.patch, px = x / a.patch, m = a.merge;
	const uint32_t r = picture / a.pair * (across * (a.h / a.patch)) + py / m * m * across + py % m * m + px / m * m * m + px % m;
#pragma unroll
	for (int c = 0; c < 3; c++) {
		const float one[1] = {v[c]};
		store(a.dst, r, (c * a.pair + picture % a.pair) * area + y % a.patch * a.patch + x % a.patch, one);
	}
}

AF_KERNEL(patches_area, 256) {
	const uint32_t x = blockIdx.x * 32 + (threadIdx.x & 31), y = blockIdx.y * 8 + (threadIdx.x >> 5), picture = blockIdx.z;
	if (x >= a.cut.w || y >= a.cut.h) return;
	const uint64_t xa = (uint64_t)x * a.x.total, xb = xa + a.x.total, ya = (uint64_t)y * a.y.total, yb = ya + a.y.total;
	const uint32_t x0 = (uint32_t)(xa / a.x.unit), x1 = (uint32_t)((xb - 1) / a.x.unit);
	const uint32_t y0 = (uint32_t)(ya / a.y.unit), y1 = (uint32_t)((yb - 1) / a.y.unit);
	const uint8_t *src = (const uint8_t *)a.src + 3ull * a.src_w * a.src_h * picture;
	uint64_t sum[3] = {};
	for (uint32_t i = y0; i <= y1; i++) {
		const uint64_t top = (uint64_t)i * a.y.unit, wy = min(yb, top + a.y.unit) - max(ya, top);
		const uint8_t *p = src + 3ull * a.src_w * i + 3ull * x0;
		uint64_t row[3] = {};
		for (uint32_t j = x0; j <= x1; j++, p += 3) {
			const uint64_t left = (uint64_t)j * a.x.unit, wx = min(xb, left + a.x.unit) - max(xa, left);
#pragma unroll
			for (int c = 0; c < 3; c++) row[c] += p[c] * wx;
		}
#pragma unroll
		for (int c = 0; c < 3; c++) sum[c] += row[c] * wy;
	}
	float v[3];
#pragma unroll
	for (int c = 0; c < 3; c++) v[c] = __double2float_rn(__dadd_rn(__dmul_rn((double)sum[c], a.scale[c]), a.shift[c]));
	put(a.cut, picture, x, y, v);
}

AF_KERNEL(patches, 256) {
	const uint32_t x = blockIdx.x * 32 + (threadIdx.x & 31), y = blockIdx.y * 8 + (threadIdx.x >> 5), picture = blockIdx.z;
	if (x >= a.cut.w || y >= a.cut.h) return;
	const uint8_t *p = (const uint8_t *)a.src + 3ull * (((uint64_t)picture * a.cut.h + y) * a.cut.w + x);
	const float *values = (const float *)a.values;
	float v[3];
#pragma unroll
	for (int c = 0; c < 3; c++) v[c] = values[256 * c + p[c]];
	put(a.cut, picture, x, y, v);
}

AF_KERNEL(resample, 256) {
	const uint32_t x = blockIdx.x * 32 + (threadIdx.x & 31), y = blockIdx.y * 8 + (threadIdx.x >> 5);
	if (x >= a.w || y >= a.h) return;
	const uint64_t picture = blockIdx.z;
	const uint32_t j = a.down ? y : x, first = ((const int32_t *)a.first)[j], n = ((const int32_t *)a.count)[j];
	const int32_t *weight = (const int32_t *)a.weight + (uint64_t)j * a.size;
	const uint64_t row = a.down ? first : y, column = a.down ? x : first, step = a.down ? 3ull * a.src_w : 3;
	const uint8_t *p = (const uint8_t *)a.src + 3 * ((picture * a.src_h + row) * a.src_w + column);
	int32_t sum[3] = {1 << 21, 1 << 21, 1 << 21};
	for (uint32_t i = 0; i < n; i++, p += step) {
		const int32_t w = weight[i];
#pragma unroll
		for (int c = 0; c < 3; c++) sum[c] += w * p[c];
	}
	uint8_t *out = (uint8_t *)a.dst + 3 * ((picture * a.h + y) * a.w + x);
#pragma unroll
	for (int c = 0; c < 3; c++) out[c] = (uint8_t)min(max(sum[c] >> 22, 0), 255);
}

AF_KERNEL(place, 256) {
	const uint32_t x = blockIdx.x * 32 + (threadIdx.x & 31), y = blockIdx.y * 8 + (threadIdx.x >> 5);
	if (x >= a.w || y >= a.h) return;
	const uint64_t picture = blockIdx.z;
	const int64_t i = (int64_t)y - a.y, j = (int64_t)x - a.x;
	const bool within = i >= 0 && i < a.src_h && j >= 0 && j < a.src_w;
	const uint8_t *p = (const uint8_t *)a.src + 3 * ((picture * a.src_h + i) * a.src_w + j);
	uint8_t *out = (uint8_t *)a.dst + 3 * ((picture * a.h + y) * a.w + x);
#pragma unroll
	for (int c = 0; c < 3; c++) out[c] = within ? p[c] : (uint8_t)(a.fill >> (8 * c));
}
