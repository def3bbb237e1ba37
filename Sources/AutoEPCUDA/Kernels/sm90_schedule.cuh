// The units of a persistent kernel: each of n clusters computes every n-th unit.
//
// A lookup costs a load and two divisions, during which the tensor cores idle. The lanes of a warp
// therefore look up 32 units at once, one each. All warps look up the same units.

#pragma once

#include "host_and_device.h"
#include "warp.cuh"

// The value of another lane, for a struct of ints.
template <typename Ints>
__device__ __forceinline__ Ints of_lane(const Ints& value, int lane) {
  static_assert(sizeof(Ints) % sizeof(int) == 0, "a struct of ints");
  Ints result;
#pragma unroll
  for (int i = 0; i < sizeof(Ints) / sizeof(int); ++i) {
    reinterpret_cast<int*>(&result)[i] =
        __shfl_sync(ALL_LANES, reinterpret_cast<const int*>(&value)[i], lane);
  }
  return result;
}

// A warp's view of the units. Work has a type Unit and a function Unit unit_at(index), which
// returns n = -1 past the last unit.
template <typename Work>
struct Schedule {
  typedef typename Work::Unit Unit;

  const Work& work;
  int index;        // of the unit that lane 0 looks up next
  int lane = WARP;  // the lane with the next unit
  Unit own;

  __device__ __forceinline__ explicit Schedule(const Work& work)
      : work(work), index(blockIdx.x / CLUSTER) {}

  // Stores the next unit in `unit`; returns false if there is none.
  __device__ __forceinline__ bool take(Unit& unit) {
    if (lane == WARP) look_up();
    unit = of_lane(own, lane++);
    return unit.n >= 0;
  }

  __device__ __forceinline__ void look_up() {
    const int clusters = gridDim.x / CLUSTER;
    own = work.unit_at(index + lane_index() * clusters);
    index += WARP * clusters;
    lane = 0;
  }
};
