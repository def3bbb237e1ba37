// What the grouped GEMMs of Hopper share: the tile, the pipeline that feeds it, and the way out.
//
// A block is a producer warp, which fills STAGES stages of shared memory by TMA, and two consumer
// warpgroups, which multiply 64 rows each. Two blocks form a cluster: where their tiles need the same
// part of B, each loads half of it for both.

#pragma once

#include "sm90_instructions.cuh"
#include "sm90_tile.cuh"

constexpr int TILE_N = 256;  // columns
constexpr int TILE_K = 64;   // depth of a stage: 128 bytes, one swizzle
constexpr int SLAB_M = 16;   // rows of a warp
constexpr int CHUNK_N = 64;  // columns that leave together: 128 bytes

constexpr int CLUSTER = 2;  // blocks
constexpr int CONSUMERS = 2;
constexpr int CONSUMER_WARPS = 4 * CONSUMERS;
constexpr int THREADS = 128 * (1 + CONSUMERS);

constexpr u32 A_BYTES = TILE_M * TILE_K * 2;
constexpr u32 B_BYTES = TILE_N * TILE_K * 2;
constexpr u32 STAGE_BYTES = A_BYTES + B_BYTES;
constexpr u32 BLOCK_BYTES = 64 * TILE_K * 2;         // 64 rows or columns of a stage
constexpr u32 CHUNK_BYTES = SLAB_M * CHUNK_N * 2;    // what a warp stages at once, bf16

// Where a stage, its barriers and a warp's staging stand in shared memory.
struct Layout {
  u32 stages;
  u32 staging;
  u32 barriers;

  __device__ __forceinline__ explicit Layout(const void* shared) {
    stages = (shared_address(shared) + 1023) & ~1023u;
    staging = stages + STAGES * STAGE_BYTES;
    barriers = staging + CONSUMER_WARPS * STAGING_CHUNKS * CHUNK_BYTES;
  }

  __device__ __forceinline__ u32 a(int stage) const { return stages + stage * STAGE_BYTES; }
  __device__ __forceinline__ u32 b(int stage) const { return a(stage) + A_BYTES; }
  __device__ __forceinline__ u32 full(int stage) const { return barriers + stage * 8; }
  __device__ __forceinline__ u32 empty(int stage) const { return barriers + (STAGES + stage) * 8; }
  // Two more barriers a consumer warp, between it and the warp that works on what it has staged.
  __device__ __forceinline__ u32 staged(int warp) const {
    return barriers + (2 * STAGES + warp) * 8;
  }
  __device__ __forceinline__ u32 taken(int warp) const { return staged(CONSUMER_WARPS + warp); }
  __device__ __forceinline__ u32 chunk(int warp, int which) const {
    return staging + (warp * STAGING_CHUNKS + which) * CHUNK_BYTES;
  }
};

// The place in the ring of stages, the same on both sides.
struct Ring {
  int stage = 0;
  u32 parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == STAGES) {
      stage = 0;
      parity ^= 1;
    }
  }
};

__device__ __forceinline__ void init_barriers(const Layout& layout) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; ++stage) {
      barrier_init(layout.full(stage), 1);
      barrier_init(layout.empty(stage), CLUSTER * CONSUMER_WARPS);
    }
    for (int warp = 0; warp < CONSUMER_WARPS; ++warp) {
      barrier_init(layout.staged(warp), 1);
      barrier_init(layout.taken(warp), 1);
    }
    barrier_init_fence();
  }
  cluster_sync();
}

// A warp has read a stage: both blocks may have filled it, so both are told.
__device__ __forceinline__ void release(const Layout& layout, int stage) {
  const u32 lane = threadIdx.x & 31;
  if (lane < CLUSTER) barrier_arrive_at(layout.empty(stage), lane);
}

// sums += the stage's part for this warpgroup; asynchronous until products_wait.
template <int a_major, int b_major>
__device__ __forceinline__ void multiply_stage(float (&sums)[128], u32 a, u32 b, bool first) {
  products_begin();
#pragma unroll
  for (int k = 0; k < TILE_K; k += 16) {
    // K-major: k steps inside the swizzled 128 bytes. MN-major: 16 k are 16 lines of 128 bytes.
    const u32 a_k = a + (a_major ? k * 128 : k * 2);
    const u32 b_k = b + (b_major ? k * 128 : k * 2);
    multiply_64x256x16<a_major, b_major>(sums, operand(a_k, BLOCK_BYTES, 1024),
                                         operand(b_k, BLOCK_BYTES, 1024), !first || k > 0);
  }
  products_commit();
}

// ---- The way out: 16 rows of 64 columns at a time, through a warp's own shared memory ----

// A consumer warp's part of a tile.
struct Slab {
  int warp;    // of the consumers
  int row;     // its first row of the output
  // From it to the end of what is there: more than SLAB_M, or none, too. Not cut to SLAB_M here, since
  // ptxas 13.0 then loses the predicate of rows == SLAB_M.
  int rows;
  int expert;
  int column;  // its first column of the output
};

// The address of this lane's row of an 8x8 matrix quadruple: columns [16 * pair, + 16) of a chunk.
// Matrices: (rows 0-7, left), (rows 8-15, left), (rows 0-7, right), (rows 8-15, right).
__device__ __forceinline__ u32 fragment_address(u32 chunk, int pair) {
  const u32 lane = threadIdx.x & 31;
  const u32 row = lane & 15;
  // The swizzle: 16-byte column c of row r stands at c ^ (r mod 8). Few registers: one and an xor.
  return (chunk + row * 128 + ((lane >> 4 ^ (row & 7)) << 4)) ^ (pair << 5);
}

// Puts 64 columns of a warp's 16 rows, as the accumulators hold them, into a chunk as bf16.
__device__ __forceinline__ void put_chunk(u32 chunk, const float* values) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const float* v = values + 8 * pair;
    const u32 m[4] = {to_bf16x2(v[0], v[1]), to_bf16x2(v[2], v[3]), to_bf16x2(v[4], v[5]),
                      to_bf16x2(v[6], v[7])};
    store_matrices(fragment_address(chunk, pair), m);
  }
}

// After the lanes have written chunks: makes them visible to the TMA.
__device__ __forceinline__ void seal_chunks() {
  fence_async_proxy();
  __syncwarp();
}

// Before chunks are written again: all but the last `pending` groups of stores have read theirs.
template <int pending>
__device__ __forceinline__ void wait_sent() {
  stores_wait_read<pending>();
  __syncwarp();
}

// A matrix that the warps store by TMA: boxes of a chunk, and of one row of it for ragged ends.
struct Target {
  TensorMap chunks;  // (column, c1, c2), boxes of 64 columns and 16 of c1 or c2
  TensorMap rows;    // the same, boxes of 64 columns
};

// Sends a chunk of (column, half, row) off, or the first `rows` of its 16 rows.
__device__ __forceinline__ void send_rows(const Target& target, u32 chunk, int column, int half,
                                          int row, int rows) {
  const int lane = threadIdx.x & 31;
  if (rows >= SLAB_M) {
    if (lane == 0) store_box(&target.chunks, chunk, column, half, row);
  } else if (lane < rows) {
    store_box(&target.rows, chunk + lane * 128, column, half, row + lane);
  }
}

// x / (1 + e^-x) is x times this. Two instructions of the special function unit; relative error below
// 1e-6, and exact limits: 0 for -inf, 1 for inf.
__device__ __forceinline__ float sigmoid(float x) {
  float power, result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.4426950408889634f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + power));
  return result;
}
