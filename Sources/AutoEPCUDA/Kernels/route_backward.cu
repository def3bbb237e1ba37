// The gradient of route's weights to the logits, for the experts that were chosen: autoep_route_backward.
//   -DELEMENT, -DPER_LANE: see router.cuh
//   logits [T,E], topk_idx [T,K] i32, grad_topk_weights [T,K] f32;  grad_logits [T,E] out
// An index outside [0, E) reports a fault and counts as no choice. A token whose logits cannot be used, which
// route reported, is taken as zeros.
// Shared memory: 5 E numbers a warp: scores, their gradients, and for each k the chosen expert, its weight and
// the weight's gradient.

#include "element.cuh"
#include "fault.cuh"
#include "router.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

// Reads a token's choice; an expert that is none gets a gradient of zero and expert 0 for its index.
__device__ __forceinline__ bool load_choice(const int* topk_idx, const float* grad_topk_weights,
                                            int num_experts, const RouteConfig& config, int* chosen,
                                            float* gradients) {
  bool is_good = true;
  for (int k = lane_index(); k < config.top_k; k += WARP) {
    bool is_expert = topk_idx[k] >= 0 && topk_idx[k] < num_experts;
    chosen[k] = is_expert ? topk_idx[k] : 0;
    gradients[k] = is_expert ? grad_topk_weights[k] * config.scale : 0;
    is_good &= is_expert;
  }
  __syncwarp();
  return is_good;
}

// From weights w = u / (sum of u + epsilon) to u.
__device__ __forceinline__ void through_normalisation(const RouteConfig& config, const float* weights,
                                                      float* gradients) {
  float sum = sum_over_k(config.top_k, [&](int k) { return weights[k]; });
  float factor = __fdividef(1.0f, sum + config.normalize_epsilon);
  float dot = sum_over_k(config.top_k, [&](int k) { return gradients[k] * weights[k]; });
  for (int k = lane_index(); k < config.top_k; k += WARP)
    gradients[k] = (gradients[k] - dot * factor) * factor;
  __syncwarp();
}

// by_expert[e] = the sum of body(k) for the k that chose e. A lane adds up its own experts.
template <typename Body>
__device__ __forceinline__ void scatter(int top_k, const int* chosen, int num_experts,
                                        float* by_expert, Body body) {
  for (int expert = lane_index(); expert < num_experts; expert += WARP) by_expert[expert] = 0;
  for (int k = 0; k < top_k; k++)
    if (chosen[k] % WARP == lane_index()) by_expert[chosen[k]] += body(k);
}

// by_expert becomes the gradient to the logits, from that to the weights of the chosen.
__device__ __forceinline__ void through_score(int kind, int top_k, int num_experts,
                                              const Element* logits, const float* scores,
                                              const int* chosen, const float* weights,
                                              const float* gradients, float* by_expert) {
  float mean = sum_over_k(top_k, [&](int k) { return gradients[k] * weights[k]; });
  if (kind == TOPK_SOFTMAX) {
    scatter(top_k, chosen, num_experts, by_expert,
            [&](int k) { return weights[k] * (gradients[k] - mean); });
    return;
  }
  scatter(top_k, chosen, num_experts, by_expert, [&](int k) { return gradients[k]; });
  for (int expert = lane_index(); expert < num_experts; expert += WARP) {
    if (kind == SOFTMAX) {
      by_expert[expert] = scores[expert] * (by_expert[expert] - mean);
    } else {
      // sigmoid(-x) is 1 - sigmoid(x), without cancellation.
      float opposite = by_expert[expert] == 0 ? 0 : sigmoid(-widen(logits[expert]));
      by_expert[expert] *= scores[expert] * opposite;
    }
  }
}

extern "C" __global__ void __launch_bounds__(128, 1)
route_backward(const Element* __restrict__ logits, const int* __restrict__ topk_idx,
               const float* __restrict__ grad_topk_weights, Element* __restrict__ grad_logits,
               long long num_tokens, int num_experts, RouteConfig config,
               volatile unsigned* fault) {
  float* scores = reinterpret_cast<float*>(shared_memory) + warp_index() * 5 * num_experts;
  float* by_expert = scores + num_experts;
  int* chosen = reinterpret_cast<int*>(by_expert + num_experts);
  float* weights = reinterpret_cast<float*>(chosen + num_experts);
  float* gradients = weights + num_experts;
  int kind = kind_of(config);
  for (long long token = first_row_of_warp(); token < num_tokens; token += row_step_of_warp()) {
    const Element* row = logits + token * num_experts;
    float own[PER_LANE];
    load_logits(row, num_experts, own);
    score(kind, own);
#pragma unroll
    for (int i = 0; i < PER_LANE; i++)
      if (expert_at(i) < num_experts) scores[expert_at(i)] = own[i];
    bool is_good = load_choice(topk_idx + token * config.top_k,
                               grad_topk_weights + token * config.top_k, num_experts, config, chosen,
                               gradients);
    if (!is_good) report(fault, FAULT_TOPK_IDX);
    gather_weights(kind, config.top_k, scores, chosen, weights);
    if (config.normalize) through_normalisation(config, weights, gradients);
    through_score(kind, config.top_k, num_experts, row, scores, chosen, weights, gradients,
                  by_expert);
  for (int expert = lane_index(); expert < num_experts; expert += WARP)
      grad_logits[token * num_experts + expert] = rounded(by_expert[expert]);
    // The next token's values take the place of these.
    __syncwarp();
  }
}
