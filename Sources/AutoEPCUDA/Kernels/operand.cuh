// An operand of a matrix product, in global memory: `outer` counts rows or columns of the product,
// `depth` the terms of its sums.

#pragma once

#include "element.cuh"

enum Order { DEPTH_CONTIGUOUS, OUTER_CONTIGUOUS };

// The part of an operand that one tile of the product needs.
template <Order ORDER>
struct Operand {
  // Element (outer 0, depth 0).
  const Element* base;
  // The distance between rows in memory, in elements.
  int pitch;
  // The outer indices and depths that exist; zeros beyond them.
  int outer;
  i64 depth;

  __device__ __forceinline__ const Element* at(int outer_index, i64 depth_index) const {
    return ORDER == DEPTH_CONTIGUOUS ? base + i64(outer_index) * pitch + depth_index
                                     : base + depth_index * pitch + outer_index;
  }
};
