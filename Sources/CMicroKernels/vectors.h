/* Vectors of 64 bytes on every processor: the compiler splits them if necessary. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 64 / sizeof(WORD) };

#define INLINE __attribute__((always_inline)) static inline

typedef WORD vector __attribute__((vector_size(64)));

/* Vectors of sums per cache line of stored values. */
enum { LINE_VECTORS = sizeof(WORD) / sizeof(STORED) };

/* Writes a whole cache line with non-temporal stores. */
INLINE void stream(const vector *line, void *target) {
#if defined(__x86_64__)
  __builtin_nontemporal_store(*line, (vector *)target);
#else
  memcpy(target, line, sizeof *line);
#endif
}

INLINE ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
