// out[r] = a[r] times the weight of r's expert, for all rows of all experts in one launch; bf16,
// with sums in f32. Rows are in expert order.
//   -DSTAGES, -DSTAGING_CHUNKS: see sm90_pipeline.cuh
//   -DB_MAJOR: 0 for weights [.., N, K], 1 for [.., K, N]
//   -DEPILOGUE=EPILOGUE_...: how the product is processed before it is stored
// A tile's rows past the end of its expert are computed and never stored.

#include "host_and_device.h"
#include "search.cuh"
#include "sm90_epilogue_store.cuh"
#include "sm90_epilogue_swiglu.cuh"
#include "sm90_epilogue_swiglu_backward.cuh"
#include "sm90_instructions.cuh"
#include "sm90_pipeline.cuh"
#include "sm90_row_pairs.cuh"
#include "sm90_row_source.cuh"
#include "sm90_schedule.cuh"
#include "warp.cuh"

template <int CODE>
struct EpilogueOf;
template <>
struct EpilogueOf<EPILOGUE_STORE> {
  typedef StoreEpilogue Type;
};
template <>
struct EpilogueOf<EPILOGUE_SWIGLU> {
  typedef SwiGLUEpilogue Type;
};
template <>
struct EpilogueOf<EPILOGUE_SWIGLU_BACKWARD> {
  typedef SwiGLUBackwardEpilogue Type;
};

struct Work {
  // This block's part of a unit: a row tile, of at most TILE_M rows or none, and a column tile.
  struct Unit {
    int row;
    int rows;
    int expert;
    int is_shared;  // whether the cluster's other block has the same columns of the same expert
    int n;          // the column tile; -1 past the last unit

    // The slab of a consumer warp, if a tile has `columns` output columns.
    __device__ __forceinline__ Slab slab(int warp, int columns) const {
      return {warp, row + warp * SLAB_M, rows - warp * SLAB_M, expert, n * columns};
    }
  };

  const TensorMap& a;    // [rows, K], boxes of 64 k and 64 rows
  const TensorMap& b;    // K-major: (k, n, half, expert), boxes of 64 and 128; MN-major: (n, half,
                         // k, expert), boxes of 64 n and 64 k
  const RowPair* pairs;  // [pair_count]
  const int* tail_tiles_before;  // [groups + 1]
  const int* pair_count;         // [1]
  int k_steps;                   // stages per tile
  int n_tiles;

  __device__ __forceinline__ Unit unit_at(int index) const;
};

// A raster group and its units, which are numbered over all groups. The order for two column tiles
// c and c + 1: all full pairs with c, all full pairs with c + 1, then all tail tiles, where one
// block computes c and the other one c + 1.
struct RasterGroup {
  int first_pair;
  int full_pairs;
  int tail_tiles;
  int begin;  // number of its first unit

  __device__ __forceinline__ static RasterGroup at(const Work& work, int group) {
    const int first_pair = group * RASTER;
    const int before = work.tail_tiles_before[group];
    const int tail_tiles = work.tail_tiles_before[group + 1] - before;
    return {first_pair, min(RASTER, *work.pair_count - first_pair) - tail_tiles, tail_tiles,
            units_before(work, first_pair, before)};
  }

  // The number of units of `pairs` row pairs, of which `tail_tiles` are tail tiles.
  __device__ __forceinline__ static int units_before(const Work& work, int pairs, int tail_tiles) {
    return (pairs - tail_tiles) * work.n_tiles + tail_tiles * ((work.n_tiles + 1) / 2);
  }

  // The raster group of a unit.
  __device__ __forceinline__ static RasterGroup of(const Work& work, int groups, int index) {
    return at(work, last_beginning_by(index, groups, [&](int group) {
                return units_before(work, group * RASTER, work.tail_tiles_before[group]);
              }));
  }

