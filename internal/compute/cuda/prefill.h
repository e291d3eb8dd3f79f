#pragma once
// Arguments of attention over many query rows. prefill.go mirrors them field by field and plans the work.
#include <cuda.h>
#include <stdint.h>

// A block of consecutive query rows of one head, done by one thread block.
struct af_prefill_item {
  int32_t q_row;    // the first, counted over all query rows
  int32_t rows;     // how many; those of the tile beyond them are not written
  int32_t head, kv_head;
  int32_t kv_row;   // where key row 0 is: a row of its segment, or with pages an entry of the page table
  int32_t kv_seg;   // which segment the key rows are in; 0 with pages
  int32_t from;     // first key row of this item, at the start of a tile
  int32_t keys;     // and the end of those that any of the query rows sees
  int32_t diagonal; // query row i of the block sees key rows 0..diagonal+i of those
  int32_t part;     // where the result goes: -1: out, else that of parts, to be merged
};

// Query rows of a head whose keys are split over several items.
struct af_prefill_split {
  int32_t q_row, rows, head;
  int32_t part, parts; // the first and how many
};

// bf16 rows of heads, in segments: element (segment s, row r, head h, column c) is p[s*seg + r*row + h*head + c]. Segments are blocks
// of rows of equal length, or pages. p and strides are multiples of 8 elements, so that 16 bytes can be moved at once.
struct af_prefill_tensor {
  uint16_t *p;
  int64_t row, head, seg;
};

struct af_prefill_args {
  // The tensors below as TMA sees them: columns of a head, rows of a segment, heads, segments.
  CUtensorMap q_map, k_map, v_map;
  af_prefill_tensor q, k, v, out; // q and out are one segment
  float *lse;                     // [query row][head] natural logarithm of the sum of exponentials; null: not wanted
  float *parts;                   // [part][rows of a tile][head_dim] results, then [part][rows of a tile] logarithms as in lse
  const af_prefill_item *items;   // those of thread block b are first[b] .. first[b+1]-1
  const int32_t *first;
  const int32_t *pages;           // the page table; null: k and v are not in pages
  int32_t heads, kv_heads, head_dim;
  float scale_log2;               // of scores, times log2(e)
  int32_t count;                  // of parts
  int32_t pad;
};

struct af_prefill_merge_args {
  af_prefill_tensor out;
  float *lse;         // or null
  const float *parts;
  const af_prefill_split *splits;
  int32_t heads, head_dim;
  int32_t count, tile_rows;
};
