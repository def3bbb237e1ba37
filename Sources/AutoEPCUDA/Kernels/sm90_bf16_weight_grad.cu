// For each expert, grad [M, N] = sum over its rows r of a[r] (x) b[r]; bf16, sums in f32. Empty experts
// get zeros.
//
// Chosen at compile time: STAGES, STAGING_CHUNKS, OUTPUT (0: bf16, 1: f32, 2: added to f32). One of the
// factors may be written meanwhile: see sm90_rows_ahead.cuh.

#include "sm90_instructions.cuh"
#include "sm90_rows_ahead.cuh"
#include "sm90_schedule.cuh"
#include "sm90_tile.cuh"
#include "sm90_tiles.cuh"

struct Arguments {
  const TensorMap& a;         // [rows, M], boxes of 64 columns and 64 rows
  const TensorMap& b;         // [rows, N], the same
  const TensorMap& out;       // [E, M, N], boxes of 64 columns and 16 rows; bf16 output only
  float* floats;              // [E, M, N]; f32 output only
  const int* expert_offsets;  // [E + 1]
  int experts;                // E
  int m;
  int n;
  int m_pairs;  // of 2 TILE_M
  int n_tiles;
  const RowsAhead& ahead;  // of a or of b
};

struct Unit {
  int expert;
  int m;  // the cluster's first row of the output
  int n;
  int row;   // the expert's first row
  int rows;  // and how many it has
};

// The unit of a number; n is -1 past the last.
__device__ __forceinline__ Unit unit_at(const Arguments& arguments, int index) {
  const int per_expert = arguments.m_pairs * arguments.n_tiles;
  const int expert = index / per_expert;
  if (expert >= arguments.experts) return {0, 0, -1, 0, 0};
  const int inside = index - expert * per_expert;
  const int group = inside / (RASTER * arguments.n_tiles);
  const int rest = inside - group * RASTER * arguments.n_tiles;
  const int height = min(RASTER, arguments.m_pairs - group * RASTER);
  const int row = arguments.expert_offsets[expert];
  return {expert, (group * RASTER + rest % height) * CLUSTER * TILE_M, rest / height * TILE_N, row,
          arguments.expert_offsets[expert + 1] - row};
}

// One thread feeds the stages with `count` rows of a unit from `row` on. The cluster's tiles stand above
// one another: each block loads half of the columns of b for both.
__device__ __forceinline__ void feed(const Arguments& arguments, const Layout& layout,
                                     const Unit& unit, int row, int count, Ring& ring) {
  const u32 rank = cluster_rank();
  for (const int end = row + count; row < end; row += TILE_K, ring.advance()) {
    const u32 barrier = layout.full(ring.stage);
    barrier_wait(layout.empty(ring.stage), ring.parity ^ 1);
    barrier_expect_bytes(barrier, STAGE_BYTES);
    for (int box = 0; box < TILE_M / 64; ++box) {
      load_box(layout.a(ring.stage) + box * BLOCK_BYTES, &arguments.a, barrier,
               unit.m + rank * TILE_M + box * 64, row);
    }
    for (int i = 0; i < TILE_N / 128; ++i) {
      const int box = rank * (TILE_N / 128) + i;
      load_box_for_both(layout.b(ring.stage) + box * BLOCK_BYTES, &arguments.b, barrier,
                        unit.n + box * 64, row);
    }
  }
}

// A warp feeds them with all units, as their rows come.
__device__ __forceinline__ void produce(const Arguments& arguments, const Layout& layout) {
  static_assert(READY_ROWS % TILE_K == 0, "stages of rows that are told of together");
  Ring ring;
  ReadyRows ready(arguments.ahead);
  Schedule<Unit, Arguments> schedule(arguments);
  Unit unit;
  while (schedule.take(unit)) {
    for (int at = 0; at < unit.rows; at += READY_ROWS) {
      const int count = min(READY_ROWS, unit.rows - at);
      ready.wait(unit.row + at, count);
      if (threadIdx.x == 0) feed(arguments, layout, unit, unit.row + at, count, ring);
      __syncwarp();
    }
  }
  ready.end_reading();
}

// Makes the rows of a stage from `valid` on zero: they are another expert's.
__device__ __forceinline__ void clear_rows(u32 stage, int valid) {
  // A thread keeps to its 16 bytes of a line of all blocks.
  constexpr int across = 8 * (STAGE_BYTES / BLOCK_BYTES);
  constexpr int lines = 128 * CONSUMERS / across;  // at once
  const int thread = threadIdx.x - 128;
  const u32 place = stage + thread % across / 8 * BLOCK_BYTES + thread % 8 * 16;
  if (thread < lines * across) {
    for (int line = valid + thread / across; line < TILE_K; line += lines) {
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(place + line * 128), "r"(0)
                   : "memory");
    }
  }
  fence_async_proxy();
  asm volatile("bar.sync 1, %0;" ::"n"(128 * CONSUMERS) : "memory");
}

