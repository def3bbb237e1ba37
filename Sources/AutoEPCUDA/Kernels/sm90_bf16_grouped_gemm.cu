// out[r] = a[r] times the weight of r's expert, for all rows of all experts in one launch; bf16, sums
// in f32. Rows stand in expert order.
//
// Chosen at compile time: STAGES, STAGING_CHUNKS, B_MAJOR (0: weight [.., N, K]; 1: [.., K, N]), EPILOGUE
// (1: the product; 2: SwiGLU; 3: its backward). A tile's rows past its expert's end are computed and
// never stored.

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
  int end;

  __device__ __forceinline__ static Group at(const Arguments& arguments, int first_pair) {
    Group group;
    const int* singles_before = arguments.singles_before + first_pair / RASTER;
    const int before = singles_before[0];
    const int steps = (arguments.n_tiles + 1) / 2;
    group.first_pair = first_pair;
    group.singles = singles_before[1] - before;
    group.doubles = min(RASTER, *arguments.pair_count - group.first_pair) - group.singles;
    group.begin = (group.first_pair - before) * arguments.n_tiles + before * steps;
    group.end = group.begin + group.doubles * arguments.n_tiles + group.singles * steps;
    return group;
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

// The units of this block's cluster, each looked up while the one before is worked on.
struct Schedule {
  const Arguments& arguments;
  int index;
  Group group = {-RASTER, 0, 0, 0, 0};
  Unit next;

  __device__ __forceinline__ explicit Schedule(const Arguments& arguments)
      : arguments(arguments), index(blockIdx.x / CLUSTER) {
    next = look_up();
  }

  // Puts the next unit into `unit`; false when there is none.
  __device__ __forceinline__ bool take(Unit& unit) {
    unit = next;
    if (unit.n < 0) return false;
    index += gridDim.x / CLUSTER;
    next = look_up();
    return true;
  }

  __device__ __forceinline__ Unit look_up() {
    while (index >= group.end) {
      const int first_pair = group.first_pair + RASTER;
      if (first_pair >= *arguments.pair_count) return {0, 0, 0, 0, -1};
      group = Group::at(arguments, first_pair);
    }
    return group.unit(arguments, index);
  }
};

__device__ __forceinline__ void load_b(const Arguments& arguments, const Layout& layout,
                                       const Unit& unit, int stage, int k, u32 rank) {
  const u32 barrier = layout.full(stage);
  constexpr int boxes = B_MAJOR ? TILE_N / 64 : 2;
  constexpr u32 box_bytes = B_BYTES / boxes;
#pragma unroll
  for (int box = 0; box < boxes; ++box) {
    if (unit.is_shared && box / (boxes / 2) != rank) continue;
    const u32 target = layout.b(stage) + box * box_bytes;
    // With halves, the second half of the boxes is of the second half of the weight.
    const int half = Epilogue::COLUMNS < TILE_N ? box / (boxes / 2) : 0;
    const int column =
        unit.n * Epilogue::COLUMNS + box * (TILE_N / boxes) - half * Epilogue::COLUMNS;
    const int c1 = B_MAJOR ? half : column;
    const int c2 = B_MAJOR ? k : half;
    const int c0 = B_MAJOR ? column : k;
    if (unit.is_shared) {
      load_box_for_both(target, &arguments.b, barrier, c0, c1, c2, unit.expert);
    } else {
      load_box(target, &arguments.b, barrier, c0, c1, c2, unit.expert);
    }
  }
}

// The rows of a stage, 64 at once, as far as the tile has any.
__device__ __forceinline__ void load_a(const Arguments& arguments, const Layout& layout,
                                       const Unit& unit, int stage, int k) {
#pragma unroll
  for (int first = 0; first < TILE_M; first += 64) {
    if (first >= unit.rows) break;
    load_box(layout.a(stage) + first / 64 * BLOCK_BYTES, &arguments.a, layout.full(stage), k,
             unit.row + first);
  }
}

// The bytes that arrive for a stage.
__device__ __forceinline__ u32 stage_bytes(const Unit& unit) {
  if (unit.rows == 0) return 0;
  return B_BYTES + (unit.rows > 64 ? A_BYTES : BLOCK_BYTES);
}

// One thread feeds the stages.
__device__ __forceinline__ void produce(const Arguments& arguments, const Layout& layout) {
  const u32 rank = cluster_rank();
  Ring ring;
  Schedule schedule(arguments);
  Unit unit;
  while (schedule.take(unit)) {
    for (int block = 0; block < arguments.k_blocks; ++block, ring.advance()) {
      const int k = block * TILE_K;
      barrier_wait(layout.empty(ring.stage), ring.parity ^ 1);
      barrier_expect_bytes(layout.full(ring.stage), stage_bytes(unit));
      if (unit.rows == 0) continue;
      load_a(arguments, layout, unit, ring.stage, k);
      load_b(arguments, layout, unit, ring.stage, k, rank);
    }
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
  Schedule schedule(arguments);
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
                           const TilePair* pairs, const int* singles_before,
                           const int* pair_count, int k_blocks, int n_tiles,
                           const __grid_constant__ Epilogue::Arguments epilogue) {
  extern __shared__ unsigned char shared[];
  const Layout layout(shared);
  const Arguments arguments = {a, b, pairs, singles_before, pair_count, k_blocks, n_tiles, epilogue};
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
