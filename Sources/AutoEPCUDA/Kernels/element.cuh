// Element types and vectors of elements. Files are compiled with:
//   -DELEMENT=TYPE_F32, TYPE_BF16 or TYPE_F16: the type of rows, weights and logits
//   -DWEIGHT=TYPE_...: the type of topk_weights; TYPE_NONE: no weights, each counts as 1
//   -DVECTOR=n: elements per access: 16 bytes of them, or 1 if rows do not consist of whole vectors
//
// Shape legend of all kernels, as in autoep.h:
//   T tokens   K experts per token   N = T*K slots   E experts   H hidden size   F expert FFN size
//   G = 2F for gated experts, F for plain ones   R rows in use, at most N
// Rows are in expert order; slot t*K + k is the k-th copy of token t. Sums are in f32, in one fixed
// order, and are rounded once.

#pragma once

#include "host_and_device.h"
#include "numbers.cuh"

template <int TYPE>
struct Scalar;

template <>
struct Scalar<TYPE_F32> {
  typedef float Stored;
  static __device__ __forceinline__ float widen(float value) { return value; }
  static __device__ __forceinline__ float round(float value) { return value; }
};

template <>
struct Scalar<TYPE_BF16> {
  typedef u16 Stored;
  static __device__ __forceinline__ float widen(u16 bits) { return float_of_bf16(bits); }
  static __device__ __forceinline__ u16 round(float value) { return bf16_of(value); }
};

template <>
struct Scalar<TYPE_F16> {
  typedef u16 Stored;
  static __device__ __forceinline__ float widen(u16 bits) { return float_of_f16(bits); }
  static __device__ __forceinline__ u16 round(float value) { return f16_of(value); }
};

// Empty type: indexing a null pointer of it performs no load.
template <>
struct Scalar<TYPE_NONE> {
  struct Stored {};
  static __device__ __forceinline__ float widen(Stored) { return 1.0f; }
  static __device__ __forceinline__ Stored round(float) { return Stored(); }
};

#ifdef ELEMENT
typedef Scalar<ELEMENT>::Stored Element;

__device__ __forceinline__ float widen(Element element) { return Scalar<ELEMENT>::widen(element); }

__device__ __forceinline__ Element rounded(float value) { return Scalar<ELEMENT>::round(value); }
#endif

#ifdef WEIGHT
typedef Scalar<WEIGHT>::Stored Weight;

__device__ __forceinline__ float weight_at(const Weight* weights, i64 slot) {
  return Scalar<WEIGHT>::widen(weights[slot]);
}
#endif

#ifdef VECTOR
struct alignas(sizeof(Element) * VECTOR) Vector {
  Element at[VECTOR];
};

__device__ __forceinline__ void widen(const Vector& vector, float (&values)[VECTOR]) {
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) values[i] = widen(vector.at[i]);
}

__device__ __forceinline__ Vector rounded(const float (&values)[VECTOR]) {
  Vector vector;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) vector.at[i] = rounded(values[i]);
  return vector;
}
#endif

// Whether a slot has a row; a slot without one has -1.
__device__ __forceinline__ bool is_row(int row, int num_rows) { return row >= 0 && row < num_rows; }
