/* Plain loops, which the compiler vectorises for each instruction set. */
#include "rows.h"

#include <string.h>

#define INLINE __attribute__((always_inline)) static inline

/* One vector per step: many rows are parts of 48 or 64 values, which longer steps do not divide. */
#if defined(__x86_64__)
#define BY_VECTORS _Pragma("clang loop vectorize_width(16) interleave_count(1)")
#else
#define BY_VECTORS
#endif

INLINE float wide(uint16_t bits) {
  uint32_t word = (uint32_t)bits << 16;
  float result;
  memcpy(&result, &word, sizeof result);
  return result;
}

INLINE uint16_t rounded(float value) {
  uint32_t word;
  memcpy(&word, &value, sizeof word);
  uint32_t nearest = (word + 0x7fff + (word >> 16 & 1)) >> 16;
  uint32_t quiet = word >> 16 | 0x40;
  return (uint16_t)(value != value ? quiet : nearest);
}

INLINE void widen_loop(const uint16_t *from, float *to, ptrdiff_t count) {
  BY_VECTORS
  for (ptrdiff_t i = 0; i < count; i++) {
    to[i] = wide(from[i]);
  }
}

INLINE void round_loop(const float *from, uint16_t *to, ptrdiff_t count) {
  BY_VECTORS
  for (ptrdiff_t i = 0; i < count; i++) {
    to[i] = rounded(from[i]);
  }
}

INLINE void scale_f32_loop(float factor, const float *from, float *to, ptrdiff_t count) {
  BY_VECTORS
  for (ptrdiff_t i = 0; i < count; i++) {
    to[i] = factor * from[i];
  }
}

INLINE void scale_bf16_loop(float factor, const uint16_t *from, uint16_t *to, ptrdiff_t count) {
  BY_VECTORS
  for (ptrdiff_t i = 0; i < count; i++) {
    to[i] = rounded(factor * wide(from[i]));
  }
}

INLINE void add_scaled_f32_loop(float factor, const float *from, float *sums, ptrdiff_t count) {
  BY_VECTORS
  for (ptrdiff_t i = 0; i < count; i++) {
    sums[i] += factor * from[i];
  }
}

INLINE void add_scaled_bf16_loop(float factor, const uint16_t *from, float *sums,
                                 ptrdiff_t count) {
  BY_VECTORS
  for (ptrdiff_t i = 0; i < count; i++) {
    sums[i] += factor * wide(from[i]);
  }
}

/* Four vectors of sums: enough to hide the latency of an addition. */
enum { RUNNING = 64 };

INLINE float total(const float sums[RUNNING]) {
  float result = 0;
  for (int i = 0; i < RUNNING; i++) {
    result += sums[i];
  }
  return result;
}

INLINE float dot_f32_loop(const float *a, const float *b, ptrdiff_t count) {
  float sums[RUNNING] = {0};
  ptrdiff_t whole = count - count % RUNNING;
  for (ptrdiff_t i = 0; i < whole; i += RUNNING) {
    for (int j = 0; j < RUNNING; j++) {
      sums[j] += a[i + j] * b[i + j];
    }
  }
  for (ptrdiff_t i = whole; i < count; i++) {
    sums[i - whole] += a[i] * b[i];
  }
  return total(sums);
}

INLINE float dot_bf16_loop(const uint16_t *a, const uint16_t *b, ptrdiff_t count) {
  float sums[RUNNING] = {0};
  ptrdiff_t whole = count - count % RUNNING;
  for (ptrdiff_t i = 0; i < whole; i += RUNNING) {
    for (int j = 0; j < RUNNING; j++) {
      sums[j] += wide(a[i + j]) * wide(b[i + j]);
    }
  }
  for (ptrdiff_t i = whole; i < count; i++) {
    sums[i - whole] += wide(a[i]) * wide(b[i]);
  }
  return total(sums);
}

/* Adds the lanes of a vector in halves: an order that every instruction set can compute. */
#define DEFINE_DOT_PARTS_LOOP(real, name, width)                                            \
  INLINE void name(const real *a, const real *b, real *parts, ptrdiff_t count) {            \
    for (ptrdiff_t first = 0; first < count; first += width) {                              \
      ptrdiff_t rest = count - first;                                                       \
      real sums[width] = {0};                                                               \
      if (rest >= width) {                                                                  \
        for (int j = 0; j < width; j++) sums[j] = a[first + j] * b[first + j];              \
      } else {                                                                              \
        for (ptrdiff_t j = 0; j < rest; j++) sums[j] = a[first + j] * b[first + j];         \
      }                                                                                     \
      for (int half = width / 2; half > 0; half /= 2) {                                     \
        for (int j = 0; j < half; j++) sums[j] += sums[j + half];                           \
      }                                                                                     \
      parts[first / width] = sums[0];                                                       \
    }                                                                                       \
  }

DEFINE_DOT_PARTS_LOOP(float, dot_parts_f32_loop, 16)
DEFINE_DOT_PARTS_LOOP(double, dot_parts_f64_loop, 8)

#if defined(__x86_64__)
#define DEFINE(result, name, loop, parameters, arguments)                              \
  __attribute__((target("avx512f,avx512bw,avx512vl"))) static result name##_avx512 parameters { \
    return loop arguments;                                                             \
  }                                                                                    \
  __attribute__((target("avx2"))) static result name##_avx2 parameters {               \
    return loop arguments;                                                             \
  }                                                                                    \
  result name parameters {                                                             \
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {    \
      return name##_avx512 arguments;                                                  \
    }                                                                                  \
    if (__builtin_cpu_supports("avx2")) {                                              \
      return name##_avx2 arguments;                                                    \
    }                                                                                  \
    return loop arguments;                                                             \
  }
#else
#define DEFINE(result, name, loop, parameters, arguments) \
  result name parameters { return loop arguments; }
#endif

DEFINE(void, widen_bf16, widen_loop, (const uint16_t *from, float *to, ptrdiff_t count),
       (from, to, count))
DEFINE(void, round_bf16, round_loop, (const float *from, uint16_t *to, ptrdiff_t count),
       (from, to, count))
DEFINE(void, scale_f32, scale_f32_loop,
       (float factor, const float *from, float *to, ptrdiff_t count), (factor, from, to, count))
DEFINE(void, scale_bf16, scale_bf16_loop,
       (float factor, const uint16_t *from, uint16_t *to, ptrdiff_t count),
       (factor, from, to, count))
DEFINE(void, add_scaled_f32, add_scaled_f32_loop,
       (float factor, const float *from, float *sums, ptrdiff_t count),
       (factor, from, sums, count))
DEFINE(void, add_scaled_bf16, add_scaled_bf16_loop,
       (float factor, const uint16_t *from, float *sums, ptrdiff_t count),
       (factor, from, sums, count))
DEFINE(float, dot_f32, dot_f32_loop, (const float *a, const float *b, ptrdiff_t count),
       (a, b, count))
DEFINE(float, dot_bf16, dot_bf16_loop, (const uint16_t *a, const uint16_t *b, ptrdiff_t count),
       (a, b, count))
DEFINE(void, dot_parts_f32, dot_parts_f32_loop,
       (const float *a, const float *b, float *parts, ptrdiff_t count), (a, b, parts, count))
DEFINE(void, dot_parts_f64, dot_parts_f64_loop,
       (const double *a, const double *b, double *parts, ptrdiff_t count), (a, b, parts, count))
