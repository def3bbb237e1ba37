/* The available kernels, and which of them this processor can run. */
#include "kernels.h"
#include "packings.h"

#include <string.h>

#define KERNEL_F32(isa, set, packing)                                                       \
  static const matrix_kernel isa##_f32 = {set##_ROWS, set##_F32_COLUMNS, 1, sizeof(float),  \
                                          1,          isa##_f32_gemm,    &packing};
#define KERNEL_F64(isa, set, packing)                                                       \
  static const matrix_kernel isa##_f64 = {set##_ROWS, set##_F64_COLUMNS, 1, sizeof(double), \
                                          1,          isa##_f64_gemm,    &packing};
/* bf16 widened to float, multiplied by the float kernel. */
#define KERNEL_BF16(isa, set, packing)                                                      \
  static const matrix_kernel isa##_bf16 = {set##_ROWS, set##_F32_COLUMNS, 1, sizeof(float), \
                                           0,          isa##_f32_gemm,    &packing};

#if defined(__x86_64__)
KERNEL_F32(avx512, AVX512, pack_f32_avx512)
KERNEL_F64(avx512, AVX512, pack_f64_avx512)
KERNEL_BF16(avx512, AVX512, pack_bf16_widened_avx512)
KERNEL_F32(avx2, AVX2, pack_f32_avx2)
KERNEL_F64(avx2, AVX2, pack_f64_avx2)
KERNEL_BF16(avx2, AVX2, pack_bf16_widened_avx2)

/* A word is a pair of bf16. */
static const matrix_kernel avx512_bf16_pairs = {
    AVX512_ROWS, AVX512_F32_COLUMNS, 2, sizeof(int32_t), 1, avx512_bf16_gemm,
    &pack_bf16_pairs_avx512};

static const kernel_set avx512_bf16_set = {"avx512_bf16", &avx512_f32, &avx512_f64,
                                           &avx512_bf16_pairs};
static const kernel_set avx512_set = {"avx512", &avx512_f32, &avx512_f64, &avx512_bf16};
static const kernel_set avx2_set = {"avx2", &avx2_f32, &avx2_f64, &avx2_bf16};

static int has_avx512(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

#if defined(__aarch64__)
KERNEL_F32(neon, NEON, pack_f32)
KERNEL_F64(neon, NEON, pack_f64)
KERNEL_BF16(neon, NEON, pack_bf16_widened)

static const kernel_set neon_set = {"neon", &neon_f32, &neon_f64, &neon_bf16};
#endif

KERNEL_F32(portable, PORTABLE, pack_f32)
KERNEL_F64(portable, PORTABLE, pack_f64)
KERNEL_BF16(portable, PORTABLE, pack_bf16_widened)

static const kernel_set portable_set = {"portable", &portable_f32, &portable_f64,
                                        &portable_bf16};

const kernel_set *kernel_set_named(const char *name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (strcmp(name, avx512_bf16_set.name) == 0) {
    return has_avx512() && __builtin_cpu_supports("avx512bf16") ? &avx512_bf16_set : NULL;
  }
  if (strcmp(name, avx512_set.name) == 0) {
    return has_avx512() ? &avx512_set : NULL;
  }
  if (strcmp(name, avx2_set.name) == 0) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2_set : NULL;
  }
#endif
#if defined(__aarch64__)
  if (strcmp(name, neon_set.name) == 0) {
    return &neon_set;
  }
#endif
  return strcmp(name, portable_set.name) == 0 ? &portable_set : NULL;
}
