// y = x times noise drawn uniformly from [1 - epsilon, 1 + epsilon): a hash of seed and element index, the
// same bits as on a CPU.
//   -DELEMENT: see element.cuh
// A thread an element; y may be x.

#include "element.cuh"

// SplitMix64: the index-th output of the generator with this seed.
__device__ __forceinline__ unsigned long long hash(unsigned long long seed, unsigned long long index) {
  unsigned long long z = seed + (index + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// Each operation rounds by itself: no multiply-add, which a CPU would not do.
__device__ __forceinline__ float noise(double epsilon, unsigned long long seed, long long index) {
  double uniform = static_cast<double>(hash(seed, index) >> 11) * 0x1p-53;
  double spread = __dmul_rn(2.0 * epsilon, uniform);
  return static_cast<float>(__dadd_rn(1.0 - epsilon, spread));
}

extern "C" __global__ void __launch_bounds__(256)
jitter(const Element* x, Element* y, long long count, double epsilon, unsigned long long seed) {
  long long step = static_cast<long long>(gridDim.x) * blockDim.x;
  long long index = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; index < count; index += step)
    y[index] = rounded(widen(x[index]) * noise(epsilon, seed, index));
}
