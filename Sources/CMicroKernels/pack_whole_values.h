/* Loads and stores values that are whole words; include it after words_32.h or words_64.h. */
#define STORED WORD
#include "vectors.h"

INLINE void load_words(const WORD *source, ptrdiff_t count, vector *words) {
  if (count >= LANES) {
    memcpy(words, source, sizeof *words);
    return;
  }
  *words = (vector){0};
  if (count > 0) {
    memcpy(words, source, (size_t)count * sizeof *source);
  }
}

INLINE void load_of_row(const void *row, ptrdiff_t word, ptrdiff_t depth, vector *words) {
  load_words((const WORD *)row + word, depth - word, words);
}

typedef const WORD *word_rows;

INLINE word_rows rows_of_word(const void *const *source, ptrdiff_t word, ptrdiff_t depth) {
  (void)depth;
  return source[word];
}

INLINE void load_columns(word_rows rows, ptrdiff_t first, ptrdiff_t count, vector *words) {
  load_words(rows + first, count, words);
}

INLINE void store_words(const vector *words, void *target, ptrdiff_t count) {
  if (count >= LANES) {
    memcpy(target, words, sizeof *words);
  } else {
    memcpy(target, words, (size_t)count * sizeof(WORD));
  }
}

INLINE void stream_line(const vector words[LINE_VECTORS], void *target) { stream(words, target); }
