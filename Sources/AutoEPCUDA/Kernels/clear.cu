// counts[i] = 0, one thread per number. Used instead of the driver's memset: in a graph, the kernel
// after a memset starts microseconds late.

extern "C" __global__ void __launch_bounds__(256) clear(int* counts, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) counts[i] = 0;
}
