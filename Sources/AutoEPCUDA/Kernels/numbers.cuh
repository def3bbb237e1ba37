// Number conversions and functions.

#pragma once

#include "integers.cuh"

#define INFINITE __uint_as_float(0x7f800000u)

// ---- Conversions; each rounds to nearest, ties to even ----

__device__ __forceinline__ u16 bf16_of(float value) {
  u16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ u16 f16_of(float value) {
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ float float_of_bf16(u16 bits) {
  return __uint_as_float(u32(bits) << 16);
}

__device__ __forceinline__ float float_of_f16(u16 bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// Two floats as bf16, `low` in the low half.
__device__ __forceinline__ u32 bf16x2_of(float low, float high) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// The two halves of a packed pair.
__device__ __forceinline__ float bf16_low(u32 packed) { return __uint_as_float(packed << 16); }
__device__ __forceinline__ float bf16_high(u32 packed) {
  return __uint_as_float(packed & 0xFFFF0000u);
}

// ---- Functions ----

// 1 / (1 + e^-x), exactly 0 and 1 at the ends. Wrong by at most a few units in the last place.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

// The sigmoid in two instructions of the special function unit, for epilogues that cannot afford
// more. Relative error below 1e-6, and exact limits: 0 for -inf, 1 for inf.
__device__ __forceinline__ float fast_sigmoid(float x) {
  float power, result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.4426950408889634f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + power));
  return result;
}
