// Computes the gradient of [gate | up] from the product d, the gradient of the activation. With s
// the weight of a row, and a = silu(gate) * up recomputed from hidden = [gate | up]:
//   grad_up = s d silu(gate)
//   grad_gate = s d up silu'(gate)
//   scaled = s a, for the gradient of the down weight
//   dots = the sum of d a over the columns of this tile, a part of <grad_y, result of the expert>
//
// The consumers only stage d, as bf16, and continue with the next tile. Meanwhile the three other
// warps of the producer's warpgroup process it row by row: each serves two or three consumer warps.

#pragma once

#include "sm90_pipeline.cuh"

struct SwiGLUBackwardEpilogue {
  struct Arguments {
    const u16* hidden;        // bf16 [rows, 2, columns]
    u16* grad_hidden;         // bf16 [rows, 2, columns]
    u16* scaled;              // bf16 [rows, 1, columns]
    const float* row_weight;  // [rows]
    float* dots;              // [rows, tiles of columns]
    int columns;              // F
  };

  static constexpr int COLUMNS = TILE_N;
  static constexpr int CHUNKS = TILE_N / CHUNK_N;
  static constexpr int STAGING_NEEDED = CHUNKS;
  static constexpr bool NEEDS_WARPS = true;
  static constexpr int PRODUCER_REGISTERS = 152;
  static constexpr int CONSUMER_REGISTERS = 176;
  // Rows that are loaded together, and processed while the next ones load. There are only six
  // scoreboards, so loads issued one by one would wait for each other.
  static constexpr int BATCH = 4;

