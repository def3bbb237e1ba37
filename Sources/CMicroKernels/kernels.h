/* The kernels that table.c chooses from; shapes in table.c. */
#pragma once

#include "micro_kernels.h"

#if defined(__x86_64__)
void avx512_f32_gemm(ptrdiff_t depth, const float *a, const float *b, float *sums,
                     ptrdiff_t stride);
void avx512_f64_gemm(ptrdiff_t depth, const double *a, const double *b, double *sums,
                     ptrdiff_t stride);
void avx2_f32_gemm(ptrdiff_t depth, const float *a, const float *b, float *sums,
                   ptrdiff_t stride);
void avx2_f64_gemm(ptrdiff_t depth, const double *a, const double *b, double *sums,
                   ptrdiff_t stride);
#endif
void portable_f32_gemm(ptrdiff_t depth, const float *a, const float *b, float *sums,
                       ptrdiff_t stride);
void portable_f64_gemm(ptrdiff_t depth, const double *a, const double *b, double *sums,
                       ptrdiff_t stride);

enum {
  AVX512_F32_ROWS = 8,
  AVX512_F32_COLUMNS = 48,
  AVX512_F64_ROWS = 8,
  AVX512_F64_COLUMNS = 24,
  AVX2_F32_ROWS = 6,
  AVX2_F32_COLUMNS = 16,
  AVX2_F64_ROWS = 6,
  AVX2_F64_COLUMNS = 8,
  PORTABLE_ROWS = 4,
  PORTABLE_F32_COLUMNS = 8,
  PORTABLE_F64_COLUMNS = 4
};
