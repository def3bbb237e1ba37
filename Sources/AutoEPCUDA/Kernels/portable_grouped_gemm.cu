// out [R,N] = rows [R,D] times the weight of each row's group, plus the group's row of bias [E,N]
// (NULL: no bias).
//   -DELEMENT: see element.cuh;  -DGROUPS: see groups.cuh;  -DALIGNED: see chunk.cuh
//   -DLAYOUT=LAYOUT_...: weights [E,N,D] or [E,D,N]
// Persistent: works with any grid; a block computes every gridDim.x-th tile of all groups. A row's
// result does not depend on its position: its sums run over the depth in one order and contain no
// other row.

#include "element.cuh"
#include "groups.cuh"
#include "host_and_device.h"
#include "operand.cuh"
#include "product_tile.cuh"

struct alignas(2 * sizeof(Element)) Pair {
  Element at[2];
};

// The tiles of all groups, group by group. Within a group, tiles of the same columns are
// consecutive, so that blocks that run together share weights.
struct Tiles {
  Group group;
  // The index of the group's first tile, and the number of its row tiles.
  i64 first, num_row_tiles;
};

// Advances to the group of tile `index`; returns false if there is no such tile.
__device__ __forceinline__ bool find_tile(Tiles& tiles, i64 index, const GroupSize* groups,
                                          int num_groups, i64 num_rows, int num_column_tiles) {
  while (index >= tiles.first + tiles.num_row_tiles * num_column_tiles) {
    if (tiles.group.index == num_groups - 1) return false;
    tiles.first += tiles.num_row_tiles * num_column_tiles;
    tiles.group = next_group(groups, tiles.group, num_rows);
    tiles.num_row_tiles = (tiles.group.num_rows() + TILE - 1) / TILE;
  }
  return true;
}

__device__ __forceinline__ TileSums multiply_rows(Operand<DEPTH_CONTIGUOUS> rows,
                                                  const Element* weight, int num_columns,
                                                  int first_column) {
  const int columns = num_columns - first_column;
  if constexpr (LAYOUT == LAYOUT_OUT_IN) {
    Operand<DEPTH_CONTIGUOUS> columns_of_weight = {weight + first_column * rows.depth, rows.pitch,
                                                   columns, rows.depth};
    return multiply_tile(rows, columns_of_weight);
  } else {
    Operand<OUTER_CONTIGUOUS> columns_of_weight = {weight + first_column, num_columns, columns,
                                                   rows.depth};
    return multiply_tile(rows, columns_of_weight);
  }
}

extern "C" __global__ void __launch_bounds__(TILE_THREADS, TILE_BLOCKS_PER_SM)
    portable_grouped_gemm(const Element* __restrict__ rows, const Element* __restrict__ weights,
                          const Element* __restrict__ bias, const GroupSize* __restrict__ groups,
                          Element* __restrict__ out, int num_groups, i64 num_rows, int num_columns,
                          int depth) {
  const int num_column_tiles = (num_columns + TILE - 1) / TILE;
  Tiles tiles = {{-1, 0, 0}, 0, 0};
  for (i64 index = blockIdx.x;
       find_tile(tiles, index, groups, num_groups, num_rows, num_column_tiles);
       index += gridDim.x) {
    const i64 in_group = index - tiles.first;
    const i64 first_row = tiles.group.begin + in_group % tiles.num_row_tiles * TILE;
    const int first_column = int(in_group / tiles.num_row_tiles) * TILE;
    const int group = tiles.group.index;
    const int rows_left = int(min(tiles.group.end - first_row, i64(TILE)));
    TileSums sums =
        multiply_rows({rows + first_row * depth, depth, rows_left, depth},
                      weights + i64(group) * num_columns * depth, num_columns, first_column);
    const Element* group_bias = bias == nullptr ? nullptr : bias + i64(group) * num_columns;
    for_each_pair(sums, [&](int row, int column_in_tile, float first, float second) {
      const int column = first_column + column_in_tile;
      if (row >= rows_left || column >= num_columns) return;
      const bool has_second = column + 1 < num_columns;
      if (group_bias != nullptr) {
        first += widen(group_bias[column]);
        if (has_second) second += widen(group_bias[column + 1]);
      }
      Element* target = out + (first_row + row) * num_columns + column;
      if (ALIGNED) {
        *reinterpret_cast<Pair*>(target) = {rounded(first), rounded(second)};
      } else {
        target[0] = rounded(first);
        if (has_second) target[1] = rounded(second);
      }
    });
  }
}
