#pragma once

/* Row-major, no transposition, transposition: CBLAS's numbers. */
enum { OPENBLAS_ROW_MAJOR = 101, OPENBLAS_NO_TRANSPOSE = 111, OPENBLAS_TRANSPOSE = 112 };

typedef void (*openblas_sgemm)(int order, int transpose_a, int transpose_b, int m, int n, int k,
                               float alpha, const float *a, int a_stride, const float *b,
                               int b_stride, float beta, float *c, int c_stride);
typedef void (*openblas_dgemm)(int order, int transpose_a, int transpose_b, int m, int n, int k,
                               double alpha, const double *a, int a_stride, const double *b,
                               int b_stride, double beta, double *c, int c_stride);
typedef void (*openblas_set_num_threads)(int count);
