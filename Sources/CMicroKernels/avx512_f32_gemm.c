/* Two vectors of 16 columns by 14 rows: 28 sums in registers, beside two of b and one of a. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX512_F32_ROWS, WIDTH = AVX512_F32_COLUMNS / 2 };

__attribute__((target("avx512f"))) void avx512_f32_gemm(ptrdiff_t depth, const float *a, const float *b,
                                              float *sums, ptrdiff_t stride) {
  __m512 tile[ROWS][2];
#pragma clang loop unroll(full)
  for (int i = 0; i < ROWS; i++) {
    tile[i][0] = tile[i][1] = _mm512_setzero_ps();
  }
  for (ptrdiff_t p = 0; p < depth; p++, a += ROWS, b += 2 * WIDTH) {
    __m512 left = _mm512_loadu_ps(b);
    __m512 right = _mm512_loadu_ps(b + WIDTH);
#pragma clang loop unroll(full)
    for (int i = 0; i < ROWS; i++) {
      __m512 factor = _mm512_set1_ps(a[i]);
      tile[i][0] = _mm512_fmadd_ps(factor, left, tile[i][0]);
      tile[i][1] = _mm512_fmadd_ps(factor, right, tile[i][1]);
    }
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < ROWS; i++, sums += stride) {
    _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), tile[i][0]));
    _mm512_storeu_ps(sums + WIDTH, _mm512_add_ps(_mm512_loadu_ps(sums + WIDTH), tile[i][1]));
  }
}
#endif