  // This block's part of a unit of this group.
  __device__ __forceinline__ Work::Unit unit(const Work& work, int index) const {
    const int rank = cluster_rank();
    const int rest = index - begin;
    const int per_two_columns = 2 * full_pairs + tail_tiles;
    const int column = rest / per_two_columns * 2;
    const int place = rest % per_two_columns;
    const int tail_tile = place - min(2, work.n_tiles - column) * full_pairs;
    if (tail_tile < 0) {
      const RowPair pair = work.pairs[first_pair + place % full_pairs];
      return {pair.row + rank * TILE_M, min(TILE_M, pair.rows - rank * TILE_M), pair.expert, 1,
              column + place / full_pairs};
    }
    const RowPair pair = work.pairs[first_pair + full_pairs + tail_tile];
    const int n = column + rank;
    return {pair.row, n < work.n_tiles ? pair.rows : 0, pair.expert, 0, n};
  }
};

__device__ __forceinline__ Work::Unit Work::unit_at(int index) const {
  const int groups = (*pair_count + RASTER - 1) / RASTER;
  const int units = RasterGroup::units_before(*this, *pair_count, tail_tiles_before[groups]);
  if (index >= units) return {0, 0, 0, 0, -1};
  return RasterGroup::of(*this, groups, index).unit(*this, index);
}

// Loads the columns of a stage: half of them for both blocks of the cluster, or all of them for
// this block.
template <typename Epilogue, bool is_shared>
__device__ __forceinline__ void load_b(const Work& work, const Layout& layout,
                                       const Work::Unit& unit, int stage, int k) {
  constexpr int boxes = B_MAJOR ? TILE_N / 64 : 2;
  constexpr int own_boxes = is_shared ? boxes / CLUSTER : boxes;
  const int first = is_shared ? cluster_rank() * own_boxes : 0;
#pragma unroll
  for (int i = 0; i < own_boxes; ++i) {
    const int box = first + i;
    const u32 target = layout.b(stage) + box * (B_BYTES / boxes);
    // If a tile has fewer columns of the output than TILE_N, its second half comes from the second
    // half of the weight.
    const int half = Epilogue::COLUMNS < TILE_N ? box / (boxes / 2) : 0;
    const int column =
        unit.n * Epilogue::COLUMNS + box * (TILE_N / boxes) - half * Epilogue::COLUMNS;
    const int c1 = B_MAJOR ? half : column;
    const int c2 = B_MAJOR ? k : half;
    const int c0 = B_MAJOR ? column : k;
    if (is_shared) {
      load_box_for_both(target, &work.b, layout.full(stage), c0, c1, c2, unit.expert);
    } else {
      load_box(target, &work.b, layout.full(stage), c0, c1, c2, unit.expert);
    }
  }
}

// One thread loads the stages of a unit with `row_boxes` boxes of rows. The choice of loads is made
// outside the loop: ptxas 13.0 may set a copy's coordinates by a predicate that it has not yet
// computed.
template <typename Epilogue, int row_boxes, bool is_shared>
__device__ __forceinline__ void feed(const Work& work, const Layout& layout, const Work::Unit& unit,
                                     Ring& ring) {
  for (int step = 0; step < work.k_steps; ++step, ring.advance()) {
    const int k = step * TILE_K;
    barrier_wait(layout.empty(ring.stage), ring.parity ^ 1);
    barrier_expect_bytes(layout.full(ring.stage), B_BYTES + row_boxes * BOX_BYTES);
#pragma unroll
    for (int box = 0; box < row_boxes; ++box) {
      load_box(layout.a(ring.stage) + box * BOX_BYTES, &work.a, layout.full(ring.stage), k,
               unit.row + box * BOX);
    }
    load_b<Epilogue, is_shared>(work, layout, unit, ring.stage, k);
  }
}

// Passes on the stages of a unit without rows, empty.
__device__ __forceinline__ void feed_nothing(const Layout& layout, Ring& ring, int k_steps) {
  for (int step = 0; step < k_steps; ++step, ring.advance()) {
    barrier_wait(layout.empty(ring.stage), ring.parity ^ 1);
    barrier_expect_bytes(layout.full(ring.stage), 0);
  }
}

template <typename Epilogue>
__device__ __forceinline__ void feed(const Work& work, const Layout& layout, const Work::Unit& unit,
                                     Ring& ring) {
  if (unit.rows == 0) {
    feed_nothing(layout, ring, work.k_steps);
  } else if (unit.rows <= BOX) {
    unit.is_shared ? feed<Epilogue, 1, true>(work, layout, unit, ring)
                   : feed<Epilogue, 1, false>(work, layout, unit, ring);
  } else {
    unit.is_shared ? feed<Epilogue, 2, true>(work, layout, unit, ring)
                   : feed<Epilogue, 2, false>(work, layout, unit, ring);
  }
}

