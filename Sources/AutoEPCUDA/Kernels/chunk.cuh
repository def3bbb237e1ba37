// 16-byte chunks of a product's operands, which are staged in shared memory.
//   -DALIGNED=0|1: whether the operands' rows begin and end at multiples of 16 bytes

#pragma once

#include "element.cuh"
#include "host_and_device.h"
#include "instructions.cuh"

constexpr int CHUNK = 16 / sizeof(Element);

struct alignas(16) Chunk {
  Element at[CHUNK];
};

// Loads a chunk of which the first `valid` elements exist; the others become 0.
__device__ __forceinline__ void load_chunk(Chunk* target, const Element* source,
                                           const Element* base, int valid) {
#if ALIGNED
  // Either the whole chunk exists or nothing of it. The address must be valid even if nothing is
  // read.
  copy_16_async(target, valid > 0 ? source : base, valid > 0 ? 16 : 0);
#else
  Chunk chunk;
#pragma unroll
  for (int i = 0; i < CHUNK; ++i) chunk.at[i] = i < valid ? source[i] : Element(0);
  *target = chunk;
#endif
}

#if ELEMENT != TYPE_F32
__device__ __forceinline__ void multiply_halves(float (&sums)[4], const u32 (&a)[4], u32 b0,
                                                u32 b1) {
  if constexpr (ELEMENT == TYPE_BF16)
    multiply_bf16(sums, a, b0, b1);
  else
    multiply_f16(sums, a, b0, b1);
}
#endif
