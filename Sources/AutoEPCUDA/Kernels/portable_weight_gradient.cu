// gradients [E,M,N]: for each group, the sum over its rows r of left[r] (outer) right[r], in row order. An
// empty group gets zeros. left [R,M] and right [R,N] are grad_out and rows for weights [E,out,in], and the other
// way round for [E,in,out].
//   -DELEMENT: see element.cuh;  -DGROUPS: see groups.cuh;  -DALIGNED: see tensor_core_tile.cuh
//   -DOUT=1|2|3       the type of gradients
//   -DACCUMULATE=0|1  whether gradients are added to what is there (OUT=1)
// Persistent: any grid; a block takes every gridDim.x-th tile of all groups.

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
                         int num_groups, long long num_rows, int num_left, int num_right) {
  int num_left_tiles = (num_left + TILE - 1) / TILE;
  int num_right_tiles = (num_right + TILE - 1) / TILE;
  int tiles_per_group = num_left_tiles * num_right_tiles;
  Group group = {-1, 0, 0};
  // From the first tile of the first group that there is; each step enters the group its tile is in.
  for (int in_group = blockIdx.x + tiles_per_group;; in_group += gridDim.x) {
    for (; in_group >= tiles_per_group; in_group -= tiles_per_group) {
      if (group.index == num_groups - 1) return;
      group = next_group(groups, group, num_rows);
    }
    int first_left = in_group % num_left_tiles * TILE;
    int first_right = in_group / num_left_tiles * TILE;
    Operand<OUTER_CONTIGUOUS> a = {left + group.begin * num_left + first_left, num_left,
                                   num_left - first_left, group.num_rows()};
    Operand<OUTER_CONTIGUOUS> b = {right + group.begin * num_right + first_right, num_right,
                                   num_right - first_right, group.num_rows()};
    TileSums sums = multiply_tile(a, b);
    Out* gradient = gradients + static_cast<long long>(group.index) * num_left * num_right;
    for_each_pair(sums, [&](int row, int column, float first, float second) {
      if (first_left + row >= num_left || first_right + column >= num_right) return;
      Out* target =
          gradient + static_cast<long long>(first_left + row) * num_right + first_right + column;
      put(target, first);
      if (first_right + column + 1 < num_right) put(target + 1, second);
    });
  }
}
