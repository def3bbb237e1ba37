/* Stored values are bf16; a word holds two depths, the first in its lower half. */
#include "packings.h"
#include "words_32.h"

#include "halves.h"

#define VALUES_PER_WORD 2

INLINE void load_of_row(const void *row, ptrdiff_t word, ptrdiff_t depth, vector *words) {
  ptrdiff_t count = depth - 2 * word;
  if (count >= 2 * LANES) {
    memcpy(words, (const uint16_t *)row + 2 * word, sizeof *words);
    return;
  }
  *words = (vector){0};
  if (count > 0) {
    memcpy(words, (const uint16_t *)row + 2 * word, (size_t)count * sizeof(uint16_t));
  }
}

typedef struct word_rows {
  const uint16_t *first;
  /* NULL after the last depth. */
  const uint16_t *second;
} word_rows;

INLINE word_rows rows_of_word(const void *const *source, ptrdiff_t word, ptrdiff_t depth) {
  return (word_rows){source[2 * word], 2 * word + 1 < depth ? source[2 * word + 1] : NULL};
}

INLINE void load_columns(word_rows rows, ptrdiff_t first, ptrdiff_t count, vector *words) {
  load_halves(rows.first + first, count, words);
  if (rows.second != NULL) {
    vector second;
    load_halves(rows.second + first, count, &second);
    *words |= second << 16;
  }
}

#include "pack_template.h"

#if defined(__x86_64__)
DEFINE_PACKING(pack_bf16_pairs_avx512, AVX512)
#endif
