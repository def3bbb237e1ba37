/* Transposes a square of LANES x LANES words; each row is a vector of 64 bytes. */

/* Interleaving the first half of the rows with the second, log2(LANES) times, transposes the block. */
INLINE void transpose_block(vector block[LANES]) {
#pragma clang loop unroll(full)
  for (int size = 1; size < LANES; size *= 2) {
    vector next[LANES];
#pragma clang loop unroll(full)
    for (int i = 0; i < LANES / 2; i++) {
      vector a = block[i];
      vector b = block[i + LANES / 2];
      next[2 * i] = INTERLEAVE_LOW(a, b);
      next[2 * i + 1] = INTERLEAVE_HIGH(a, b);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < LANES; i++) {
      block[i] = next[i];
    }
  }
}

/* Transposes some rows of one vector each, padded with zeros. */
INLINE void load_transposed(const WORD *source, ptrdiff_t stride, ptrdiff_t rows,
                            vector block[LANES]) {
  for (ptrdiff_t row = 0; row < LANES; row++) {
    block[row] = (vector){0};
    if (row < rows) {
      memcpy(&block[row], source + row * stride, sizeof block[row]);
    }
  }
  transpose_block(block);
}

INLINE void transpose_words(const WORD *source, ptrdiff_t stride, ptrdiff_t rows,
                            ptrdiff_t columns, WORD *transposed, ptrdiff_t transposed_stride) {
  for (ptrdiff_t row = 0; row < rows; row += LANES) {
    for (ptrdiff_t column = 0; column < columns; column += LANES) {
      vector block[LANES];
      load_transposed(source + row * stride + column, stride, least(rows - row, LANES), block);
      ptrdiff_t width = least(columns - column, LANES);
      for (ptrdiff_t c = 0; c < width; c++) {
        memcpy(transposed + (column + c) * transposed_stride + row, &block[c], sizeof block[c]);
      }
    }
  }
}
