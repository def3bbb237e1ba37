/* Stored values are bf16; a word holds those of two depths, the first in its lower half. */
#include "packings.h"
#include "words_32.h"

#include "load_halves.h"

#define STORED uint16_t
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

INLINE void load_across_rows(const void *const *source, ptrdiff_t word, ptrdiff_t depth,
                             ptrdiff_t first, ptrdiff_t width, vector *words) {
  load_halves((const uint16_t *)source[2 * word] + first, width, words);
  if (2 * word + 1 < depth) {
    vector second;
    load_halves((const uint16_t *)source[2 * word + 1] + first, width, &second);
    *words |= second << 16;
  }
}

#include "pack_template.h"

#if defined(__x86_64__)
DEFINE_PACKING(pack_bf16_pairs_avx512, AVX512)
#endif
