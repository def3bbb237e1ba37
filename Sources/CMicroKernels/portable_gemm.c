/* Plain C for processors without a kernel of their own; the compiler vectorises it. */
#include "kernels.h"
#include "tiles.h"

#define DEFINE_GEMM(name, type, width)                                                   \
  static void name##_tile(const matrix_product *x, const tile *tile) {                          \
    ptrdiff_t apart = x->step == 0 ? 1 : x->step;                                        \
    type sums[PORTABLE_ROWS][width] = {{0}};                                             \
    const type *panel = tile->b;                                                         \
    for (ptrdiff_t p = 0; p < x->depth; p++, panel += width) {                           \
      for (int i = 0; i < PORTABLE_ROWS; i++) {                                          \
        type left = ((const type *)tile->a[i])[(x->first + p) * apart];                  \
        for (int j = 0; j < width; j++) {                                                \
          sums[i][j] += left * panel[j];                                                 \
        }                                                                                \
      }                                                                                  \
    }                                                                                    \
    type *place = tile->sums;                                                            \
    for (int i = 0; i < PORTABLE_ROWS; i++, place += x->stride) {                        \
      for (int j = 0; j < width; j++) {                                                  \
        place[j] = x->adds ? place[j] + sums[i][j] : sums[i][j];                         \
      }                                                                                  \
    }                                                                                    \
  }                                                                                      \
  DECLARE_GEMM(name) {                                                                   \
    for_each_tile(product, ahead, PORTABLE_ROWS, width, sizeof(type), name##_tile);      \
  }

DEFINE_GEMM(portable_f32_gemm, float, PORTABLE_F32_COLUMNS)
DEFINE_GEMM(portable_f64_gemm, double, PORTABLE_F64_COLUMNS)
