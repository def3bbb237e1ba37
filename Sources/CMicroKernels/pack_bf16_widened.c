/* Stored values are bf16, words are floats. */
#include "packings.h"
#include "words_32.h"

#include "halves.h"

#define VALUES_PER_WORD 1

INLINE void load_of_row(const void *row, ptrdiff_t word, ptrdiff_t depth, vector *words) {
  load_halves((const uint16_t *)row + word, depth - word, words);
  *words <<= 16;
}

typedef const uint16_t *word_rows;

INLINE word_rows rows_of_word(const void *const *source, ptrdiff_t word, ptrdiff_t depth) {
  (void)depth;
  return source[word];
}

INLINE void load_columns(word_rows rows, ptrdiff_t first, ptrdiff_t count, vector *words) {
  load_halves(rows + first, count, words);
  *words <<= 16;
}

#include "pack_template.h"

#if defined(__x86_64__)
DEFINE_PACKING(pack_bf16_widened_avx512, AVX512)
DEFINE_PACKING(pack_bf16_widened_avx2, AVX2)
#endif
DEFINE_PACKING(pack_bf16_widened, )
