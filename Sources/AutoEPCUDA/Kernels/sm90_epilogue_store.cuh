// Stores the product itself, plus a bias if there is one.

#pragma once

#include "sm90_pipeline.cuh"

struct StoreEpilogue {
  struct Arguments {
    Target out;       // [rows, 1, columns]
    const u16* bias;  // bf16 [E, columns], or null
    int columns;
  };

  static constexpr int COLUMNS = TILE_N;      // output columns of a tile
  static constexpr int STAGING_NEEDED = 1;    // fewest chunks that a warp stages
  static constexpr bool NEEDS_WARPS = false;  // whether finish_staged does anything
  static constexpr int PRODUCER_REGISTERS = 40;
  static constexpr int CONSUMER_REGISTERS = 232;

  __device__ __forceinline__ static void finish(const Arguments& arguments, const Layout& layout,
                                                const Slab& slab, float (&sums)[128], u32&) {
    const int lane = lane_index();
    wait_sent<0>();
#pragma unroll
    for (int chunk = 0; chunk < TILE_N / CHUNK_N; ++chunk) {
      const int column = slab.column + chunk * CHUNK_N;
      if (column >= arguments.columns) break;
      float* values = sums + chunk * 32;
      if (arguments.bias != nullptr) {
        add_bias(arguments.bias + i64(slab.expert) * arguments.columns, arguments.columns,
                 column + 2 * (lane & 3), values);
      }
      const u32 place = layout.chunk(slab.warp, chunk % STAGING_CHUNKS);
      wait_sent<STAGING_CHUNKS - 1>();
      put_chunk(place, values);
      seal_chunks();
      send_rows(arguments.out, place, column, 0, slab.row, slab.rows);
      stores_commit();
    }
  }

  // Does nothing.
  template <typename Units>
  __device__ __forceinline__ static void finish_staged(const Arguments&, const Layout&, Units) {}

 private:
  __device__ __forceinline__ static void add_bias(const u16* bias, int columns, int column,
                                                  float* values) {
#pragma unroll
    for (int group = 0; group < 8; ++group) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int at = column + 8 * group + i;
        const float value = at < columns ? bf16_low(bias[at]) : 0.0f;
        values[4 * group + i] += value;
        values[4 * group + 2 + i] += value;
      }
    }
  }
};
