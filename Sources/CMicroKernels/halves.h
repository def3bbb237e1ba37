/* bf16: loads the bits of each value into a 32-bit word, and rounds words that are floats. */
#define STORED uint16_t
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

INLINE void round_words(const vector *words, halves *values) {
  vector sums = *words;
  vector nearest = (sums + 0x7fff + (sums >> 16 & 1)) >> 16;
  vector quiet = sums >> 16 | 0x40;
  vector is_nan = (vector)((sums & 0x7fffffff) > 0x7f800000);
  *values = __builtin_convertvector((is_nan & quiet) | (~is_nan & nearest), halves);
}

INLINE void store_words(const vector *words, uint16_t *target, ptrdiff_t count) {
  halves values;
  round_words(words, &values);
  if (count >= LANES) {
    memcpy(target, &values, sizeof values);
  } else {
    memcpy(target, &values, (size_t)count * sizeof *target);
  }
}

INLINE void stream_line(const vector words[LINE_VECTORS], uint16_t *target) {
  halves values[LINE_VECTORS];
  for (int i = 0; i < LINE_VECTORS; i++) {
    round_words(&words[i], &values[i]);
  }
  vector line;
  memcpy(&line, values, sizeof line);
  stream(&line, target);
}
