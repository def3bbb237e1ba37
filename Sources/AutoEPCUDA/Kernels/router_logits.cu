// logits [T,E] = x [T,H] times the transpose of router [E,H].
//   -DELEMENT: see element.cuh;  -DALIGNED: see chunk.cuh
//   -DCOLUMNS=16|32|64|128: experts per block
// Grid: along x, blocks of the same tokens and successive experts are adjacent, so that the tokens
// are read from memory once. Shared memory: STAGES stages of x and router.
//
// A block computes 32 tokens; a warp's tile has these tokens and up to 64 experts. There are few
// such tiles and H is long, so 8 warps (4 for 128 experts) share each tile: in each step along the
// depth, a warp computes two chunks of 16 bytes, and the warps' sums are added in pairs at the end.
// The order of the sums does not depend on a token's position. f32 uses plain multiply-adds, never
// TF32.

#include "chunk.cuh"
#include "element.cuh"
#include "host_and_device.h"
#include "instructions.cuh"
#include "warp.cuh"

constexpr int ROWS = ROUTER_ROWS;
constexpr int TILE_COLUMNS = router_tile_columns(COLUMNS);
constexpr int DEPTH_GROUPS = router_depth_groups(COLUMNS);
constexpr int THREADS = ROUTER_WARPS * WARP;

constexpr int GROUP_CHUNKS = ROUTER_GROUP_CHUNKS;
constexpr int STEP_CHUNKS = DEPTH_GROUPS * GROUP_CHUNKS;
constexpr int STEP_DEPTH = STEP_CHUNKS * CHUNK;
constexpr int STAGE_CHUNKS = router_stage_chunks(COLUMNS);
constexpr int STAGES = router_stages(COLUMNS);

extern __shared__ __align__(16) unsigned char shared_memory[];

// A lane's sums of a warp's tile:
//   bf16, f16  [2][TILE_COLUMNS / 8][4]: as in multiply_halves, for 16 rows and 8 columns
//   f32        [8][TILE_COLUMNS / 8]: row lane / 8 + 4i, column lane % 8 + 8j
struct Sums {
  float at[TILE_COLUMNS / 4][4];
};

// The position in a stage of a chunk of an outer index (a token or an expert). The same chunk of
// eight successive outer indices lies in different banks, and so do eight chunks of one outer
// index.
__device__ __forceinline__ int place(int outer, int chunk) {
  return outer * STEP_CHUNKS + (chunk ^ (outer % 8));
}
// The distance to the same chunk of outer index + 8.
constexpr int NEXT_8 = 8 * STEP_CHUNKS;

// Starts to load one step of OUTER rows in memory, of which `count` exist.
template <int OUTER>
__device__ __forceinline__ void load_part(Chunk* part, const Element* base, int count, i64 depth,
                                          i64 first_depth) {
  constexpr int AT_ONCE = THREADS / STEP_CHUNKS;
  const int outer = threadIdx.x / STEP_CHUNKS, chunk = threadIdx.x % STEP_CHUNKS;
  const i64 at = first_depth + chunk * CHUNK;
  const int valid = int(min(depth - at, i64(CHUNK)));
  part += place(outer, chunk);
  const Element* source = base + outer * depth + at;
#pragma unroll
  for (int first = 0; first < OUTER; first += AT_ONCE) {
    if (AT_ONCE > OUTER && outer >= OUTER) break;
    load_chunk(part + first / 8 * NEXT_8, source + first * depth, base,
               first + outer < count ? valid : 0);
  }
}

// A warp's position in its block.
struct Place {
  // Its tile, and the tile's first column.
  int tile, column;
  // Its part of each step.
  int group;
};

__device__ __forceinline__ Place place_of_warp() {
  const int tile = warp_index() / DEPTH_GROUPS;
  return {tile, tile * TILE_COLUMNS, warp_index() % DEPTH_GROUPS};
}

#if ELEMENT == TYPE_F32

// The position in the tile of a lane's first sum.
__device__ __forceinline__ int row_of_lane() { return lane_index() / 8; }
__device__ __forceinline__ int column_of_lane() { return lane_index() % 8; }

__device__ __forceinline__ float& sum_at(Sums& sums, int i, int j) {
  const int index = i * (TILE_COLUMNS / 8) + j;
  return sums.at[index / 4][index % 4];
}

// sums += the product of this warp's part of a step.
__device__ __forceinline__ void multiply_step(Sums& sums, const Chunk* x, const Chunk* router,
                                              const Place& own) {
  const int row = row_of_lane(), column = own.column + column_of_lane();
#pragma unroll 1  // The chunks of two rounds would not fit in registers.
  for (int k = 0; k < GROUP_CHUNKS; ++k) {
    const int chunk = own.group * GROUP_CHUNKS + k;
    Chunk a[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) a[i] = x[place(row + i % 2 * 4, chunk) + i / 2 * NEXT_8];
#pragma unroll
    for (int j = 0; j < TILE_COLUMNS / 8; ++j) {
      Chunk b = router[place(column, chunk) + j * NEXT_8];
#pragma unroll
      for (int depth = 0; depth < CHUNK; ++depth) {
#pragma unroll
        for (int i = 0; i < 8; ++i)
          sum_at(sums, i, j) = fmaf(a[i].at[depth], b.at[depth], sum_at(sums, i, j));
      }
    }
  }
}

