// The backward of the activation, for rows of weight s = topk_weights[slot_of_row[r]] (1 with WEIGHT=0),
// with A = activation of hidden:
//   grad_hidden [R,G] = the gradient to hidden of <s * grad_out, A>
//   activated [R,F]   = s * A, or NULL
//   grad_topk_weights [T,K], of the row's slot = <grad_out, A>, + <grad_rows, down_bias of the expert>;
//     0 for slots without a row; NULL with, and only with, WEIGHT=0 when wanted by nobody
// grad_out [R,F] is the gradient before weighting. activated may be grad_out's memory; so may grad_hidden, or
// hidden's, when G = F.
//   -DELEMENT, -DWEIGHT, -DVECTOR: see element.cuh;  -DACTIVATION, -DGATE: see activation.cuh
//   -DDOWN_BIAS=0|1  whether experts have one: down_bias [E,H], and grad_rows [R,H], the gradient of
//                    the experts' output before weighting
// num_vectors is of F, num_hidden_vectors of H. A block a row; the order of a sum depends on the widths and
// the size of the block alone. Shared memory: a float a warp.

#include "activation.cuh"
#include "element.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

// The sum over the block, valid in thread 0.
__device__ __forceinline__ float block_sum(float value) {
  float* sums = reinterpret_cast<float*>(shared_memory);
  value = warp_sum(value);
  __syncthreads();
  if (lane_index() == 0) sums[warp_index()] = value;
  __syncthreads();
  float sum = 0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < warps_per_block(); warp++) sum += sums[warp];
  return sum;
}

// Writes the gradient to hidden and the weighted activation of a row; returns this thread's part of
// <grad_out, A>.
__device__ __forceinline__ float differentiate_row(const Vector* hidden, const Vector* grad_out,
                                                   float weight, Vector* grad_hidden,
                                                   Vector* activated, int num_vectors, Clamp clamp) {
  float dot = 0;
  for (int i = threadIdx.x; i < num_vectors; i += blockDim.x) {
    float gate[VECTOR], up[VECTOR], gradient[VECTOR], values[VECTOR];
    load_hidden(hidden, num_vectors, i, gate, up);
    widen(grad_out[i], gradient);
#pragma unroll
    for (int j = 0; j < VECTOR; j++) {
      Activated result = activation(gate[j], up[j], clamp);
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

// The expert whose rows hold `row`: the last that begins at or before it.
__device__ __forceinline__ int expert_of_row(const int* expert_offsets, int num_experts, int row) {
  int low = 0, high = num_experts;
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (expert_offsets[middle] <= row) low = middle; else high = middle;
  }
  return low;
}

// This thread's part of the inner product.
__device__ __forceinline__ float dot_part(const Vector* left, const Vector* right, int num_vectors) {
  float dot = 0;
  for (int i = threadIdx.x; i < num_vectors; i += blockDim.x) {
    float a[VECTOR], b[VECTOR];
    widen(left[i], a);
    widen(right[i], b);
#pragma unroll
    for (int j = 0; j < VECTOR; j++) dot += a[j] * b[j];
  }
  return dot;
}

extern "C" __global__ void __launch_bounds__(256, 3)
activate_backward(const Vector* hidden, const Vector* grad_out,
                  const int* __restrict__ slot_of_row, const Weight* __restrict__ topk_weights,
                  const int* __restrict__ expert_offsets, const Vector* __restrict__ grad_rows,
                  const Vector* __restrict__ down_bias, Vector* grad_hidden,
                  Vector* activated, Weight* __restrict__ grad_topk_weights, int num_rows,
                  int num_experts, int num_vectors, int num_hidden_vectors, float alpha,
                  float limit) {
  constexpr int HIDDEN_PARTS = GATE == GATE_NONE ? 1 : 2;
  int rows_in_use = expert_offsets == nullptr ? num_rows : min(expert_offsets[num_experts], num_rows);
  for (long long row = blockIdx.x; row < rows_in_use; row += gridDim.x) {
    int slot = WEIGHT == NONE ? 0 : slot_of_row[row];
    float dot = differentiate_row(
        hidden + row * HIDDEN_PARTS * num_vectors, grad_out + row * num_vectors,
        weight_at(topk_weights, slot), grad_hidden + row * HIDDEN_PARTS * num_vectors,
        activated == nullptr ? nullptr : activated + row * num_vectors, num_vectors, {alpha, limit});
    if (grad_topk_weights == nullptr) continue;
#if DOWN_BIAS
    long long expert = expert_of_row(expert_offsets, num_experts, static_cast<int>(row));
    dot += dot_part(grad_rows + row * num_hidden_vectors, down_bias + expert * num_hidden_vectors,
                    num_hidden_vectors);
#endif
    dot = block_sum(dot);
    if (threadIdx.x == 0) grad_topk_weights[slot] = Scalar<WEIGHT>::round(dot);
  }
  if (grad_topk_weights == nullptr) return;
  // The slots without a row stand behind the rows in use.
  long long step = static_cast<long long>(gridDim.x) * blockDim.x;
  long long row = rows_in_use + static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; row < num_rows; row += step)
    grad_topk_weights[slot_of_row[row]] = Scalar<WEIGHT>::round(0);
}
