#include "packing.h"

typedef float vector __attribute__((vector_size(16)));
typedef uint16_t halves __attribute__((vector_size(8)));
typedef uint32_t words __attribute__((vector_size(16)));

static inline void load4(const uint16_t *source, vector *result) {
  halves stored;
  __builtin_memcpy(&stored, source, sizeof stored);
  *result = (vector)(__builtin_convertvector(stored, words) << 16);
}

static inline float widen(uint16_t stored) {
  uint32_t word = (uint32_t)stored << 16;
  float result;
  __builtin_memcpy(&result, &word, sizeof result);
  return result;
}

#define PACK pack_bf16
#define STORED uint16_t
#define WIDE float
#define WIDEN(x) widen(x)
#include "pack_template.h"
