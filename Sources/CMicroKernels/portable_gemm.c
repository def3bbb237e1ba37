/* Plain C for processors without a kernel of their own; the compiler finds the vectors. */
#include "kernels.h"

#define DEFINE_GEMM(name, type, columns)                                                      \
  void name(ptrdiff_t depth, const type *a, const type *b, type *sums, ptrdiff_t stride) {    \
    type tile[PORTABLE_ROWS][columns] = {{0}};                                                \
    for (ptrdiff_t p = 0; p < depth; p++, a += PORTABLE_ROWS, b += columns) {                 \
      for (int i = 0; i < PORTABLE_ROWS; i++) {                                               \
        for (int j = 0; j < columns; j++) {                                                   \
          tile[i][j] += a[i] * b[j];                                                          \
        }                                                                                     \
      }                                                                                       \
    }                                                                                         \
    for (int i = 0; i < PORTABLE_ROWS; i++, sums += stride) {                                 \
      for (int j = 0; j < columns; j++) {                                                     \
        sums[j] += tile[i][j];                                                                \
      }                                                                                       \
    }                                                                                         \
  }

DEFINE_GEMM(portable_f32_gemm, float, PORTABLE_F32_COLUMNS)
DEFINE_GEMM(portable_f64_gemm, double, PORTABLE_F64_COLUMNS)
