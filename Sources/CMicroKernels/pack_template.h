/* The body of a packing. The including file defines a word:
 *   STORED, the type of a stored value or one of its size, and VALUES_PER_WORD;
 *   load_of_row(row, word, depth, &words), loads words of a row, starting at index `word`;
 *   rows_of_word(source, word, depth), the rows that contain word `word` of each column, and
 *   load_columns(rows, first, count, &words), loads those words;
 *   store_words(&words, target, count), rounds the first sums of a vector to stored values, and
 *   stream_line(words, target), does so for a whole cache line, with non-temporal stores.
 * Vectors are padded with zeros. */

INLINE ptrdiff_t words_of(ptrdiff_t depth) {
  return (depth + VALUES_PER_WORD - 1) / VALUES_PER_WORD;
}

#include "transpose.h"

INLINE void columns_from_rows(const void *const *source, ptrdiff_t width, ptrdiff_t depth,
                              ptrdiff_t columns, WORD *panel) {
  for (ptrdiff_t column = 0; column < columns; column += LANES) {
    ptrdiff_t rows = least(width - column, LANES);
    for (ptrdiff_t word = 0; word < words_of(depth); word += LANES) {
      vector block[LANES] = {{0}};
      for (ptrdiff_t row = 0; row < rows; row++) {
        __builtin_prefetch((const WORD *)source[column + row] + word + 4 * LANES);
        load_of_row(source[column + row], word, depth, &block[row]);
      }
      transpose_block(block);
      ptrdiff_t count = least(words_of(depth) - word, LANES);
      for (ptrdiff_t p = 0; p < count; p++) {
        memcpy(panel + (word + p) * columns + column, &block[p], sizeof block[p]);
      }
    }
  }
}

/* The depths that are packed for all panels before the next ones: rows are then read in whole cache lines,
 * and panels, which may map to the same cache sets, are written one after another. */
enum { DEPTHS_AT_ONCE = 16 };

INLINE void panel_from_rows(const void *const *source, ptrdiff_t word, ptrdiff_t end,
                            ptrdiff_t depth, ptrdiff_t first, ptrdiff_t width,
                            ptrdiff_t columns, WORD *panel) {
  ptrdiff_t whole = least(width / LANES * LANES, columns);
  for (panel += word * columns; word < end; word++) {
    word_rows rows = rows_of_word(source, word, depth);
    vector words;
    for (ptrdiff_t column = 0; column < whole; column += LANES, panel += LANES) {
      load_columns(rows, first + column, LANES, &words);
      memcpy(panel, &words, sizeof words);
    }
    for (ptrdiff_t column = whole; column < columns; column += LANES, panel += LANES) {
      load_columns(rows, first + column, width - column, &words);
      memcpy(panel, &words, sizeof words);
    }
  }
}

INLINE void depths_from_rows(const void *const *source, ptrdiff_t depth, ptrdiff_t first,
                             ptrdiff_t width, ptrdiff_t columns, ptrdiff_t unit,
                             WORD *panels) {
  ptrdiff_t words = words_of(depth);
  for (ptrdiff_t word = 0; word < words; word += DEPTHS_AT_ONCE) {
    ptrdiff_t end = least(word + DEPTHS_AT_ONCE, words);
    ptrdiff_t next = least(end * VALUES_PER_WORD, depth);
    ptrdiff_t next_count = least(DEPTHS_AT_ONCE * VALUES_PER_WORD, depth - next);
    prefetch_rows(source + next, next_count, first * (ptrdiff_t)sizeof(STORED),
                  width * (ptrdiff_t)sizeof(STORED));
    for (ptrdiff_t column = 0; column < width; column += columns) {
      ptrdiff_t rest = width - column;
      ptrdiff_t panel_columns = least((rest + unit - 1) / unit * unit, columns);
      panel_from_rows(source, word, end, depth, first + column, rest, panel_columns,
                      panels + column * words);
    }
  }
}

INLINE void rows_from_rows(const void *const *source, ptrdiff_t rows, ptrdiff_t depth,
                           WORD *packed, ptrdiff_t stride) {
  for (ptrdiff_t row = 0; row < rows; row++, packed += stride) {
    for (ptrdiff_t word = 0; word < words_of(depth); word += LANES) {
      vector words = {0};
      load_of_row(source[row], word, depth, &words);
      memcpy(packed + word, &words, sizeof words);
    }
  }
}

