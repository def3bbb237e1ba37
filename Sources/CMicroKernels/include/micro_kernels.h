/* Matrix micro-kernels, one file an instruction set and dtype.
 *
 * A kernel computes sums[i][j] += the sum over p < depth, in order, of a[p][i] * b[p][j], for one
 * tile of `rows` x `columns` sums whose rows are `stride` elements apart. a is packed [depth][rows],
 * b [depth][columns], both aligned to their elements only. */
#pragma once

#include <stddef.h>

typedef void (*micro_kernel_f32)(ptrdiff_t depth, const float *a, const float *b, float *sums,
                                 ptrdiff_t stride);
typedef void (*micro_kernel_f64)(ptrdiff_t depth, const double *a, const double *b, double *sums,
                                 ptrdiff_t stride);

typedef struct micro_kernels {
  const char *name;
  ptrdiff_t f32_rows;
  ptrdiff_t f32_columns;
  micro_kernel_f32 f32;
  ptrdiff_t f64_rows;
  ptrdiff_t f64_columns;
  micro_kernel_f64 f64;
} micro_kernels;

/* The kernels of that name ("avx512", "avx2", "portable"); NULL for another name and where this
 * processor lacks the instructions. */
const micro_kernels *micro_kernels_named(const char *name);
