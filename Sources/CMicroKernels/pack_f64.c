/* Words are doubles. */
#include "packings.h"
#include "words_64.h"

#define VALUES_PER_WORD 1
#include "pack_whole_values.h"
#include "pack_template.h"

#if defined(__x86_64__)
DEFINE_PACKING(pack_f64_avx512, AVX512)
DEFINE_PACKING(pack_f64_avx2, AVX2)
#endif
DEFINE_PACKING(pack_f64, )
