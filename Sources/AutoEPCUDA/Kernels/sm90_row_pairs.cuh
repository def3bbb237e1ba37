// The list of row pairs, written by sm90_row_pairs.cu and read by the products.

#pragma once

#include "host_and_device.h"

// Rows [row, row + rows) of one expert, for the two blocks of a cluster. A full pair has more than
// TILE_M rows: each block computes one row tile, and the blocks share columns of the weight.
// Otherwise the pair is its expert's tail tile: both blocks compute it, with different columns.
struct RowPair {
  int row;
  int rows;
  int expert;
};
static_assert(sizeof(RowPair) == ROW_PAIR_INTS * sizeof(int), "as the host allocates them");

// RASTER successive pairs form a raster group: they run together and share the weight in the L2
// cache. Within a group, full pairs come first.
//
// Tail tiles run either in the raster group of their expert, so that its weight is read once, or
// after all full pairs. Short units between longer ones desynchronise the clusters; if a group's
// rows do not fit in the L2 cache, they are then fetched again.
