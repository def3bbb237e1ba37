/* Loading values of 16 bits, each into a word of 32. */
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
