// Binary search.

#pragma once

// The last index in [0, count) whose begin_of(index) is at most `place`; 0 if there is none. The
// begins must not decrease.
template <typename BeginOf>
__device__ __forceinline__ int last_beginning_by(int place, int count, BeginOf begin_of) {
  int low = 0;
  int high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (begin_of(middle) <= place) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}
