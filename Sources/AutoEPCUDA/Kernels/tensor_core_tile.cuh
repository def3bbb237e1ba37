// A tile of a matrix product on the tensor cores, bf16 or f16 summed in f32, computed by a block of
// 256 threads.
//   -DALIGNED: see chunk.cuh
//
// Eight warps, 2 x 4, compute 64 x 32 elements each. The operands are staged in shared memory in
// STAGES stages of depth 32, as chunks of 8 elements whose positions are permuted to avoid bank
// conflicts.

#pragma once

#include "chunk.cuh"
#include "host_and_device.h"
#include "instructions.cuh"
#include "operand.cuh"
#include "warp.cuh"

constexpr int TILE = TENSOR_CORE_TILE;
constexpr int TILE_DEPTH = TENSOR_CORE_TILE_DEPTH;
constexpr int TILE_THREADS = 256;
constexpr int TILE_BLOCKS_PER_SM = 2;

constexpr int STAGES = TENSOR_CORE_TILE_STAGES;
constexpr int STAGE_CHUNKS = TILE * TILE_DEPTH / CHUNK;
constexpr int WARP_ROWS = 64, WARP_COLUMNS = 32;

// STAGES stages of operand A, then as many of operand B: TENSOR_CORE_TILE_SHARED_BYTES bytes.
extern __shared__ __align__(16) unsigned char shared_memory[];

// The sums of a warp: 4 x 4 blocks of 16 rows and 8 columns.
struct TileSums {
  float at[WARP_ROWS / 16][WARP_COLUMNS / 8][4];
};

// The position in a stage of the chunk of depths [8 * chunk, 8 * chunk + 8) of one outer index.
__device__ __forceinline__ int place_by_outer(int outer, int chunk) {
  return outer * (TILE_DEPTH / CHUNK) + (chunk ^ (outer / 2 % 4));
}

// The position of the chunk of outer indices [8 * chunk, 8 * chunk + 8) of one depth.
__device__ __forceinline__ int place_by_depth(int depth, int chunk) {
  return depth * (TILE / CHUNK) + (chunk ^ (depth % 8));
}

// Starts to load the part of an operand that starts at `first_depth` into a stage.
template <Order ORDER>
__device__ __forceinline__ void load_stage(Chunk* stage, const Operand<ORDER>& operand,
                                           i64 first_depth) {
#pragma unroll
  for (int i = 0; i < STAGE_CHUNKS / TILE_THREADS; ++i) {
    const int index = i * TILE_THREADS + threadIdx.x;
    if constexpr (ORDER == DEPTH_CONTIGUOUS) {
      int outer = index / (TILE_DEPTH / CHUNK), chunk = index % (TILE_DEPTH / CHUNK);
      i64 depth = first_depth + chunk * CHUNK;
      load_chunk(&stage[place_by_outer(outer, chunk)], operand.at(outer, depth), operand.base,
                 outer < operand.outer ? int(min(operand.depth - depth, 8ll)) : 0);
    } else {
      const int depth = index / (TILE / CHUNK), chunk = index % (TILE / CHUNK);
      load_chunk(&stage[place_by_depth(depth, chunk)],
                 operand.at(chunk * CHUNK, first_depth + depth), operand.base,
                 first_depth + depth < operand.depth ? operand.outer - chunk * CHUNK : 0);
    }
  }
}

// Loads four adjacent 8x8 blocks, two along outer and two along depth. With OUTER_FIRST, block 1 is
// the next one along outer, as operand A needs it; otherwise along depth, as B does.
template <Order ORDER, bool OUTER_FIRST>
__device__ __forceinline__ void load_fragment(u32 (&parts)[4], const Chunk* stage, int outer,
                                              int depth) {
  const int block = lane_index() / 8, row = lane_index() % 8;
  outer += 8 * (OUTER_FIRST ? block % 2 : block / 2);
  depth += 8 * (OUTER_FIRST ? block / 2 : block % 2);
  if constexpr (ORDER == DEPTH_CONTIGUOUS)
    load_matrices(parts, &stage[place_by_outer(outer + row, depth / CHUNK)]);
  else
    load_matrices_transposed(parts, &stage[place_by_depth(depth + row, outer / CHUNK)]);
}

__device__ __forceinline__ int first_row_of_warp_tile() { return warp_index() / 4 * WARP_ROWS; }
__device__ __forceinline__ int first_column_of_warp_tile() {
  return warp_index() % 4 * WARP_COLUMNS;
}

// sums += the product of one stage.
template <Order A, Order B>
__device__ __forceinline__ void multiply_stage(TileSums& sums, const Chunk* a_stage,
                                               const Chunk* b_stage) {
#pragma unroll
  for (int depth = 0; depth < TILE_DEPTH; depth += 16) {
    u32 a[WARP_ROWS / 16][4];
#pragma unroll
    for (int i = 0; i < WARP_ROWS / 16; ++i)
      load_fragment<A, true>(a[i], a_stage, first_row_of_warp_tile() + 16 * i, depth);
#pragma unroll
    for (int j = 0; j < WARP_COLUMNS / 8; j += 2) {
      u32 b[4];
      load_fragment<B, false>(b, b_stage, first_column_of_warp_tile() + 8 * j, depth);
#pragma unroll
      for (int i = 0; i < WARP_ROWS / 16; ++i) {
        multiply_halves(sums.at[i][j], a[i], b[0], b[1]);
        multiply_halves(sums.at[i][j + 1], a[i], b[2], b[3]);
      }
    }
  }
}

// The product of two operands; called by all threads of the block.
template <Order A, Order B>
__device__ __forceinline__ TileSums multiply_tile(const Operand<A>& a, const Operand<B>& b) {
  Chunk* a_stages = reinterpret_cast<Chunk*>(shared_memory);
  Chunk* b_stages = a_stages + STAGES * STAGE_CHUNKS;
  const int num_steps = int((a.depth + TILE_DEPTH - 1) / TILE_DEPTH);
  auto load = [&](int step) {
    if (step < num_steps) {
      int stage = step % STAGES;
      load_stage(a_stages + stage * STAGE_CHUNKS, a, i64(step) * TILE_DEPTH);
      load_stage(b_stages + stage * STAGE_CHUNKS, b, i64(step) * TILE_DEPTH);
    }
    // Commits an empty batch too, so that the waits at the end count correctly.
    commit_copies();
  };
  TileSums sums = {};
  // Other threads may still read the previous tile.
  __syncthreads();
  for (int step = 0; step < STAGES - 1; ++step) load(step);
  for (int step = 0; step < num_steps; ++step) {
    wait_for_copies<STAGES - 2>();
    // This step's stage has now arrived for all threads, and the stage filled next is free.
    __syncthreads();
    load(step + STAGES - 1);
    const int stage = step % STAGES;
    multiply_stage<A, B>(sums, a_stages + stage * STAGE_CHUNKS, b_stages + stage * STAGE_CHUNKS);
  }
  wait_for_copies<0>();
  return sums;
}

// Calls body(row, column, sum, sum of column + 1) for each of this thread's elements of the tile.
template <typename Body>
__device__ __forceinline__ void for_each_pair(const TileSums& sums, Body body) {
#pragma unroll
  for (int i = 0; i < WARP_ROWS / 16; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < WARP_COLUMNS / 8; ++j) {
        const int row = first_row_of_warp_tile() + 16 * i + 8 * half + lane_index() / 4;
        const int column = first_column_of_warp_tile() + 8 * j + lane_index() % 4 * 2;
        body(row, column, sums.at[i][j][2 * half], sums.at[i][j][2 * half + 1]);
      }
    }
  }
}
