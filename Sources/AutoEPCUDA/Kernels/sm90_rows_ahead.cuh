// Rows of tokens in expert order, written by warps that have nothing else to do while the products of
// earlier rows are at work: memory and tensor cores are busy at once, and the rows are still in the L2
// cache when their products read them.
//
// A warp takes rows as it comes, in their order, and then writes them whatever the others do: however few
// of the blocks run at once, what is taken gets written. It takes none that are far from those that its
// block reads: they would only hold up the products, and leave the cache again. Those who read wait for the
// rows of their tile.

#pragma once

#include "sm90_instructions.cuh"

constexpr int READY_ROWS = 128;   // rows that are told of together
constexpr int TAKEN_ROWS = 4;     // and taken by a warp at once; divides READY_ROWS
constexpr int AHEAD_ROWS = 4096;  // of those that a block reads
// A reader may wait for a row that is almost two blocks of them further on than its own, and the first that
// nobody has taken.
static_assert(AHEAD_ROWS >= 2 * READY_ROWS, "a block's warps write what the block waits for");

struct RowsAhead {
  const uint4* tokens;     // [T, H] in 16 bytes; null: the rows stand there already
  uint4* rows;             // [N, H]
  const int* slot_of_row;  // [N]
  const int* row_count;    // [1], rows in use
  int* counters;           // zeros: [1] runs of rows taken; [N / READY_ROWS, up] rows written
  int top_k;
  int vectors;  // 16 bytes of a row
};

// The row that this block reads, or is waiting for. Once the threads have gone their ways it is read and
// written by atomics, for nothing else orders them.
__shared__ int reading_row;

// ---- Writing ----

// A warp copies a row.
__device__ __forceinline__ void copy_row(const uint4* source, uint4* target, int vectors) {
  constexpr int batch = 8;  // on their way at once
  for (int first = threadIdx.x & 31; first < vectors; first += 32 * batch) {
    u32 v[batch][4];
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (first + 32 * i < vectors) load_once(source + first + 32 * i, v[i]);
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (first + 32 * i < vectors) store_global(target + first + 32 * i, v[i]);
    }
  }
}

// A warp writes rows for as long as there are any that nobody has taken.
__device__ __forceinline__ void write_rows(const RowsAhead& ahead) {
  if (ahead.tokens == nullptr) return;
  const int lane = threadIdx.x & 31;
  const int row_count = *ahead.row_count;
  int first = 0;
  while (true) {
    int taken = 0;
    if (lane == 0) {
      while (first - AHEAD_ROWS > atomicAdd(&reading_row, 0)) __nanosleep(500);
      taken = atomicAdd(ahead.counters, 1);
    }
    first = __shfl_sync(~0u, taken, 0) * TAKEN_ROWS;
    if (first >= row_count) return;
    const int count = min(TAKEN_ROWS, row_count - first);
    const int own = lane < count ? ahead.slot_of_row[first + lane] / ahead.top_k : 0;
    for (int i = 0; i < count; ++i) {
      const long long token = __shfl_sync(~0u, own, i);
      copy_row(ahead.tokens + token * ahead.vectors,
               ahead.rows + (long long)(first + i) * ahead.vectors, ahead.vectors);
    }
    fence_async_proxy_global();
    __syncwarp();
    if (lane == 0) add_release(ahead.counters + 1 + first / READY_ROWS, count);
  }
}

// ---- Reading ----

// What a warp that feeds products knows of the rows.
struct ReadyRows {
  const RowsAhead& ahead;
  // Blocks of READY_ROWS that are known to be written.
  int begin = 0;
  int end = 0;

  __device__ __forceinline__ explicit ReadyRows(const RowsAhead& ahead) : ahead(ahead) {}

  // Before the threads of the block go their ways.
  __device__ __forceinline__ static void begin_reading() { reading_row = 0; }

  // Until the TMA finds `count` rows from `row` on; at least one, and fewer than 31 blocks of them.
  __device__ __forceinline__ void wait(int row, int count) {
    if (ahead.tokens == nullptr) return;
    tell_reading(row);
    const int first = row / READY_ROWS;
    const int last = (row + count - 1) / READY_ROWS;
    if (first >= begin && last < end) return;
    const int row_count = *ahead.row_count;
    do {
      const int block = first + (threadIdx.x & 31);
      const int rows = min(READY_ROWS, row_count - block * READY_ROWS);
      const bool is_written = rows <= 0 || load_acquire(ahead.counters + 1 + block) == rows;
      const u32 missing = __ballot_sync(~0u, !is_written);
      begin = first;
      end = first + (missing == 0 ? 32 : __ffs(missing) - 1);
    } while (last >= end);
    __syncwarp();
    fence_async_proxy_global();
  }

  // There is nothing more to read here.
  __device__ __forceinline__ void end_reading() { tell_reading(0x7fffffff); }

  __device__ __forceinline__ void tell_reading(int row) {
    if ((threadIdx.x & 31) == 0) atomicExch(&reading_row, row);
  }
};