/* Rounds the first sums of a line to stored values. */
INLINE void store_line(const vector words[LINE_VECTORS], STORED *target, ptrdiff_t count,
                       int32_t streams) {
  if (streams && count >= LINE_VECTORS * LANES && (uintptr_t)target % sizeof(vector) == 0) {
    stream_line(words, target);
    return;
  }
  for (ptrdiff_t i = 0; i < LINE_VECTORS && i * LANES < count; i++) {
    store_words(&words[i], target + i * LANES, count - i * LANES);
  }
}

INLINE void store_rows(const WORD *sums, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns,
                       void *const *target, ptrdiff_t first, int32_t streams) {
  for (ptrdiff_t row = 0; row < rows; row++, sums += stride) {
    for (ptrdiff_t column = 0; column < columns; column += LINE_VECTORS * LANES) {
      vector line[LINE_VECTORS];
      for (ptrdiff_t i = 0; i < LINE_VECTORS && column + i * LANES < columns; i++) {
        memcpy(&line[i], sums + column + i * LANES, sizeof line[i]);
      }
      store_line(line, (STORED *)target[row] + first + column, columns - column, streams);
    }
  }
}

INLINE void store_transposed(const WORD *sums, ptrdiff_t stride, ptrdiff_t columns,
                             ptrdiff_t rows, void *const *target, ptrdiff_t first,
                             int32_t streams) {
  for (ptrdiff_t row = 0; row < rows; row += LANES) {
    for (ptrdiff_t column = 0; column < columns; column += LINE_VECTORS * LANES) {
      vector blocks[LINE_VECTORS][LANES];
      for (ptrdiff_t i = 0; i < LINE_VECTORS && column + i * LANES < columns; i++) {
        ptrdiff_t begin = column + i * LANES;
        load_transposed(sums + begin * stride + row, stride, least(columns - begin, LANES),
                        blocks[i]);
      }
      ptrdiff_t height = least(rows - row, LANES);
      for (ptrdiff_t r = 0; r < height; r++) {
        vector line[LINE_VECTORS];
        for (ptrdiff_t i = 0; i < LINE_VECTORS && column + i * LANES < columns; i++) {
          line[i] = blocks[i][r];
        }
        store_line(line, (STORED *)target[row + r] + first + column, columns - column, streams);
      }
    }
  }
}

/* The packing for an instruction set; the compiler vectorises it. */
#define DEFINE_PACKING(name, target)                                                             \
  target static void columns_from_rows_##name(const void *const *source, ptrdiff_t width,        \
                                              ptrdiff_t depth, ptrdiff_t columns, void *panel) { \
    columns_from_rows(source, width, depth, columns, panel);                                     \
  }                                                                                              \
  target static void depths_from_rows_##name(const void *const *source, ptrdiff_t depth,         \
                                             ptrdiff_t first, ptrdiff_t width,                   \
                                             ptrdiff_t columns, ptrdiff_t unit,                  \
                                             void *panels) {                                     \
    depths_from_rows(source, depth, first, width, columns, unit, panels);                        \
  }                                                                                              \
  target static void rows_from_rows_##name(const void *const *source, ptrdiff_t rows,            \
                                           ptrdiff_t depth, void *packed, ptrdiff_t stride) {    \
    rows_from_rows(source, rows, depth, packed, stride);                                         \
  }                                                                                              \
  target static void transpose_##name(const void *source, ptrdiff_t stride, ptrdiff_t rows,      \
                                      ptrdiff_t columns, void *transposed,                       \
                                      ptrdiff_t transposed_stride) {                             \
    transpose_words(source, stride, rows, columns, transposed, transposed_stride);               \
  }                                                                                              \
  target static void store_rows_##name(const void *sums, ptrdiff_t stride, ptrdiff_t rows,       \
                                       ptrdiff_t columns, void *const *target_rows,              \
                                       ptrdiff_t first, int32_t streams) {                       \
    store_rows(sums, stride, rows, columns, target_rows, first, streams);                        \
  }                                                                                              \
  target static void store_transposed_##name(const void *sums, ptrdiff_t stride,                 \
                                             ptrdiff_t columns, ptrdiff_t rows,                  \
                                             void *const *target_rows, ptrdiff_t first,          \
                                             int32_t streams) {                                  \
    store_transposed(sums, stride, columns, rows, target_rows, first, streams);                  \
  }                                                                                              \
  const packing name = {columns_from_rows_##name, depths_from_rows_##name,                       \
                        rows_from_rows_##name,    transpose_##name,                              \
                        store_rows_##name,        store_transposed_##name};
