// Pictures to patches. A resized value is the exact integer sum of what its cell covers, then two roundings in double precision and one to
// float32, as the encoder does it on a CPU: the same on every machine.

#include "patches.h"
#include "views.cuh"

AF_KERNEL(patches, 256) {
	const uint32_t x = blockIdx.x * 32 + (threadIdx.x & 31), y = blockIdx.y * 8 + (threadIdx.x >> 5), picture = blockIdx.z;
	if (x >= a.dst_w || y >= a.dst_h) return;
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
	const uint32_t across = a.dst_w / a.patch, area = a.patch * a.patch;
	const uint32_t py = y / a.patch, px = x / a.patch, m = a.merge;
	const uint32_t r = picture * (across * (a.dst_h / a.patch)) + py / m * m * across + py % m * m + px / m * m * m + px % m;
#pragma unroll
	for (int c = 0; c < 3; c++) {
		float v[1] = {__double2float_rn(__dadd_rn(__dmul_rn((double)sum[c], a.scale[c]), a.shift[c]))};
		store(a.dst, r, c * area + y % a.patch * a.patch + x % a.patch, v);
	}
}
