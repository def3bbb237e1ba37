/* 6 rows by 2 vectors of 4 columns. */
#include "kernels.h"
#include "tiles.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX2_ROWS, LANES = 4, VECTORS = AVX2_F64_COLUMNS / LANES };

#define TARGET __attribute__((target("avx2,fma")))

TARGET static void multiply_tile(const matrix_product *x, const tile *tile) {
  ptrdiff_t apart = x->step == 0 ? 1 : x->step;
  const double *row[ROWS];
  __m256d sums[ROWS][VECTORS];
  for (int i = 0; i < ROWS; i++) {
    row[i] = (const double *)tile->a[i] + x->first * apart;
    for (int j = 0; j < VECTORS; j++) {
      sums[i][j] = _mm256_setzero_pd();
    }
  }
  const double *panel = tile->b;
  for (ptrdiff_t p = 0; p < x->depth; p++, panel += VECTORS * LANES) {
    __builtin_prefetch(tile->ahead[p / AHEAD_DEPTHS]);
    __m256d right[VECTORS];
    for (int j = 0; j < VECTORS; j++) {
      right[j] = _mm256_loadu_pd(panel + j * LANES);
    }
    for (int i = 0; i < ROWS; i++) {
      __m256d left = _mm256_set1_pd(row[i][p * apart]);
      for (int j = 0; j < VECTORS; j++) {
        sums[i][j] = _mm256_fmadd_pd(left, right[j], sums[i][j]);
      }
    }
  }
  double *place = tile->sums;
  for (int i = 0; i < ROWS; i++, place += x->stride) {
    for (int j = 0; j < VECTORS; j++) {
      if (x->adds) {
        sums[i][j] = _mm256_add_pd(_mm256_loadu_pd(place + j * LANES), sums[i][j]);
      }
      _mm256_storeu_pd(place + j * LANES, sums[i][j]);
    }
  }
}

TARGET DECLARE_GEMM(avx2_f64_gemm) {
  for_each_tile(product, ahead, ROWS, VECTORS * LANES, sizeof(double), multiply_tile);
}
#endif
