#pragma once
#include "elementwise.h"

// One axis of a resize by area averages, in units of the common refinement of both grids: a destination cell covers total of them, a
// source cell unit.
typedef struct {
	uint32_t unit, total;
} af_axis;

// Pictures of one size, resized, normalised and cut into patches. Rows of dst: pictures, patches in the order
// of compute.PatchArgs; columns: channel, row, column.
typedef struct {
	af_view dst;
	uint64_t src; // RGB24 [pictures][src_h][src_w][3]
	uint32_t src_w, src_h, dst_w, dst_h;
	af_axis x, y;
	uint32_t patch, merge;
	double scale[3], shift[3];
} af_patches_args;
