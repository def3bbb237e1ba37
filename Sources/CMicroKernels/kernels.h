/* The matrix kernels listed in table.c, and their tiles. */
#pragma once

#include "micro_kernels.h"

#define DECLARE_GEMM(name) void name(const matrix_product *product, lookahead *ahead)

#if defined(__x86_64__)
DECLARE_GEMM(avx512_f32_gemm);
DECLARE_GEMM(avx512_f64_gemm);
DECLARE_GEMM(avx512_bf16_gemm);
DECLARE_GEMM(avx2_f32_gemm);
DECLARE_GEMM(avx2_f64_gemm);
#endif
#if defined(__aarch64__)
DECLARE_GEMM(neon_f32_gemm);
DECLARE_GEMM(neon_f64_gemm);
#endif
DECLARE_GEMM(portable_f32_gemm);
DECLARE_GEMM(portable_f64_gemm);

enum {
  /* 8 rows of 3 vectors: 24 sums in 32 registers. */
  AVX512_ROWS = 8,
  AVX512_F32_COLUMNS = 48,
  AVX512_F64_COLUMNS = 24,
  /* 6 rows of 2 vectors: 12 sums in 16 registers. */
  AVX2_ROWS = 6,
  AVX2_F32_COLUMNS = 16,
  AVX2_F64_COLUMNS = 8,
  /* 6 rows of 4 vectors: 24 sums in 32 registers. */
  NEON_ROWS = 6,
  NEON_F32_COLUMNS = 16,
  NEON_F64_COLUMNS = 8,
  PORTABLE_ROWS = 4,
  PORTABLE_F32_COLUMNS = 16,
  PORTABLE_F64_COLUMNS = 8
};
