/* Plain C for processors without a kernel of their own; the compiler finds the vectors. */
#include "kernels.h"

#define DEFINE_GEMM(name, type, width)                                             \
  DECLARE_GEMM(name) {                                                             \
    (void)columns;                                                                 \
    (void)ahead;                                                                   \
    type tile[PORTABLE_ROWS][width] = {{0}};                                       \
    const type *panel = b;                                                         \
    for (ptrdiff_t p = 0; p < depth; p++, panel += width) {                        \
      for (int i = 0; i < PORTABLE_ROWS; i++) {                                    \
        type left = step == 0 ? ((const type *)a[i])[first + p]                    \
                              : ((const type *)a[0])[(first + p) * step + i];      \
        for (int j = 0; j < width; j++) {                                          \
          tile[i][j] += left * panel[j];                                           \
        }                                                                          \
      }                                                                            \
    }                                                                              \
    type *place = sums;                                                            \
    for (int i = 0; i < PORTABLE_ROWS; i++, place += stride) {                     \
      for (int j = 0; j < width; j++) {                                            \
        place[j] = adds ? place[j] + tile[i][j] : tile[i][j];                      \
      }                                                                            \
    }                                                                              \
  }

DEFINE_GEMM(portable_f32_gemm, float, PORTABLE_F32_COLUMNS)
DEFINE_GEMM(portable_f64_gemm, double, PORTABLE_F64_COLUMNS)
