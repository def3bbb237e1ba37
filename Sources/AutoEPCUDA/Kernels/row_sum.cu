// sums [E,width]: for each group, the sum over its rows r of row_weights[r] * rows[r], or of
// rows[r] if row_weights is NULL: the gradient of a bias. An empty group gets zeros.
//   -DELEMENT, -DVECTOR: see element.cuh;  -DGROUPS: see groups.cuh
//   -DOUT=TYPE_...: the type of sums
//   -DACCUMULATE=0|1: whether the results are added to sums (OUT=TYPE_F32 only)
// Grid: along x one block per COLUMNS vectors of the width, along y one per group. Each of the ROWS
// threads of a column adds every ROWS-th row; these sums are added in pairs. Shared memory: one
// float per thread and element of a vector.

#include "element.cuh"
#include "groups.cuh"
#include "host_and_device.h"

typedef Scalar<OUT>::Stored Out;

constexpr int THREADS = ROW_SUM_THREADS;
constexpr int COLUMNS = VECTOR == 1 ? ROW_SUM_COLUMNS_BY_ELEMENT : ROW_SUM_COLUMNS;
constexpr int ROWS = THREADS / COLUMNS;

extern __shared__ __align__(16) unsigned char shared_memory[];

extern "C" __global__ void __launch_bounds__(THREADS)
    row_sum(const Vector* __restrict__ rows, const GroupSize* __restrict__ groups,
            const float* __restrict__ row_weights, Out* __restrict__ sums, i64 num_rows,
            int num_vectors) {
  float* parts = reinterpret_cast<float*>(shared_memory);
  const Group group = group_at(groups, blockIdx.y, num_rows);
  const int column = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS;
  float own[VECTOR] = {};
  if (column < num_vectors) {
#pragma unroll 4
    for (i64 row = group.begin + threadIdx.x / COLUMNS; row < group.end; row += ROWS) {
      float values[VECTOR];
      widen(rows[row * num_vectors + column], values);
      float weight = row_weights == nullptr ? 1.0f : row_weights[row];
#pragma unroll
      for (int j = 0; j < VECTOR; ++j) own[j] += weight * values[j];
    }
  }
#pragma unroll
  for (int j = 0; j < VECTOR; ++j) parts[j * THREADS + threadIdx.x] = own[j];
  for (int half = THREADS / 2; half >= COLUMNS; half /= 2) {
    __syncthreads();
    if (threadIdx.x >= half) continue;
#pragma unroll
    for (int j = 0; j < VECTOR; ++j)
      parts[j * THREADS + threadIdx.x] += parts[j * THREADS + threadIdx.x + half];
  }
  if (threadIdx.x >= COLUMNS || column >= num_vectors) return;
  Out* target = sums + (i64(blockIdx.y) * num_vectors + column) * VECTOR;
#pragma unroll
  for (int j = 0; j < VECTOR; ++j) {
    float sum = parts[j * THREADS + threadIdx.x];
#if ACCUMULATE
    sum += target[j];
#endif
    target[j] = Scalar<OUT>::round(sum);
  }
}
