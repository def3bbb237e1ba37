// y[t] = sum over k of topk_weights[t,k] * rows[row_of_slot[t,k]], in k order. Slots without a row
// (-1) add nothing.
//   -DELEMENT, -DWEIGHT, -DVECTOR: see element.cuh
// Grid: x strides over tokens, one warp per token; y counts segments of 32 * UNPERMUTE_PER_LANE
// vectors.

#include "element.cuh"
#include "host_and_device.h"
#include "warp.cuh"

constexpr int PER_LANE = UNPERMUTE_PER_LANE;
// Rows whose loads are in flight at once.
constexpr int AHEAD = 4;

extern "C" __global__ void __launch_bounds__(256, 2)
    unpermute(const Vector* __restrict__ rows, const int* __restrict__ row_of_slot,
              const Weight* __restrict__ topk_weights, Vector* __restrict__ y, i64 num_tokens,
              int top_k, int num_rows, int num_vectors) {
  const int first = blockIdx.y * (WARP * PER_LANE) + lane_index();
  for (i64 token = first_row_of_warp(); token < num_tokens; token += row_step_of_warp()) {
    float sums[PER_LANE][VECTOR] = {};
    for (int base = 0; base < top_k; base += AHEAD) {
      bool is_there[AHEAD];
      float weight[AHEAD];
      Vector vectors[AHEAD][PER_LANE];
#pragma unroll
      for (int k = 0; k < AHEAD; ++k) {
        const i64 slot = token * top_k + base + k;
        const int row = base + k < top_k ? row_of_slot[slot] : -1;
        is_there[k] = is_row(row, num_rows);
        if (!is_there[k]) continue;
        weight[k] = weight_at(topk_weights, slot);
        const Vector* source = rows + i64(row) * num_vectors;
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i)
          if (first + i * WARP < num_vectors) vectors[k][i] = source[first + i * WARP];
      }
#pragma unroll
      for (int k = 0; k < AHEAD; ++k) {
        if (!is_there[k]) continue;
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) {
          float values[VECTOR];
          widen(vectors[k][i], values);
#pragma unroll
          for (int j = 0; j < VECTOR; ++j) sums[i][j] += weight[k] * values[j];
        }
      }
    }
    Vector* target = y + token * num_vectors;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i)
      if (first + i * WARP < num_vectors) target[first + i * WARP] = rounded(sums[i]);
  }
}
