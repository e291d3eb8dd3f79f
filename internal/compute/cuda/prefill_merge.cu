// Merges results of attention over parts of the keys: each is a weighted mean of values and the logarithm of the weights' sum.
#include "prefill.h"
#include <cuda_bf16.h>

// A warp takes a query row; blocks x are splits, blocks y eight rows each.
extern "C" __global__ void __launch_bounds__(256) af_prefill_merge(const __grid_constant__ af_prefill_merge_args a) {
  const af_prefill_split m = a.splits[blockIdx.x];
  const float *logs = a.parts + (int64_t)a.count * a.tile_rows * a.head_dim;
  int lane = threadIdx.x & 31, row = blockIdx.y * 8 + threadIdx.x / 32;
  if (row >= m.rows) return;
  float top = -INFINITY;
  for (int p = 0; p < m.parts; p++) top = fmaxf(top, logs[(m.part + p) * a.tile_rows + row]);
  float sum = 0;
  for (int p = 0; p < m.parts; p++) sum += __expf(logs[(m.part + p) * a.tile_rows + row] - top);
  if (a.lse != nullptr && lane == 0) a.lse[(int64_t)(m.q_row + row) * a.heads + m.head] = top + __logf(sum);
  uint16_t *out = a.out.p + (m.q_row + row) * a.out.row + m.head * a.out.head;
  for (int col = 2 * lane; col < a.head_dim; col += 64) {
    float x = 0, y = 0;
    for (int p = 0; p < m.parts; p++) {
      float w = __expf(logs[(m.part + p) * a.tile_rows + row] - top) / sum;
      float2 v = *reinterpret_cast<const float2 *>(a.parts + ((int64_t)(m.part + p) * a.tile_rows + row) * a.head_dim + col);
      x += w * v.x;
      y += w * v.y;
    }
    *reinterpret_cast<__nv_bfloat162 *>(out + col) = __floats2bfloat162_rn(x, y);
  }
}
extern "C" __device__ const unsigned af_sizeof_prefill_merge = sizeof(af_prefill_merge_args);
