// out[r] = a[r] times the weight of r's expert, for all rows of all experts in one launch; bf16, sums
// in f32. Rows stand in expert order.
//
// Chosen at compile time: STAGES, STAGING_CHUNKS, B_MAJOR (0: weight [.., N, K]; 1: [.., K, N]), EPILOGUE
// (1: the product; 2: SwiGLU; 3: its backward). A tile's rows past its expert's end are computed and
// never stored.

#include "sm90_epilogue_store.cuh"
#include "sm90_epilogue_swiglu.cuh"
#include "sm90_epilogue_swiglu_backward.cuh"
#include "sm90_instructions.cuh"
#include "sm90_schedule.cuh"
#include "sm90_tile.cuh"
#include "sm90_tiles.cuh"

struct Arguments {
  const TensorMap& a;         // [rows, K], boxes of 64 k and 64 rows
  const TensorMap& b;         // K-major: (k, n, half, expert), boxes of 64 and 128; MN-major: (n, half, k,
                              // expert), boxes of 64 n and 64 k
  const TilePair* pairs;      // [pair_count]
  const int* singles_before;  // [groups + 1]
  const int* pair_count;      // [1]
  int k_blocks;               // of 64
  int n_tiles;
  const Epilogue::Arguments& epilogue;
};

// This block's part of a unit of work: a row tile, of at most TILE_M rows or none, and a column tile.
struct Unit {
  int row;
  int rows;
  int expert;
  int is_shared;  // the cluster's other block has the same columns of the same expert
  int n;          // -1: there is no more work
};

// A group of pairs and its units, which are counted over all groups. Two columns of tiles come after
// another: all pairs of two tiles with the first, the same with the second, then all odd tiles, whose blocks
// take one column each.
struct Group {
  int first_pair;
  int doubles;  // pairs of two tiles
  int singles;  // and of one
  int begin;    // units

  __device__ __forceinline__ static Group at(const Arguments& arguments, int group) {
    const int first_pair = group * RASTER;
    const int before = arguments.singles_before[group];
    const int singles = arguments.singles_before[group + 1] - before;
    return {first_pair, min(RASTER, *arguments.pair_count - first_pair) - singles, singles,
            units_before(arguments, first_pair, before)};
  }

  // The units of so many pairs, some of them of one tile.
  __device__ __forceinline__ static int units_before(const Arguments& arguments, int pairs,
                                                     int singles) {
    return (pairs - singles) * arguments.n_tiles + singles * ((arguments.n_tiles + 1) / 2);
  }

  // The last group that begins with this unit or before.
  __device__ __forceinline__ static Group of(const Arguments& arguments, int groups, int index) {
    int low = 0;
    int high = groups;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      const int before = arguments.singles_before[middle];
      if (units_before(arguments, middle * RASTER, before) <= index) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return at(arguments, low);
  }

  // This block's part of a unit of this group.
  __device__ __forceinline__ Unit unit(const Arguments& arguments, int index) const {
    const int rank = cluster_rank();
    const int rest = index - begin;
    const int in_step = 2 * doubles + singles;
    const int column = rest / in_step * 2;
    const int place = rest % in_step;
    const int odd = place - min(2, arguments.n_tiles - column) * doubles;
    if (odd < 0) {
      const TilePair pair = arguments.pairs[first_pair + place % doubles];
      return {pair.row + rank * TILE_M, min(TILE_M, pair.rows - rank * TILE_M), pair.expert, 1,
              column + place / doubles};
    }
    const TilePair pair = arguments.pairs[first_pair + doubles + odd];
    const int n = column + rank;
    return {pair.row, n < arguments.n_tiles ? pair.rows : 0, pair.expert, 0, n};
  }
};

// The unit of a number; n is -1 past the last.
__device__ __forceinline__ Unit unit_at(const Arguments& arguments, int index) {
  const int groups = (*arguments.pair_count + RASTER - 1) / RASTER;
  const int units =
      Group::units_before(arguments, *arguments.pair_count, arguments.singles_before[groups]);
  if (index >= units) return {0, 0, 0, 0, -1};
  return Group::of(arguments, groups, index).unit(arguments, index);
}

// The columns of a stage: half of them for both blocks of the cluster, or all for this one.
template <bool is_shared>
__device__ __forceinline__ void load_b(const Arguments& arguments, const Layout& layout,
                                       const Unit& unit, int stage, int k) {
  constexpr int boxes = B_MAJOR ? TILE_N / 64 : 2;
  constexpr int own_boxes = is_shared ? boxes / CLUSTER : boxes;
  const int first = is_shared ? cluster_rank() * own_boxes : 0;
#pragma unroll
  for (int i = 0; i < own_boxes; ++i) {
    const int box = first + i;
    const u32 target = layout.b(stage) + box * (B_BYTES / boxes);
    // With halves, the second half of the boxes is of the second half of the weight.
    const int half = Epilogue::COLUMNS < TILE_N ? box / (boxes / 2) : 0;
    const int column =
        unit.n * Epilogue::COLUMNS + box * (TILE_N / boxes) - half * Epilogue::COLUMNS;
    const int c1 = B_MAJOR ? half : column;
    const int c2 = B_MAJOR ? k : half;
    const int c0 = B_MAJOR ? column : k;
    if (is_shared) {
      load_box_for_both(target, &arguments.b, layout.full(stage), c0, c1, c2, unit.expert);
    } else {
      load_box(target, &arguments.b, layout.full(stage), c0, c1, c2, unit.expert);
    }
  }
}

