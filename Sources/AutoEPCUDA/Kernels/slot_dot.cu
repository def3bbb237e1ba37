// out[t,k] = <x[t], rows[row_of_slot[t,k]]>: the gradient of topk_weights. 0 for slots without a
// row. Without row_of_slot (NULL), slot s has row s.
//   -DELEMENT, -DWEIGHT (the type of out), -DVECTOR: see element.cuh
// One warp per slot. The order of a sum depends only on the width of a row.

#include "element.cuh"
#include "warp.cuh"

extern "C" __global__ void __launch_bounds__(256, 4)
    slot_dot(const Vector* __restrict__ x, const Vector* __restrict__ rows,
             const int* __restrict__ row_of_slot, Weight* __restrict__ out, i64 num_slots,
             int top_k, int num_rows, int num_vectors) {
  for (i64 slot = first_row_of_warp(); slot < num_slots; slot += row_step_of_warp()) {
    int row = row_of_slot == nullptr ? int(slot) : row_of_slot[slot];
    float sums[VECTOR] = {};
    if (is_row(row, num_rows)) {
      const Vector* left = x + slot / top_k * num_vectors;
      const Vector* right = rows + i64(row) * num_vectors;
#pragma unroll 4
      for (int i = lane_index(); i < num_vectors; i += WARP) {
        float a[VECTOR], b[VECTOR];
        widen(left[i], a);
        widen(right[i], b);
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) sums[j] += a[j] * b[j];
      }
    }
    float sum = 0;
#pragma unroll
    for (int j = 0; j < VECTOR; ++j) sum += sums[j];
    sum = warp_sum(sum);
    if (lane_index() == 0) out[slot] = Scalar<WEIGHT>::round(sum);
  }
}
