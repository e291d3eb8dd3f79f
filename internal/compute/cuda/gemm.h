#pragma once
#include <cuda.h>
#include <stdint.h>

// What af_gemm_* compute: dst [rows, out] = act(x [rows, in] · wᵀ + bias) · scale, or dst += that. The kernel's name says the
// shape of its tiles and the type of dst; the maps' boxes are made for it (see gemm.go).
struct af_gemm_args {
  CUtensorMap x;        // bf16 [rows, in], boxes of tile rows x 64
  CUtensorMap w;        // bf16 [out, in], boxes of tile columns (a cluster's blocks share them out) x 64
  CUtensorMap dst;      // boxes of 64 rows x 128 bytes
  uint64_t bias, scale; // float32 [out], or 0
  uint32_t rows, out, in;
  uint32_t act;   // a compute.Activation
  uint32_t add;   // dst += instead of dst =
  uint32_t group; // rows of cluster tiles that are worked on together, column by column, so that L2 serves most loads
  uint32_t early; // w was written by nothing that may still run
  uint32_t unused[5];
};