// 64 columns as f32, two neighbours a lane: whole sectors without a detour.
__device__ __forceinline__ void write_floats(float* matrix, int columns, const Slab& slab,
                                             int column, const float* values) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    const int row = lane / 4 + 8 * lower;
    if (row >= slab.rows) continue;
    float2* line = reinterpret_cast<float2*>(matrix + (long long)(slab.row + row) * columns +
                                             column + 2 * (lane % 4));
#pragma unroll
    for (int group = 0; group < 8; ++group) {
      if (column + 8 * group >= columns) break;
      float2 value = {values[4 * group + 2 * lower], values[4 * group + 2 * lower + 1]};
      if (OUTPUT == 2) {
        const float2 before = line[4 * group];
        value.x += before.x;
        value.y += before.y;
      }
      line[4 * group] = value;
    }
  }
}

// Writes a warp's 16 rows of 256 columns.
__device__ __forceinline__ void finish(const Arguments& arguments, const Layout& layout,
                                       const Slab& slab, float (&sums)[128]) {
  wait_sent<0>();
#pragma unroll
  for (int chunk = 0; chunk < TILE_N / CHUNK_N; ++chunk) {
    const int column = slab.column + chunk * CHUNK_N;
    if (column >= arguments.n) break;
    if (OUTPUT == 0) {
      const u32 place = layout.chunk(slab.warp, chunk % STAGING_CHUNKS);
      wait_sent<STAGING_CHUNKS - 1>();
      put_chunk(place, sums + chunk * 32);
      seal_chunks();
      if ((threadIdx.x & 31) == 0) {
        store_box(&arguments.out, place, column, slab.row, slab.expert);
      }
      stores_commit();
    } else {
      write_floats(arguments.floats + (long long)slab.expert * arguments.m * arguments.n,
                   arguments.n, slab, column, sums + chunk * 32);
    }
  }
}

__device__ __forceinline__ void consume(const Arguments& arguments, const Layout& layout) {
  const int warp = threadIdx.x / 32 - 4;
  const int group = warp / 4;
  const u32 rank = cluster_rank();
  Ring ring;
  float sums[128];
  products_define(sums);
  Schedule<Unit, Arguments> schedule(arguments);
  Unit unit;
  while (schedule.take(unit)) {
    if (unit.rows == 0) clear(sums);
    for (int at = 0; at < unit.rows; at += TILE_K, ring.advance()) {
      barrier_wait(layout.full(ring.stage), ring.parity);
      if (unit.rows - at < TILE_K) clear_rows(layout.a(ring.stage), unit.rows - at);
      multiply_stage<1, 1>(sums, layout.a(ring.stage) + group * BLOCK_BYTES, layout.b(ring.stage),
                           at == 0);
      products_wait<1>();
      if (at > 0) release(layout, (ring.stage + STAGES - 1) % STAGES);
    }
    products_wait_all(sums);
    if (unit.rows > 0) release(layout, (ring.stage + STAGES - 1) % STAGES);
    const int row = unit.m + rank * TILE_M + warp * SLAB_M;
    finish(arguments, layout, {warp, row, arguments.m - row, unit.expert, unit.n}, sums);
  }
}

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    sm90_bf16_weight_grad(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                          const __grid_constant__ TensorMap out, float* floats,
                          const int* expert_offsets, int experts, int m, int n,
                          const __grid_constant__ RowsAhead ahead) {
  extern __shared__ unsigned char shared[];
  const Layout layout(shared);
  const Arguments arguments = {a, b, out, floats, expert_offsets, experts, m, n,
                               (m + CLUSTER * TILE_M - 1) / (CLUSTER * TILE_M),
                               (n + TILE_N - 1) / TILE_N, ahead};
  if (threadIdx.x == 0) ReadyRows::begin_reading();
  init_barriers(layout);
  if (threadIdx.x < 128) {
    registers_give<88>();
    if (threadIdx.x < 32) {
      produce(arguments, layout);
    } else {
      write_rows(ahead);
    }
  } else {
    registers_take<208>();
    consume(arguments, layout);
    wait_sent<0>();
  }
  // Neither block may end while the other still writes to it.
  cluster_sync();
}
