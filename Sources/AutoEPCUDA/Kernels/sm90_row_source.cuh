// Where a product's rows come from. The source is a policy of the product, with
//   Arguments         what the host passes by value
//   begin()           to be called by one thread before the warps take on their roles
//   work(arguments)   what warps without another role do while the products run
//   NEEDS_WARPS       whether work does anything
//   Reader            the producer warp's view: wait(row, count) returns when the TMA can read rows
//                     [row, row + count), at least one and fewer than 31 * READY_ROWS; end()
//                     follows the last wait
//
// There are two: InPlace, below, and CopiedAhead in sm90_rows_ahead.cuh.
//
// Rows that other GPUs push into this one's memory would be a third, ArrivedFromPeers: its
// wait(...) polls the flags that the peers set behind their rows, with a deadline, and its
// work(...) does nothing.

#pragma once

#include "host_and_device.h"

// The rows are in memory before the launch.
struct InPlace {
  struct Arguments {};
  static constexpr bool NEEDS_WARPS = false;

  __device__ __forceinline__ static void begin() {}
  __device__ __forceinline__ static void work(const Arguments&) {}

  struct Reader {
    __device__ __forceinline__ explicit Reader(const Arguments&) {}
    __device__ __forceinline__ void wait(int, int) {}
    __device__ __forceinline__ void end() {}
  };
};
