/* 6 rows by 4 vectors: 24 sums in 32 registers, beside 4 vectors of b. Tests compile it for AArch64; it has
 * not run on such a processor yet. */
#include "kernels.h"
#include "tiles.h"

#if defined(__aarch64__)
#include <arm_neon.h>

enum { ROWS = NEON_ROWS, VECTORS = 4 };

#define DEFINE_GEMM(name, type, vector, zero, load, multiply_add, add, store)             \
  static void name##_tile(const matrix_product *x, const tile *tile) {                           \
    enum { LANES = sizeof(vector) / sizeof(type) };                                       \
    ptrdiff_t apart = x->step == 0 ? 1 : x->step;                                         \
    const type *row[ROWS];                                                                \
    vector sums[ROWS][VECTORS];                                                           \
    for (int i = 0; i < ROWS; i++) {                                                      \
      row[i] = (const type *)tile->a[i] + x->first * apart;                               \
      for (int j = 0; j < VECTORS; j++) {                                                 \
        sums[i][j] = zero(0);                                                             \
      }                                                                                   \
    }                                                                                     \
    const type *panel = tile->b;                                                          \
    for (ptrdiff_t p = 0; p < x->depth; p++, panel += VECTORS * LANES) {                  \
      __builtin_prefetch(tile->ahead[p / AHEAD_DEPTHS]);                                  \
      vector right[VECTORS];                                                              \
      for (int j = 0; j < VECTORS; j++) {                                                 \
        right[j] = load(panel + j * LANES);                                               \
      }                                                                                   \
      for (int i = 0; i < ROWS; i++) {                                                    \
        for (int j = 0; j < VECTORS; j++) {                                               \
          sums[i][j] = multiply_add(sums[i][j], right[j], row[i][p * apart]);             \
        }                                                                                 \
      }                                                                                   \
    }                                                                                     \
    type *place = tile->sums;                                                             \
    for (int i = 0; i < ROWS; i++, place += x->stride) {                                  \
      for (int j = 0; j < VECTORS; j++) {                                                 \
        if (x->adds) {                                                                    \
          sums[i][j] = add(load(place + j * LANES), sums[i][j]);                          \
        }                                                                                 \
        store(place + j * LANES, sums[i][j]);                                             \
      }                                                                                   \
    }                                                                                     \
  }                                                                                       \
  DECLARE_GEMM(name) {                                                                    \
    for_each_tile(product, ahead, ROWS, VECTORS * (ptrdiff_t)(sizeof(vector) / sizeof(type)), \
                  sizeof(type), name##_tile);                                             \
  }

DEFINE_GEMM(neon_f32_gemm, float, float32x4_t, vdupq_n_f32, vld1q_f32, vfmaq_n_f32, vaddq_f32,
            vst1q_f32)
DEFINE_GEMM(neon_f64_gemm, double, float64x2_t, vdupq_n_f64, vld1q_f64, vfmaq_n_f64, vaddq_f64,
            vst1q_f64)
#endif
