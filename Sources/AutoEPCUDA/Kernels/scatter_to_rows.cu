// row_values[row_of_slot[t,k]] = values[t,k], in f32.
//   -DWEIGHT: the type of values; see element.cuh
// One thread per slot. Slots without a row (-1) are skipped.

#include "element.cuh"

extern "C" __global__ void __launch_bounds__(256)
    scatter_to_rows(const Weight* __restrict__ values, const int* __restrict__ row_of_slot,
                    float* __restrict__ row_values, i64 num_slots, int num_rows) {
  i64 slot = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (slot >= num_slots) return;
  int row = row_of_slot[slot];
  if (is_row(row, num_rows)) row_values[row] = weight_at(values, slot);
}
