// Copies rows of tokens into expert order while the products of earlier rows run. Idle warps copy,
// so that memory and tensor cores are busy at once and the rows are still in the L2 cache when the
// products read them.
//
// A warp claims the next unclaimed rows and then copies them without waiting for anything: claimed
// rows get written even if few of the blocks run at once. It claims no rows far ahead of those that
// its block reads: copying them would only delay the products, and they would be evicted from the
// cache. Readers wait for the rows of their tile.

#pragma once

#include "host_and_device.h"
#include "sm90_instructions.cuh"
#include "sm90_row_source.cuh"
#include "warp.cuh"

constexpr int CLAIMED_ROWS = 4;   // rows that a warp claims at once
constexpr int AHEAD_ROWS = 4096;  // the most that claims are ahead of a block's reads
static_assert(READY_ROWS % CLAIMED_ROWS == 0, "claimed rows belong to one counter");
// A reader can be blocked on a row up to 2 * READY_ROWS ahead of its own that no warp has claimed
// yet.
static_assert(AHEAD_ROWS >= 2 * READY_ROWS, "a block's warps can write what the block waits for");

// The row that this block reads or waits for. After the warps have taken on their roles, nothing
// orders their accesses, so these are atomic.
__shared__ int reading_row;

// Copies a row with one warp.
__device__ __forceinline__ void copy_row(const uint4* source, uint4* target, int vectors) {
  constexpr int batch = 8;  // loads in flight at once
  for (int first = lane_index(); first < vectors; first += WARP * batch) {
    u32 v[batch][4];
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (first + WARP * i < vectors) load_once(source + first + WARP * i, v[i]);
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (first + WARP * i < vectors) store_global(target + first + WARP * i, v[i]);
    }
  }
}

// A source of rows; see sm90_row_source.cuh.
struct CopiedAhead {
  struct Arguments {
    const uint4* tokens;     // [T, H], 16 bytes each
    uint4* rows;             // [N, H]
    const int* slot_of_row;  // [N]
    const int* row_count;    // [1], rows in use
    int* counters;           // zeroed before: [1] claims; [N / READY_ROWS, rounded up] rows written
    int top_k;
    int vectors;  // 16 bytes each, per row
  };
  static constexpr bool NEEDS_WARPS = true;

  __device__ __forceinline__ static void begin() { reading_row = 0; }

  // Copies rows with one warp until all are claimed.
  __device__ __forceinline__ static void work(const Arguments& ahead) {
    const int lane = lane_index();
    const int row_count = *ahead.row_count;
    int first = 0;
    while (true) {
      int claim = 0;
      if (lane == 0) {
        while (first - AHEAD_ROWS > atomicAdd(&reading_row, 0)) __nanosleep(500);
        claim = atomicAdd(ahead.counters, 1);
      }
      first = __shfl_sync(ALL_LANES, claim, 0) * CLAIMED_ROWS;
      if (first >= row_count) return;
      const int count = min(CLAIMED_ROWS, row_count - first);
      const int own = lane < count ? ahead.slot_of_row[first + lane] / ahead.top_k : 0;
      for (int i = 0; i < count; ++i) {
        const i64 token = __shfl_sync(ALL_LANES, own, i);
        copy_row(ahead.tokens + token * ahead.vectors, ahead.rows + i64(first + i) * ahead.vectors,
                 ahead.vectors);
      }
      fence_async_proxy_global();
      __syncwarp();
      if (lane == 0) add_release(ahead.counters + 1 + first / READY_ROWS, count);
    }
  }

  struct Reader {
    const Arguments& ahead;
    // The chunks of READY_ROWS rows that are known to be written.
    int ready_begin = 0;
    int ready_end = 0;

    __device__ __forceinline__ explicit Reader(const Arguments& ahead) : ahead(ahead) {}

    __device__ __forceinline__ void wait(int row, int count) {
      set_reading_row(row);
      const int first = row / READY_ROWS;
      const int last = (row + count - 1) / READY_ROWS;
      if (first >= ready_begin && last < ready_end) return;
      const int row_count = *ahead.row_count;
      do {
        const int run = first + lane_index();
        const int rows = min(READY_ROWS, row_count - run * READY_ROWS);
        const bool is_written = rows <= 0 || load_acquire(ahead.counters + 1 + run) == rows;
        const u32 missing = __ballot_sync(ALL_LANES, !is_written);
        ready_begin = first;
        ready_end = first + (missing == 0 ? WARP : __ffs(missing) - 1);
      } while (last >= ready_end);
      __syncwarp();
      fence_async_proxy_global();
    }

    // This block reads no more rows.
    __device__ __forceinline__ void end() { set_reading_row(0x7fffffff); }

    __device__ __forceinline__ void set_reading_row(int row) {
      if (lane_index() == 0) atomicExch(&reading_row, row);
    }
  };
};
