// logits [T,E] = x [T,H] times the transpose of router [E,H].
//   -DELEMENT: see element.cuh;  -DALIGNED: see chunk.cuh
//   -DCOLUMNS=16|32|64|128  experts a block takes
// Grid: x takes the tokens; those blocks follow each other that take the experts of the same tokens, so that
// x comes from memory once. Shared memory: STAGES stages of x and router.
//
// A block takes 32 tokens; a warp takes these and up to 64 experts. There are few such tiles and x is long,
// so 8 warps (4 for 128 experts) share each: of a step along the depth a warp takes two chunks of 16 bytes,
// and the warps' sums are added in pairs at the end. That order is the same wherever a token stands. f32 is
// multiplied and added plainly, never as TF32.

#include "chunk.cuh"
#include "element.cuh"
#include "instructions.cuh"

constexpr int ROWS = 32;
constexpr int TILE_COLUMNS = COLUMNS < 64 ? COLUMNS : 64;
constexpr int TILES_ABREAST = COLUMNS / TILE_COLUMNS;
constexpr int DEPTH_GROUPS = 8 / TILES_ABREAST;
constexpr int THREADS = TILES_ABREAST * DEPTH_GROUPS * WARP;

constexpr int GROUP_CHUNKS = 2;
constexpr int STEP_CHUNKS = DEPTH_GROUPS * GROUP_CHUNKS;
constexpr int STEP_DEPTH = STEP_CHUNKS * CHUNK;
constexpr int STAGE_CHUNKS = (ROWS + COLUMNS) * STEP_CHUNKS;
// What every device since sm_80 gives a block.
constexpr int MOST_SHARED_BYTES = 96 * 1024;
constexpr int MOST_STAGES = MOST_SHARED_BYTES / (STAGE_CHUNKS * sizeof(Chunk));
constexpr int STAGES = MOST_STAGES < 6 ? MOST_STAGES : 6;

extern __shared__ __align__(16) unsigned char shared_memory[];

// A lane's sums of a warp's tile, i * TILE_COLUMNS / 8 + j running over the first index of
//   halves  [2][TILE_COLUMNS / 8][4]: as multiply_halves has them of 16 rows and 8 columns
//   f32     [8][TILE_COLUMNS / 8]: row lane / 8 + 4i, column lane % 8 + 8j
struct Sums {
  float at[TILE_COLUMNS / 4][4];
};

// Where a stage keeps a chunk of an outer index (a token or an expert): eight outer indices that follow each
// other have it in different banks, as have eight chunks of one outer index.
__device__ __forceinline__ int place(int outer, int chunk) {
  return outer * STEP_CHUNKS + (chunk ^ (outer % 8));
}
// From there to the same chunk of the outer index 8 further on.
constexpr int NEXT_8 = 8 * STEP_CHUNKS;

// Starts to bring a step of OUTER rows in memory, of which `count` are there.
template <int OUTER>
__device__ __forceinline__ void load_part(Chunk* part, const Element* base, int count, long long depth,
                                          long long first_depth) {
  constexpr int AT_ONCE = THREADS / STEP_CHUNKS;
  int outer = threadIdx.x / STEP_CHUNKS, chunk = threadIdx.x % STEP_CHUNKS;
  long long at = first_depth + chunk * CHUNK;
  int valid = static_cast<int>(min(depth - at, static_cast<long long>(CHUNK)));
  part += place(outer, chunk);
  const Element* source = base + outer * depth + at;
#pragma unroll
  for (int first = 0; first < OUTER; first += AT_ONCE) {
    if (AT_ONCE > OUTER && outer >= OUTER) break;
    load_chunk(part + first / 8 * NEXT_8, source + first * depth, base,
               first + outer < count ? valid : 0);
  }
}

// A warp's place in its block.
struct Place {
  // Of its tile: which one, and its first column.
  int tile, column;
  // Which part of each step is its own.
  int group;
};

__device__ __forceinline__ Place place_of_warp() {
  int tile = warp_index() / DEPTH_GROUPS;
  return {tile, tile * TILE_COLUMNS, warp_index() % DEPTH_GROUPS};
}

#if ELEMENT == 1

// Where a lane's first sum is in the tile.
__device__ __forceinline__ int row_of_lane() { return lane_index() / 8; }
__device__ __forceinline__ int column_of_lane() { return lane_index() % 8; }

__device__ __forceinline__ float& sum_at(Sums& sums, int i, int j) {
  int index = i * (TILE_COLUMNS / 8) + j;
  return sums.at[index / 4][index % 4];
}

// sums += the product of this warp's part of a step.
__device__ __forceinline__ void multiply_step(Sums& sums, const Chunk* x, const Chunk* router,
                                              const Place& own) {
  int row = row_of_lane(), column = own.column + column_of_lane();
#pragma unroll 1  // Chunks of two rounds would not stay in registers.
  for (int k = 0; k < GROUP_CHUNKS; k++) {
    int chunk = own.group * GROUP_CHUNKS + k;
    Chunk a[8];
#pragma unroll
    for (int i = 0; i < 8; i++) a[i] = x[place(row + i % 2 * 4, chunk) + i / 2 * NEXT_8];
#pragma unroll
    for (int j = 0; j < TILE_COLUMNS / 8; j++) {
      Chunk b = router[place(column, chunk) + j * NEXT_8];
#pragma unroll
      for (int depth = 0; depth < CHUNK; depth++) {
#pragma unroll
        for (int i = 0; i < 8; i++)
          sum_at(sums, i, j) = fmaf(a[i].at[depth], b.at[depth], sum_at(sums, i, j));
      }
    }
  }
}

