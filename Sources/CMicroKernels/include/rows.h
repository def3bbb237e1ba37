/* Operations on rows of values, with the same bits for each instruction set: vector sums have a fixed order.
 * bf16 values are passed as bits; their sums and factors are floats. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* to[i] = from[i], widened. */
void widen_bf16(const uint16_t *from, float *to, ptrdiff_t count);
/* to[i] = from[i], rounded to nearest even; NaN stays NaN. */
void round_bf16(const float *from, uint16_t *to, ptrdiff_t count);
/* to[i] = factor * from[i]. */
void scale_f32(float factor, const float *from, float *to, ptrdiff_t count);
void scale_bf16(float factor, const uint16_t *from, uint16_t *to, ptrdiff_t count);
/* sums[i] += factor * from[i]; product and sum are rounded one after the other. */
void add_scaled_f32(float factor, const float *from, float *sums, ptrdiff_t count);
void add_scaled_bf16(float factor, const uint16_t *from, float *sums, ptrdiff_t count);
/* The inner product, as 64 running sums that are added at the end. */
float dot_f32(const float *a, const float *b, ptrdiff_t count);
float dot_bf16(const uint16_t *a, const uint16_t *b, ptrdiff_t count);
/* parts[i] = the inner product of the i-th 64 bytes of a and b, in a fixed order. */
void dot_parts_f32(const float *a, const float *b, float *parts, ptrdiff_t count);
void dot_parts_f64(const double *a, const double *b, double *parts, ptrdiff_t count);
