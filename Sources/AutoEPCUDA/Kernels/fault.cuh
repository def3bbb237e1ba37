// Reports invalid data: a kernel writes a FAULT_ code of host_and_device.h to a word in host memory
// and continues within bounds; the next call on a context of the device throws. Of several faults,
// any one may remain.

#pragma once

#include "host_and_device.h"
#include "integers.cuh"

__device__ __forceinline__ void report(volatile u32* fault, u32 code) { *fault = code; }
