/* Which kernels there are, and which of them this processor can run. */
#include "kernels.h"

#include <string.h>

#if defined(__x86_64__)
static const micro_kernels avx512 = {
    .name = "avx512",
    .f32_rows = AVX512_F32_ROWS,
    .f32_columns = AVX512_F32_COLUMNS,
    .f32 = avx512_f32_gemm,
    .f64_rows = AVX512_F64_ROWS,
    .f64_columns = AVX512_F64_COLUMNS,
    .f64 = avx512_f64_gemm,
};

static const micro_kernels avx2 = {
    .name = "avx2",
    .f32_rows = AVX2_F32_ROWS,
    .f32_columns = AVX2_F32_COLUMNS,
    .f32 = avx2_f32_gemm,
    .f64_rows = AVX2_F64_ROWS,
    .f64_columns = AVX2_F64_COLUMNS,
    .f64 = avx2_f64_gemm,
};
#endif

static const micro_kernels portable = {
    .name = "portable",
    .f32_rows = PORTABLE_ROWS,
    .f32_columns = PORTABLE_F32_COLUMNS,
    .f32 = portable_f32_gemm,
    .f64_rows = PORTABLE_ROWS,
    .f64_columns = PORTABLE_F64_COLUMNS,
    .f64 = portable_f64_gemm,
};

const micro_kernels *micro_kernels_named(const char *name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (strcmp(name, avx512.name) == 0) {
    return __builtin_cpu_supports("avx512f") ? &avx512 : NULL;
  }
  if (strcmp(name, avx2.name) == 0) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2 : NULL;
  }
#endif
  return strcmp(name, portable.name) == 0 ? &portable : NULL;
}
