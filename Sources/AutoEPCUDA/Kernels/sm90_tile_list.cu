// The row tiles of all experts, in the pairs that clusters take. Two tiles of one expert make a pair;
// the last tiles of experts with an odd number of them pair with each other, behind all others.

constexpr int TILE_M = 128;
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

// The last expert whose first pair is not behind `pair`.
__device__ __forceinline__ int expert_of(const int* first_pair, int experts, int pair) {
  int low = 0;
  int high = experts;
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

// expert_offsets [E+1]; tiles [pairs, 2]; pair_count [1]. One block; shared memory: E ints.
extern "C" __global__ void __launch_bounds__(THREADS)
    sm90_list_tiles(const int* expert_offsets, int experts, Tile* tiles, int* pair_count) {
  int* first_pair = shared_memory;
  // Each thread takes a run of experts.
  const int run = (experts + THREADS - 1) / THREADS;
  const int begin = min((int)threadIdx.x * run, experts);
  const int end = min(begin + run, experts);
  int own_pairs = 0;
  int own_odd = 0;
  for (int expert = begin; expert < end; ++expert) {
    own_pairs += tiles_of(expert_offsets, expert) / 2;
    own_odd += tiles_of(expert_offsets, expert) % 2;
  }
  int pairs;
  int odd;
  int pair = sum_before(own_pairs, &pairs);
  int single = sum_before(own_odd, &odd);
  for (int expert = begin; expert < end; ++expert) {
    const int count = tiles_of(expert_offsets, expert);
    first_pair[expert] = pair;
    pair += count / 2;
    if (count % 2 == 1) {
      const int row = expert_offsets[expert] + (count - 1) * TILE_M;
      tiles[2 * pairs + single++] = {row, expert_offsets[expert + 1] - row, expert, 0};
    }
  }
  if (threadIdx.x == 0) {
    if (odd % 2 == 1) tiles[2 * pairs + odd] = {0, 0, 0, 0};
    *pair_count = pairs + (odd + 1) / 2;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < pairs; i += THREADS) {
    const int expert = expert_of(first_pair, experts, i);
    const int row = expert_offsets[expert] + (i - first_pair[expert]) * 2 * TILE_M;
    tiles[2 * i] = {row, TILE_M, expert, 1};
    tiles[2 * i + 1] = {row + TILE_M, min(TILE_M, expert_offsets[expert + 1] - row - TILE_M),
                        expert, 1};
  }
}
