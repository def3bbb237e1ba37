// out [R,F] = activation of hidden [R,G].
//   -DELEMENT, -DVECTOR: see element.cuh;  -DACTIVATION, -DGATE: see activation.cuh
// num_vectors counts vectors of F. rows_in_use is in device memory; NULL: all num_rows.
// Grid: x strides over rows, one warp per row; y counts segments of 32 * ACTIVATE_PER_LANE vectors.

#include "activation.cuh"
#include "element.cuh"
#include "host_and_device.h"
#include "warp.cuh"

constexpr int PER_LANE = ACTIVATE_PER_LANE;

extern "C" __global__ void __launch_bounds__(256, 4)
    activate(const Vector* __restrict__ hidden, const int* __restrict__ rows_in_use,
             Vector* __restrict__ out, int num_rows, int num_vectors, float alpha, float limit) {
  constexpr int HIDDEN_PARTS = GATE == GATE_NONE ? 1 : 2;
  const int end = rows_in_use == nullptr ? num_rows : min(*rows_in_use, num_rows);
  const int first = blockIdx.y * (WARP * PER_LANE) + lane_index();
  for (i64 row = first_row_of_warp(); row < end; row += row_step_of_warp()) {
    const Vector* source = hidden + row * HIDDEN_PARTS * num_vectors;
    Vector* target = out + row * num_vectors;
#pragma unroll
    for (int i = first; i < first + PER_LANE * WARP; i += WARP) {
      if (i >= num_vectors) continue;
      float gate[VECTOR], up[VECTOR], values[VECTOR];
      load_hidden(source, num_vectors, i, gate, up);
#pragma unroll
      for (int j = 0; j < VECTOR; ++j) values[j] = activation(gate[j], up[j], {alpha, limit}).value;
      target[i] = rounded(values);
    }
  }
}
