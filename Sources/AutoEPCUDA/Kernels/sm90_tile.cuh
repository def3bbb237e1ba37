// What the list of row tiles and the products that take tiles from it agree on.

#pragma once

constexpr int TILE_M = 128;  // rows of a block's tile

// Rows [row, row + rows) of one expert, for the two blocks of a cluster. Of more than TILE_M each block has
// a tile, and the blocks share columns of the weight. What is at most TILE_M is the odd tile of an expert,
// which both blocks have, with different columns.
struct TilePair {
  int row;
  int rows;
  int expert;
};

// Pairs that follow each other in groups of so many run together and share the weight in the L2 cache. A
// group has its odd tiles last.
//
// They stand in the group of their expert, whose weight is then read once, or behind all others: units of
// another length between the rest put the clusters out of step, and where the rows of a group do not stay in
// the L2 cache these are then read more often.
constexpr int RASTER = 8;
