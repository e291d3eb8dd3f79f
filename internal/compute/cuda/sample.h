#pragma once
// Drawing tokens from logits, in two kernels: pieces of the vocabulary side by side, then one block a row. sample.go mirrors this.
#include <stdint.h>

enum { AF_SAMPLE_PIECE = 2048 }; // tokens a block of the first kernel looks at

struct af_draw {
	float temperature, top_p;
	double u;
};

// What the first kernel leaves of a piece. best orders by logit, then by smaller token: the high word is the logit as an ordered
// integer, the low one the complement of the token; all ones when a logit is not finite. mass is the sum of e^((logit-top)/T) over
// the piece, top being its largest, in units of 2^-40; an integer, so that the order of adding does not matter.
struct af_piece {
	uint64_t best;
	uint64_t mass;
};

struct af_sample_args {
	const float *logits;      // [rows][stride]
	const af_draw *draws;     // [rows]
	af_piece *pieces;         // [rows][count of pieces]
	int32_t *tokens;          // [rows] out, on the device
	int32_t *host;            // [rows] out, in host memory that the device sees; null: none
	const int32_t *live;      // rows from *live on are skipped; null: none are
	int64_t stride;           // a multiple of 4
	int32_t rows, vocab;
};
typedef af_sample_args af_sample_scan_args;
typedef af_sample_args af_sample_pick_args;