// Calls body(row, column, sum) for this lane's sums, with rows and columns relative to its first
// sum.
template <typename Body>
__device__ __forceinline__ void for_each_sum(Sums& sums, Body body) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int j = 0; j < TILE_COLUMNS / 8; ++j) body(4 * i, 8 * j, sum_at(sums, i, j));
  }
}

#else

__device__ __forceinline__ int row_of_lane() { return lane_index() / 4; }
__device__ __forceinline__ int column_of_lane() { return lane_index() % 4 * 2; }

// The position that this lane passes to load_matrices for four adjacent 8x8 blocks, two along outer
// and two along depth. With OUTER_FIRST, block 1 is the next one along outer, as operand A needs
// it; otherwise along depth, as B does.
template <bool OUTER_FIRST>
__device__ __forceinline__ int place_of_lane(int outer, int chunk) {
  const int block = lane_index() / 8, row = lane_index() % 8;
  outer += 8 * (OUTER_FIRST ? block % 2 : block / 2);
  chunk += OUTER_FIRST ? block / 2 : block % 2;
  return place(outer + row, chunk);
}

__device__ __forceinline__ void multiply_step(Sums& sums, const Chunk* x, const Chunk* router,
                                              const Place& own) {
  const int chunk = own.group * GROUP_CHUNKS;
  x += place_of_lane<true>(0, chunk);
  router += place_of_lane<false>(own.column, chunk);
  u32 a[2][4];
#pragma unroll
  for (int i = 0; i < 2; ++i) load_matrices(a[i], x + 2 * i * NEXT_8);
#pragma unroll
  for (int j = 0; j < TILE_COLUMNS / 8; j += 2) {
    u32 b[4];
    load_matrices(b, router + j * NEXT_8);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      multiply_halves(sums.at[i * (TILE_COLUMNS / 8) + j], a[i], b[0], b[1]);
      multiply_halves(sums.at[i * (TILE_COLUMNS / 8) + j + 1], a[i], b[2], b[3]);
    }
  }
}

template <typename Body>
__device__ __forceinline__ void for_each_sum(Sums& sums, Body body) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < TILE_COLUMNS / 8; ++j) {
#pragma unroll
      for (int part = 0; part < 4; ++part)
        body(16 * i + part / 2 * 8, 8 * j + part % 2, sums.at[i * (TILE_COLUMNS / 8) + j][part]);
    }
  }
}

#endif

// Adds the sums of the warps that share a tile to the sums of group 0.
__device__ __forceinline__ void add_groups(Sums& sums, const Place& own) {
  float* parts = reinterpret_cast<float*>(shared_memory);
#pragma unroll
  for (int half = DEPTH_GROUPS / 2; half > 0; half /= 2) {
    const int giver = own.tile * (DEPTH_GROUPS / 2) + own.group % half;
    float* part = parts + giver * TILE_COLUMNS * WARP + lane_index();
    // Other threads may still read the previous values.
    __syncthreads();
    if (own.group >= half && own.group < 2 * half) {
#pragma unroll
      for (int i = 0; i < TILE_COLUMNS; ++i) part[i * WARP] = sums.at[i / 4][i % 4];
    }
    __syncthreads();
    if (own.group < half) {
#pragma unroll
      for (int i = 0; i < TILE_COLUMNS; ++i) sums.at[i / 4][i % 4] += part[i * WARP];
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    router_logits(const Element* __restrict__ x, const Element* __restrict__ router,
                  Element* __restrict__ logits, i64 num_tokens, int num_experts, i64 depth) {
  const int num_column_blocks = (num_experts + COLUMNS - 1) / COLUMNS;
  const i64 first_token = i64(blockIdx.x / num_column_blocks) * ROWS;
  const int first_expert = int(blockIdx.x % num_column_blocks) * COLUMNS;
  int tokens = int(min(num_tokens - first_token, i64(ROWS)));
  int experts = min(num_experts - first_expert, COLUMNS);
  x += first_token * depth;
  router += first_expert * depth;

  Chunk* stages = reinterpret_cast<Chunk*>(shared_memory);
  const int num_steps = int((depth + STEP_DEPTH - 1) / STEP_DEPTH);
  auto load = [&](int step) {
    if (step < num_steps) {
      Chunk* stage = stages + step % STAGES * STAGE_CHUNKS;
      const i64 first_depth = i64(step) * STEP_DEPTH;
      load_part<ROWS>(stage, x, tokens, depth, first_depth);
      load_part<COLUMNS>(stage + ROWS * STEP_CHUNKS, router, experts, depth, first_depth);
    }
    // Commits an empty batch too, so that the waits at the end count correctly.
    commit_copies();
  };
  const Place own = place_of_warp();
  Sums sums = {};
  for (int step = 0; step < STAGES - 1; ++step) load(step);
  for (int step = 0; step < num_steps; ++step) {
    wait_for_copies<STAGES - 2>();
    // This step's stage has now arrived for all threads, and the stage filled next is free.
    __syncthreads();
    load(step + STAGES - 1);
    const Chunk* stage = stages + step % STAGES * STAGE_CHUNKS;
    multiply_step(sums, stage, stage + ROWS * STEP_CHUNKS, own);
  }
  wait_for_copies<0>();
  add_groups(sums, own);
  if (own.group != 0) return;
  const int first_row = row_of_lane(), first_column = own.column + column_of_lane();
  tokens -= first_row;
  experts -= first_column;
  logits += (first_token + first_row) * num_experts + first_expert + first_column;
  for_each_sum(sums, [&](int row, int column, float sum) {
    if (row < tokens && column < experts) logits[row * num_experts + column] = rounded(sum);
  });
}
