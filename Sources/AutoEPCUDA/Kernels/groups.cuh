// The rows of a group (an expert) are contiguous. The device reads the groups' bounds from:
//   -DGROUPS=0: expert_offsets [E+1] i32, the first row of each group, then the end of the last
//   -DGROUPS=4|8: rows_per_group [E] of that many bytes each
// A group never exceeds [0, num_rows), whatever these contain.

#include "integers.cuh"

#pragma once

#if GROUPS == 8
typedef i64 GroupSize;
#else
typedef int GroupSize;
#endif

struct Group {
  int index;
  i64 begin, end;
  __device__ __forceinline__ i64 num_rows() const { return end - begin; }
};

__device__ __forceinline__ i64 inside(i64 row, i64 low, i64 high) {
  return max(low, min(row, high));
}

// The group after `group`; the predecessor of the first group is {-1, 0, 0}.
__device__ __forceinline__ Group next_group(const GroupSize* groups, Group group, i64 num_rows) {
  const int index = group.index + 1;
  const i64 end = GROUPS == 0 ? groups[index + 1] : group.end + inside(groups[index], 0, num_rows);
  return {index, group.end, inside(end, group.end, num_rows)};
}

__device__ __forceinline__ Group group_at(const GroupSize* groups, int index, i64 num_rows) {
  Group group = {-1, 0, 0};
#if GROUPS == 0
  const i64 begin = inside(groups[index], 0, num_rows);
  group = {index, begin, inside(groups[index + 1], begin, num_rows)};
#else
  while (group.index < index) group = next_group(groups, group, num_rows);
#endif
  return group;
}
