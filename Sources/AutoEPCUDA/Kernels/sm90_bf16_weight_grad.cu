// For each expert, grad [M, N] = the sum over its rows r of a[r] (x) b[r]; bf16, with sums in f32.
// Experts without rows get zeros.
//   -DSTAGES, -DSTAGING_CHUNKS: see sm90_pipeline.cuh
//   -DOUTPUT=GRADIENT_...: how grad is written
//   -DROWS=ROWS_...: the source of the rows of a or of b; those of the other factor are in place

#include "host_and_device.h"
#include "sm90_instructions.cuh"
#include "sm90_pipeline.cuh"
#include "sm90_row_source.cuh"
#include "sm90_rows_ahead.cuh"
#include "sm90_schedule.cuh"
#include "warp.cuh"

struct Work {
  struct Unit {
    int expert;
    int m;     // the cluster's first row of the output
    int n;     // the cluster's first column; -1 past the last unit
    int row;   // the expert's first row
    int rows;  // the number of its rows
  };

  const TensorMap& a;         // [rows, M], boxes of 64 columns and 64 rows
  const TensorMap& b;         // [rows, N], likewise
  const TensorMap& out;       // [E, M, N], boxes of 64 columns and 16 rows; bf16 output only
  float* floats;              // [E, M, N]; f32 output only
  const int* expert_offsets;  // [E + 1]
  int experts;                // E
  int m;                      // M
  int n;                      // N
  int m_pairs;                // of 2 TILE_M rows
  int n_tiles;

  __device__ __forceinline__ Unit unit_at(int index) const {
    const int per_expert = m_pairs * n_tiles;
    const int expert = index / per_expert;
    if (expert >= experts) return {0, 0, -1, 0, 0};
    const int inside = index - expert * per_expert;
    const int group = inside / (RASTER * n_tiles);
    const int rest = inside - group * RASTER * n_tiles;
    const int height = min(RASTER, m_pairs - group * RASTER);
    const int row = expert_offsets[expert];
    return {expert, (group * RASTER + rest % height) * CLUSTER * TILE_M, rest / height * TILE_N,
            row, expert_offsets[expert + 1] - row};
  }
};

// One thread loads the stages of `count` rows of a unit, starting at `row`. The cluster's tiles are
// stacked vertically: each block loads half of the columns of b for both.
__device__ __forceinline__ void feed(const Work& work, const Layout& layout, const Work::Unit& unit,
                                     int row, int count, Ring& ring) {
  const u32 rank = cluster_rank();
  for (const int end = row + count; row < end; row += TILE_K, ring.advance()) {
    const u32 barrier = layout.full(ring.stage);
    barrier_wait(layout.empty(ring.stage), ring.parity ^ 1);
    barrier_expect_bytes(barrier, STAGE_BYTES);
    for (int box = 0; box < TILE_M / BOX; ++box) {
      load_box(layout.a(ring.stage) + box * BOX_BYTES, &work.a, barrier,
               unit.m + rank * TILE_M + box * BOX, row);
    }
    for (int i = 0; i < TILE_N / BOX / CLUSTER; ++i) {
      const int box = rank * (TILE_N / BOX / CLUSTER) + i;
      load_box_for_both(layout.b(ring.stage) + box * BOX_BYTES, &work.b, barrier,
                        unit.n + box * BOX, row);
    }
  }
}

// The producer warp loads the stages of all units, as their rows become ready.
template <typename Rows>
__device__ __forceinline__ void produce(const Work& work, const Layout& layout,
                                        const typename Rows::Arguments& rows) {
  static_assert(READY_ROWS % TILE_K == 0, "a stage has rows of one counter");
  Ring ring;
  typename Rows::Reader reader(rows);
  Schedule<Work> schedule(work);
  Work::Unit unit;
  while (schedule.take(unit)) {
    for (int at = 0; at < unit.rows; at += READY_ROWS) {
      const int count = min(READY_ROWS, unit.rows - at);
      reader.wait(unit.row + at, count);
      if (threadIdx.x == 0) feed(work, layout, unit, unit.row + at, count, ring);
      __syncwarp();
    }
  }
  reader.end();
}

// Zeroes the rows of a stage from `valid` on, which belong to another expert.
__device__ __forceinline__ void clear_rows(u32 stage, int valid) {
  // A thread zeroes the same 16 bytes of successive lines of one box.
  constexpr int across = 8 * (STAGE_BYTES / BOX_BYTES);
  constexpr int lines = 128 * CONSUMERS / across;  // at once
  const int thread = threadIdx.x - 128;
  const u32 place = stage + thread % across / 8 * BOX_BYTES + thread % 8 * 16;
  if (thread < lines * across) {
    for (int line = valid + thread / across; line < TILE_K; line += lines) {
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(place + line * 128), "r"(0)
                   : "memory");
    }
  }
  fence_async_proxy();
  asm volatile("bar.sync 1, %0;" ::"n"(128 * CONSUMERS) : "memory");
}

