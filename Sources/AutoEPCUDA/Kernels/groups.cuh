// The rows of each group (expert) follow each other. Where they begin is read on the device:
//   -DGROUPS=0    expert_offsets [E+1] i32: the first row of each group, and the end
//   -DGROUPS=4|8  rows_per_group [E], i32 or i64
// Whatever these hold, a group stays inside [0, num_rows).

#pragma once

#if GROUPS == 8
typedef long long GroupSize;
#else
typedef int GroupSize;
#endif

struct Group {
  int index;
  long long begin, end;
  __device__ __forceinline__ long long num_rows() const { return end - begin; }
};

__device__ __forceinline__ long long inside(long long row, long long low, long long high) {
  return max(low, min(row, high));
}

// The group that follows one; the first follows {-1, 0, 0}.
__device__ __forceinline__ Group next_group(const GroupSize* groups, Group group,
                                            long long num_rows) {
  int index = group.index + 1;
  long long end = GROUPS == 0 ? groups[index + 1] : group.end + inside(groups[index], 0, num_rows);
  return {index, group.end, inside(end, group.end, num_rows)};
}

__device__ __forceinline__ Group group_at(const GroupSize* groups, int index, long long num_rows) {
  Group group = {-1, 0, 0};
#if GROUPS == 0
  long long begin = inside(groups[index], 0, num_rows);
  group = {index, begin, inside(groups[index + 1], begin, num_rows)};
#else
  while (group.index < index) group = next_group(groups, group, num_rows);
#endif
  return group;
}
