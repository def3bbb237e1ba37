// Chunks of 16 bytes, in which operands of a product pass through shared memory.
//   -DALIGNED=0|1  whether the operands' rows begin, and end, at multiples of 16 bytes

#pragma once

#include "element.cuh"
#include "instructions.cuh"

constexpr int CHUNK = 16 / sizeof(Element);

struct alignas(16) Chunk {
  Element at[CHUNK];
};

// Brings a chunk of which the first `valid` elements are there.
__device__ __forceinline__ void load_chunk(Chunk* target, const Element* source, const Element* base,
                                           int valid) {
#if ALIGNED
  // A chunk is there as a whole or not at all; where nothing is read, the address must still be good.
  copy_16_async(target, valid > 0 ? source : base, valid > 0 ? 16 : 0);
#else
  Chunk chunk;
#pragma unroll
  for (int i = 0; i < CHUNK; i++) chunk.at[i] = i < valid ? source[i] : Element(0);
  *target = chunk;
#endif
}

#if ELEMENT != 1
__device__ __forceinline__ void multiply_halves(float (&sums)[4], const unsigned (&a)[4], unsigned b0,
                                                unsigned b1) {
  if constexpr (ELEMENT == BF16)
    multiply_bf16(sums, a, b0, b1);
  else
    multiply_f16(sums, a, b0, b1);
}
#endif
