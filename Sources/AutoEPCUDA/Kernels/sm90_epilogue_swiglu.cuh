// Stores hidden = [gate | up], for the backward, and out = silu(gate) * up. A tile has 128 columns
// of gate and the same 128 columns of up, whose sums follow 64 positions later in each thread.

#pragma once

#include "sm90_pipeline.cuh"

struct SwiGLUEpilogue {
  struct Arguments {
    Target hidden;  // [rows, 2, columns]
    Target out;     // [rows, 1, columns]
    int columns;    // F
  };

  static constexpr int COLUMNS = TILE_N / 2;
  static constexpr int STAGING_NEEDED = 1;
  static constexpr bool NEEDS_WARPS = false;
  static constexpr int PRODUCER_REGISTERS = 40;
  static constexpr int CONSUMER_REGISTERS = 232;

  __device__ __forceinline__ static void finish(const Arguments& arguments, const Layout& layout,
                                                const Slab& slab, float (&sums)[128], u32&) {
    wait_sent<0>();
#pragma unroll
    for (int chunk = 0; chunk < COLUMNS / CHUNK_N; ++chunk) {
      const int column = slab.column + chunk * CHUNK_N;
      if (column >= arguments.columns) break;
      float* gate = sums + chunk * 32;
      float* up = gate + 64;
      // The three stores of a round use the staged chunks in turn.
      send(arguments.hidden, layout, slab, 3 * chunk, gate, column, 0);
      send(arguments.hidden, layout, slab, 3 * chunk + 1, up, column, 1);
#pragma unroll
      for (int i = 0; i < 32; ++i) gate[i] = gate[i] * fast_sigmoid(gate[i]) * up[i];
      send(arguments.out, layout, slab, 3 * chunk + 2, gate, column, 0);
    }
  }

  // Does nothing.
  template <typename Units>
  __device__ __forceinline__ static void finish_staged(const Arguments&, const Layout&, Units) {}

 private:
  __device__ __forceinline__ static void send(const Target& target, const Layout& layout,
                                              const Slab& slab, int turn, const float* values,
                                              int column, int half) {
    const u32 place = layout.chunk(slab.warp, turn % STAGING_CHUNKS);
    wait_sent<STAGING_CHUNKS - 1>();
    put_chunk(place, values);
    seal_chunks();
    send_rows(target, place, column, half, slab.row, slab.rows);
    stores_commit();
  }
};
