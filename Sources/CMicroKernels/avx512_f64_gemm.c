/* 8 rows by up to 3 vectors of 8 columns. */
#include "kernels.h"
#include "avx512_forms.h"
#include "tiles.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX512_ROWS, LANES = 8, VECTORS = AVX512_F64_COLUMNS / LANES };

#define TARGET __attribute__((target("avx512f")))

/* Inlined for a constant number of vectors, which keeps the sums in registers, and for each form of a. */
TARGET __attribute__((always_inline)) static inline void multiply(int vectors, int side_by_side,
                                                                  const matrix_product *x,
                                                                  const tile *tile) {
  const double *row[ROWS];
  __m512d sums[ROWS][VECTORS];
  for (int i = 0; i < ROWS; i++) {
    row[i] = (const double *)tile->a[i] + x->first * (side_by_side ? x->step : 1);
    for (int j = 0; j < vectors; j++) {
      sums[i][j] = _mm512_setzero_pd();
    }
  }
  const double *b = tile->b;
  for (ptrdiff_t p = 0; p < x->depth; p++, b += vectors * LANES) {
    __builtin_prefetch(tile->ahead[p / AHEAD_DEPTHS]);
    __m512d right[VECTORS];
    for (int j = 0; j < vectors; j++) {
      right[j] = _mm512_loadu_pd(b + j * LANES);
    }
    for (int i = 0; i < ROWS; i++) {
      __m512d left = _mm512_set1_pd(side_by_side ? row[0][p * x->step + i] : row[i][p]);
      for (int j = 0; j < vectors; j++) {
        sums[i][j] = _mm512_fmadd_pd(left, right[j], sums[i][j]);
      }
    }
  }
  double *place = tile->sums;
  for (int i = 0; i < ROWS; i++, place += x->stride) {
    for (int j = 0; j < vectors; j++) {
      if (x->adds) {
        sums[i][j] = _mm512_add_pd(_mm512_loadu_pd(place + j * LANES), sums[i][j]);
      }
      _mm512_storeu_pd(place + j * LANES, sums[i][j]);
    }
  }
}

TARGET static void multiply_tile(const matrix_product *x, const tile *tile) { MULTIPLY_IN_ITS_FORM }

TARGET DECLARE_GEMM(avx512_f64_gemm) {
  for_each_tile(product, ahead, ROWS, VECTORS * LANES, sizeof(double), multiply_tile);
}
#endif
