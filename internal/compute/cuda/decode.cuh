// What both kinds of decode kernels share (decode.cu, decode_sm90.cu).
#pragma once

#include "common.cuh"
#include "decode.h"

#include <math_constants.h>

namespace {

constexpr float LOG2E = 1.4426950408889634f;

AF_INLINE float exp2_fast(float x) { // 0 for -inf
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

AF_INLINE af_decode_unit load_unit(const af_decode_unit *p) {
	const int4 w = __ldg(reinterpret_cast<const int4 *>(p));
	af_decode_unit u;
	memcpy(&u, &w, sizeof u);
	return u;
}

// sees is whether a row sees a key.
AF_INLINE bool sees(int past, uint32_t mask, int key) { return key < past || (key - past < 32 && (mask >> ((key - past) & 31) & 1)); }

} // namespace
