/* All packings, from which table.c selects. */
#pragma once

#include "packing.h"

#if defined(__x86_64__)
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define AVX2 __attribute__((target("avx2,fma")))

extern const packing pack_f32_avx512, pack_f64_avx512, pack_bf16_widened_avx512;
extern const packing pack_f32_avx2, pack_f64_avx2, pack_bf16_widened_avx2;
extern const packing pack_bf16_pairs_avx512;
#endif
extern const packing pack_f32, pack_f64, pack_bf16_widened;
