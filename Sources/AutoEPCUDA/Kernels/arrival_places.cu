// places[r] = where the r-th row in expert order stands among those that arrive. Rows arrive by
// source rank, then expert; expert order is by expert, then source rank. received [P,e]: rows that
// each rank sends to each expert. A block per pair of both. Each of its warps sums the counts of
// the pairs before, in either order; together they place the rows of the block's own.

#include "warp.cuh"

extern "C" __global__ void __launch_bounds__(256)
    arrival_places(const int* __restrict__ received, int* __restrict__ places, int num_ranks,
                   int num_experts, int num_rows) {
  const int expert = blockIdx.x;
  const int rank = blockIdx.y;
  int first_row = 0;
  int first_place = 0;
  for (int i = lane_index(); i < num_ranks * num_experts; i += WARP) {
    const int other_rank = i / num_experts;
    const int other_expert = i % num_experts;
    const int count = received[i];
    if (other_expert < expert || (other_expert == expert && other_rank < rank)) first_row += count;
    if (other_rank < rank || (other_rank == rank && other_expert < expert)) first_place += count;
  }
  first_row = __reduce_add_sync(ALL_LANES, first_row);
  first_place = __reduce_add_sync(ALL_LANES, first_place);
  const int count = received[rank * num_experts + expert];
  for (int i = threadIdx.x; i < count && first_row + i < num_rows; i += blockDim.x)
    places[first_row + i] = first_place + i;
}