// Writes 64 columns as f32, two adjacent ones per lane. These are whole sectors, so no staging is
// needed.
__device__ __forceinline__ void write_floats(float* matrix, int columns, const Slab& slab,
                                             int column, const float* values) {
  const int lane = lane_index();
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    const int row = lane / 4 + 8 * lower;
    if (row >= slab.rows) continue;
    float2* line =
        reinterpret_cast<float2*>(matrix + i64(slab.row + row) * columns + column + 2 * (lane % 4));
#pragma unroll
    for (int group = 0; group < 8; ++group) {
      if (column + 8 * group >= columns) break;
      float2 value = {values[4 * group + 2 * lower], values[4 * group + 2 * lower + 1]};
      if (OUTPUT == GRADIENT_ADDED_TO_F32) {
        const float2 before = line[4 * group];
        value.x += before.x;
        value.y += before.y;
      }
      line[4 * group] = value;
    }
  }
}

// Writes a slab.
__device__ __forceinline__ void finish(const Work& work, const Layout& layout, const Slab& slab,
                                       float (&sums)[128]) {
  wait_sent<0>();
#pragma unroll
  for (int chunk = 0; chunk < TILE_N / CHUNK_N; ++chunk) {
    const int column = slab.column + chunk * CHUNK_N;
    if (column >= work.n) break;
    if (OUTPUT == GRADIENT_BF16) {
      const u32 place = layout.chunk(slab.warp, chunk % STAGING_CHUNKS);
      wait_sent<STAGING_CHUNKS - 1>();
      put_chunk(place, sums + chunk * 32);
      seal_chunks();
      if (lane_index() == 0) {
        store_box(&work.out, place, column, slab.row, slab.expert);
      }
      stores_commit();
    } else {
      write_floats(work.floats + i64(slab.expert) * work.m * work.n, work.n, slab, column,
                   sums + chunk * 32);
    }
  }
}

__device__ __forceinline__ void consume(const Work& work, const Layout& layout) {
  const int warp = warp_index() - 4;
  const int group = warp / 4;
  const u32 rank = cluster_rank();
  Ring ring;
  float sums[128];
  products_define(sums);
  Schedule<Work> schedule(work);
  Work::Unit unit;
  while (schedule.take(unit)) {
    if (unit.rows == 0) clear(sums);
    for (int at = 0; at < unit.rows; at += TILE_K, ring.advance()) {
      barrier_wait(layout.full(ring.stage), ring.parity);
      if (unit.rows - at < TILE_K) clear_rows(layout.a(ring.stage), unit.rows - at);
      multiply_stage<1, 1>(sums, layout.a(ring.stage) + group * BOX_BYTES, layout.b(ring.stage),
                           at == 0);
      products_wait<1>();
      if (at > 0) release(layout, (ring.stage + STAGES - 1) % STAGES);
    }
    products_wait_all(sums);
    if (unit.rows > 0) release(layout, (ring.stage + STAGES - 1) % STAGES);
    const int row = unit.m + rank * TILE_M + warp * SLAB_M;
    finish(work, layout, {warp, row, work.m - row, unit.expert, unit.n}, sums);
  }
}

template <typename Rows>
__device__ __forceinline__ void multiply(const Work& work, const Layout& layout,
                                         const typename Rows::Arguments& rows) {
  if (threadIdx.x == 0) Rows::begin();
  init_barriers(layout);
  if (threadIdx.x < 128) {
    registers_give<88>();
    if (threadIdx.x < WARP) {
      produce<Rows>(work, layout, rows);
    } else {
      Rows::work(rows);
    }
  } else {
    registers_take<208>();
    consume(work, layout);
    wait_sent<0>();
  }
  // A block must not exit while the other one still writes to its shared memory.
  cluster_sync();
}

template <int CODE>
struct RowSourceOf;
template <>
struct RowSourceOf<ROWS_IN_PLACE> {
  typedef InPlace Type;
};
template <>
struct RowSourceOf<ROWS_COPIED_AHEAD> {
  typedef CopiedAhead Type;
};
typedef RowSourceOf<ROWS>::Type ChosenRows;

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(SM90_THREADS, 1)
    sm90_bf16_weight_grad(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                          const __grid_constant__ TensorMap out, float* floats,
                          const int* expert_offsets, int experts, int m, int n,
                          const __grid_constant__ ChosenRows::Arguments rows) {
  extern __shared__ unsigned char shared[];
  const int m_pairs = (m + CLUSTER * TILE_M - 1) / (CLUSTER * TILE_M);
  const int n_tiles = (n + TILE_N - 1) / TILE_N;
  const Work work = {a, b, out, floats, expert_offsets, experts, m, n, m_pairs, n_tiles};
  multiply<ChosenRows>(work, Layout(shared), rows);
}
