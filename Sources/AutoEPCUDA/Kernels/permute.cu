// rows[row_of_slot[t,k]] = topk_weights[t,k] * x[t], or a copy of x[t] without weights. A token is
// read once and written K times. Slots without a row (-1) are skipped.
//   -DELEMENT, -DWEIGHT, -DVECTOR: see element.cuh
// Grid: x strides over tokens, one warp per token; y counts segments of 32 * PERMUTE_PER_LANE
// vectors.

#include "element.cuh"
#include "host_and_device.h"
#include "warp.cuh"

constexpr int PER_LANE = PERMUTE_PER_LANE;

extern "C" __global__ void __launch_bounds__(256, 4)
    permute(const Vector* __restrict__ x, const int* __restrict__ row_of_slot,
            const Weight* __restrict__ topk_weights, Vector* __restrict__ rows, i64 num_tokens,
            int top_k, int num_rows, int num_vectors) {
  const int first = blockIdx.y * (WARP * PER_LANE) + lane_index();
  for (i64 token = first_row_of_warp(); token < num_tokens; token += row_step_of_warp()) {
    const Vector* source = x + token * num_vectors;
    Vector vectors[PER_LANE];
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i)
      if (first + i * WARP < num_vectors) vectors[i] = source[first + i * WARP];
#pragma unroll 4
    for (int k = 0; k < top_k; ++k) {
      const i64 slot = token * top_k + k;
      const int row = row_of_slot[slot];
      if (!is_row(row, num_rows)) continue;
      Vector* target = rows + i64(row) * num_vectors;
#pragma unroll
      for (int i = 0; i < PER_LANE; ++i) {
        if (first + i * WARP >= num_vectors) continue;
#if WEIGHT == TYPE_NONE
        target[first + i * WARP] = vectors[i];
#else
        const float weight = weight_at(topk_weights, slot);
        float values[VECTOR];
        widen(vectors[i], values);
        for (int j = 0; j < VECTOR; ++j) values[j] *= weight;
        target[first + i * WARP] = rounded(values);
#endif
      }
    }
  }
}
