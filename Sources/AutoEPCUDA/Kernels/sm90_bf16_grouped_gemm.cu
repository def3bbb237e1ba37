// out[r] = a[r] times the weight of r's expert, for all rows of all experts in one launch; bf16, sums
// in f32. Rows stand in expert order, or are gathered: row r is then token slot_of_row[r] / K.
//
// Chosen at compile time: STAGES, STAGING_CHUNKS, GATHER, B_MAJOR (0: weight [.., N, K]; 1: [.., K, N])
// and the epilogue. A tile's rows past its expert's end are computed and never stored.

// A tile of this block: `rows` rows from `row` on, of `expert`; `shared`: the cluster's other tile is
// of the same expert.
struct Tile {
  int row;
  int rows;
  int expert;
  int shared;
};

struct Arguments {
  TensorMap a;  // [rows, K], boxes of 64 k and 128 rows; gathered: [T, K], boxes of one row
  TensorMap b;  // (k, n, half, expert), boxes of 64 and 128; MN-major: (n, half, k, expert), 64 and 64
  const Tile* tiles;       // [pairs, 2]
  const int* pair_count;   // [1]
  const int* slot_of_row;  // [rows]; gathered only
  int top_k;
  int tokens;    // T
  int k_blocks;  // of 64
  int n_tiles;
  Epilogue::Arguments epilogue;
};

struct Unit {
  int pair;
  int n;
};

// The order of the work: RASTER pairs of row tiles by all column tiles, then the next pairs.
__device__ __forceinline__ Unit unit_at(int index, int pairs, int n_tiles) {
  const int group = index / (RASTER * n_tiles);
  const int rest = index - group * RASTER * n_tiles;
  const int height = min(RASTER, pairs - group * RASTER);
  return {group * RASTER + rest % height, rest / height};
}

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

// One lane feeds the stages; gathered rows are asked for one by one, by a thread a row.
__device__ __forceinline__ void produce(const Arguments& arguments, const Layout& layout) {
  const int thread = threadIdx.x;
  const u32 rank = cluster_rank();
  Ring ring;
  for (int index = blockIdx.x / CLUSTER; index < *arguments.pair_count * arguments.n_tiles;
       index += gridDim.x / CLUSTER) {
    const Unit unit = unit_at(index, *arguments.pair_count, arguments.n_tiles);
    const Tile tile = arguments.tiles[unit.pair * CLUSTER + cluster_rank()];
    // Past the end: a token that is not there, which the TMA reads as zeros.
    const int token = GATHER && thread < tile.rows
                          ? arguments.slot_of_row[tile.row + thread] / arguments.top_k
                          : arguments.tokens;
    for (int block = 0; block < arguments.k_blocks; ++block, ring.advance()) {
      const u32 barrier = layout.full(ring.stage);
      const int k = block * TILE_K;
      barrier_wait(layout.empty(ring.stage), ring.parity ^ 1);
      if (thread == 0) {
        barrier_expect_bytes(barrier, tile.rows > 0 ? STAGE_BYTES : 0);
        if (tile.rows > 0) load_b(arguments, layout, tile, ring.stage, k, unit.n, rank);
      }
      if (tile.rows == 0) continue;
      if (GATHER) {
        load_box(layout.a(ring.stage) + thread * 128, &arguments.a, barrier, k, token);
      } else if (thread == 0) {
        load_box(layout.a(ring.stage), &arguments.a, barrier, k, tile.row);
      }
    }
  }
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
  for (int index = blockIdx.x / CLUSTER; index < *arguments.pair_count * arguments.n_tiles;
       index += gridDim.x / CLUSTER) {
    const Unit unit = unit_at(index, *arguments.pair_count, arguments.n_tiles);
    const Tile tile = arguments.tiles[unit.pair * CLUSTER + cluster_rank()];
    const Slab slab = {warp, tile.row + warp * SLAB_M, tile.rows - warp * SLAB_M, tile.expert,
                       unit.n * Epilogue::COLUMNS};
    if (tile.rows <= group * (TILE_M / CONSUMERS)) {
      pass(layout, ring, arguments.k_blocks);
      continue;
    }
    Epilogue::prepare(arguments.epilogue, layout, slab, parity);
    for (int block = 0; block < arguments.k_blocks; ++block, ring.advance()) {
      barrier_wait(layout.full(ring.stage), ring.parity);
      multiply_stage<0, B_MAJOR>(sums, layout.a(ring.stage) + group * BLOCK_BYTES,
                                 layout.b(ring.stage), block == 0);
      products_wait<1>();
      if (block > 0) release(layout, (ring.stage + STAGES - 1) % STAGES);
    }
    products_wait_all(sums);
    release(layout, (ring.stage + STAGES - 1) % STAGES);
    if (slab.rows > 0) Epilogue::finish(arguments.epilogue, layout, slab, sums, parity);
  }
}

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    sm90_bf16_grouped_gemm(const __grid_constant__ Arguments arguments) {
  extern __shared__ unsigned char shared[];
  const Layout layout(shared);
  init_barriers(layout);
  if (threadIdx.x < 128) {
    registers_give<40>();
    if (threadIdx.x < (GATHER ? 128 : 1)) produce(arguments, layout);
  } else {
    registers_take<232>();
    consume(arguments, layout);
    wait_sent<0>();
  }
  // Neither block may end while the other still writes to it.
  cluster_sync();
}
