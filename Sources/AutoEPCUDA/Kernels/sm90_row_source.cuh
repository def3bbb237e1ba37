// The source of a product's rows. It is a policy of the product, with
//   Arguments         passed by the host by value
//   begin()           called by one thread before the warps take on their roles
//   work(arguments)   run by the warps without another role during the products
//   NEEDS_WARPS       whether work does anything
//   Reader            used by the producer warp: wait(row, count) returns when the TMA can read
//   rows
//                     [row, row + count), at least one and fewer than 31 * READY_ROWS; end()
//                     follows the last wait
//
// There are two sources: InPlace, below, and CopiedAhead in sm90_rows_ahead.cuh.
//
// Rows that other GPUs push into this GPU's memory would be a third source, ArrivedFromPeers: its
// wait(...) would poll the flags that the peers set after their rows, with a deadline, and its
// work(...) would do nothing.

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
