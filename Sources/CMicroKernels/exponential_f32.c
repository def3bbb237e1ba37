/* The exponential of many values. The compiler vectorises the plain loop for each instruction set. */
#include "exponential.h"

#include <stdint.h>
#include <string.h>

static inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* 2^exponent, for -126 to 127. */
static inline float power_of_two(int32_t exponent) {
  uint32_t bits = (uint32_t)(exponent + 127) << 23;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

/* x = n ln 2 + r with |r| <= ln 2 / 2; then e^x = 2^n e^r. */
__attribute__((always_inline)) static inline float exponential(float x) {
#pragma clang fp contract(fast)
  const float log2_e = 1.44269504f;
  /* ln 2 in two parts; the product of the first part and n, which has at most 8 bits, is exact. */
  const float ln2_high = 0.693359375f;
  const float ln2_low = -2.12194440e-4f;
  /* Adding this leaves the rounded value in the low bits. */
  const float round = 12582912.0f;

  /* Outside these bounds the result is infinite or zero. */
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  float rounded = x * log2_e + round;
  float whole = rounded - round;
  float r = (x - whole * ln2_high) - whole * ln2_low;
  float sum = 1.9875691500e-4f;
  sum = sum * r + 1.3981999507e-3f;
  sum = sum * r + 8.3334519073e-3f;
  sum = sum * r + 4.1665795894e-2f;
  sum = sum * r + 1.6666665459e-1f;
  sum = sum * r + 5.0000001201e-1f;
  float e = sum * (r * r) + r + 1.0f;
  /* In two steps, because 2^n alone may be outside the range of float. */
  int32_t n = (int32_t)(bits_of(rounded) - bits_of(round));
  int32_t half = n >> 1;
  return e * power_of_two(half) * power_of_two(n - half);
}

__attribute__((always_inline)) static inline void exponentials(float *values, ptrdiff_t count) {
  for (ptrdiff_t i = 0; i < count; i++) {
    values[i] = exponential(values[i]);
  }
}

__attribute__((always_inline)) static inline void sigmoids(float *values, ptrdiff_t count) {
  for (ptrdiff_t i = 0; i < count; i++) {
    values[i] = 1.0f / (1.0f + exponential(-values[i]));
  }
}

#if defined(__x86_64__)
#define DEFINE(name, loop)                                                                     \
  __attribute__((target("avx512f,fma"))) static void loop##_avx512(float *values,              \
                                                                   ptrdiff_t count) {          \
    loop(values, count);                                                                       \
  }                                                                                            \
  __attribute__((target("avx2,fma"))) static void loop##_avx2(float *values, ptrdiff_t count) { \
    loop(values, count);                                                                       \
  }                                                                                            \
  void name(float *values, ptrdiff_t count) {                                                  \
    if (__builtin_cpu_supports("avx512f")) {                                                   \
      loop##_avx512(values, count);                                                            \
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {              \
      loop##_avx2(values, count);                                                              \
    } else {                                                                                   \
      loop(values, count);                                                                     \
    }                                                                                          \
  }
#else
#define DEFINE(name, loop) \
  void name(float *values, ptrdiff_t count) { loop(values, count); }
#endif

DEFINE(exponential_f32, exponentials)
DEFINE(sigmoid_f32, sigmoids)
