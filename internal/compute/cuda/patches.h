#pragma once
#include "elementwise.h"

// One axis of a resize by area averages, in units of the common refinement of both grids: a destination cell covers total of them, a
// source cell unit.
typedef struct {
	uint32_t unit, total;
} af_axis;

// How pictures of w x h are cut into rows of dst: pair pictures to a row, patches in the order of compute.PatchArgs; columns: channel,
// picture of the pair, row, column.
typedef struct {
	af_view dst;
	uint32_t w, h;
	uint32_t patch, merge, pair, _;
} af_cut;

// Pictures of one size, averaged, normalised and cut.
typedef struct {
	af_cut cut;
	uint64_t src; // RGB24 [pictures][src_h][src_w][3]
	uint32_t src_w, src_h;
	af_axis x, y;
	double scale[3], shift[3];
} af_patches_area_args;

// The same of pictures that have their size, by what each byte becomes.
typedef struct {
	af_cut cut;
	uint64_t src;    // RGB24 [pictures][h][w][3]
	uint64_t values; // float32 [3][256]
} af_patches_args;

// One side of pictures, resized by compute.Taps: RGB24 [pictures][src_h][src_w][3] to [pictures][h][w][3], of which the other side is equal.
typedef struct {
	uint64_t dst, src;
	uint64_t first, count, weight; // int32 [n], [n], [n][size]
	uint32_t w, h, src_w, src_h;
	uint32_t size, down; // down: it is the height that changes
} af_resample_args;

// Pictures laid on others of one colour.
typedef struct {
	uint64_t dst, src;
	uint32_t w, h, src_w, src_h;
	int32_t x, y;
	uint32_t fill, _; // red lowest
} af_place_args;
