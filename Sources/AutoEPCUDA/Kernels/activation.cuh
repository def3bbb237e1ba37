// The activations of the experts, in f32.
//   -DACTIVATION=ACTIVATION_...;  -DGATE=GATE_...

#pragma once

#include "element.cuh"
#include "host_and_device.h"
#include "numbers.cuh"

// Parameters of the clamped activations; the alpha of CLAMPED_SILU is 1.
struct Clamp {
  float alpha, limit;
};

// The value of a function of one variable, and its derivative.
struct Slope {
  float value, derivative;
};

// x * sigmoid(u(x)), for the given value and derivative of u.
__device__ __forceinline__ Slope times_sigmoid(float x, float u, float u_derivative) {
  const float s = sigmoid(u);
  return {x * s, s + x * s * (1.0f - s) * u_derivative};
}

template <int KIND>
__device__ __forceinline__ Slope slope(float x) {
  if constexpr (KIND == ACTIVATION_SILU) return times_sigmoid(x, x, 1.0f);
  if constexpr (KIND == ACTIVATION_GELU) {
    // x times the cumulative normal distribution.
    const float distribution = 0.5f * (1.0f + erff(x * 0.70710678f));
    return {x * distribution, distribution + x * 0.39894228f * expf(-0.5f * x * x)};
  }
  if constexpr (KIND == ACTIVATION_GELU_TANH) {
    // (1 + tanh(v)) / 2 is sigmoid(2 v), with v = sqrt(2 / pi) (x + 0.044715 x^3).
    const float u = 1.5957691f * (x + 0.044715f * x * x * x);
    return times_sigmoid(x, u, 1.5957691f * (1.0f + 3.0f * 0.044715f * x * x));
  }
  if constexpr (KIND == ACTIVATION_RELU_SQUARED) return {x < 0 ? 0 : x * x, x < 0 ? 0 : 2.0f * x};
}

// The activation of a gate and an up value (up is 1 for plain experts), and its derivatives with
// respect to both.
struct Activated {
  float value, by_gate, by_up;
};

// u g sigmoid(alpha g), where g = min(gate, limit) and u = clamp(up, +-limit) + OFFSET. Beyond a
// limit the derivative is zero; NaN passes through.
template <int OFFSET>
__device__ __forceinline__ Activated clamped_swiglu(float gate, float up, Clamp clamp) {
  const float g = gate > clamp.limit ? clamp.limit : gate;
  const float u = (up > clamp.limit ? clamp.limit : up < -clamp.limit ? -clamp.limit : up) + OFFSET;
  const float s = sigmoid(clamp.alpha * g);
  const float by_gate = u * (s + clamp.alpha * g * s * (1.0f - s));
  const bool is_up_clamped = up > clamp.limit || up < -clamp.limit;
  return {u * g * s, gate > clamp.limit ? 0 : by_gate, is_up_clamped ? 0 : g * s};
}

__device__ __forceinline__ Activated activation(float gate, float up, Clamp clamp) {
  if constexpr (ACTIVATION == ACTIVATION_CLAMPED_SWIGLU) {
    return clamped_swiglu<1>(gate, up, clamp);
  } else if constexpr (ACTIVATION == ACTIVATION_CLAMPED_SILU) {
    return clamped_swiglu<0>(gate, up, clamp);
  } else {
    const Slope gate_slope = slope<ACTIVATION>(gate);
    return {gate_slope.value * up, gate_slope.derivative * up, gate_slope.value};
  }
}

// ---- The positions of gate and up in a row of hidden [G] ----

// Reads the gate and up values of vector `index` of the F outputs; up is 1 for plain experts.
__device__ __forceinline__ void load_hidden(const Vector* row, int num_vectors, int index,
                                            float (&gate)[VECTOR], float (&up)[VECTOR]) {
  if constexpr (GATE == GATE_INTERLEAVED) {
    float pairs[2][VECTOR];
    widen(row[2 * index], pairs[0]);
    widen(row[2 * index + 1], pairs[1]);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      gate[i] = pairs[2 * i / VECTOR][2 * i % VECTOR];
      up[i] = pairs[(2 * i + 1) / VECTOR][(2 * i + 1) % VECTOR];
    }
  } else {
    widen(row[index], gate);
    if constexpr (GATE == GATE_CONCATENATED) {
      widen(row[num_vectors + index], up);
    } else {
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) up[i] = 1.0f;
    }
  }
}

// Writes the gate and up values of vector `index`; plain experts have no up.
__device__ __forceinline__ void store_hidden(Vector* row, int num_vectors, int index,
                                             const float (&gate)[VECTOR],
                                             const float (&up)[VECTOR]) {
  if constexpr (GATE == GATE_INTERLEAVED) {
    float pairs[2][VECTOR];
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      pairs[2 * i / VECTOR][2 * i % VECTOR] = gate[i];
      pairs[(2 * i + 1) / VECTOR][(2 * i + 1) % VECTOR] = up[i];
    }
    row[2 * index] = rounded(pairs[0]);
    row[2 * index + 1] = rounded(pairs[1]);
  } else {
    row[index] = rounded(gate);
    if constexpr (GATE == GATE_CONCATENATED) row[num_vectors + index] = rounded(up);
  }
}
