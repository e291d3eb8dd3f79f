#pragma once
#include "elementwise.h"

// Attention of any head size up to 256, in float32. dst and q [n, heads*dim], k and v [keys, kv_heads*dim].
typedef struct {
	af_view dst, q, k, v;
	uint64_t pages; // int32: key row j is row j%64 of page pages[j/64]; or 0
	uint32_t heads, kv_heads, dim;
	uint32_t keys; // rows that may be seen at all
	uint32_t past, causal;
	uint32_t segment; // 0, or rows see only keys of their own block of that many
	float scale;      // times log2(e)
} af_attention_args;