// One thread feeds the stages with a unit of so many boxes of 64 rows. What is loaded is not chosen inside of
// the loop: ptxas 13.0 may set a copy's coordinates by a predicate that it has not yet computed.
template <int row_boxes, bool is_shared>
__device__ __forceinline__ void feed(const Arguments& arguments, const Layout& layout,
                                     const Unit& unit, Ring& ring) {
  for (int block = 0; block < arguments.k_blocks; ++block, ring.advance()) {
    const int k = block * TILE_K;
    barrier_wait(layout.empty(ring.stage), ring.parity ^ 1);
    barrier_expect_bytes(layout.full(ring.stage), B_BYTES + row_boxes * BLOCK_BYTES);
#pragma unroll
    for (int box = 0; box < row_boxes; ++box) {
      load_box(layout.a(ring.stage) + box * BLOCK_BYTES, &arguments.a, layout.full(ring.stage), k,
               unit.row + box * 64);
    }
    load_b<is_shared>(arguments, layout, unit, ring.stage, k);
  }
}

// The stages of a unit without rows pass empty.
__device__ __forceinline__ void feed_nothing(const Layout& layout, Ring& ring, int k_blocks) {
  for (int block = 0; block < k_blocks; ++block, ring.advance()) {
    barrier_wait(layout.empty(ring.stage), ring.parity ^ 1);
    barrier_expect_bytes(layout.full(ring.stage), 0);
  }
}

__device__ __forceinline__ void feed(const Arguments& arguments, const Layout& layout,
                                     const Unit& unit, Ring& ring) {
  if (unit.rows == 0) {
    feed_nothing(layout, ring, arguments.k_blocks);
  } else if (unit.rows <= 64) {
    unit.is_shared ? feed<1, true>(arguments, layout, unit, ring)
                   : feed<1, false>(arguments, layout, unit, ring);
  } else {
    unit.is_shared ? feed<2, true>(arguments, layout, unit, ring)
                   : feed<2, false>(arguments, layout, unit, ring);
  }
}

// A warp feeds them with all units.
__device__ __forceinline__ void produce(const Arguments& arguments, const Layout& layout) {
  Ring ring;
  Schedule<Unit, Arguments> schedule(arguments);
  Unit unit;
  while (schedule.take(unit)) {
    if (threadIdx.x == 0) feed(arguments, layout, unit, ring);
    __syncwarp();
  }
}

// What a consumer warp has of a unit.
__device__ __forceinline__ Slab slab_of(const Unit& unit, int warp) {
  return {warp, unit.row + warp * SLAB_M, unit.rows - warp * SLAB_M, unit.expert,
          unit.n * Epilogue::COLUMNS};
}

// Lets the stages of a tile go by in which this warpgroup has no rows.
__device__ __forceinline__ void pass(const Layout& layout, Ring& ring, int k_blocks) {
  for (int block = 0; block < k_blocks; ++block, ring.advance()) {
    barrier_wait(layout.full(ring.stage), ring.parity);
    release(layout, ring.stage);
  }
}

__device__ __forceinline__ void consume(const Arguments& arguments, const Layout& layout) {
  const int warp = threadIdx.x / 32 - 4;
  const int group = warp / 4;
  Ring ring;
  u32 parity = 0;  // of the barriers of the epilogue
  float sums[128];
  products_define(sums);
  Schedule<Unit, Arguments> schedule(arguments);
  Unit unit;
  while (schedule.take(unit)) {
    const Slab slab = slab_of(unit, warp);
    if (unit.rows <= group * (TILE_M / CONSUMERS)) {
      pass(layout, ring, arguments.k_blocks);
      continue;
    }
    for (int block = 0; block < arguments.k_blocks; ++block, ring.advance()) {
      barrier_wait(layout.full(ring.stage), ring.parity);
      multiply_stage<0, B_MAJOR>(sums, layout.a(ring.stage) + group * BLOCK_BYTES,
                                 layout.b(ring.stage), block == 0);
      // The other warpgroup's products are at work meanwhile, and the stage is free sooner than if the
      // next was waited for.
      products_wait_all(sums);
      release(layout, ring.stage);
    }
    if (slab.rows > 0) Epilogue::finish(arguments.epilogue, layout, slab, sums, parity);
  }
}

#if EPILOGUE == 3

// The other warps of the producer's warpgroup: each takes what two or three of the consumers stage.
__device__ __forceinline__ void finish_staged(const Arguments& arguments, const Layout& layout) {
  constexpr int warps = 3;
  const int own = threadIdx.x / 32 - 1;
  u32 parities = 0;  // bit i: that of the barrier staged(i) which completes next
  Schedule<Unit, Arguments> schedule(arguments);
  Unit unit;
  while (schedule.take(unit)) {
#pragma unroll 1
    for (int warp = own; warp < CONSUMER_WARPS; warp += warps) {
      const Slab slab = slab_of(unit, warp);
      if (slab.rows <= 0) break;
      Epilogue::work(arguments.epilogue, layout, slab, parities >> warp & 1);
      parities ^= 1 << warp;
    }
  }
}

#endif

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    sm90_bf16_grouped_gemm(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                           const TilePair* pairs, const int* singles_before,
                           const int* pair_count, int k_blocks, int n_tiles,
                           const __grid_constant__ Epilogue::Arguments epilogue) {
  extern __shared__ unsigned char shared[];
  const Layout layout(shared);
  const Arguments arguments = {a, b, pairs, singles_before, pair_count, k_blocks, n_tiles, epilogue};
  init_barriers(layout);
  if (threadIdx.x < 128) {
    registers_give<Epilogue::PRODUCER_REGISTERS>();
    if (threadIdx.x < 32) produce(arguments, layout);
#if EPILOGUE == 3
    if (threadIdx.x >= 32) finish_staged(arguments, layout);
#endif
  } else {
    registers_take<Epilogue::CONSUMER_REGISTERS>();
    consume(arguments, layout);
    wait_sent<0>();
  }
  // Neither block may end while the other still writes to it.
  cluster_sync();
}
