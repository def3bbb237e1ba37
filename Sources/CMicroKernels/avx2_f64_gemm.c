/* 6 rows by 2 vectors of 4 columns: 12 sums in registers, beside 2 vectors of b and one of a. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX2_F64_ROWS, WIDTH = 4, VECTORS = AVX2_F64_COLUMNS / WIDTH };

__attribute__((target("avx2,fma"))) void avx2_f64_gemm(ptrdiff_t depth, const double *a, const double *b, double *sums,
                                              ptrdiff_t stride) {
  __m256d tile[ROWS][VECTORS];
  for (int i = 0; i < ROWS; i++) {
    for (int j = 0; j < VECTORS; j++) {
      tile[i][j] = _mm256_setzero_pd();
    }
  }
  for (ptrdiff_t p = 0; p < depth; p++, a += ROWS, b += VECTORS * WIDTH) {
    __m256d right[VECTORS];
    for (int j = 0; j < VECTORS; j++) {
      right[j] = _mm256_loadu_pd(b + j * WIDTH);
    }
    for (int i = 0; i < ROWS; i++) {
      __m256d left = _mm256_set1_pd(a[i]);
      for (int j = 0; j < VECTORS; j++) {
        tile[i][j] = _mm256_fmadd_pd(left, right[j], tile[i][j]);
      }
    }
  }
  for (int i = 0; i < ROWS; i++, sums += stride) {
    for (int j = 0; j < VECTORS; j++) {
      double *place = sums + j * WIDTH;
      _mm256_storeu_pd(place, _mm256_add_pd(_mm256_loadu_pd(place), tile[i][j]));
    }
  }
}
#endif
