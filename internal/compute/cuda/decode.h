#pragma once
// Arguments of attention for a few new rows of several sequences over paged K/V, and the plan that both sides read. decode.go makes
// the plan and mirrors the structs field by field.
#include <stdint.h>

// A plan is words of 32 bits: rows, then groups, then units.
#define AF_DECODE_ROWS 32   // new rows of a pass
#define AF_DECODE_GROUPS 64 // sets of rows that meet the same keys
#define AF_DECODE_GROUP_WORDS (4 + AF_DECODE_ROWS)

// A row sees keys below past, and key past+i where bit i of mask is set. Its states are those of slots from slot on, one a chunk.
struct af_decode_row {
  int32_t past;
  uint32_t mask;
  int32_t slot, chunks;
};

// The rows of a group; rows x (heads per K/V head) are at most 64.
struct af_decode_group {
  int32_t rows, pad[3];
  int32_t row[AF_DECODE_ROWS];
};

// One chunk of keys for one group and K/V head. Unit j of block b is number j*blocks + b; the first one without keys ends a block's list.
struct af_decode_unit {
  uint8_t head;    // of K/V
  uint8_t group;   // low 7 bits; the highest: some keys are not seen by all rows, and may have been written by the kernels just before
  uint16_t chunk;
  int32_t key;     // the first one, a multiple of 64
  int32_t keys;
  int32_t page;    // index in pages of the page that holds it
};

struct af_decode_plan {
  af_decode_row row[AF_DECODE_ROWS];
  af_decode_group group[AF_DECODE_GROUPS];
  af_decode_unit unit[1];
};

struct af_decode_args {
  const uint16_t *q;          // bf16 [rows][stride]
  const uint16_t *k, *v;      // bf16 [page][kv_heads][64][head_dim]
  const af_decode_plan *plan;
  const int32_t *pages;       // page tables of all sequences
  float *o;                   // [slot][heads][head_dim], normalised
  float *lse;                 // [slot][heads], natural logarithm
  int32_t stride;             // a multiple of 8
  int32_t heads, kv_heads;
  float scale;
  int32_t early;              // plan, pages and old K/V are in place before the kernel ahead is done
  int32_t pad;
};

struct af_decode_merge_args {
  uint16_t *out;              // bf16 [rows][stride]
  const float *o, *lse;
  const af_decode_plan *plan;
  int32_t stride, heads, head_dim;
  int32_t early;              // the plan is in place before the kernel ahead is done
};

// On Hopper: the same, with K and V described by tensor maps.
struct af_decode_tma_args {
  // CUtensorMaps of [rows of all pages and heads][head_dim]: boxes of 64 rows of the first 64 columns and of the rest, or for heads of
  // 128 as [2][rows][64] boxes of both halves.
  alignas(64) unsigned char k[2][128], v[2][128];
  const uint16_t *q;
  const af_decode_plan *plan;
  const int32_t *pages;
  float *o, *lse;
  int32_t stride, heads, kv_heads;
  float scale;
  int32_t early;
  int32_t pad[17];
};
