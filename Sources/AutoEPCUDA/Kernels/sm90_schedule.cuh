// The units of work of a persistent kernel: a cluster takes every so-many-th, until there are no more.
//
// A warp's lanes look one unit up each, so that it is done once for 32 of them: while a consumer waits for
// what a look-up loads, and divides, it multiplies nothing. All warps look up the same.

#pragma once

#include "sm90_tiles.cuh"

// What another lane has of a struct of ints.
template <typename Ints>
__device__ __forceinline__ Ints of_lane(const Ints& value, int lane) {
  static_assert(sizeof(Ints) % sizeof(int) == 0, "a struct of ints");
  Ints result;
#pragma unroll
  for (int i = 0; i < sizeof(Ints) / sizeof(int); ++i) {
    reinterpret_cast<int*>(&result)[i] =
        __shfl_sync(~0u, reinterpret_cast<const int*>(&value)[i], lane);
  }
  return result;
}

// For a warp. The kernel has Unit unit_at(arguments, index), whose `n` is -1 past the last unit.
template <typename Unit, typename Arguments>
struct Schedule {
  const Arguments& arguments;
  int index;      // of the unit that lane 0 looks up next
  int lane = 32;  // that has the next unit
  Unit own;

  __device__ __forceinline__ explicit Schedule(const Arguments& arguments)
      : arguments(arguments), index(blockIdx.x / CLUSTER) {}

  // Puts the next unit into `unit`; false when there is none.
  __device__ __forceinline__ bool take(Unit& unit) {
    if (lane == 32) look_up();
    unit = of_lane(own, lane++);
    return unit.n >= 0;
  }

  __device__ __forceinline__ void look_up() {
    const int clusters = gridDim.x / CLUSTER;
    own = unit_at(arguments, index + (threadIdx.x & 31) * clusters);
    index += 32 * clusters;
    lane = 0;
  }
};
