/* Loading stored values that are words as they are; after words_32.h or words_64.h. */
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

INLINE void load_across_rows(const void *const *source, ptrdiff_t word, ptrdiff_t depth,
                             ptrdiff_t first, ptrdiff_t width, vector *words) {
  (void)depth;
  load_words((const WORD *)source[word] + first, width, words);
}
