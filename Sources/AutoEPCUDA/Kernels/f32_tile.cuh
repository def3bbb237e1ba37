// A tile of a matrix product in f32 with plain multiply-adds (never TF32), computed by a block of
// 256 threads. Used for f32 models and tests; has the interface of tensor_core_tile.cuh.
//
// A thread computes 4 x 4 elements: rows 16 apart, and pairs of columns 32 apart. It adds partial
// sums of 16 depths each, which round less than one long sum.

#pragma once

#include "host_and_device.h"
#include "operand.cuh"

constexpr int TILE = F32_TILE;
constexpr int TILE_DEPTH = F32_TILE_DEPTH;
constexpr int TILE_THREADS = 256;
constexpr int TILE_BLOCKS_PER_SM = 2;

constexpr int SIDE = 4;
constexpr int PITCH = F32_TILE_PITCH;

// A part of operand A, then one of operand B: F32_TILE_SHARED_BYTES bytes.
extern __shared__ __align__(16) unsigned char shared_memory[];

struct TileSums {
  float at[SIDE][SIDE];
};

__device__ __forceinline__ int tile_row(int i) { return threadIdx.x / 16 + 16 * i; }
__device__ __forceinline__ int tile_column(int j) {
  return threadIdx.x % 16 * 2 + j % 2 + 32 * (j / 2);
}

// Loads the part of an operand that starts at `first_depth`.
template <Order ORDER>
__device__ __forceinline__ void load_part(float* part, const Operand<ORDER>& operand,
                                          i64 first_depth) {
#pragma unroll
  for (int i = 0; i < TILE * TILE_DEPTH / TILE_THREADS; ++i) {
    const int index = i * TILE_THREADS + threadIdx.x;
    constexpr bool BY_DEPTH = ORDER == DEPTH_CONTIGUOUS;
    const int outer = BY_DEPTH ? index / TILE_DEPTH : index % TILE;
    const int depth = BY_DEPTH ? index % TILE_DEPTH : index / TILE;
    const bool is_there = outer < operand.outer && first_depth + depth < operand.depth;
    part[depth * PITCH + outer] = is_there ? *operand.at(outer, first_depth + depth) : 0.0f;
  }
}

// The product of two operands; called by all threads of the block.
template <Order A, Order B>
__device__ __forceinline__ TileSums multiply_tile(const Operand<A>& a, const Operand<B>& b) {
  float* a_part = reinterpret_cast<float*>(shared_memory);
  float* b_part = a_part + TILE_DEPTH * PITCH;
  TileSums sums = {};
  for (i64 first = 0; first < a.depth; first += TILE_DEPTH) {
    // Other threads may still read the previous parts.
    __syncthreads();
    load_part(a_part, a, first);
    load_part(b_part, b, first);
    __syncthreads();
    TileSums part = {};
#pragma unroll
    for (int depth = 0; depth < TILE_DEPTH; ++depth) {
#pragma unroll
      for (int i = 0; i < SIDE; ++i) {
#pragma unroll
        for (int j = 0; j < SIDE; ++j)
          part.at[i][j] +=
              a_part[depth * PITCH + tile_row(i)] * b_part[depth * PITCH + tile_column(j)];
      }
    }
#pragma unroll
    for (int i = 0; i < SIDE; ++i) {
#pragma unroll
      for (int j = 0; j < SIDE; ++j) sums.at[i][j] += part.at[i][j];
    }
  }
  return sums;
}

// Calls body(row, column, sum, sum of column + 1) for each of this thread's elements of the tile.
template <typename Body>
__device__ __forceinline__ void for_each_pair(const TileSums& sums, Body body) {
#pragma unroll
  for (int i = 0; i < SIDE; ++i) {
#pragma unroll
    for (int j = 0; j < SIDE; j += 2)
      body(tile_row(i), tile_column(j), sums.at[i][j], sums.at[i][j + 1]);
  }
}
