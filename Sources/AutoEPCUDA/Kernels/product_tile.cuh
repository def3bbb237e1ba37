// The tile of a portable matrix product: tensor cores for bf16 and f16, plain multiply-adds for
// f32.
//   -DELEMENT: see element.cuh;  -DALIGNED: see chunk.cuh

#pragma once

#include "host_and_device.h"

#if ELEMENT == TYPE_F32
#include "f32_tile.cuh"
#else
#include "tensor_core_tile.cuh"
#endif
