// The tile of a matrix product for the type of its operands.
//   -DELEMENT: see element.cuh;  -DALIGNED: see chunk.cuh

#pragma once

#if ELEMENT == 1
#include "f32_tile.cuh"
#else
#include "tensor_core_tile.cuh"
#endif
