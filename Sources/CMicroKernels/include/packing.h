/* Packing: the order in which micro-kernels read a matrix.
 *
 * Element (r, p) of the block [rows, depth] is source[r * row_stride + p * depth_stride]. The block is
 * cut into panels of `panel_rows` rows, the last one filled up with zeros; in a panel the rows of one p
 * follow each other, and the p follow each other. */
#pragma once

#include <stddef.h>
#include <stdint.h>

void pack_f32(const float *source, ptrdiff_t row_stride, ptrdiff_t depth_stride, ptrdiff_t rows,
              ptrdiff_t depth, ptrdiff_t panel_rows, float *packed);
void pack_f64(const double *source, ptrdiff_t row_stride, ptrdiff_t depth_stride, ptrdiff_t rows,
              ptrdiff_t depth, ptrdiff_t panel_rows, double *packed);
/* Widens. */
void pack_bf16(const uint16_t *source, ptrdiff_t row_stride, ptrdiff_t depth_stride, ptrdiff_t rows,
               ptrdiff_t depth, ptrdiff_t panel_rows, float *packed);
