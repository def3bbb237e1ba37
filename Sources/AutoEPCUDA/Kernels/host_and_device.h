// The constants shared by launches and their kernels: kernels include this file, and Swift imports
// it as the C module CKernels.

#pragma once

// A function for host and device: constexpr in kernels, where it computes constants only.
#ifdef __CUDACC__
#define BOTH_SIDES __device__ constexpr
#else
#define BOTH_SIDES static inline
#endif

// ---- Codes that kernels are compiled with, or get as arguments ----

// Element types: -DELEMENT, -DWEIGHT, -DOUT. Macros, because the preprocessor reads them too.
#define TYPE_NONE 0
#define TYPE_F32 1
#define TYPE_BF16 2
#define TYPE_F16 3

// -DACTIVATION
enum {
  ACTIVATION_SILU = 1,
  ACTIVATION_GELU,
  ACTIVATION_GELU_TANH,
  ACTIVATION_RELU_SQUARED,
  ACTIVATION_CLAMPED_SWIGLU,
  ACTIVATION_CLAMPED_SILU
};

// -DGATE
enum { GATE_NONE = 1, GATE_CONCATENATED, GATE_INTERLEAVED };

// -DLAYOUT: weights [E, out, in] or [E, in, out].
enum { LAYOUT_OUT_IN = 1, LAYOUT_IN_OUT };

// RouteConfig.score
enum { SCORE_SOFTMAX = 1, SCORE_TOPK_SOFTMAX, SCORE_SIGMOID, SCORE_SINKHORN };

// RouteConfig.group_score
enum { GROUP_SCORE_NONE, GROUP_SCORE_MAX, GROUP_SCORE_TOP2_SUM };

// The fields of autoep_route_config.
typedef struct RouteConfig {
  int score;
  int top_k;
  int normalize;
  float normalize_epsilon;
  float scale;
  int group_score;
  int num_groups;
  int topk_groups;
} RouteConfig;

// The faults that a kernel reports; see fault.cuh.
enum {
  FAULT_TOPK_IDX = 1,  // an index outside [0, E)
  FAULT_LOGITS         // a logit that is NaN or +inf, or a token without a finite one
};

// ---- Sizes of the portable kernels ----

// Vectors of each row that a lane moves.
enum { PERMUTE_PER_LANE = 4, UNPERMUTE_PER_LANE = 2, ACTIVATE_PER_LANE = 2 };

// Chunks of slots, one block each, that a large sort is split into.
enum { SORT_CHUNKS = 128 };

// Threads of a row_sum block, and vectors of a row that the block sums.
enum { ROW_SUM_THREADS = 256, ROW_SUM_COLUMNS = 8, ROW_SUM_COLUMNS_BY_ELEMENT = 32 };

// Tiles of the portable grouped GEMMs: rows and columns, depth of a stage, and shared memory.
enum {
  F32_TILE = 64,
  F32_TILE_DEPTH = 16,
  // A stored line is one element longer than the tile, so that writes along the depth are spread
  // over the banks.
  F32_TILE_PITCH = F32_TILE + 1,
  F32_TILE_SHARED_BYTES = 2 * F32_TILE_DEPTH * F32_TILE_PITCH * 4,

  TENSOR_CORE_TILE = 128,
  TENSOR_CORE_TILE_DEPTH = 32,
  TENSOR_CORE_TILE_STAGES = 3,
  TENSOR_CORE_TILE_SHARED_BYTES =
      2 * TENSOR_CORE_TILE_STAGES * TENSOR_CORE_TILE * TENSOR_CORE_TILE_DEPTH * 2
};

// The router's forward and backward: threads of a block, one token per warp, and 4-byte numbers in
// shared memory per expert and warp. The forward has one more number per expert.
enum { ROUTE_THREADS = 128, ROUTE_NUMBERS = 4, ROUTE_BACKWARD_NUMBERS = 5 };

// The router's product: tokens of a block, 16-byte chunks of each depth step that a warp
// multiplies, and the shared memory that every device since sm_80 has for two blocks.
enum {
  ROUTER_ROWS = 32,
  ROUTER_WARPS = 8,
  ROUTER_GROUP_CHUNKS = 2,
  ROUTER_MOST_SHARED_BYTES = 96 * 1024,
  ROUTER_MOST_STAGES = 6
};

// Columns of a warp's tile, in a block with `columns` columns.
BOTH_SIDES int router_tile_columns(int columns) { return columns < 64 ? columns : 64; }

// Warps that share the depth of one tile.
BOTH_SIDES int router_depth_groups(int columns) {
  return ROUTER_WARPS / (columns / router_tile_columns(columns));
}

// 16-byte chunks of a stage.
BOTH_SIDES int router_stage_chunks(int columns) {
  return (ROUTER_ROWS + columns) * router_depth_groups(columns) * ROUTER_GROUP_CHUNKS;
}

BOTH_SIDES int router_stages(int columns) {
  return ROUTER_MOST_SHARED_BYTES / (16 * router_stage_chunks(columns)) < ROUTER_MOST_STAGES
             ? ROUTER_MOST_SHARED_BYTES / (16 * router_stage_chunks(columns))
             : ROUTER_MOST_STAGES;
}

// ---- Hopper's products; sm90_pipeline.cuh defines the terms ----

// -DEPILOGUE
enum { EPILOGUE_STORE = 1, EPILOGUE_SWIGLU, EPILOGUE_SWIGLU_BACKWARD };

// -DROWS: the source of a product's rows.
enum { ROWS_IN_PLACE = 1, ROWS_COPIED_AHEAD };

// -DOUTPUT: how a weight's gradient is written.
enum { GRADIENT_BF16, GRADIENT_F32, GRADIENT_ADDED_TO_F32 };

enum {
  TILE_M = 128,  // rows of a tile
  TILE_N = 256,  // columns of a tile
  TILE_K = 64,   // depth of a stage: 128 bytes of bf16, the width of the swizzle
  BOX = 64,      // rows or columns of a stage that one TMA instruction moves
  SLAB_M = 16,   // rows of a slab
  CHUNK_N = 64,  // columns that are stored together: 128 bytes

  CLUSTER = 2,    // blocks
  CONSUMERS = 2,  // warpgroups
  CONSUMER_WARPS = 4 * CONSUMERS,
  SM90_THREADS = 128 * (1 + CONSUMERS),

  RASTER = 8,          // row pairs of a raster group
  ROW_PAIR_INTS = 3,   // fields of a row pair
  LIST_THREADS = 512,  // of the block that lists the row pairs
  READY_ROWS = 128     // rows that one counter of copied rows covers
};

// Bytes of a stage, and of a chunk that a warp stages.
enum { STAGE_BYTES = (TILE_M + TILE_N) * TILE_K * 2, CHUNK_BYTES = SLAB_M * CHUNK_N * 2 };

// Shared memory of a block: the stages, aligned to 1024 bytes, the chunks of each consumer warp,
// and the barriers: full and empty for each stage, staged and taken for each consumer warp.
BOTH_SIDES int sm90_shared_bytes(int stages, int staging_chunks) {
  return 1023 + stages * STAGE_BYTES + CONSUMER_WARPS * staging_chunks * CHUNK_BYTES +
         (2 * stages + 2 * CONSUMER_WARPS) * 8;
}
