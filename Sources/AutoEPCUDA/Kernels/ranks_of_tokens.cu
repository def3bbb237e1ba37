// The ranks that each token goes to, and its choices as each rank numbers them. Every rank has
// experts_per_rank experts, the last ranks fewer or none.
//   -DINDEX_BYTES=4|8: topk_idx is i32 or i64

#include "integers.cuh"
#include "warp.cuh"

#if INDEX_BYTES == 8
typedef i64 Index;
#else
typedef int Index;
#endif

// The expert, counted from the first one of `rank`; -1 if it is on another rank, or no expert.
__device__ __forceinline__ int expert_on(Index expert, int rank, int num_experts,
                                         int experts_per_rank) {
  if (expert < 0 || expert >= num_experts) return -1;
  const int local = int(expert) - rank * experts_per_rank;
  return local >= 0 && local < experts_per_rank ? local : -1;
}

// ranks[t,p] = p if one of token t's experts is on rank p, else -1. One thread per (t,p).
extern "C" __global__ void __launch_bounds__(256)
    ranks_of_tokens(const Index* __restrict__ topk_idx, int* __restrict__ ranks, i64 num_pairs,
                    int num_ranks, int top_k, int num_experts, int experts_per_rank) {
  const i64 step = i64(gridDim.x) * blockDim.x;
  for (i64 pair = i64(blockIdx.x) * blockDim.x + threadIdx.x; pair < num_pairs; pair += step) {
    const int rank = int(pair % num_ranks);
    const Index* chosen = topk_idx + pair / num_ranks * top_k;
    bool goes = false;
#pragma unroll 4
    for (int k = 0; k < top_k; ++k)
      goes |= expert_on(chosen[k], rank, num_experts, experts_per_rank) >= 0;
    ranks[pair] = goes ? rank : -1;
  }
}

// choices[row_of_slot[t,p],k] = topk_idx[t,k], counted from the first expert of rank p; -1 if it is
// none of them. One thread per (t,p).
extern "C" __global__ void __launch_bounds__(256)
    choices_of_ranks(const Index* __restrict__ topk_idx, const int* __restrict__ row_of_slot,
                     int* __restrict__ choices, i64 num_pairs, int num_ranks, int top_k,
                     int num_experts, int experts_per_rank, int num_rows) {
  const i64 step = i64(gridDim.x) * blockDim.x;
  for (i64 pair = i64(blockIdx.x) * blockDim.x + threadIdx.x; pair < num_pairs; pair += step) {
    const int row = row_of_slot[pair];
    if (row < 0 || row >= num_rows) continue;
    const Index* chosen = topk_idx + pair / num_ranks * top_k;
    int* target = choices + i64(row) * top_k;
#pragma unroll 4
    for (int k = 0; k < top_k; ++k)
      target[k] = expert_on(chosen[k], int(pair % num_ranks), num_experts, experts_per_rank);
  }
}
