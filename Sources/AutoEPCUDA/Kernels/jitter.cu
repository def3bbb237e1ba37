// y = x times noise, uniform in [1 - epsilon, 1 + epsilon). The noise is a hash of the seed and the
// element's index, bitwise the same as on a CPU.
//   -DELEMENT: see element.cuh
// One thread per element; y may be x.

#include "element.cuh"

// SplitMix64: output number `index` of the generator with this seed.
__device__ __forceinline__ u64 hash(u64 seed, u64 index) {
  u64 z = seed + (index + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// Each operation rounds separately: a fused multiply-add would give bits other than the CPU's.
__device__ __forceinline__ float noise(double epsilon, u64 seed, i64 index) {
  const double uniform = double(hash(seed, index) >> 11) * 0x1p-53;
  const double spread = __dmul_rn(2.0 * epsilon, uniform);
  return float(__dadd_rn(1.0 - epsilon, spread));
}

extern "C" __global__ void __launch_bounds__(256)
    jitter(const Element* x, Element* y, i64 count, double epsilon, u64 seed) {
  const i64 step = i64(gridDim.x) * blockDim.x;
  i64 index = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; index < count; index += step)
    y[index] = rounded(widen(x[index]) * noise(epsilon, seed, index));
}
