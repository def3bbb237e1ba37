// Lists the row pairs of all experts; see sm90_row_pairs.cuh.

#include "host_and_device.h"
#include "search.cuh"
#include "sm90_row_pairs.cuh"
#include "warp.cuh"

constexpr int THREADS = LIST_THREADS;
constexpr int WARPS = THREADS / WARP;

extern __shared__ int shared_memory[];

// The sum of `value` over the preceding threads; *total: the sum over all threads. One block of
// THREADS.
__device__ __forceinline__ int sum_before(int value, int* total) {
  __shared__ int of_warp[WARPS];
  const int sum = warp_sum_through(value);
  __syncthreads();
  if (lane_index() == WARP - 1) of_warp[warp_index()] = sum;
  __syncthreads();
  int before = 0;
  *total = 0;
  for (int i = 0; i < WARPS; ++i) {
    if (i < warp_index()) before += of_warp[i];
    *total += of_warp[i];
  }
  return before + sum - value;
}

__device__ __forceinline__ int tiles_of(const int* expert_offsets, int expert) {
  return (expert_offsets[expert + 1] - expert_offsets[expert] + TILE_M - 1) / TILE_M;
}

// The first pair of each expert, in expert order.
struct Experts {
  const int* first_pair;         // [E]
  const int* tail_tiles_before;  // [E], tail tiles of the experts before
  int count;                     // E
  int pairs;                     // of all experts
  int tail_tiles;                // of all experts

  // The last expert whose first pair is not after `pair`.
  __device__ __forceinline__ int of(int pair) const {
    return last_beginning_by(pair, count, [&](int expert) { return first_pair[expert]; });
  }

  // The number of tail tiles before a pair; the last pair of an expert may be one.
  __device__ __forceinline__ int tail_tiles_before_pair(int pair) const {
    return pair < pairs ? tail_tiles_before[of(pair)] : tail_tiles;
  }
};

// In: expert_offsets [E+1]; tail_tiles_last: whether the tail tiles come after all full pairs. Out:
// pairs [pair_count]; tail_tiles_before [groups + 1], the number of tail tiles before each raster
// group and, last, of all; pair_count [1]. One block; shared memory: 2 E ints.
extern "C" __global__ void __launch_bounds__(THREADS)
    sm90_list_row_pairs(const int* expert_offsets, int num_experts, int tail_tiles_last,
                        RowPair* pairs, int* tail_tiles_before, int* pair_count) {
  int* first_pair = shared_memory;
  int* tail_tiles_before_expert = shared_memory + num_experts;
  // Each thread counts consecutive experts.
  const int run = (num_experts + THREADS - 1) / THREADS;
  const int begin = min((int)threadIdx.x * run, num_experts);
  const int end = min(begin + run, num_experts);
  int own_pairs = 0;
  int own_tail_tiles = 0;
  for (int expert = begin; expert < end; ++expert) {
    own_pairs += (tiles_of(expert_offsets, expert) + 1) / 2;
    own_tail_tiles += tiles_of(expert_offsets, expert) % 2;
  }
  Experts experts = {first_pair, tail_tiles_before_expert, num_experts, 0, 0};
  int pair = sum_before(own_pairs, &experts.pairs);
  int tail_tile = sum_before(own_tail_tiles, &experts.tail_tiles);
  for (int expert = begin; expert < end; ++expert) {
    first_pair[expert] = pair;
    tail_tiles_before_expert[expert] = tail_tile;
    pair += (tiles_of(expert_offsets, expert) + 1) / 2;
    tail_tile += tiles_of(expert_offsets, expert) % 2;
  }
  if (threadIdx.x == 0) {
    *pair_count = experts.pairs;
    tail_tiles_before[(experts.pairs + RASTER - 1) / RASTER] = experts.tail_tiles;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < experts.pairs; i += THREADS) {
    const int expert = experts.of(i);
    const int row = expert_offsets[expert] + (i - first_pair[expert]) * 2 * TILE_M;
    const int rows = min(2 * TILE_M, expert_offsets[expert + 1] - row);
    // Among the pairs [first, last) the tail tiles come last.
    const int first = tail_tiles_last ? 0 : i / RASTER * RASTER;
    const int last = tail_tiles_last ? experts.pairs : min(first + RASTER, experts.pairs);
    const int before = experts.tail_tiles_before_pair(first);
    const int full_pairs = last - first - (experts.tail_tiles_before_pair(last) - before);
    // The tail tiles in [first, last) before this pair.
    const int tail_tiles = tail_tiles_before_expert[expert] - before;
    pairs[rows > TILE_M ? i - tail_tiles : first + full_pairs + tail_tiles] = {row, rows, expert};
    if (i % RASTER == 0) {
      tail_tiles_before[i / RASTER] = tail_tiles_last ? max(0, i - full_pairs) : before;
    }
  }
}
