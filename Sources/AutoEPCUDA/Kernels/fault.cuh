// How a kernel reports bad data: it writes a FAULT_ code of host_and_device.h to a word in host
// memory and goes on within bounds; the next call on a context of the device throws. If several
// faults are reported, any one of them may remain.

#pragma once

#include "host_and_device.h"
#include "integers.cuh"

__device__ __forceinline__ void report(volatile u32* fault, u32 code) { *fault = code; }
