/* Matrix micro-kernels, one file an instruction set and dtype, and the packing that goes with them. */
#pragma once

#include "packing.h"

enum { AHEAD_DEPTHS = 2 };

/* Cache lines that a kernel asks for while it multiplies, so that they come from memory meanwhile: one for
 * each AHEAD_DEPTHS depths of a tile, or part of them. Behind `end` stand as many addresses as a tile
 * takes. */
typedef struct lookahead {
  const void *const *next;
  const void *const *end;
} lookahead;

/* Rows times panels: sums[i][j] = the sum over p < depth, in order, of row i at depth first + p times column
 * j at depth panel_first + p, which is added to them if `adds`. Depths, steps and strides count in words. */
typedef struct matrix_product {
  ptrdiff_t rows;
  ptrdiff_t depth;
  /* Row i at depth p is a[i][p] where `step` is 0; else a[i][p * step]: the rows of a tile stand side by
   * side. There is an address for each row of the last tile. */
  const void *const *a;
  ptrdiff_t first;
  ptrdiff_t step;
  /* Panels of the tile's columns, one after the other, the last one of what is left of `columns`, a
   * multiple of the words of 64 bytes; each of `panel_depth` depths. */
  const void *b;
  ptrdiff_t panel_first;
  ptrdiff_t panel_depth;
  ptrdiff_t columns;
  /* Rows `stride` apart, for all rows of the last tile. */
  void *sums;
  ptrdiff_t stride;
  int32_t adds;
} matrix_product;

/* The products of one stored type: float, double, or bf16 with float sums. */
typedef struct matrix_kernel {
  /* The tile: its rows, and the most columns. */
  ptrdiff_t rows;
  ptrdiff_t columns;
  /* Stored values of a word: 2 for kernels that take two depths at once, else 1. */
  ptrdiff_t values_per_word;
  /* Bytes of a word. */
  ptrdiff_t word_size;
  /* Whether stored rows can be read in place, at depths of whole words. */
  int32_t reads_stored_rows;
  void (*multiply)(const matrix_product *product, lookahead *ahead);
  const packing *pack;
} matrix_kernel;

/* The kernels of an instruction set. */
typedef struct kernel_set {
  const char *name;
  const matrix_kernel *f32;
  const matrix_kernel *f64;
  const matrix_kernel *bf16;
} kernel_set;

/* The kernels of that name ("avx512_bf16", "avx512", "avx2", "neon", "portable"); NULL for another
 * name, and where this processor lacks the instructions. */
const kernel_set *kernel_set_named(const char *name);
