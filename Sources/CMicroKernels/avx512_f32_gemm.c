/* 8 rows by 3 vectors of 16 columns: 24 sums in registers, beside 3 vectors of b and one of a. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX512_F32_ROWS, WIDTH = 16, VECTORS = AVX512_F32_COLUMNS / WIDTH };

__attribute__((target("avx512f"))) void avx512_f32_gemm(ptrdiff_t depth, const float *a, const float *b, float *sums,
                                              ptrdiff_t stride) {
  __m512 tile[ROWS][VECTORS];
  for (int i = 0; i < ROWS; i++) {
    for (int j = 0; j < VECTORS; j++) {
      tile[i][j] = _mm512_setzero_ps();
    }
  }
  for (ptrdiff_t p = 0; p < depth; p++, a += ROWS, b += VECTORS * WIDTH) {
    __m512 right[VECTORS];
    for (int j = 0; j < VECTORS; j++) {
      right[j] = _mm512_loadu_ps(b + j * WIDTH);
    }
    for (int i = 0; i < ROWS; i++) {
      __m512 left = _mm512_set1_ps(a[i]);
      for (int j = 0; j < VECTORS; j++) {
        tile[i][j] = _mm512_fmadd_ps(left, right[j], tile[i][j]);
      }
    }
  }
  for (int i = 0; i < ROWS; i++, sums += stride) {
    for (int j = 0; j < VECTORS; j++) {
      float *place = sums + j * WIDTH;
      _mm512_storeu_ps(place, _mm512_add_ps(_mm512_loadu_ps(place), tile[i][j]));
    }
  }
}
#endif
