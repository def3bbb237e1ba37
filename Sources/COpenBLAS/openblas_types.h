#pragma once

#include <stdint.h>

/* CBLAS's enum values. */
static const int32_t openblas_row_major = 101;
static const int32_t openblas_no_transpose = 111;
static const int32_t openblas_transpose = 112;

typedef void (*openblas_sgemm)(int32_t order, int32_t transpose_a, int32_t transpose_b, int32_t m,
                               int32_t n, int32_t k, float alpha, const float *a, int32_t a_stride,
                               const float *b, int32_t b_stride, float beta, float *c,
                               int32_t c_stride);
typedef void (*openblas_dgemm)(int32_t order, int32_t transpose_a, int32_t transpose_b, int32_t m,
                               int32_t n, int32_t k, double alpha, const double *a,
                               int32_t a_stride, const double *b, int32_t b_stride, double beta,
                               double *c, int32_t c_stride);
typedef void (*openblas_set_num_threads)(int32_t count);
