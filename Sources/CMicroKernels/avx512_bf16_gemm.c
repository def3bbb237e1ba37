/* 8 rows by up to 3 vectors of 16 columns; a word is a pair of bf16, whose products are added to the
 * sums one after the other. vdpbf16ps takes subnormal numbers as zero. */
#include "kernels.h"
#include "avx512_forms.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROWS = AVX512_ROWS, LANES = 16, VECTORS = AVX512_F32_COLUMNS / LANES };

#define TARGET __attribute__((target("avx512f,avx512bf16")))

/* Inlined with a constant number of vectors, so that the sums are registers, and for each form of a. */
TARGET __attribute__((always_inline)) static inline void multiply(
    int vectors, int side_by_side, ptrdiff_t depth, const void *const *a, ptrdiff_t first,
    ptrdiff_t step, const int32_t *b, float *sums, ptrdiff_t stride, int32_t adds,
    const void *const *ahead) {
  const int32_t *row[ROWS];
  __m512 tile[ROWS][VECTORS];
  for (int i = 0; i < ROWS; i++) {
    row[i] = side_by_side ? (const int32_t *)a[0] + first * step + i : (const int32_t *)a[i] + first;
    for (int j = 0; j < vectors; j++) {
      tile[i][j] = _mm512_setzero_ps();
    }
  }
  for (ptrdiff_t p = 0; p < depth; p++, b += vectors * LANES) {
    __builtin_prefetch(ahead[p / AHEAD_DEPTHS]);
    __m512bh right[VECTORS];
    for (int j = 0; j < vectors; j++) {
      right[j] = (__m512bh)_mm512_loadu_si512(b + j * LANES);
    }
    for (int i = 0; i < ROWS; i++) {
      __m512bh left = (__m512bh)_mm512_set1_epi32(side_by_side ? row[0][p * step + i] : row[i][p]);
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

TARGET DECLARE_GEMM(avx512_bf16_gemm) {
  MULTIPLY_IN_ITS_FORM
}
#endif
