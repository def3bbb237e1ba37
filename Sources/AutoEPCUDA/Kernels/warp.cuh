// The position of a thread, and the collective operations of a warp.

#pragma once

#include "integers.cuh"

constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return threadIdx.x % WARP; }
__device__ __forceinline__ int warp_index() { return threadIdx.x / WARP; }
__device__ __forceinline__ int warps_per_block() { return blockDim.x / WARP; }

// If the warps along grid.x share rows: the first row of this warp, and the distance to its next
// row.
__device__ __forceinline__ i64 first_row_of_warp() {
  return i64(blockIdx.x) * warps_per_block() + warp_index();
}
__device__ __forceinline__ i64 row_step_of_warp() { return i64(gridDim.x) * warps_per_block(); }

// The sum over the lanes, in every lane.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(ALL_LANES, value, distance);
  return value;
}

// The largest of the lanes' values, none of which is NaN.
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
  return value;
}

// The sum over this lane and all preceding ones.
__device__ __forceinline__ int warp_sum_through(int value) {
#pragma unroll
  for (int distance = 1; distance < WARP; distance *= 2) {
    const int before = __shfl_up_sync(ALL_LANES, value, distance);
    if (lane_index() >= distance) value += before;
  }
  return value;
}
