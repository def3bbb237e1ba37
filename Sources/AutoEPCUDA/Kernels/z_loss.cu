// The router's z-loss, mean over tokens of logsumexp(logits)^2, and its gradient.
//   -DELEMENT: the type of logits [T,E]; see element.cuh

#include "element.cuh"
#include "numbers.cuh"
#include "warp.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

// A row's largest logit, and the sum of exp(logit - largest).
struct Softmax {
  float largest, sum;
  __device__ __forceinline__ float log_sum_exp() const {
    // Without a finite logit, the sum is undefined.
    return fabsf(largest) < INFINITE ? largest + logf(sum) : largest;
  }
};

__device__ __forceinline__ Softmax softmax_of_row(const Element* row, int num_experts) {
  float largest = -INFINITE, sum = 0;
  for (int i = lane_index(); i < num_experts; i += WARP) largest = fmaxf(largest, widen(row[i]));
  largest = warp_max(largest);
  for (int i = lane_index(); i < num_experts; i += WARP) sum += expf(widen(row[i]) - largest);
  return {largest, warp_sum(sum)};
}

// loss [1] f32. One block, so that the sum has a fixed order and needs no memory between launches;
// its warps take the tokens in turn and sum in f64. Shared memory: one double per warp.
extern "C" __global__ void __launch_bounds__(1024)
    z_loss(const Element* __restrict__ logits, float* __restrict__ loss, i64 num_tokens,
           int num_experts) {
  double* sums = reinterpret_cast<double*>(shared_memory);
  double own = 0;
#pragma unroll 2
  for (i64 token = warp_index(); token < num_tokens; token += warps_per_block()) {
    const double value = softmax_of_row(logits + token * num_experts, num_experts).log_sum_exp();
    own += value * value;
  }
  if (lane_index() == 0) sums[warp_index()] = own;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double sum = 0;
  for (int warp = 0; warp < warps_per_block(); ++warp) sum += sums[warp];
  *loss = num_tokens == 0 ? 0.0f : float(sum / double(num_tokens));
}

// grad_logits [T,E], from grad_loss [1] f32. One warp per token.
extern "C" __global__ void __launch_bounds__(256)
    z_loss_backward(const Element* __restrict__ logits, const float* __restrict__ grad_loss,
                    Element* __restrict__ grad_logits, i64 num_tokens, int num_experts) {
  for (i64 token = first_row_of_warp(); token < num_tokens; token += row_step_of_warp()) {
    const Element* row = logits + token * num_experts;
    const Softmax softmax = softmax_of_row(row, num_experts);
    const float factor = *grad_loss * 2.0f * softmax.log_sum_exp() / float(num_tokens);
    for (int i = lane_index(); i < num_experts; i += WARP) {
      const float probability = expf(widen(row[i]) - softmax.largest) / softmax.sum;
      grad_logits[token * num_experts + i] = rounded(probability * factor);
    }
  }
}