// Calls body(row, column, sum) for this lane's sums, whose rows and columns count from its own first.
template <typename Body>
__device__ __forceinline__ void for_each_sum(Sums& sums, Body body) {
#pragma unroll
  for (int i = 0; i < 8; i++) {
#pragma unroll
    for (int j = 0; j < TILE_COLUMNS / 8; j++)
      body(4 * i, 8 * j, sum_at(sums, i, j));
  }
}

#else

__device__ __forceinline__ int row_of_lane() { return lane_index() / 4; }
__device__ __forceinline__ int column_of_lane() { return lane_index() % 4 * 2; }

// Where this lane reads for load_matrices four 8x8 blocks: two next to each other along outer, two along depth.
// OUTER_FIRST tells whether block 1 is the next along outer, as A wants it, or along depth, as B does.
template <bool OUTER_FIRST>
__device__ __forceinline__ int place_of_lane(int outer, int chunk) {
  int block = lane_index() / 8, row = lane_index() % 8;
  outer += 8 * (OUTER_FIRST ? block % 2 : block / 2);
  chunk += OUTER_FIRST ? block / 2 : block % 2;
  return place(outer + row, chunk);
}

__device__ __forceinline__ void multiply_step(Sums& sums, const Chunk* x, const Chunk* router,
                                              const Place& own) {
  int chunk = own.group * GROUP_CHUNKS;
  x += place_of_lane<true>(0, chunk);
  router += place_of_lane<false>(own.column, chunk);
  unsigned a[2][4];
#pragma unroll
  for (int i = 0; i < 2; i++) load_matrices(a[i], x + 2 * i * NEXT_8);
#pragma unroll
  for (int j = 0; j < TILE_COLUMNS / 8; j += 2) {
    unsigned b[4];
    load_matrices(b, router + j * NEXT_8);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      multiply_halves(sums.at[i * (TILE_COLUMNS / 8) + j], a[i], b[0], b[1]);
      multiply_halves(sums.at[i * (TILE_COLUMNS / 8) + j + 1], a[i], b[2], b[3]);
    }
  }
}

template <typename Body>
__device__ __forceinline__ void for_each_sum(Sums& sums, Body body) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
#pragma unroll
    for (int j = 0; j < TILE_COLUMNS / 8; j++) {
#pragma unroll
      for (int part = 0; part < 4; part++)
        body(16 * i + part / 2 * 8, 8 * j + part % 2, sums.at[i * (TILE_COLUMNS / 8) + j][part]);
    }
  }
}

#endif

// Adds up the sums of the warps that share a tile, into those of its group 0.
__device__ __forceinline__ void add_groups(Sums& sums, const Place& own) {
  float* parts = reinterpret_cast<float*>(shared_memory);
#pragma unroll
  for (int half = DEPTH_GROUPS / 2; half > 0; half /= 2) {
    int giver = own.tile * (DEPTH_GROUPS / 2) + own.group % half;
    float* part = parts + giver * TILE_COLUMNS * WARP + lane_index();
    // What is there may still be read.
    __syncthreads();
    if (own.group >= half && own.group < 2 * half) {
#pragma unroll
      for (int i = 0; i < TILE_COLUMNS; i++) part[i * WARP] = sums.at[i / 4][i % 4];
    }
    __syncthreads();
    if (own.group < half) {
#pragma unroll
      for (int i = 0; i < TILE_COLUMNS; i++) sums.at[i / 4][i % 4] += part[i * WARP];
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
router_logits(const Element* __restrict__ x, const Element* __restrict__ router,
              Element* __restrict__ logits, long long num_tokens, int num_experts,
              long long depth) {
  int num_column_blocks = (num_experts + COLUMNS - 1) / COLUMNS;
  long long first_token = static_cast<long long>(blockIdx.x / num_column_blocks) * ROWS;
  int first_expert = static_cast<int>(blockIdx.x % num_column_blocks) * COLUMNS;
  int tokens = static_cast<int>(min(num_tokens - first_token, static_cast<long long>(ROWS)));
  int experts = min(num_experts - first_expert, COLUMNS);
  x += first_token * depth;
  router += first_expert * depth;

  Chunk* stages = reinterpret_cast<Chunk*>(shared_memory);
  int num_steps = static_cast<int>((depth + STEP_DEPTH - 1) / STEP_DEPTH);
  auto load = [&](int step) {
    if (step < num_steps) {
      Chunk* stage = stages + step % STAGES * STAGE_CHUNKS;
      long long first_depth = static_cast<long long>(step) * STEP_DEPTH;
      load_part<ROWS>(stage, x, tokens, depth, first_depth);
      load_part<COLUMNS>(stage + ROWS * STEP_CHUNKS, router, experts, depth, first_depth);
    }
    // An empty batch too, so that a wait counts the same at the end.
    commit_copies();
  };
  Place own = place_of_warp();
  Sums sums = {};
  for (int step = 0; step < STAGES - 1; step++) load(step);
  for (int step = 0; step < num_steps; step++) {
    wait_for_copies<STAGES - 2>();
    // This step's stage is there for all threads, and the one that is filled next is free.
    __syncthreads();
    load(step + STAGES - 1);
    const Chunk* stage = stages + step % STAGES * STAGE_CHUNKS;
    multiply_step(sums, stage, stage + ROWS * STEP_CHUNKS, own);
  }
  wait_for_copies<0>();
  add_groups(sums, own);
  if (own.group != 0) return;
  int first_row = row_of_lane(), first_column = own.column + column_of_lane();
  tokens -= first_row;
  experts -= first_column;
  logits += (first_token + first_row) * num_experts + first_expert + first_column;
  for_each_sum(sums, [&](int row, int column, float sum) {
    if (row < tokens && column < experts) logits[row * num_experts + column] = rounded(sum);
  });
}
