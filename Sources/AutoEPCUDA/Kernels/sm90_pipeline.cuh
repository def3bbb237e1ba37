// The pipeline of Hopper's grouped GEMMs: the stages that feed a tile, and the stores of its
// results.
//
// Terms of all files sm90_*:
//   tile          TILE_M x TILE_N results, which one block computes at a time
//   row pair      up to 2 TILE_M rows of one expert, for the two blocks of a cluster: a full pair
//                 has two row tiles, and a tail tile is what remains if that is at most TILE_M rows
//   raster group  RASTER row pairs that run together, to share the weight in the L2 cache
//   unit          the two tiles that a cluster computes at a time
//   stage         the part of both operands in shared memory for TILE_K terms of each sum
//   box           the data that one TMA instruction moves: BOX rows or columns of a stage, 128
//   bytes each slab          the SLAB_M rows of a tile that belong to one consumer warp chunk
//   CHUNK_N columns of a slab, which a warp stages in shared memory and then stores
// "Block" always means a CUDA block.
//
// One warp of a block is the producer: it fills STAGES stages by TMA. Two consumer warpgroups
// multiply 64 rows each. Two blocks form a cluster: if their tiles need the same part of operand B,
// each block loads half of it for both.

#pragma once

#include "host_and_device.h"
#include "numbers.cuh"
#include "sm90_instructions.cuh"
#include "warp.cuh"

constexpr u32 A_BYTES = TILE_M * TILE_K * 2;
constexpr u32 B_BYTES = TILE_N * TILE_K * 2;
constexpr u32 BOX_BYTES = BOX * TILE_K * 2;

// The offsets of stages, staged chunks and barriers in shared memory; sm90_shared_bytes is their
// total size.
struct Layout {
  u32 stages;
  u32 staging;
  u32 barriers;
  static_assert(sm90_shared_bytes(STAGES, STAGING_CHUNKS) ==
                    1023 + STAGES * (A_BYTES + B_BYTES) +
                        CONSUMER_WARPS * STAGING_CHUNKS * CHUNK_BYTES +
                        (2 * STAGES + 2 * CONSUMER_WARPS) * 8,
                "what the host reserves");

  __device__ __forceinline__ explicit Layout(const void* shared) {
    stages = (shared_address(shared) + 1023) & ~1023u;
    staging = stages + STAGES * STAGE_BYTES;
    barriers = staging + CONSUMER_WARPS * STAGING_CHUNKS * CHUNK_BYTES;
  }

  __device__ __forceinline__ u32 a(int stage) const { return stages + stage * STAGE_BYTES; }
  __device__ __forceinline__ u32 b(int stage) const { return a(stage) + A_BYTES; }
  __device__ __forceinline__ u32 full(int stage) const { return barriers + stage * 8; }
  __device__ __forceinline__ u32 empty(int stage) const { return barriers + (STAGES + stage) * 8; }
  // Two more barriers per consumer warp, between it and the warp that processes its staged chunks.
  __device__ __forceinline__ u32 staged(int warp) const {
    return barriers + (2 * STAGES + warp) * 8;
  }
  __device__ __forceinline__ u32 taken(int warp) const { return staged(CONSUMER_WARPS + warp); }
  __device__ __forceinline__ u32 chunk(int warp, int which) const {
    return staging + (warp * STAGING_CHUNKS + which) * CHUNK_BYTES;
  }
};

// A position in the ring of stages; producer and consumers advance alike.
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

// Reports to both blocks that this warp has read a stage, because both may have filled it.
__device__ __forceinline__ void release(const Layout& layout, int stage) {
  const u32 lane = lane_index();
  if (lane < CLUSTER) barrier_arrive_at(layout.empty(stage), lane);
}

// sums += the product of a stage for this warpgroup; asynchronous until products_wait.
template <int a_major, int b_major>
__device__ __forceinline__ void multiply_stage(float (&sums)[128], u32 a, u32 b, bool first) {
  products_begin();
#pragma unroll
  for (int k = 0; k < TILE_K; k += 16) {
    // K-major: k steps inside the swizzled 128 bytes. MN-major: 16 k are 16 lines of 128 bytes.
    const u32 a_k = a + (a_major ? k * 128 : k * 2);
    const u32 b_k = b + (b_major ? k * 128 : k * 2);
    multiply_64x256x16<a_major, b_major>(sums, operand(a_k, BOX_BYTES, 1024),
                                         operand(b_k, BOX_BYTES, 1024), !first || k > 0);
  }
  products_commit();
}

// ---- Stores, one chunk at a time, through a warp's own shared memory ----

// A consumer warp's part of a tile.
struct Slab {
  int warp;  // index among the consumers
  int row;   // its first row of the output
  // The rows from `row` to the end of the output, which may be more than SLAB_M, or 0 or less. Not
  // clamped to SLAB_M here, because ptxas 13.0 then loses the predicate of rows == SLAB_M.
  int rows;
  int expert;
  int column;  // its first column of the output
};

// The address that this lane passes to store_matrices for four 8x8 matrices: columns
// [16 * pair, 16 * pair + 16) of a chunk, in the order rows 0-7 left, rows 8-15 left, rows 0-7
// right, rows 8-15 right.
__device__ __forceinline__ u32 fragment_address(u32 chunk, int pair) {
  const u32 lane = lane_index();
  const u32 row = lane & 15;
  // The swizzle: 16-byte column c of row r lies at c ^ (r mod 8). One register and an xor per pair.
  return (chunk + row * 128 + ((lane >> 4 ^ (row & 7)) << 4)) ^ (pair << 5);
}

// Writes a chunk of a slab as bf16, from consecutive sums of a thread.
__device__ __forceinline__ void put_chunk(u32 chunk, const float* values) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const float* v = values + 8 * pair;
    const u32 m[4] = {bf16x2_of(v[0], v[1]), bf16x2_of(v[2], v[3]), bf16x2_of(v[4], v[5]),
                      bf16x2_of(v[6], v[7])};
    store_matrices(fragment_address(chunk, pair), m);
  }
}

// Makes the chunks that the lanes have written visible to the TMA.
__device__ __forceinline__ void seal_chunks() {
  fence_async_proxy();
  __syncwarp();
}

// Waits until all but the last `pending` groups of stores have read their chunks, which may then be
// overwritten.
template <int pending>
__device__ __forceinline__ void wait_sent() {
  stores_wait_read<pending>();
  __syncwarp();
}

// A matrix that the warps store by TMA: whole chunks, or single rows of them at ragged ends.
struct Target {
  TensorMap chunks;  // (column, c1, c2), boxes of 64 columns and 16 of c1 or c2
  TensorMap rows;    // (column, c1, c2), boxes of 64 columns
};

// Stores a chunk to (column, half, row), or the first `rows` of its rows.
__device__ __forceinline__ void send_rows(const Target& target, u32 chunk, int column, int half,
                                          int row, int rows) {
  const int lane = lane_index();
  if (rows >= SLAB_M) {
    if (lane == 0) store_box(&target.chunks, chunk, column, half, row);
  } else if (lane < rows) {
    store_box(&target.rows, chunk + lane * 128, column, half, row + lane);
  }
}
