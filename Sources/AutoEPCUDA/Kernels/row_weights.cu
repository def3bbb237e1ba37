// row_weights[r] = the weight of row r's slot, in f32.
//   -DWEIGHT: the type of topk_weights; see element.cuh
// A thread per row.

#include "element.cuh"

extern "C" __global__ void __launch_bounds__(256)
    row_weights(const Weight* __restrict__ topk_weights, const int* __restrict__ slot_of_row,
                float* __restrict__ weights, i64 num_rows) {
  i64 row = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row < num_rows) weights[row] = weight_at(topk_weights, slot_of_row[row]);
}
