/* bf16: loading the bits of each into a word of 32, and rounding words that are floats. */
#include "vectors.h"

typedef uint16_t halves __attribute__((vector_size(32)));

INLINE void load_halves(const uint16_t *source, ptrdiff_t count, vector *words) {
  halves stored = {0};
  if (count >= LANES) {
    memcpy(&stored, source, sizeof stored);
  } else if (count > 0) {
    memcpy(&stored, source, (size_t)count * sizeof *source);
  }
  *words = __builtin_convertvector(stored, vector);
}

INLINE void store_words(const vector *words, uint16_t *target, ptrdiff_t count) {
  vector sums = *words;
  vector nearest = (sums + 0x7fff + (sums >> 16 & 1)) >> 16;
  vector quiet = sums >> 16 | 0x40;
  vector is_nan = (vector)((sums & 0x7fffffff) > 0x7f800000);
  halves rounded = __builtin_convertvector((is_nan & quiet) | (~is_nan & nearest), halves);
  if (count >= LANES) {
    memcpy(target, &rounded, sizeof rounded);
  } else {
    memcpy(target, &rounded, (size_t)count * sizeof *target);
  }
}
