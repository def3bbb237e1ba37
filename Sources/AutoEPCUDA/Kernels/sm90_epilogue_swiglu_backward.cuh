// From the gradient of the activation to that of [gate | up]. With d = <grad_y, down column>, s the
// row's weight and a = silu(gate) up, all recomputed from the pre-activation:
//   grad_up = s d silu(gate), grad_gate = s d up silu'(gate), scaled = s a (for the down weight's
//   gradient), and the part of <grad_y, expert's result> = sum over F of d a of this tile's columns.

#if EPILOGUE == 3

struct Epilogue {
  struct Arguments {
    TensorMap hidden;         // [rows, 2, columns], boxes of 64 columns and 16 rows
    Target grad_hidden;       // [rows, 2, columns]
    Target scaled;            // [rows, 1, columns]
    const float* row_weight;  // [rows]
    float* dots;              // [rows, tiles of columns]
    int columns;              // F
  };

  static constexpr int COLUMNS = TILE_N;
  static constexpr int CHUNKS = TILE_N / CHUNK_N;

  // The products hide the way of the first two chunks of the pre-activation to shared memory, and of
  // the others to the L2 cache.
  __device__ __forceinline__ static void prepare(const Arguments& arguments, const Layout& layout,
                                                 const Slab& slab, u32&) {
    wait_sent<0>();
    if ((threadIdx.x & 31) != 0 || slab.rows <= 0) return;
    load_hidden(arguments, layout, slab, 0);
    load_hidden(arguments, layout, slab, 1);
    for (int chunk = 2; chunk < CHUNKS; ++chunk) {
      for (int half = 0; half < 2; ++half) {
        prefetch_box(&arguments.hidden, slab.column + chunk * CHUNK_N, half, slab.row);
      }
    }
  }

  __device__ __forceinline__ static void load_hidden(const Arguments& arguments,
                                                     const Layout& layout, const Slab& slab,
                                                     int chunk) {
    const int column = slab.column + chunk * CHUNK_N;
    if (column >= arguments.columns) return;
    const u32 barrier = layout.loaded(slab.warp, chunk & 1);
    barrier_expect_bytes(barrier, 2 * CHUNK_BYTES);
    for (int half = 0; half < 2; ++half) {
      load_box(layout.chunk(slab.warp, 2 * (chunk & 1) + half), &arguments.hidden, barrier, column,
               half, slab.row);
    }
  }

  // Bit i of `parity`: that which the warp's barrier `loaded(warp, i)` completes next.
  __device__ __forceinline__ static void finish(const Arguments& arguments, const Layout& layout,
                                                const Slab& slab, float (&sums)[128],
                                                u32& parity) {
    const int upper = (threadIdx.x & 31) >> 2;
    const float weights[2] = {
        upper < slab.rows ? arguments.row_weight[slab.row + upper] : 0.0f,
        upper + 8 < slab.rows ? arguments.row_weight[slab.row + upper + 8] : 0.0f};
    float dots[2] = {0.0f, 0.0f};
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
      const int column = slab.column + chunk * CHUNK_N;
      if (column >= arguments.columns) break;
      const int which = chunk & 1;
      const u32 gate = layout.chunk(slab.warp, 2 * which);
      const u32 up = gate + CHUNK_BYTES;
      const u32 scaled = layout.chunk(slab.warp, 4);
      barrier_wait(layout.loaded(slab.warp, which), parity >> which & 1);
      parity ^= 1 << which;
      // While the chunk before leaves, half of this one; then its places are free for the next.
      const float* d = sums + chunk * 32;
      u32 first[2][4];
      differentiate(gate, up, 0, d, weights, dots, first[0]);
      differentiate(gate, up, 1, d + 8, weights, dots, first[1]);
      wait_sent<0>();
      if (chunk > 0 && chunk + 1 < CHUNKS && (threadIdx.x & 31) == 0) {
        load_hidden(arguments, layout, slab, chunk + 1);
      }
      store_matrices(fragment_address(scaled, 0), first[0]);
      store_matrices(fragment_address(scaled, 1), first[1]);
#pragma unroll
      for (int pair = 2; pair < 4; ++pair) {
        u32 own[4];
        differentiate(gate, up, pair, d + 8 * pair, weights, dots, own);
        store_matrices(fragment_address(scaled, pair), own);
      }
      seal_chunks();
      send_rows(arguments.grad_hidden, gate, column, 0, slab.row, slab.rows);
      send_rows(arguments.grad_hidden, up, column, 1, slab.row, slab.rows);
      send_rows(arguments.scaled, scaled, column, 0, slab.row, slab.rows);
      stores_commit();
    }
    write_dots(arguments, slab, dots);
  }

  // 16 columns of gate and up, which their gradients replace; `scaled` gets the weighted activation.
  __device__ __forceinline__ static void differentiate(u32 gate_chunk, u32 up_chunk, int pair,
                                                       const float* d, const float (&weights)[2],
                                                       float (&dots)[2], u32 (&scaled)[4]) {
    u32 gates[4], ups[4];
    load_matrices(fragment_address(gate_chunk, pair), gates);
    load_matrices(fragment_address(up_chunk, pair), ups);
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float weight = weights[m & 1];
      float grad_gate[2], grad_up[2], scaled_a[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float gate = i ? bf16_high(gates[m]) : bf16_low(gates[m]);
        const float up = i ? bf16_high(ups[m]) : bf16_low(ups[m]);
        const float grad = d[2 * m + i];
        const float s = sigmoid(gate);
        const float silu = gate * s;
        const float a = silu * up;
        const float weighted = weight * grad;
        dots[m & 1] += grad * a;
        scaled_a[i] = weight * a;
        grad_up[i] = weighted * silu;
        grad_gate[i] = weighted * up * (s + silu * (1.0f - s));
      }
      gates[m] = to_bf16x2(grad_gate[0], grad_gate[1]);
      ups[m] = to_bf16x2(grad_up[0], grad_up[1]);
      scaled[m] = to_bf16x2(scaled_a[0], scaled_a[1]);
    }
    store_matrices(fragment_address(gate_chunk, pair), gates);
    store_matrices(fragment_address(up_chunk, pair), ups);
  }

  __device__ __forceinline__ static void write_dots(const Arguments& arguments, const Slab& slab,
                                                    const float (&dots)[2]) {
    const int lane = threadIdx.x & 31;
    const int tiles = (arguments.columns + TILE_N - 1) / TILE_N;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float dot = dots[i];
      dot += __shfl_xor_sync(~0u, dot, 1);
      dot += __shfl_xor_sync(~0u, dot, 2);
      const int row = (lane >> 2) + 8 * i;
      if ((lane & 3) == 0 && row < slab.rows) {
        arguments.dots[(long long)(slab.row + row) * tiles + slab.column / TILE_N] = dot;
      }
    }
  }
};

#endif
