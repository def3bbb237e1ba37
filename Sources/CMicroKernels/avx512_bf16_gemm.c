/* 8 rows by up to 3 vectors of 16 columns; a word is a pair of bf16, whose products are added to the
 * sums one after the other. vdpbf16ps takes subnormal numbers as zero. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX512_ROWS, LANES = 16, VECTORS = AVX512_F32_COLUMNS / LANES };

#define TARGET __attribute__((target("avx512f,avx512bf16")))

/* Inlined with a constant number of vectors, so that the sums are registers. */
TARGET __attribute__((always_inline)) static inline void multiply(
    int vectors, ptrdiff_t depth, const void *const *a, ptrdiff_t first, ptrdiff_t step,
    const int32_t *b, float *sums, ptrdiff_t stride, int32_t adds) {
  const int32_t *row[ROWS];
  __m512 tile[ROWS][VECTORS];
  for (int i = 0; i < ROWS; i++) {
    row[i] = (const int32_t *)a[i] + first * step;
    for (int j = 0; j < vectors; j++) {
      tile[i][j] = _mm512_setzero_ps();
    }
  }
  for (ptrdiff_t p = 0; p < depth; p++, b += vectors * LANES) {
    __m512bh right[VECTORS];
    for (int j = 0; j < vectors; j++) {
      right[j] = (__m512bh)_mm512_loadu_si512(b + j * LANES);
    }
    for (int i = 0; i < ROWS; i++) {
      __m512bh left = (__m512bh)_mm512_set1_epi32(row[i][p * step]);
      for (int j = 0; j < vectors; j++) {
        tile[i][j] = _mm512_dpbf16_ps(tile[i][j], left, right[j]);
      }
    }
  }
  for (int i = 0; i < ROWS; i++, sums += stride) {
    for (int j = 0; j < vectors; j++) {
      float *place = sums + j * LANES;
      if (adds) {
        tile[i][j] = _mm512_add_ps(_mm512_loadu_ps(place), tile[i][j]);
      }
      _mm512_storeu_ps(place, tile[i][j]);
    }
  }
}

TARGET void avx512_bf16_gemm(ptrdiff_t depth, const void *const *a, ptrdiff_t first,
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
