/* 8 rows by 3 vectors of 8 columns: 24 sums in registers, beside 3 vectors of b and one of a. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX512_F64_ROWS, WIDTH = 8, VECTORS = AVX512_F64_COLUMNS / WIDTH };

__attribute__((target("avx512f"))) void avx512_f64_gemm(ptrdiff_t depth, const double *a, const double *b, double *sums,
                                              ptrdiff_t stride) {
  __m512d tile[ROWS][VECTORS];
  for (int i = 0; i < ROWS; i++) {
    for (int j = 0; j < VECTORS; j++) {
      tile[i][j] = _mm512_setzero_pd();
    }
  }
  for (ptrdiff_t p = 0; p < depth; p++, a += ROWS, b += VECTORS * WIDTH) {
    __m512d right[VECTORS];
    for (int j = 0; j < VECTORS; j++) {
      right[j] = _mm512_loadu_pd(b + j * WIDTH);
    }
    for (int i = 0; i < ROWS; i++) {
      __m512d left = _mm512_set1_pd(a[i]);
      for (int j = 0; j < VECTORS; j++) {
        tile[i][j] = _mm512_fmadd_pd(left, right[j], tile[i][j]);
      }
    }
  }
  for (int i = 0; i < ROWS; i++, sums += stride) {
    for (int j = 0; j < VECTORS; j++) {
      double *place = sums + j * WIDTH;
      _mm512_storeu_pd(place, _mm512_add_pd(_mm512_loadu_pd(place), tile[i][j]));
    }
  }
}
#endif
