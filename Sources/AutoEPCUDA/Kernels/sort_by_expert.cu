// The stable counting sort of the slots by expert: count, scan and place, in one launch each, or
// all in one block.
//   -DINDEX_BYTES=4|8: topk_idx is i32 or i64
//
// The slots are split into CHUNKS chunks. There is one bucket per expert, and bucket E for the
// slots without one: these come last, and their row_of_slot is -1. slot_of_row is therefore always
// a permutation of [0, N). An index of -1 is no expert; any other index outside [0, E) is also
// reported as a fault.

#include "fault.cuh"
#include "host_and_device.h"
#include "integers.cuh"
#include "warp.cuh"

constexpr int CHUNKS = SORT_CHUNKS;

#if INDEX_BYTES == 8
typedef i64 Index;
#else
typedef int Index;
#endif

extern __shared__ __align__(16) unsigned char shared_memory[];

struct Slots {
  i64 begin, end;
};

__device__ __forceinline__ i64 round_up(i64 value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Share `index` of `count` equal shares of the slots; a share is a multiple of WARP slots.
__device__ __forceinline__ Slots share(Slots all, int index, int count) {
  const i64 size = round_up((all.end - all.begin + count - 1) / count, WARP);
  const i64 begin = min(all.begin + index * size, all.end);
  return {begin, min(begin + size, all.end)};
}

__device__ __forceinline__ Slots slots_of_chunk(i64 num_slots) {
  return share({0, num_slots}, blockIdx.x, CHUNKS);
}

__device__ __forceinline__ int bucket_of(Index expert, int num_experts) {
  const bool is_expert = expert >= 0 && expert < num_experts;
  return is_expert ? int(expert) : num_experts;
}

// Whether an index is neither an expert nor -1.
__device__ __forceinline__ bool is_bad(Index expert, int num_experts) {
  return expert < -1 || expert >= num_experts;
}

// chunk_counts [E+1, CHUNKS] = the number of slots of each bucket in each chunk. Grid: CHUNKS
// blocks. Shared memory: E+1 ints.
extern "C" __global__ void __launch_bounds__(512)
    sort_count(const Index* __restrict__ topk_idx, i64 num_slots, int num_experts,
               int* __restrict__ chunk_counts, volatile u32* fault) {
  int* counts = reinterpret_cast<int*>(shared_memory);
  for (int bucket = threadIdx.x; bucket <= num_experts; bucket += blockDim.x) counts[bucket] = 0;
  __syncthreads();
  Slots slots = slots_of_chunk(num_slots);
  bool found_bad = false;
#pragma unroll 4
  for (i64 slot = slots.begin + threadIdx.x; slot < slots.end; slot += blockDim.x) {
    Index expert = topk_idx[slot];
    found_bad |= is_bad(expert, num_experts);
    atomicAdd(&counts[bucket_of(expert, num_experts)], 1);
  }
  if (found_bad) report(fault, FAULT_TOPK_IDX);
  __syncthreads();
  for (int bucket = threadIdx.x; bucket <= num_experts; bucket += blockDim.x)
    chunk_counts[i64(bucket) * CHUNKS + blockIdx.x] = counts[bucket];
}

// Replaces chunk_counts by the number of the bucket's slots in all preceding chunks, and writes the
// totals to bucket_counts [E+1] and tokens_per_expert [E] (or NULL). One warp per bucket, four
// chunks per lane.
extern "C" __global__ void __launch_bounds__(256)
    sort_scan(int num_experts, int* __restrict__ chunk_counts, int* __restrict__ bucket_counts,
              int* __restrict__ tokens_per_expert) {
  static_assert(CHUNKS == 4 * WARP, "four chunks per lane");
  const int bucket = int(first_row_of_warp());
  if (bucket > num_experts) return;
  int4* place = reinterpret_cast<int4*>(chunk_counts) + i64(bucket) * WARP + lane_index();
  int4 counts = *place;
  const int own = counts.x + counts.y + counts.z + counts.w;
  const int until = warp_sum_through(own);
  const int first = until - own;
  *place = {first, first + counts.x, first + counts.x + counts.y, until - counts.w};
  if (lane_index() == WARP - 1) {
    bucket_counts[bucket] = until;
    if (tokens_per_expert != nullptr && bucket < num_experts) tokens_per_expert[bucket] = until;
  }
}

// Replaces each of counts [size] in shared memory by the sum of the preceding counts; one warp.
__device__ __forceinline__ void scan_by_warp(int* counts, int size) {
  int carry = 0;
  for (int base = 0; base < size; base += WARP) {
    const int index = base + lane_index();
    const int own = index < size ? counts[index] : 0;
    const int until = warp_sum_through(own);
    if (index < size) counts[index] = carry + until - own;
    carry += __shfl_sync(ALL_LANES, until, WARP - 1);
  }
}

// Adds a warp's share of the slots to its counts [E+1], which are zeroed before. Returns whether
// this thread found a bad index.
__device__ __forceinline__ bool count_share(const Index* topk_idx, Slots own, int num_experts,
                                            int* counts) {
  bool found_bad = false;
  for (i64 slot = own.begin + lane_index(); slot < own.end; slot += WARP) {
    Index expert = topk_idx[slot];
    found_bad |= is_bad(expert, num_experts);
    atomicAdd(&counts[bucket_of(expert, num_experts)], 1);
  }
  return found_bad;
}

// Replaces counts [warps, E+1] by the row of each warp's first slot of each bucket; first_row [E+1]
// is the block's first row of each bucket.
__device__ __forceinline__ void counts_to_rows(int* counts, const int* first_row, int num_experts) {
  for (int bucket = threadIdx.x; bucket <= num_experts; bucket += blockDim.x) {
    int row = first_row[bucket];
    for (int warp = 0; warp < warps_per_block(); ++warp) {
      const int count = counts[warp * (num_experts + 1) + bucket];
      counts[warp * (num_experts + 1) + bucket] = row;
      row += count;
    }
  }
}

// Assigns rows to a warp's slots, 32 at a time; slots of the same bucket are in lane order.
__device__ __forceinline__ void place_slots(const Index* topk_idx, Slots own, int num_experts,
                                            int* next, int* row_of_slot, int* slot_of_row) {
  for (i64 base = own.begin; base < own.end; base += WARP) {
    const i64 slot = base + lane_index();
    const bool is_slot = slot < own.end;
    // Lanes past the end share a bucket of their own.
    const int bucket = is_slot ? bucket_of(topk_idx[slot], num_experts) : num_experts + 1;
    const u32 peers = __match_any_sync(ALL_LANES, bucket);
    const int rank = __popc(peers & ((1u << lane_index()) - 1));
    const int first = is_slot ? next[bucket] : 0;
    __syncwarp();
    if (is_slot) {
      const int row = first + rank;
      if (slot_of_row != nullptr) slot_of_row[row] = int(slot);
      row_of_slot[slot] = bucket < num_experts ? row : -1;
      if (rank == 0) next[bucket] = first + __popc(peers);
    }
    __syncwarp();
  }
}

// expert_offsets [E+1], row_of_slot [N], slot_of_row [N]. Grid: CHUNKS blocks. Shared memory:
// (warps + 1) * (E+1) ints.
extern "C" __global__ void __launch_bounds__(512)
    sort_place(const Index* __restrict__ topk_idx, i64 num_slots, int num_experts,
               const int* __restrict__ chunk_counts, const int* __restrict__ bucket_counts,
               int* __restrict__ expert_offsets, int* __restrict__ row_of_slot,
               int* __restrict__ slot_of_row) {
  int* first_row = reinterpret_cast<int*>(shared_memory);
  int* next = first_row + num_experts + 1;
  int* own_next = next + warp_index() * (num_experts + 1);
  for (int bucket = threadIdx.x; bucket <= num_experts; bucket += blockDim.x)
    first_row[bucket] = bucket_counts[bucket];
  for (int i = threadIdx.x; i < warps_per_block() * (num_experts + 1); i += blockDim.x) next[i] = 0;
  __syncthreads();
  if (warp_index() == 0) scan_by_warp(first_row, num_experts + 1);
  const Slots own = share(slots_of_chunk(num_slots), warp_index(), warps_per_block());
  count_share(topk_idx, own, num_experts, own_next);
  __syncthreads();
  // From here on first_row is this chunk's. The first row of bucket E is the number of rows in use.
  for (int bucket = threadIdx.x; bucket <= num_experts; bucket += blockDim.x) {
    if (blockIdx.x == 0) expert_offsets[bucket] = first_row[bucket];
    first_row[bucket] += chunk_counts[i64(bucket) * CHUNKS + blockIdx.x];
  }
  __syncthreads();
  counts_to_rows(next, first_row, num_experts);
  __syncthreads();
  place_slots(topk_idx, own, num_experts, own_next, row_of_slot, slot_of_row);
}

// The whole sort in one block, for few slots: it needs no memory between launches. expert_offsets
// and slot_of_row may be NULL. Shared memory: (warps + 1) * (E+1) ints.
extern "C" __global__ void __launch_bounds__(512)
    sort_in_one_block(const Index* __restrict__ topk_idx, i64 num_slots, int num_experts,
                      int* __restrict__ expert_offsets, int* __restrict__ row_of_slot,
                      int* __restrict__ slot_of_row, int* __restrict__ tokens_per_expert,
                      volatile u32* fault) {
  int* first_row = reinterpret_cast<int*>(shared_memory);
  int* next = first_row + num_experts + 1;
  int* own_next = next + warp_index() * (num_experts + 1);
  for (int i = threadIdx.x; i < warps_per_block() * (num_experts + 1); i += blockDim.x) next[i] = 0;
  __syncthreads();
  Slots own = share({0, num_slots}, warp_index(), warps_per_block());
  if (count_share(topk_idx, own, num_experts, own_next)) report(fault, FAULT_TOPK_IDX);
  __syncthreads();
  for (int bucket = threadIdx.x; bucket <= num_experts; bucket += blockDim.x) {
    int count = 0;
    for (int warp = 0; warp < warps_per_block(); ++warp)
      count += next[warp * (num_experts + 1) + bucket];
    first_row[bucket] = count;
    if (tokens_per_expert != nullptr && bucket < num_experts) tokens_per_expert[bucket] = count;
  }
  __syncthreads();
  if (warp_index() == 0) scan_by_warp(first_row, num_experts + 1);
  __syncthreads();
  if (expert_offsets != nullptr) {
    for (int bucket = threadIdx.x; bucket <= num_experts; bucket += blockDim.x)
      expert_offsets[bucket] = first_row[bucket];
  }
  counts_to_rows(next, first_row, num_experts);
  __syncthreads();
  place_slots(topk_idx, own, num_experts, own_next, row_of_slot, slot_of_row);
}
