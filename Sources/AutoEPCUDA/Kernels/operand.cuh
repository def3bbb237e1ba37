// An operand of a matrix product, in global memory: `outer` runs over the rows or columns of the product,
// `depth` over what is summed.

#pragma once

#include "element.cuh"

enum Order { DEPTH_CONTIGUOUS, OUTER_CONTIGUOUS };

// The part of an operand that a tile of the product needs.
template <Order ORDER>
struct Operand {
  // Element (outer 0, depth 0).
  const Element* base;
  // From one row in memory to the next.
  int pitch;
  // Outer indices and depths there are; beyond them zeros are read.
  int outer;
  long long depth;

  __device__ __forceinline__ const Element* at(int outer_index, long long depth_index) const {
    return ORDER == DEPTH_CONTIGUOUS
               ? base + static_cast<long long>(outer_index) * pitch + depth_index
               : base + depth_index * pitch + outer_index;
  }
};
