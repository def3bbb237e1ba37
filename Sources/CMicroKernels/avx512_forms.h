/* The body of an AVX-512 tile: calls the including file's `multiply` with a constant number of vectors and a
 * constant form of a, which keeps the sums in registers. */
#pragma once

#define MULTIPLY_IN_ITS_FORM                           \
  switch (tile->columns / LANES * 2 + (x->step != 0)) { \
  case 2:                                              \
    return multiply(1, 0, x, tile);                    \
  case 3:                                              \
    return multiply(1, 1, x, tile);                    \
  case 4:                                              \
    return multiply(2, 0, x, tile);                    \
  case 5:                                              \
    return multiply(2, 1, x, tile);                    \
  case 6:                                              \
    return multiply(VECTORS, 0, x, tile);              \
  default:                                             \
    return multiply(VECTORS, 1, x, tile);              \
  }
