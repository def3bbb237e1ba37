/* Matrix micro-kernels, one file an instruction set and dtype, and the packing that goes with them. */
#pragma once

#include "packing.h"

enum { AHEAD_DEPTHS = 4 };

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
  /* sums[i][j] = the sum over p < depth, in order, of row i at depth first + p times b[p][j], which is
   * added to them if `adds`; for one tile whose rows of sums are `stride` apart. Row i at depth p is
   * a[i][p] where `step` is 0, else a[0][p * step + i]: rows side by side. Depths and steps count in words;
   * `columns` is a multiple of the words of 64 bytes, at most the tile's; a has an address for each of the
   * tile's rows. `ahead` has the address of a cache line for each AHEAD_DEPTHS depths or part of them,
   * which the kernel asks for: they come from memory while it multiplies. */
  void (*multiply)(ptrdiff_t depth, const void *const *a, ptrdiff_t first, ptrdiff_t step,
                   const void *b, ptrdiff_t columns, void *sums, ptrdiff_t stride, int32_t adds,
                   const void *const *ahead);
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
