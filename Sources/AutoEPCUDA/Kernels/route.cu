// Chooses K experts per token and their weights: autoep_route.
//   -DELEMENT, -DPER_LANE: see router.cuh
//   In: logits [T,E]; selection_bias [E] f32 or NULL.
//   Out: topk_idx [T,K] i32; topk_weights [T,K] f32; tokens_per_expert [E] i32 or NULL, which is
//   added to and must be zeroed before.
// Ties go to the lowest index. Invalid logits are reported as a fault, and the token is routed as
// if they were zeros. Shared memory: E ints, then ROUTE_NUMBERS * E numbers per warp: scores; the
// values that experts are chosen by, later the weights; the open groups; and the groups' scores,
// later the chosen experts.

#include "element.cuh"
#include "fault.cuh"
#include "host_and_device.h"
#include "router.cuh"
#include "warp.cuh"

extern __shared__ __align__(16) unsigned char shared_memory[];

// Loses against every index in a tie.
constexpr int NO_INDEX = 0x7fffffff;

struct Candidate {
  float score;
  int index;
};

// The candidate with the highest score; ties go to the lowest index. All lanes get the same result.
__device__ __forceinline__ Candidate warp_best(Candidate own) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2) {
    const Candidate other = {__shfl_xor_sync(ALL_LANES, own.score, distance),
                             __shfl_xor_sync(ALL_LANES, own.index, distance)};
    bool is_better =
        other.score > own.score || (other.score == own.score && other.index < own.index);
    if (is_better) own = other;
  }
  return own;
}

