#include "packing.h"

typedef float vector __attribute__((vector_size(16)));

static inline void load4(const float *source, vector *result) {
  __builtin_memcpy(result, source, sizeof *result);
}

#define PACK pack_f32
#define STORED float
#define WIDE float
#define WIDEN(x) (x)
#include "pack_template.h"
