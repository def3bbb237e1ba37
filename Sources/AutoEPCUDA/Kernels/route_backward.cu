// The gradient of the logits from that of the weights of the chosen experts: autoep_route_backward.
//   -DELEMENT, -DPER_LANE: see router.cuh
//   In: logits [T,E], topk_idx [T,K] i32, grad_topk_weights [T,K] f32. Out: grad_logits [T,E].
// An index outside [0, E) is reported as a fault and counts as no choice. Invalid logits, which
// route has reported, count as zeros. Shared memory: ROUTE_BACKWARD_NUMBERS * E numbers per warp:
// scores, their gradients, and for each k the chosen expert, its weight, and the weight's gradient.

#include "element.cuh"
#include "fault.cuh"
#include "host_and_device.h"
#include "router.cuh"
#include "warp.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

// Reads a token's topk_idx. An index that is no expert becomes expert 0 with a gradient of zero.
__device__ __forceinline__ bool load_choice(const int* topk_idx, const float* grad_topk_weights,
                                            int num_experts, const RouteConfig& config, int* chosen,
                                            float* gradients) {
  bool is_good = true;
  for (int k = lane_index(); k < config.top_k; k += WARP) {
    const bool is_expert = topk_idx[k] >= 0 && topk_idx[k] < num_experts;
    chosen[k] = is_expert ? topk_idx[k] : 0;
    gradients[k] = is_expert ? grad_topk_weights[k] * config.scale : 0;
    is_good &= is_expert;
  }
  __syncwarp();
  return is_good;
}

// Turns the gradient of the weights w = u / (sum of u + epsilon) into that of u.
__device__ __forceinline__ void through_normalisation(const RouteConfig& config,
                                                      const float* weights, float* gradients) {
  const float sum = sum_over_k(config.top_k, [&](int k) { return weights[k]; });
  const float factor = __fdividef(1.0f, sum + config.normalize_epsilon);
  const float dot = sum_over_k(config.top_k, [&](int k) { return gradients[k] * weights[k]; });
  for (int k = lane_index(); k < config.top_k; k += WARP)
    gradients[k] = (gradients[k] - dot * factor) * factor;
  __syncwarp();
}

// by_expert[e] = the sum of body(k) over the k that chose e. Each lane sums for its own experts.
template <typename Body>
__device__ __forceinline__ void scatter(int top_k, const int* chosen, int num_experts,
                                        float* by_expert, Body body) {
  for (int expert = lane_index(); expert < num_experts; expert += WARP) by_expert[expert] = 0;
  for (int k = 0; k < top_k; ++k)
    if (chosen[k] % WARP == lane_index()) by_expert[chosen[k]] += body(k);
}

// Writes the gradient of the logits to by_expert, given that of the chosen experts' weights.
__device__ __forceinline__ void through_score(int kind, int top_k, int num_experts,
                                              const Element* logits, const float* scores,
                                              const int* chosen, const float* weights,
                                              const float* gradients, float* by_expert) {
  const float mean = sum_over_k(top_k, [&](int k) { return gradients[k] * weights[k]; });
  if (kind == SCORE_TOPK_SOFTMAX) {
    scatter(top_k, chosen, num_experts, by_expert,
            [&](int k) { return weights[k] * (gradients[k] - mean); });
    return;
  }
  scatter(top_k, chosen, num_experts, by_expert, [&](int k) { return gradients[k]; });
  for (int expert = lane_index(); expert < num_experts; expert += WARP) {
    if (kind == SCORE_SOFTMAX) {
      by_expert[expert] = scores[expert] * (by_expert[expert] - mean);
    } else {
      // sigmoid(-x) is 1 - sigmoid(x) without cancellation.
      const float opposite = by_expert[expert] == 0 ? 0 : sigmoid(-widen(logits[expert]));
      by_expert[expert] *= scores[expert] * opposite;
    }
  }
}

extern "C" __global__ void __launch_bounds__(ROUTE_THREADS, 1)
    route_backward(const Element* __restrict__ logits, const int* __restrict__ topk_idx,
                   const float* __restrict__ grad_topk_weights, Element* __restrict__ grad_logits,
                   i64 num_tokens, int num_experts, RouteConfig config, volatile u32* fault) {
  float* scores =
      reinterpret_cast<float*>(shared_memory) + warp_index() * ROUTE_BACKWARD_NUMBERS * num_experts;
  float* by_expert = scores + num_experts;
  int* chosen = reinterpret_cast<int*>(by_expert + num_experts);
  float* weights = reinterpret_cast<float*>(chosen + num_experts);
  float* gradients = weights + num_experts;
  const int kind = kind_of(config);
  for (i64 token = first_row_of_warp(); token < num_tokens; token += row_step_of_warp()) {
    const Element* row = logits + token * num_experts;
    float own[PER_LANE];
    load_logits(row, num_experts, own);
    score(kind, own);
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i)
      if (expert_at(i) < num_experts) scores[expert_at(i)] = own[i];
    const bool is_good =
        load_choice(topk_idx + token * config.top_k, grad_topk_weights + token * config.top_k,
                    num_experts, config, chosen, gradients);
    if (!is_good) report(fault, FAULT_TOPK_IDX);
    gather_weights(kind, config.top_k, scores, chosen, weights);
    if (config.normalize) through_normalisation(config, weights, gradients);
    through_score(kind, config.top_k, num_experts, row, scores, chosen, weights, gradients,
                  by_expert);
    for (int expert = lane_index(); expert < num_experts; expert += WARP)
      grad_logits[token * num_experts + expert] = rounded(by_expert[expert]);
    // The next token's values overwrite these.
    __syncwarp();
  }
}
