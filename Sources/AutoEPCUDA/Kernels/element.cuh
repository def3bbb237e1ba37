// Element types and vectors of elements. What a file is compiled with:
//   -DELEMENT=1|2|3    f32, bf16, f16: the type of rows, weights and logits
//   -DWEIGHT=0|1|2|3   the type of topk_weights; 0: there are none, and each counts as 1
//   -DVECTOR=n         elements an access: 16 bytes of them, or 1 where rows are not whole vectors
//
// Shape legend of all kernels, as in autoep.h:
//   T tokens   K experts a token   N = T*K slots   E experts   H hidden size   F expert FFN size
//   G = 2F for gated experts, F for plain ones   R rows in use, at most N
// Rows follow each other in expert order; slot t*K + k is the k-th copy of token t. Sums are in f32,
// in one fixed order, and are rounded once.

#pragma once

#include "instructions.cuh"

enum { NONE = 0, F32 = 1, BF16 = 2, F16 = 3 };

template <int TYPE>
struct Scalar;

template <>
struct Scalar<F32> {
  typedef float Stored;
  static __device__ __forceinline__ float widen(float value) { return value; }
  static __device__ __forceinline__ float round(float value) { return value; }
};

template <>
struct Scalar<BF16> {
  typedef u16 Stored;
  static __device__ __forceinline__ float widen(u16 bits) { return float_of_bf16(bits); }
  static __device__ __forceinline__ u16 round(float value) { return bf16_of(value); }
};

template <>
struct Scalar<F16> {
  typedef u16 Stored;
  static __device__ __forceinline__ float widen(u16 bits) { return float_of_f16(bits); }
  static __device__ __forceinline__ u16 round(float value) { return f16_of(value); }
};

// Takes no memory: reading one through any pointer reads nothing.
template <>
struct Scalar<NONE> {
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

__device__ __forceinline__ float weight_at(const Weight* weights, long long slot) {
  return Scalar<WEIGHT>::widen(weights[slot]);
}
#endif

#ifdef VECTOR
struct alignas(sizeof(Element) * VECTOR) Vector {
  Element at[VECTOR];
};

__device__ __forceinline__ void widen(const Vector& vector, float (&values)[VECTOR]) {
#pragma unroll
  for (int i = 0; i < VECTOR; i++) values[i] = widen(vector.at[i]);
}

__device__ __forceinline__ Vector rounded(const float (&values)[VECTOR]) {
  Vector vector;
#pragma unroll
  for (int i = 0; i < VECTOR; i++) vector.at[i] = rounded(values[i]);
  return vector;
}
#endif

#define INFINITE __uint_as_float(0x7f800000u)

// 1 / (1 + e^-x), 0 and 1 at the ends. Off by at most a few units of the last place.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

// ---- Warps ----

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return threadIdx.x % WARP; }
__device__ __forceinline__ int warp_index() { return threadIdx.x / WARP; }
__device__ __forceinline__ int warps_per_block() { return blockDim.x / WARP; }

// Where warps share out rows along grid.x: the first row of this warp, and the way to its next.
__device__ __forceinline__ long long first_row_of_warp() {
  return static_cast<long long>(blockIdx.x) * warps_per_block() + warp_index();
}
__device__ __forceinline__ long long row_step_of_warp() {
  return static_cast<long long>(gridDim.x) * warps_per_block();
}

// The sum over the lanes, the same in each of them.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(ALL_LANES, value, distance);
  return value;
}

// The largest of the lanes' values, none of which is NaN.
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
  return value;
}

// Whether a slot has a row: the ones that were dropped have -1.
__device__ __forceinline__ bool is_row(int row, int num_rows) { return row >= 0 && row < num_rows; }
