/* Two vectors of 8 columns by 6 rows: 12 sums in registers, beside two of b and one of a. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX2_F32_ROWS, WIDTH = AVX2_F32_COLUMNS / 2 };

__attribute__((target("avx2,fma"))) void avx2_f32_gemm(ptrdiff_t depth, const float *a, const float *b,
                                              float *sums, ptrdiff_t stride) {
  __m256 tile[ROWS][2];
#pragma clang loop unroll(full)
  for (int i = 0; i < ROWS; i++) {
    tile[i][0] = tile[i][1] = _mm256_setzero_ps();
  }
  for (ptrdiff_t p = 0; p < depth; p++, a += ROWS, b += 2 * WIDTH) {
    __m256 left = _mm256_loadu_ps(b);
    __m256 right = _mm256_loadu_ps(b + WIDTH);
#pragma clang loop unroll(full)
    for (int i = 0; i < ROWS; i++) {
      __m256 factor = _mm256_set1_ps(a[i]);
      tile[i][0] = _mm256_fmadd_ps(factor, left, tile[i][0]);
      tile[i][1] = _mm256_fmadd_ps(factor, right, tile[i][1]);
    }
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < ROWS; i++, sums += stride) {
    _mm256_storeu_ps(sums, _mm256_add_ps(_mm256_loadu_ps(sums), tile[i][0]));
    _mm256_storeu_ps(sums + WIDTH, _mm256_add_ps(_mm256_loadu_ps(sums + WIDTH), tile[i][1]));
  }
}
#endif
