/* Matrix micro-kernels, one file per instruction set and dtype, and their packing. */
#pragma once

#include "packing.h"

enum { AHEAD_DEPTHS = 2 };

/* Cache lines that a kernel prefetches while it multiplies: one per AHEAD_DEPTHS depths of a tile, or part of
 * them. `end` is followed by as many valid addresses as a tile prefetches. */
typedef struct lookahead {
  const void *const *next;
  const void *const *end;
} lookahead;

/* Rows times panels: sums[i][j] = the sum over p < depth, in order, of row i at depth first + p times column
 * j at depth panel_first + p; added to sums[i][j] if `adds`. Depths, steps and strides count words. */
typedef struct matrix_product {
  ptrdiff_t rows;
  ptrdiff_t depth;
  /* Row i at depth p is a[i][p] if `step` is 0; else a[i][p * step], where the rows of a tile are adjacent
   * columns. There is an address for each row of the last tile. */
  const void *const *a;
  ptrdiff_t first;
  ptrdiff_t step;
  /* Consecutive panels of a tile's columns, of which the last has the rest of `columns`, a multiple of the
   * words in 64 bytes; each is `panel_depth` deep. */
  const void *b;
  ptrdiff_t panel_first;
  ptrdiff_t panel_depth;
  ptrdiff_t columns;
  /* Rows with distance `stride`, for all rows of the last tile. */
  void *sums;
  ptrdiff_t stride;
  int32_t adds;
} matrix_product;

/* The matrix kernels of one stored type: float, double, or bf16 with float sums. */
typedef struct matrix_kernel {
  /* The rows of a tile, and its largest number of columns. */
  ptrdiff_t rows;
  ptrdiff_t columns;
  /* Stored values per word: 2 for kernels that multiply two depths at once, else 1. */
  ptrdiff_t values_per_word;
  /* Bytes of a word. */
  ptrdiff_t word_size;
  /* Whether stored rows can be read in place, if the depth is a whole number of words. */
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

/* The kernels with a name ("avx512_bf16", "avx512", "avx2", "neon", "portable"); NULL for other names, and if
 * this processor lacks the instructions. */
const kernel_set *kernel_set_named(const char *name);
