/* The body of a tile of AVX-512: calls the `multiply` of the file that includes it, whose number of vectors
 * and form of a are constants in each call, so that the sums are registers. */
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