  // Stages d. `parity`: the parity of the next completion of the barrier `taken`.
  __device__ __forceinline__ static void finish(const Arguments&, const Layout& layout,
                                                const Slab& slab, float (&sums)[128], u32& parity) {
    barrier_wait(layout.taken(slab.warp), parity ^ 1);
    parity ^= 1;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
      put_chunk(layout.chunk(slab.warp, chunk), sums + chunk * 32);
    }
    barrier_arrive_as_warp(layout.staged(slab.warp));
  }

  // Processes everything that the consumers stage; run by the other warps of the producer's
  // warpgroup.
  template <typename Units>
  __device__ __forceinline__ static void finish_staged(const Arguments& arguments,
                                                       const Layout& layout, Units units) {
    constexpr int warps = 3;
    const int own = warp_index() - 1;
    u32 parities = 0;  // bit i: the parity of the next completion of the barrier staged(i)
    typename Units::Unit unit;
    while (units.take(unit)) {
#pragma unroll 1
      for (int warp = own; warp < CONSUMER_WARPS; warp += warps) {
        const Slab slab = unit.slab(warp, COLUMNS);
        if (slab.rows <= 0) break;
        work(arguments, layout, slab, parities >> warp & 1);
        parities ^= 1 << warp;
      }
    }
  }

 private:
  // A lane's part of a row: 8 columns of gate and of up.
  struct Row {
    u32 gate[4];
    u32 up[4];
  };

  // Processes the chunks that consumer warp `slab.warp` has staged. `parity`: the parity of its
  // barrier.
  __device__ __forceinline__ static void work(const Arguments& arguments, const Layout& layout,
                                              const Slab& slab, u32 parity) {
    const int lane = lane_index();
    const bool has_weight = lane < SLAB_M && lane < slab.rows;
    const float weight = has_weight ? arguments.row_weight[slab.row + lane] : 0.0f;
    Row even[BATCH], odd[BATCH];
    load(arguments, slab, 0, even);
    barrier_wait(layout.staged(slab.warp), parity);
    const u32 chunk = layout.chunk(slab.warp, lane >> 3);
#pragma unroll 1
    for (int row = 0; row < SLAB_M; row += 2 * BATCH) {
      load(arguments, slab, row + BATCH, odd);
      finish_rows(arguments, slab, row, chunk, weight, even);
      load(arguments, slab, row + 2 * BATCH, even);
      finish_rows(arguments, slab, row + BATCH, chunk, weight, odd);
    }
    barrier_arrive_as_warp(layout.taken(slab.warp));
  }

  __device__ __forceinline__ static int column_of(const Slab& slab) {
    return slab.column + lane_index() * 8;
  }

  // Whether this lane has columns of an existing row.
  __device__ __forceinline__ static bool has(const Arguments& arguments, const Slab& slab,
                                             int row) {
    return row < SLAB_M && row < slab.rows && column_of(slab) < arguments.columns;
  }

  // Loads gate and up of BATCH rows, starting at `first`.
  __device__ __forceinline__ static void load(const Arguments& arguments, const Slab& slab,
                                              int first, Row (&rows)[BATCH]) {
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
      rows[i] = {};
      if (!has(arguments, slab, first + i)) continue;
      const u16* gate =
          arguments.hidden + i64(slab.row + first + i) * 2 * arguments.columns + column_of(slab);
      load_once(gate, rows[i].gate);
      load_once(gate + arguments.columns, rows[i].up);
    }
  }

  // Writes the gradients of BATCH rows, starting at `first`. This lane's columns of d are in
  // `chunk`; lane i has the weight of row i.
  __device__ __forceinline__ static void finish_rows(const Arguments& arguments, const Slab& slab,
                                                     int first, u32 chunk, float weight,
                                                     Row (&rows)[BATCH]) {
    const int lane = lane_index();
    u32 d[BATCH][4];
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
      const int row = first + i;
      load_shared(chunk + row * 128 + ((lane & 7) ^ (row & 7)) * 16, d[i]);
    }
    float dots[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
      u32 scaled[4];
      dots[i] = differentiate(d[i], __shfl_sync(ALL_LANES, weight, first + i), rows[i], scaled);
      write(arguments, slab, first + i, rows[i], scaled);
    }
    write_dots(arguments, slab, first, dots);
  }

  // Replaces gate and up by their gradients and writes the weighted activation to `scaled`. Returns
  // the sum of d a.
  __device__ __forceinline__ static float differentiate(const u32 (&d)[4], float weight, Row& row,
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
        const float s = fast_sigmoid(gate);
        const float silu = gate * s;
        const float a = silu * up;
        const float weighted = weight * grad;
        dot += grad * a;
        scaled_a[i] = weight * a;
        grad_up[i] = weighted * silu;
        grad_gate[i] = weighted * up * (s + silu * (1.0f - s));
      }
      row.gate[pair] = bf16x2_of(grad_gate[0], grad_gate[1]);
      row.up[pair] = bf16x2_of(grad_up[0], grad_up[1]);
      scaled[pair] = bf16x2_of(scaled_a[0], scaled_a[1]);
    }
    return dot;
  }

  __device__ __forceinline__ static void write(const Arguments& arguments, const Slab& slab,
                                               int row, const Row& gradients,
                                               const u32 (&scaled)[4]) {
    if (!has(arguments, slab, row)) return;
    const i64 at = slab.row + row;
    u16* gate = arguments.grad_hidden + at * 2 * arguments.columns + column_of(slab);
    store_global(gate, gradients.gate);
    store_global(gate + arguments.columns, gradients.up);
    store_global(arguments.scaled + at * arguments.columns + column_of(slab), scaled);
  }

  // Writes the sums over the lanes for all rows at once: each exchange halves the number of rows
  // that a lane sums. Lanes outside the columns contribute 0.
  __device__ __forceinline__ static void write_dots(const Arguments& arguments, const Slab& slab,
                                                    int first, float (&dots)[BATCH]) {
    constexpr int lanes = WARP / BATCH;  // lanes per row after the last exchange
    const int lane = lane_index();
#pragma unroll
    for (int rows = BATCH / 2; rows > 0; rows /= 2) {
      const bool is_upper = lane & rows * lanes;
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        const float other =
            __shfl_xor_sync(ALL_LANES, is_upper ? dots[i] : dots[i + rows], rows * lanes);
        dots[i] = (is_upper ? dots[i + rows] : dots[i]) + other;
      }
    }
    float sum = dots[0];
#pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(ALL_LANES, sum, distance);
    }
    const int row = first + lane / lanes;
    const int tiles = (arguments.columns + TILE_N - 1) / TILE_N;
    if (lane % lanes == 0 && row < slab.rows) {
      arguments.dots[i64(slab.row + row) * tiles + slab.column / TILE_N] = sum;
    }
  }
};
