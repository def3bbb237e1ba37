// The backward of the activation, for rows of weight s = row_weights[r] (1 without row_weights),
// with A = activation of hidden:
//   grad_hidden [R,G] = the gradient to hidden of <s * grad_out, A>
//   activated [R,F]   = s * A, or NULL
//   dots [R] f32      = <grad_out, A> + <grad_rows, down_bias of the expert>, or NULL
// grad_out [R,F] is the gradient before weighting. activated may alias grad_out; grad_hidden may
// alias hidden, and grad_out if G = F.
//   -DELEMENT, -DVECTOR: see element.cuh;  -DACTIVATION, -DGATE: see activation.cuh
//   -DDOWN_BIAS=0|1: whether experts have down_bias [E,H]; then grad_rows [R,H] is the gradient of
//     the experts' output before weighting
// num_vectors counts vectors of F, num_hidden_vectors of H. One block per row; the order of a sum
// depends only on the widths and the block size. Shared memory: one float per warp.

#include "activation.cuh"
#include "element.cuh"
#include "search.cuh"
#include "warp.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

// The sum over the block; valid in thread 0 only.
__device__ __forceinline__ float block_sum(float value) {
  float* sums = reinterpret_cast<float*>(shared_memory);
  value = warp_sum(value);
  __syncthreads();
  if (lane_index() == 0) sums[warp_index()] = value;
  __syncthreads();
  float sum = 0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < warps_per_block(); ++warp) sum += sums[warp];
  return sum;
}

// Writes the gradient of a row of hidden, and the row's weighted activation; returns this thread's
// part of <grad_out, A>.
__device__ __forceinline__ float differentiate_row(const Vector* hidden, const Vector* grad_out,
                                                   float weight, Vector* grad_hidden,
                                                   Vector* activated, int num_vectors,
                                                   Clamp clamp) {
  float dot = 0;
  for (int i = threadIdx.x; i < num_vectors; i += blockDim.x) {
    float gate[VECTOR], up[VECTOR], gradient[VECTOR], values[VECTOR];
    load_hidden(hidden, num_vectors, i, gate, up);
    widen(grad_out[i], gradient);
#pragma unroll
    for (int j = 0; j < VECTOR; ++j) {
      const Activated result = activation(gate[j], up[j], clamp);
      dot += gradient[j] * result.value;
      values[j] = weight * result.value;
      gate[j] = weight * gradient[j] * result.by_gate;
      up[j] = weight * gradient[j] * result.by_up;
    }
    store_hidden(grad_hidden, num_vectors, i, gate, up);
    if (activated != nullptr) activated[i] = rounded(values);
  }
  return dot;
}

// This thread's part of <left, right>.
__device__ __forceinline__ float dot_part(const Vector* left, const Vector* right,
                                          int num_vectors) {
  float dot = 0;
  for (int i = threadIdx.x; i < num_vectors; i += blockDim.x) {
    float a[VECTOR], b[VECTOR];
    widen(left[i], a);
    widen(right[i], b);
#pragma unroll
    for (int j = 0; j < VECTOR; ++j) dot += a[j] * b[j];
  }
  return dot;
}

extern "C" __global__ void __launch_bounds__(256, 3)
    activate_backward(const Vector* hidden, const Vector* grad_out,
                      const float* __restrict__ row_weights, const int* __restrict__ expert_offsets,
                      const Vector* __restrict__ grad_rows, const Vector* __restrict__ down_bias,
                      Vector* grad_hidden, Vector* activated, float* __restrict__ dots,
                      int num_rows, int num_experts, int num_vectors, int num_hidden_vectors,
                      float alpha, float limit) {
  constexpr int HIDDEN_PARTS = GATE == GATE_NONE ? 1 : 2;
  const int rows_in_use =
      expert_offsets == nullptr ? num_rows : min(expert_offsets[num_experts], num_rows);
  for (i64 row = blockIdx.x; row < rows_in_use; row += gridDim.x) {
    float dot =
        differentiate_row(hidden + row * HIDDEN_PARTS * num_vectors, grad_out + row * num_vectors,
                          row_weights == nullptr ? 1.0f : row_weights[row],
                          grad_hidden + row * HIDDEN_PARTS * num_vectors,
                          activated == nullptr ? nullptr : activated + row * num_vectors,
                          num_vectors, {alpha, limit});
    if (dots == nullptr) continue;
#if DOWN_BIAS
    const i64 expert = last_beginning_by(int(row), num_experts,
                                         [&](int expert) { return expert_offsets[expert]; });
    dot += dot_part(grad_rows + row * num_hidden_vectors, down_bias + expert * num_hidden_vectors,
                    num_hidden_vectors);
#endif
    dot = block_sum(dot);
    if (threadIdx.x == 0) dots[row] = dot;
  }
}
