/* The loop over the tiles of a product, for files that define a tile. */
#pragma once

#include "micro_kernels.h"

/* One tile of a product. */
typedef struct tile {
  /* The addresses of its rows. */
  const void *const *a;
  /* The tile's first depth in its panel. */
  const void *b;
  ptrdiff_t columns;
  void *sums;
  /* One cache line per AHEAD_DEPTHS depths. */
  const void *const *ahead;
} tile;

/* Multiplies all tiles, of at most `rows` rows and `columns` columns of words. */
__attribute__((always_inline)) static inline void for_each_tile(
    const matrix_product *x, lookahead *ahead, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t word_size,
    void (*multiply)(const matrix_product *, const tile *)) {
  ptrdiff_t lines = (x->depth - 1) / AHEAD_DEPTHS + 1;
  for (ptrdiff_t row = 0; row < x->rows; row += rows) {
    const char *panel = x->b;
    for (ptrdiff_t column = 0; column < x->columns; column += columns) {
      ptrdiff_t rest = x->columns - column;
      ptrdiff_t width = rest < columns ? rest : columns;
      char *sums = (char *)x->sums + (row * x->stride + column) * word_size;
      const char *b = panel + x->panel_first * width * word_size;
      multiply(x, &(tile){x->a + row, b, width, sums, ahead->next});
      panel += x->panel_depth * width * word_size;
      ahead->next = ahead->end - ahead->next < lines ? ahead->end : ahead->next + lines;
    }
  }
}
