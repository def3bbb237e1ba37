/* Two vectors of 4 columns by 6 rows: 12 sums in registers, beside two of b and one of a. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX2_F64_ROWS, WIDTH = AVX2_F64_COLUMNS / 2 };

__attribute__((target("avx2,fma"))) void avx2_f64_gemm(ptrdiff_t depth, const double *a, const double *b,
                                              double *sums, ptrdiff_t stride) {
  __m256d tile[ROWS][2];
#pragma clang loop unroll(full)
  for (int i = 0; i < ROWS; i++) {
    tile[i][0] = tile[i][1] = _mm256_setzero_pd();
  }
  for (ptrdiff_t p = 0; p < depth; p++, a += ROWS, b += 2 * WIDTH) {
    __m256d left = _mm256_loadu_pd(b);
    __m256d right = _mm256_loadu_pd(b + WIDTH);
#pragma clang loop unroll(full)
    for (int i = 0; i < ROWS; i++) {
      __m256d factor = _mm256_set1_pd(a[i]);
      tile[i][0] = _mm256_fmadd_pd(factor, left, tile[i][0]);
      tile[i][1] = _mm256_fmadd_pd(factor, right, tile[i][1]);
    }
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < ROWS; i++, sums += stride) {
    _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), tile[i][0]));
    _mm256_storeu_pd(sums + WIDTH, _mm256_add_pd(_mm256_loadu_pd(sums + WIDTH), tile[i][1]));
  }
}
#endif
