// out[t,k] = sum over i of partials[row_of_slot[t,k], i], in order of i: the gradient of topk_weights,
// from what a fused kernel left of it for each of its tiles. 0 for slots without a row.
//   -DWEIGHT: the type of out; see element.cuh
// partials [N, num_partials] f32. A thread a slot.

#include "element.cuh"

extern "C" __global__ void __launch_bounds__(256)
gather_partials(const float* __restrict__ partials, const int* __restrict__ row_of_slot,
                Weight* __restrict__ out, long long num_slots, int num_rows, int num_partials) {
  long long step = static_cast<long long>(gridDim.x) * blockDim.x;
  long long slot = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; slot < num_slots; slot += step) {
    int row = row_of_slot[slot];
    float sum = 0;
    if (is_row(row, num_rows)) {
      const float* own = partials + static_cast<long long>(row) * num_partials;
#pragma unroll 4
      for (int i = 0; i < num_partials; i++) sum += own[i];
    }
    out[slot] = Scalar<WEIGHT>::round(sum);
  }
}
