// counts[i] = 0, by a thread per number. A memset of the driver's would do, but in a graph the
// kernel after one starts microseconds late.

extern "C" __global__ void __launch_bounds__(256) clear(int* counts, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) counts[i] = 0;
}
