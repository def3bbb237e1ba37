// The row tiles of all experts, in the pairs that clusters take; see sm90_tile.cuh.

#include "sm90_tile.cuh"

constexpr int THREADS = 512;
constexpr int WARPS = THREADS / 32;

extern __shared__ int shared_memory[];

// The sum of `value` over the threads before this one; *total: over all. One block of THREADS.
__device__ __forceinline__ int sum_before(int value, int* total) {
  __shared__ int of_warp[WARPS];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  __syncthreads();
  if (lane == 31) of_warp[warp] = sum;
  __syncthreads();
  int before = 0;
  *total = 0;
  for (int i = 0; i < WARPS; ++i) {
    if (i < warp) before += of_warp[i];
    *total += of_warp[i];
  }
  return before + sum - value;
}

__device__ __forceinline__ int tiles_of(const int* expert_offsets, int expert) {
  return (expert_offsets[expert + 1] - expert_offsets[expert] + TILE_M - 1) / TILE_M;
}

// Where the pairs of each expert begin, in the order of experts.
struct Experts {
  const int* first_pair;      // [E]
  const int* singles_before;  // [E], odd tiles of the experts before
  int count;                  // E
  int pairs;                  // of all
  int singles;

  // The last expert whose first pair is not behind `pair`.
  __device__ __forceinline__ int of(int pair) const {
    int low = 0;
    int high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (first_pair[middle] <= pair) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }

  // How many odd tiles are before a pair; an expert's is its last.
  __device__ __forceinline__ int singles_before_pair(int pair) const {
    return pair < pairs ? singles_before[of(pair)] : singles;
  }
};

// expert_offsets [E+1]; pairs [pair_count]; singles_before [groups + 1], the odd tiles before each group and
// those of all; pair_count [1]. `singles_last`: odd tiles stand behind all others. One block; shared memory:
// 2 E ints.
extern "C" __global__ void __launch_bounds__(THREADS)
    sm90_list_tiles(const int* expert_offsets, int num_experts, int singles_last, TilePair* pairs,
                    int* singles_before, int* pair_count) {
  int* first_pair = shared_memory;
  int* singles_before_expert = shared_memory + num_experts;
  // Each thread takes a run of experts.
  const int run = (num_experts + THREADS - 1) / THREADS;
  const int begin = min((int)threadIdx.x * run, num_experts);
  const int end = min(begin + run, num_experts);
  int own_pairs = 0;
  int own_singles = 0;
  for (int expert = begin; expert < end; ++expert) {
    own_pairs += (tiles_of(expert_offsets, expert) + 1) / 2;
    own_singles += tiles_of(expert_offsets, expert) % 2;
  }
  Experts experts = {first_pair, singles_before_expert, num_experts, 0, 0};
  int pair = sum_before(own_pairs, &experts.pairs);
  int single = sum_before(own_singles, &experts.singles);
  for (int expert = begin; expert < end; ++expert) {
    first_pair[expert] = pair;
    singles_before_expert[expert] = single;
    pair += (tiles_of(expert_offsets, expert) + 1) / 2;
    single += tiles_of(expert_offsets, expert) % 2;
  }
  if (threadIdx.x == 0) {
    *pair_count = experts.pairs;
    singles_before[(experts.pairs + RASTER - 1) / RASTER] = experts.singles;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < experts.pairs; i += THREADS) {
    const int expert = experts.of(i);
    const int row = expert_offsets[expert] + (i - first_pair[expert]) * 2 * TILE_M;
    const int rows = min(2 * TILE_M, expert_offsets[expert + 1] - row);
    // Among these the odd tiles come last.
    const int first = singles_last ? 0 : i / RASTER * RASTER;
    const int last = singles_last ? experts.pairs : min(first + RASTER, experts.pairs);
    const int before = experts.singles_before_pair(first);
    const int doubles = last - first - (experts.singles_before_pair(last) - before);
    const int single = singles_before_expert[expert] - before;  // of them before this pair
    pairs[rows > TILE_M ? i - single : first + doubles + single] = {row, rows, expert};
    if (i % RASTER == 0) singles_before[i / RASTER] = singles_last ? max(0, i - doubles) : before;
  }
}
