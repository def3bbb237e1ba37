#include "packing.h"

typedef double vector __attribute__((vector_size(32)));

static inline void load4(const double *source, vector *result) {
  __builtin_memcpy(result, source, sizeof *result);
}

#define PACK pack_f64
#define STORED double
#define WIDE double
#define WIDEN(x) (x)
#include "pack_template.h"
