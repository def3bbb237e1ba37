// From the gradient of the activation to that of [gate | up]. With d = <grad_y, down column>, s the
// row's weight and a = silu(gate) up, all recomputed from the pre-activation:
//   grad_up = s d silu(gate), grad_gate = s d up silu'(gate), scaled = s a (for the down weight's
//   gradient), and the part of <grad_y, expert's result> = sum over F of d a of this tile's columns.
//
// The consumers stage d, as bf16, and go on to the next tile. A warpgroup of its own does the rest
// beside their products: a warp takes what a consumer warp has staged, row by row.

#if EPILOGUE == 3

struct Epilogue {
  struct Arguments {
    const unsigned short* hidden;  // bf16 [rows, 2, columns]
    unsigned short* grad_hidden;   // bf16 [rows, 2, columns]
    unsigned short* scaled;        // bf16 [rows, 1, columns]
    const float* row_weight;       // [rows]
    float* dots;                   // [rows, tiles of columns]
    int columns;                   // F
  };

  static constexpr int COLUMNS = TILE_N;
  static constexpr int CHUNKS = TILE_N / CHUNK_N;
  static constexpr int PRODUCER_REGISTERS = 136;
  static constexpr int CONSUMER_REGISTERS = 184;
  // Rows whose pre-activation is on its way at once.
  static constexpr int AHEAD = 8;

  static_assert(STAGING_CHUNKS == CHUNKS, "a consumer warp stages all its columns");

  // Stages d. `parity`: that of the barrier `taken` which completes next.
  __device__ __forceinline__ static void finish(const Arguments&, const Layout& layout,
                                                const Slab& slab, float (&sums)[128],
                                                u32& parity) {
    barrier_wait(layout.taken(slab.warp), parity ^ 1);
    parity ^= 1;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
      put_chunk(layout.chunk(slab.warp, chunk), sums + chunk * 32);
    }
    barrier_arrive_as_warp(layout.staged(slab.warp));
  }

  // What a lane has of a row: 8 columns of gate and of up.
  struct Row {
    u32 gate[4];
    u32 up[4];
    float weight;
  };

  // What the consumer warp `slab.warp` has staged. `parity`: that of its barrier.
  __device__ __forceinline__ static void work(const Arguments& arguments, const Layout& layout,
                                              const Slab& slab, u32 parity) {
    const int lane = threadIdx.x & 31;
    const int column = slab.column + lane * 8;
    Row rows[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) load(arguments, slab, i, column, rows[i]);
    barrier_wait(layout.staged(slab.warp), parity);
    const u32 chunk = layout.chunk(slab.warp, lane >> 3);
#pragma unroll 1
    for (int first = 0; first < SLAB_M; first += AHEAD) {
#pragma unroll
      for (int i = 0; i < AHEAD; ++i) {
        const int row = first + i;
        u32 d[4], scaled[4];
        load_shared(chunk + row * 128 + ((lane & 7) ^ (row & 7)) * 16, d);
        const float dot = differentiate(d, rows[i], scaled);
        write(arguments, slab, row, column, rows[i], scaled);
        write_dot(arguments, slab, row, dot);
        load(arguments, slab, row + AHEAD, column, rows[i]);
      }
    }
    barrier_arrive_as_warp(layout.taken(slab.warp));
  }

  __device__ __forceinline__ static bool has(const Arguments& arguments, const Slab& slab, int row,
                                             int column) {
    return row < SLAB_M && row < slab.rows && column < arguments.columns;
  }

  __device__ __forceinline__ static void load(const Arguments& arguments, const Slab& slab,
                                              int row, int column, Row& of) {
    of = {};
    if (!has(arguments, slab, row, column)) return;
    const unsigned short* gate =
        arguments.hidden + (long long)(slab.row + row) * 2 * arguments.columns + column;
    load_once(gate, of.gate);
    load_once(gate + arguments.columns, of.up);
    of.weight = arguments.row_weight[slab.row + row];
  }

  // Replaces gate and up by their gradients; `scaled` gets the weighted activation. Returns the sum
  // of d a.
  __device__ __forceinline__ static float differentiate(const u32 (&d)[4], Row& row,
                                                        u32 (&scaled)[4]) {
    float dot = 0.0f;
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      float grad_gate[2], grad_up[2], scaled_a[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float gate = i ? bf16_high(row.gate[pair]) : bf16_low(row.gate[pair]);
        const float up = i ? bf16_high(row.up[pair]) : bf16_low(row.up[pair]);
        const float grad = i ? bf16_high(d[pair]) : bf16_low(d[pair]);
        const float s = sigmoid(gate);
        const float silu = gate * s;
        const float a = silu * up;
        const float weighted = row.weight * grad;
        dot += grad * a;
        scaled_a[i] = row.weight * a;
        grad_up[i] = weighted * silu;
        grad_gate[i] = weighted * up * (s + silu * (1.0f - s));
      }
      row.gate[pair] = to_bf16x2(grad_gate[0], grad_gate[1]);
      row.up[pair] = to_bf16x2(grad_up[0], grad_up[1]);
      scaled[pair] = to_bf16x2(scaled_a[0], scaled_a[1]);
    }
    return dot;
  }

  __device__ __forceinline__ static void write(const Arguments& arguments, const Slab& slab,
                                               int row, int column, const Row& gradients,
                                               const u32 (&scaled)[4]) {
    if (!has(arguments, slab, row, column)) return;
    const long long at = slab.row + row;
    unsigned short* gate = arguments.grad_hidden + at * 2 * arguments.columns + column;
    store_global(gate, gradients.gate);
    store_global(gate + arguments.columns, gradients.up);
    store_global(arguments.scaled + at * arguments.columns + column, scaled);
  }

  // Lanes outside of the columns have added nothing.
  __device__ __forceinline__ static void write_dot(const Arguments& arguments, const Slab& slab,
                                                   int row, float dot) {
    const int tiles = (arguments.columns + TILE_N - 1) / TILE_N;
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) dot += __shfl_xor_sync(~0u, dot, lanes);
    if ((threadIdx.x & 31) == 0 && row < slab.rows) {
      arguments.dots[(long long)(slab.row + row) * tiles + slab.column / TILE_N] = dot;
    }
  }
};

#endif
