// out[r] = a[r] times the weight of r's expert, for all rows of all experts in one launch; bf16, sums
// in f32. Rows stand in expert order.
//
// Chosen at compile time: STAGES, STAGING_CHUNKS, B_MAJOR (0: weight [.., N, K]; 1: [.., K, N]), EPILOGUE
// (1: the product; 2: SwiGLU; 3: its backward). A tile's rows past its expert's end are computed and
// never stored.

struct Arguments {
  const TensorMap& a;     // [rows, K], boxes of 64 k and 128 rows
  const TensorMap& b;     // K-major: (k, n, half, expert), boxes of 64 and 128; MN-major: (n, half, k,
                          // expert), boxes of 64 n and 64 k
  const Tile* tiles;      // [pairs, 2]
  const int* pair_count;  // [1]
  int k_blocks;           // of 64
  int n_tiles;
  const Epilogue::Arguments& epilogue;
};

// This block's part of a unit of work: a row tile and a column tile.
struct Unit {
  Tile tile;
  int n;  // -1: there is no more work
};

// Unit `index` of this cluster's rank, in the order of RASTER pairs of row tiles by all column tiles,
// then the next pairs.
__device__ __forceinline__ Unit unit_at(const Arguments& arguments, int index) {
  const int pairs = *arguments.pair_count;
  if (index >= pairs * arguments.n_tiles) return {{0, 0, 0, 0}, -1};
  const int group = index / (RASTER * arguments.n_tiles);
  const int rest = index - group * RASTER * arguments.n_tiles;
  const int height = min(RASTER, pairs - group * RASTER);
  const int pair = group * RASTER + rest % height;
  return {arguments.tiles[pair * CLUSTER + cluster_rank()], rest / height};
}

// The units of this block's cluster, each looked up while the one before is worked on.
struct Schedule {
  const Arguments& arguments;
  int index;
  Unit next;

  __device__ __forceinline__ explicit Schedule(const Arguments& arguments)
      : arguments(arguments),
        index(blockIdx.x / CLUSTER),
        next(unit_at(arguments, blockIdx.x / CLUSTER)) {}

  // Puts the next unit into `unit`; false when there is none.
  __device__ __forceinline__ bool take(Unit& unit) {
    unit = next;
    index += gridDim.x / CLUSTER;
    next = unit_at(arguments, index);
    return unit.n >= 0;
  }
};

__device__ __forceinline__ void load_b(const Arguments& arguments, const Layout& layout,
                                       const Tile& tile, int stage, int k, int n, u32 rank) {
  const u32 barrier = layout.full(stage);
  constexpr int boxes = B_MAJOR ? TILE_N / 64 : 2;
  constexpr u32 box_bytes = B_BYTES / boxes;
#pragma unroll
  for (int box = 0; box < boxes; ++box) {
    if (tile.shared && box / (boxes / 2) != rank) continue;
    const u32 target = layout.b(stage) + box * box_bytes;
    // With halves, the second half of the boxes is of the second half of the weight.
    const int half = Epilogue::COLUMNS < TILE_N ? box / (boxes / 2) : 0;
    const int column =
        n * Epilogue::COLUMNS + box * (TILE_N / boxes) - half * Epilogue::COLUMNS;
    const int c1 = B_MAJOR ? half : column;
    const int c2 = B_MAJOR ? k : half;
    const int c0 = B_MAJOR ? column : k;
    if (tile.shared) {
      load_box_for_both(target, &arguments.b, barrier, c0, c1, c2, tile.expert);
    } else {
      load_box(target, &arguments.b, barrier, c0, c1, c2, tile.expert);
    }
  }
}

// One thread feeds the stages.
__device__ __forceinline__ void produce(const Arguments& arguments, const Layout& layout) {
  const u32 rank = cluster_rank();
  Ring ring;
  Schedule schedule(arguments);
  Unit unit;
  while (schedule.take(unit)) {
    const Tile& tile = unit.tile;
    for (int block = 0; block < arguments.k_blocks; ++block, ring.advance()) {
      const u32 barrier = layout.full(ring.stage);
      const int k = block * TILE_K;
      barrier_wait(layout.empty(ring.stage), ring.parity ^ 1);
      barrier_expect_bytes(barrier, tile.rows > 0 ? STAGE_BYTES : 0);
      if (tile.rows == 0) continue;
      load_box(layout.a(ring.stage), &arguments.a, barrier, k, tile.row);
      load_b(arguments, layout, tile, ring.stage, k, unit.n, rank);
    }
  }
}

// What a consumer warp has of a unit.
__device__ __forceinline__ Slab slab_of(const Unit& unit, int warp) {
  return {warp, unit.tile.row + warp * SLAB_M, unit.tile.rows - warp * SLAB_M, unit.tile.expert,
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
  Schedule schedule(arguments);
  Unit unit;
  while (schedule.take(unit)) {
    const Tile& tile = unit.tile;
    const Slab slab = slab_of(unit, warp);
    if (tile.rows <= group * (TILE_M / CONSUMERS)) {
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
  Schedule schedule(arguments);
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
                           const Tile* tiles, const int* pair_count, int k_blocks, int n_tiles,
                           const __grid_constant__ Epilogue::Arguments epilogue) {
  extern __shared__ unsigned char shared[];
  const Layout layout(shared);
  const Arguments arguments = {a, b, tiles, pair_count, k_blocks, n_tiles, epilogue};
  init_barriers(layout);
  if (threadIdx.x < 128) {
    registers_give<Epilogue::PRODUCER_REGISTERS>();
    if (threadIdx.x == 0) produce(arguments, layout);
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
