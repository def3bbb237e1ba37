/* Two vectors of 8 columns by 14 rows: 28 sums in registers, beside two of b and one of a. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX512_F64_ROWS, WIDTH = AVX512_F64_COLUMNS / 2 };

__attribute__((target("avx512f"))) void avx512_f64_gemm(ptrdiff_t depth, const double *a, const double *b,
                                              double *sums, ptrdiff_t stride) {
  __m512d tile[ROWS][2];
#pragma clang loop unroll(full)
  for (int i = 0; i < ROWS; i++) {
    tile[i][0] = tile[i][1] = _mm512_setzero_pd();
  }
  for (ptrdiff_t p = 0; p < depth; p++, a += ROWS, b += 2 * WIDTH) {
    __m512d left = _mm512_loadu_pd(b);
    __m512d right = _mm512_loadu_pd(b + WIDTH);
#pragma clang loop unroll(full)
    for (int i = 0; i < ROWS; i++) {
      __m512d factor = _mm512_set1_pd(a[i]);
      tile[i][0] = _mm512_fmadd_pd(factor, left, tile[i][0]);
      tile[i][1] = _mm512_fmadd_pd(factor, right, tile[i][1]);
    }
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < ROWS; i++, sums += stride) {
    _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), tile[i][0]));
    _mm512_storeu_pd(sums + WIDTH, _mm512_add_pd(_mm512_loadu_pd(sums + WIDTH), tile[i][1]));
  }
}
#endif
