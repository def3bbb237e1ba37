/* 6 rows by 4 vectors: 24 sums in 32 registers, beside 4 vectors of b. Compiled for AArch64 in the tests;
 * no such processor has run it yet. */
#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

enum { ROWS = NEON_ROWS, VECTORS = 4 };

#define DEFINE_GEMM(name, type, vector, zero, load, multiply_add, add, store)   \
  DECLARE_GEMM(name) {                                                          \
    (void)columns;                                                              \
    ptrdiff_t apart = step == 0 ? 1 : step;                                     \
    enum { LANES = sizeof(vector) / sizeof(type) };                             \
    const type *row[ROWS];                                                      \
    vector tile[ROWS][VECTORS];                                                 \
    for (int i = 0; i < ROWS; i++) {                                            \
      row[i] = step == 0 ? (const type *)a[i] + first                             \
                         : (const type *)a[0] + first * step + i;                 \
      for (int j = 0; j < VECTORS; j++) {                                       \
        tile[i][j] = zero(0);                                                   \
      }                                                                         \
    }                                                                           \
    const type *panel = b;                                                      \
    for (ptrdiff_t p = 0; p < depth; p++, panel += VECTORS * LANES) {           \
      __builtin_prefetch(ahead[p / AHEAD_DEPTHS]);                              \
      vector right[VECTORS];                                                    \
      for (int j = 0; j < VECTORS; j++) {                                       \
        right[j] = load(panel + j * LANES);                                     \
      }                                                                         \
      for (int i = 0; i < ROWS; i++) {                                          \
        for (int j = 0; j < VECTORS; j++) {                                     \
          tile[i][j] = multiply_add(tile[i][j], right[j], row[i][p * apart]);           \
        }                                                                       \
      }                                                                         \
    }                                                                           \
    type *place = sums;                                                         \
    for (int i = 0; i < ROWS; i++, place += stride) {                           \
      for (int j = 0; j < VECTORS; j++) {                                       \
        if (adds) {                                                             \
          tile[i][j] = add(load(place + j * LANES), tile[i][j]);                \
        }                                                                       \
        store(place + j * LANES, tile[i][j]);                                   \
      }                                                                         \
    }                                                                           \
  }

DEFINE_GEMM(neon_f32_gemm, float, float32x4_t, vdupq_n_f32, vld1q_f32, vfmaq_n_f32, vaddq_f32,
            vst1q_f32)
DEFINE_GEMM(neon_f64_gemm, double, float64x2_t, vdupq_n_f64, vld1q_f64, vfmaq_n_f64, vaddq_f64,
            vst1q_f64)
#endif
