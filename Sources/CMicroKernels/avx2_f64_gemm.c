/* 6 rows by 2 vectors of 4 columns. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX2_ROWS, LANES = 4, VECTORS = AVX2_F64_COLUMNS / LANES };

__attribute__((target("avx2,fma"))) void avx2_f64_gemm(ptrdiff_t depth, const void *const *a,
                                                     ptrdiff_t first, ptrdiff_t step, const void *b,
                                                     ptrdiff_t columns, void *sums,
                                                     ptrdiff_t stride, int32_t adds,
                                                     const void *const *ahead) {
  (void)columns;
  ptrdiff_t apart = step == 0 ? 1 : step;
  const double *row[ROWS];
  __m256d tile[ROWS][VECTORS];
  for (int i = 0; i < ROWS; i++) {
    row[i] = step == 0 ? (const double *)a[i] + first : (const double *)a[0] + first * step + i;
    for (int j = 0; j < VECTORS; j++) {
      tile[i][j] = _mm256_setzero_pd();
    }
  }
  const double *panel = b;
  for (ptrdiff_t p = 0; p < depth; p++, panel += VECTORS * LANES) {
    __builtin_prefetch(ahead[p / AHEAD_DEPTHS]);
    __m256d right[VECTORS];
    for (int j = 0; j < VECTORS; j++) {
      right[j] = _mm256_loadu_pd(panel + j * LANES);
    }
    for (int i = 0; i < ROWS; i++) {
      __m256d left = _mm256_set1_pd(row[i][p * apart]);
      for (int j = 0; j < VECTORS; j++) {
        tile[i][j] = _mm256_fmadd_pd(left, right[j], tile[i][j]);
      }
    }
  }
  double *place = sums;
  for (int i = 0; i < ROWS; i++, place += stride) {
    for (int j = 0; j < VECTORS; j++) {
      if (adds) {
        tile[i][j] = _mm256_add_pd(_mm256_loadu_pd(place + j * LANES), tile[i][j]);
      }
      _mm256_storeu_pd(place + j * LANES, tile[i][j]);
    }
  }
}
#endif
