// Code shared by the router's forward and backward: one warp per token, with its E logits in
// registers and shared memory.
//   -DELEMENT: the type of logits; see element.cuh
//   -DPER_LANE=n: experts per lane; E is at most 32 n
// Expert 32 i + l is the i-th of lane l. SCORE_SINKHORN means choosing by the logits here, as in
// evaluation.

#pragma once

#include "element.cuh"
#include "host_and_device.h"
#include "numbers.cuh"
#include "warp.cuh"

// The score that weights are gathered from.
__device__ __forceinline__ int kind_of(const RouteConfig& config) {
  if (config.score != SCORE_SINKHORN) return config.score;
  return config.top_k == 1 ? SCORE_SIGMOID : SCORE_SOFTMAX;
}

__device__ __forceinline__ int expert_at(int i) { return i * WARP + lane_index(); }

// Reads a row of logits, with -infinity past the last expert. Returns whether the row is valid: no
// NaN, no +infinity, and at least one finite logit. The logits of an invalid row become zeros.
__device__ __forceinline__ bool load_logits(const Element* row, int num_experts,
                                            float (&logits)[PER_LANE]) {
  bool is_bad = false, has_finite = false;
#pragma unroll
  for (int i = 0; i < PER_LANE; ++i) {
    logits[i] = expert_at(i) < num_experts ? widen(row[expert_at(i)]) : -INFINITE;
    is_bad |= !(logits[i] < INFINITE);
    has_finite |= logits[i] > -INFINITE;
  }
  const bool is_usable = !__any_sync(ALL_LANES, is_bad) && __any_sync(ALL_LANES, has_finite);
#pragma unroll
  for (int i = 0; i < PER_LANE; ++i)
    if (!is_usable) logits[i] = expert_at(i) < num_experts ? 0 : -INFINITE;
  return is_usable;
}

// Replaces logits by their softmax, which is 0 past the last expert.
__device__ __forceinline__ void softmax(float (&values)[PER_LANE]) {
  float largest = -INFINITE, sum = 0;
#pragma unroll
  for (int i = 0; i < PER_LANE; ++i) largest = fmaxf(largest, values[i]);
  largest = warp_max(largest);
#pragma unroll
  for (int i = 0; i < PER_LANE; ++i) {
    values[i] = expf(values[i] - largest);
    sum += values[i];
  }
  const float factor = __fdividef(1.0f, warp_sum(sum));
#pragma unroll
  for (int i = 0; i < PER_LANE; ++i) values[i] *= factor;
}

// Replaces logits by the scores that weights are gathered from.
__device__ __forceinline__ void score(int kind, float (&values)[PER_LANE]) {
  if (kind == SCORE_SOFTMAX) softmax(values);
  if (kind == SCORE_SIGMOID) {
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) values[i] = sigmoid(values[i]);
  }
}

// The sum over k of body(k); the lanes take the k in turn.
template <typename Body>
__device__ __forceinline__ float sum_over_k(int top_k, Body body) {
  float sum = 0;
  for (int k = lane_index(); k < top_k; k += WARP) sum += body(k);
  return warp_sum(sum);
}

// Writes the unnormalised weights of the chosen experts to shared memory: their scores, or the
// softmax over them.
__device__ __forceinline__ void gather_weights(int kind, int top_k, const float* scores,
                                               const int* chosen, float* weights) {
  float largest = -INFINITE;
  for (int k = lane_index(); k < top_k; k += WARP) {
    weights[k] = scores[chosen[k]];
    largest = fmaxf(largest, weights[k]);
  }
  if (kind == SCORE_TOPK_SOFTMAX) {
    largest = warp_max(largest);
    for (int k = lane_index(); k < top_k; k += WARP) weights[k] = expf(weights[k] - largest);
    const float factor = __fdividef(1.0f, sum_over_k(top_k, [&](int k) { return weights[k]; }));
    for (int k = lane_index(); k < top_k; k += WARP) weights[k] *= factor;
  }
  __syncwarp();
}