// The producer warp loads the stages of all units, as their rows become ready.
template <typename Epilogue, typename Rows>
__device__ __forceinline__ void produce(const Work& work, const Layout& layout,
                                        const typename Rows::Arguments& rows) {
  Ring ring;
  typename Rows::Reader reader(rows);
  Schedule<Work> schedule(work);
  Work::Unit unit;
  while (schedule.take(unit)) {
    if (unit.rows > 0) reader.wait(unit.row, unit.rows);
    if (threadIdx.x == 0) feed<Epilogue>(work, layout, unit, ring);
    __syncwarp();
  }
  reader.end();
}

// Releases the stages of a tile in which this warpgroup has no rows.
__device__ __forceinline__ void skip(const Layout& layout, Ring& ring, int k_steps) {
  for (int step = 0; step < k_steps; ++step, ring.advance()) {
    barrier_wait(layout.full(ring.stage), ring.parity);
    release(layout, ring.stage);
  }
}

template <typename Epilogue>
__device__ __forceinline__ void consume(const Work& work, const Layout& layout,
                                        const typename Epilogue::Arguments& epilogue) {
  const int warp = warp_index() - 4;
  const int group = warp / 4;
  Ring ring;
  u32 parity = 0;  // parity of the epilogue's barriers
  float sums[128];
  products_define(sums);
  Schedule<Work> schedule(work);
  Work::Unit unit;
  while (schedule.take(unit)) {
    const Slab slab = unit.slab(warp, Epilogue::COLUMNS);
    if (unit.rows <= group * (TILE_M / CONSUMERS)) {
      skip(layout, ring, work.k_steps);
      continue;
    }
    for (int step = 0; step < work.k_steps; ++step, ring.advance()) {
      barrier_wait(layout.full(ring.stage), ring.parity);
      multiply_stage<0, B_MAJOR>(sums, layout.a(ring.stage) + group * BOX_BYTES,
                                 layout.b(ring.stage), step == 0);
      // The other warpgroup's products run meanwhile, and the stage is freed sooner than if this
      // warpgroup first waited for its next stage.
      products_wait_all(sums);
      release(layout, ring.stage);
    }
    if (slab.rows > 0) Epilogue::finish(epilogue, layout, slab, sums, parity);
  }
}

template <typename Epilogue, typename Rows>
__device__ __forceinline__ void multiply(const Work& work, const Layout& layout,
                                         const typename Epilogue::Arguments& epilogue,
                                         const typename Rows::Arguments& rows) {
  static_assert(STAGING_CHUNKS >= Epilogue::STAGING_NEEDED, "a warp has room for what it stages");
  static_assert(!(Epilogue::NEEDS_WARPS && Rows::NEEDS_WARPS), "a warp has one role");
  if (threadIdx.x == 0) Rows::begin();
  init_barriers(layout);
  if (threadIdx.x < 128) {
    registers_give<Epilogue::PRODUCER_REGISTERS>();
    if (threadIdx.x < WARP) produce<Epilogue, Rows>(work, layout, rows);
    if (threadIdx.x >= WARP) {
      Epilogue::finish_staged(epilogue, layout, Schedule<Work>(work));
      Rows::work(rows);
    }
  } else {
    registers_take<Epilogue::CONSUMER_REGISTERS>();
    consume<Epilogue>(work, layout, epilogue);
    wait_sent<0>();
  }
  // A block must not exit while the other one still writes to its shared memory.
  cluster_sync();
}

typedef EpilogueOf<EPILOGUE>::Type ChosenEpilogue;

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(SM90_THREADS, 1)
    sm90_bf16_grouped_gemm(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                           const RowPair* pairs, const int* tail_tiles_before,
                           const int* pair_count, int k_steps, int n_tiles,
                           const __grid_constant__ ChosenEpilogue::Arguments epilogue) {
  extern __shared__ unsigned char shared[];
  const Work work = {a, b, pairs, tail_tiles_before, pair_count, k_steps, n_tiles};
  // No caller uses another source yet.
  multiply<ChosenEpilogue, InPlace>(work, Layout(shared), epilogue, {});
}
