/* The body of a product of AVX-512: calls the `multiply` of the file that includes it, whose number of
 * vectors and form of a are constants in each call, so that the sums are registers. */
#pragma once

#define MULTIPLY(vectors, side_by_side) \
  multiply(vectors, side_by_side, depth, a, first, step, b, sums, stride, adds, ahead)

#define MULTIPLY_IN_ITS_FORM                    \
  switch (columns / LANES * 2 + (step != 0)) {  \
  case 2:                                       \
    return MULTIPLY(1, 0);                      \
  case 3:                                       \
    return MULTIPLY(1, 1);                      \
  case 4:                                       \
    return MULTIPLY(2, 0);                      \
  case 5:                                       \
    return MULTIPLY(2, 1);                      \
  case 6:                                       \
    return MULTIPLY(VECTORS, 0);                \
  default:                                      \
    return MULTIPLY(VECTORS, 1);                \
  }
