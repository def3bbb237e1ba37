#pragma once

#include <stddef.h>

/* Replaces each value by its exponential, with an error of up to 2 units in the last place; NaN stays NaN. */
void exponential_f32(float *values, ptrdiff_t count);

/* Replaces each value x by 1 / (1 + e^-x); NaN stays NaN. */
void sigmoid_f32(float *values, ptrdiff_t count);
