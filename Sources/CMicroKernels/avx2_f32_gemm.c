/* 6 rows by 2 vectors of 8 columns: 12 sums in registers, beside 2 vectors of b and one of a. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX2_F32_ROWS, WIDTH = 8, VECTORS = AVX2_F32_COLUMNS / WIDTH };

__attribute__((target("avx2,fma"))) void avx2_f32_gemm(ptrdiff_t depth, const float *a, const float *b, float *sums,
                                              ptrdiff_t stride) {
  __m256 tile[ROWS][VECTORS];
  for (int i = 0; i < ROWS; i++) {
    for (int j = 0; j < VECTORS; j++) {
      tile[i][j] = _mm256_setzero_ps();
    }
  }
  for (ptrdiff_t p = 0; p < depth; p++, a += ROWS, b += VECTORS * WIDTH) {
    __m256 right[VECTORS];
    for (int j = 0; j < VECTORS; j++) {
      right[j] = _mm256_loadu_ps(b + j * WIDTH);
    }
    for (int i = 0; i < ROWS; i++) {
      __m256 left = _mm256_set1_ps(a[i]);
      for (int j = 0; j < VECTORS; j++) {
        tile[i][j] = _mm256_fmadd_ps(left, right[j], tile[i][j]);
      }
    }
  }
  for (int i = 0; i < ROWS; i++, sums += stride) {
    for (int j = 0; j < VECTORS; j++) {
      float *place = sums + j * WIDTH;
      _mm256_storeu_ps(place, _mm256_add_ps(_mm256_loadu_ps(place), tile[i][j]));
    }
  }
}
#endif
