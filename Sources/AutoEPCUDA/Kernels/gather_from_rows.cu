// out[t,k] = sum over i of partials[row_of_slot[t,k], i], in order of i; 0 for slots without a row.
// Without row_of_slot (NULL), slot s has row s.
//   -DWEIGHT: the type of out; see element.cuh
// partials [R, num_partials] f32. One thread per slot.

#include "element.cuh"

extern "C" __global__ void __launch_bounds__(256)
    gather_from_rows(const float* __restrict__ partials, const int* __restrict__ row_of_slot,
                     Weight* __restrict__ out, i64 num_slots, int num_rows, int num_partials) {
  i64 step = i64(gridDim.x) * blockDim.x;
  i64 slot = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; slot < num_slots; slot += step) {
    int row = row_of_slot == nullptr ? int(slot) : row_of_slot[slot];
    float sum = 0;
    if (is_row(row, num_rows)) {
      const float* own = partials + i64(row) * num_partials;
#pragma unroll 4
      for (int i = 0; i < num_partials; ++i) sum += own[i];
    }
    out[slot] = Scalar<WEIGHT>::round(sum);
  }
}
