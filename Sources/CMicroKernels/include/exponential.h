#pragma once

#include <stddef.h>

/* Replaces each value by its exponential, to 2 units in the last place; NaN stays NaN. */
void exponential_f32(float *values, ptrdiff_t count);
