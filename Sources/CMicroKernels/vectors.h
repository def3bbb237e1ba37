/* Vectors of 64 bytes, whatever the processor's are: the compiler splits them. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 64 / sizeof(WORD) };

#define INLINE __attribute__((always_inline)) static inline

typedef WORD vector __attribute__((vector_size(64)));

INLINE ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
