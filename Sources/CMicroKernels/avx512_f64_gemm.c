/* 8 rows by up to 3 vectors of 8 columns. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX512_ROWS, LANES = 8, VECTORS = AVX512_F64_COLUMNS / LANES };

#define TARGET __attribute__((target("avx512f")))

/* Inlined with a constant number of vectors, so that the sums are registers. */
TARGET __attribute__((always_inline)) static inline void multiply(
    int vectors, ptrdiff_t depth, const void *const *a, ptrdiff_t first, ptrdiff_t step,
    const double *b, double *sums, ptrdiff_t stride, int32_t adds) {
  const double *row[ROWS];
  __m512d tile[ROWS][VECTORS];
  for (int i = 0; i < ROWS; i++) {
    row[i] = (const double *)a[i] + first * step;
    for (int j = 0; j < vectors; j++) {
      tile[i][j] = _mm512_setzero_pd();
    }
  }
  for (ptrdiff_t p = 0; p < depth; p++, b += vectors * LANES) {
    __m512d right[VECTORS];
    for (int j = 0; j < vectors; j++) {
      right[j] = _mm512_loadu_pd(b + j * LANES);
    }
    for (int i = 0; i < ROWS; i++) {
      __m512d left = _mm512_set1_pd(row[i][p * step]);
      for (int j = 0; j < vectors; j++) {
        tile[i][j] = _mm512_fmadd_pd(left, right[j], tile[i][j]);
      }
    }
  }
  for (int i = 0; i < ROWS; i++, sums += stride) {
    for (int j = 0; j < vectors; j++) {
      double *place = sums + j * LANES;
      if (adds) {
        tile[i][j] = _mm512_add_pd(_mm512_loadu_pd(place), tile[i][j]);
      }
      _mm512_storeu_pd(place, tile[i][j]);
    }
  }
}

TARGET void avx512_f64_gemm(ptrdiff_t depth, const void *const *a, ptrdiff_t first,
                            ptrdiff_t step, const void *b,
                            ptrdiff_t columns, void *sums, ptrdiff_t stride,
                            int32_t adds) {
  switch (columns / LANES) {
  case 1:
    multiply(1, depth, a, first, step, b, sums, stride, adds);
    break;
  case 2:
    multiply(2, depth, a, first, step, b, sums, stride, adds);
    break;
  default:
    multiply(VECTORS, depth, a, first, step, b, sums, stride, adds);
  }
}
#endif