// A positive number that increases with the value; 0 and -0 give the same.
__device__ __forceinline__ u32 key_of(float value) {
  const u32 bits = __float_as_uint(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// Removes and returns the expert with the largest key of all lanes; ties go to the lowest index.
// Its key becomes 0, the key of experts that cannot be chosen.
__device__ __forceinline__ int take_best(u32 (&keys)[PER_LANE]) {
  u32 own = 0;
  int index = NO_INDEX;
#pragma unroll
  for (int i = 0; i < PER_LANE; ++i) {
    if (keys[i] <= own) continue;
    own = keys[i];
    index = expert_at(i);
  }
  const u32 largest = __reduce_max_sync(ALL_LANES, own);
  const int best = __reduce_min_sync(ALL_LANES, own == largest ? index : NO_INDEX);
#pragma unroll
  for (int i = 0; i < PER_LANE; ++i)
    if (expert_at(i) == best) keys[i] = 0;
  return best;
}

// One bit for each of this lane's experts that exists.
__device__ __forceinline__ u32 all_open(int num_experts) {
  u32 open = 0;
#pragma unroll
  for (int i = 0; i < PER_LANE; ++i)
    if (expert_at(i) < num_experts) open |= 1u << i;
  return open;
}

// The score of a group from the scores [size] of its experts: the best, or the sum of the two best.
__device__ __forceinline__ float score_of_group(int group_score, const float* scores, int size) {
  float best = -INFINITE, second = -INFINITE;
  for (int i = 0; i < size; ++i) {
    if (scores[i] > best) {
      second = best;
      best = scores[i];
    } else if (scores[i] > second) {
      second = scores[i];
    }
  }
  return group_score == GROUP_SCORE_MAX || size == 1 ? best : best + second;
}

// Opens the best group that is not open yet.
__device__ __forceinline__ void open_best_group(const float* group_scores, int num_groups,
                                                int* group_is_open) {
  Candidate best = {-INFINITE, NO_INDEX};
  for (int group = lane_index(); group < num_groups; group += WARP) {
    if (group_is_open[group]) continue;
    if (best.index == NO_INDEX || group_scores[group] > best.score)
      best = {group_scores[group], group};
  }
  best = warp_best(best);
  if (lane_index() == 0) group_is_open[best.index] = 1;
  __syncwarp();
}

// One bit for each of this lane's experts in the best groups. Each pointer has memory for E
// numbers.
__device__ __forceinline__ u32 open_in_best_groups(const RouteConfig& config, int num_experts,
                                                   const float (&choice)[PER_LANE],
                                                   float* by_expert, float* group_scores,
                                                   int* group_is_open) {
  const int size = num_experts / config.num_groups;
#pragma unroll
  for (int i = 0; i < PER_LANE; ++i)
    if (expert_at(i) < num_experts) by_expert[expert_at(i)] = choice[i];
  __syncwarp();
  for (int group = lane_index(); group < config.num_groups; group += WARP) {
    group_scores[group] = score_of_group(config.group_score, by_expert + group * size, size);
    group_is_open[group] = 0;
  }
  __syncwarp();
  for (int taken = 0; taken < config.topk_groups; ++taken)
    open_best_group(group_scores, config.num_groups, group_is_open);
  u32 open = 0;
#pragma unroll
  for (int i = 0; i < PER_LANE; ++i)
    if (expert_at(i) < num_experts && group_is_open[expert_at(i) / size]) open |= 1u << i;
  return open;
}

// Adds the bias to the values that experts are chosen by: scores, or logits for SCORE_SINKHORN. NaN
// counts as -infinity.
__device__ __forceinline__ void add_bias(const float* selection_bias, int num_experts,
                                         float (&choice)[PER_LANE]) {
#pragma unroll
  for (int i = 0; i < PER_LANE; ++i) {
    if (expert_at(i) < num_experts) choice[i] += selection_bias[expert_at(i)];
    if (isnan(choice[i])) choice[i] = -INFINITE;
  }
}

__device__ __forceinline__ void write_weights(const RouteConfig& config, const float* weights,
                                              float* topk_weights) {
  float factor = config.scale;
  if (config.normalize) {
    const float sum = sum_over_k(config.top_k, [&](int k) { return weights[k]; });
    factor = __fdividef(factor, sum + config.normalize_epsilon);
  }
  for (int k = lane_index(); k < config.top_k; k += WARP) topk_weights[k] = weights[k] * factor;
}

extern "C" __global__ void __launch_bounds__(ROUTE_THREADS, 1)
    route(const Element* __restrict__ logits, const float* __restrict__ selection_bias,
          int* __restrict__ topk_idx, float* __restrict__ topk_weights,
          int* __restrict__ tokens_per_expert, i64 num_tokens, int num_experts, RouteConfig config,
          volatile u32* fault) {
  int* counts = reinterpret_cast<int*>(shared_memory);
  float* scores =
      reinterpret_cast<float*>(counts + num_experts) + warp_index() * ROUTE_NUMBERS * num_experts;
  float* by_expert = scores + num_experts;
  int* group_is_open = reinterpret_cast<int*>(by_expert + num_experts);
  int* chosen = group_is_open + num_experts;
  for (int expert = threadIdx.x; expert < num_experts; expert += blockDim.x) counts[expert] = 0;
  __syncthreads();
  for (i64 token = first_row_of_warp(); token < num_tokens; token += row_step_of_warp()) {
    float own[PER_LANE], choice[PER_LANE];
    const bool is_usable = load_logits(logits + token * num_experts, num_experts, own);
    if (!is_usable && lane_index() == 0) report(fault, FAULT_LOGITS);
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) choice[i] = own[i];
    score(kind_of(config), own);
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
      if (config.score != SCORE_SINKHORN) choice[i] = own[i];
      if (expert_at(i) < num_experts) scores[expert_at(i)] = own[i];
    }
    if (selection_bias != nullptr) add_bias(selection_bias, num_experts, choice);
    const u32 open = config.group_score == GROUP_SCORE_NONE
                         ? all_open(num_experts)
                         : open_in_best_groups(config, num_experts, choice, by_expert,
                                               reinterpret_cast<float*>(chosen), group_is_open);
    u32 keys[PER_LANE];
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) keys[i] = (open >> i & 1) != 0 ? key_of(choice[i]) : 0;
    for (int k = 0; k < config.top_k; ++k) {
      int expert = take_best(keys);
      if (lane_index() == 0) {
        chosen[k] = expert;
        if (tokens_per_expert != nullptr) atomicAdd(&counts[expert], 1);
      }
    }
    __syncwarp();
    // The memory of the values that experts were chosen by is free now.
    gather_weights(kind_of(config), config.top_k, scores, chosen, by_expert);
    write_weights(config, by_expert, topk_weights + token * config.top_k);
    for (int k = lane_index(); k < config.top_k; k += WARP)
      topk_idx[token * config.top_k + k] = chosen[k];
    __syncwarp();
  }
  if (tokens_per_expert == nullptr) return;
  __syncthreads();
  for (int expert = threadIdx.x; expert < num_experts; expert += blockDim.x)
    if (counts[expert] > 0) atomicAdd(&tokens_per_expert[expert], counts[expert]);
}
