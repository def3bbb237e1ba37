// gradients [E,M,N]: for each group, the sum over its rows r of left[r] (outer) right[r], in row
// order. An empty group gets zeros. For weights [E,out,in], left [R,M] is grad_out and right [R,N]
// is rows; for [E,in,out] they are swapped.
//   -DELEMENT: see element.cuh;  -DGROUPS: see groups.cuh;  -DALIGNED: see chunk.cuh
//   -DOUT=TYPE_...: the type of gradients
//   -DACCUMULATE=0|1: whether the sums are added to gradients (OUT=TYPE_F32 only)
// Persistent: works with any grid; a block computes every gridDim.x-th tile of all groups.

#include "element.cuh"
#include "groups.cuh"
#include "operand.cuh"
#include "product_tile.cuh"

typedef Scalar<OUT>::Stored Out;

__device__ __forceinline__ void put(Out* target, float sum) {
#if ACCUMULATE
  sum += *target;
#endif
  *target = Scalar<OUT>::round(sum);
}

extern "C" __global__ void __launch_bounds__(TILE_THREADS, TILE_BLOCKS_PER_SM)
    portable_weight_gradient(const Element* __restrict__ left, const Element* __restrict__ right,
                             const GroupSize* __restrict__ groups, Out* __restrict__ gradients,
                             int num_groups, i64 num_rows, int num_left, int num_right) {
  const int num_left_tiles = (num_left + TILE - 1) / TILE;
  const int num_right_tiles = (num_right + TILE - 1) / TILE;
  const int tiles_per_group = num_left_tiles * num_right_tiles;
  Group group = {-1, 0, 0};
  // Starts before the first group; each step advances to the group of its tile.
  for (int in_group = blockIdx.x + tiles_per_group;; in_group += gridDim.x) {
    for (; in_group >= tiles_per_group; in_group -= tiles_per_group) {
      if (group.index == num_groups - 1) return;
      group = next_group(groups, group, num_rows);
    }
    const int first_left = in_group % num_left_tiles * TILE;
    const int first_right = in_group / num_left_tiles * TILE;
    Operand<OUTER_CONTIGUOUS> a = {left + group.begin * num_left + first_left, num_left,
                                   num_left - first_left, group.num_rows()};
    Operand<OUTER_CONTIGUOUS> b = {right + group.begin * num_right + first_right, num_right,
                                   num_right - first_right, group.num_rows()};
    TileSums sums = multiply_tile(a, b);
    Out* gradient = gradients + i64(group.index) * num_left * num_right;
    for_each_pair(sums, [&](int row, int column, float first, float second) {
      if (first_left + row >= num_left || first_right + column >= num_right) return;
      Out* target = gradient + i64(first_left + row) * num_right + first_right + column;
      put(target, first);
      if (first_right + column + 1 < num_right) put(target + 1, second);
    });
  }
}
