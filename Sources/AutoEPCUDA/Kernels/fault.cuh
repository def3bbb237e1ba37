// What a kernel says of bad data that it met: it goes on in bounds, and the next call on a context of
// the device throws. The word is in host memory; any of several faults may be the one that stays.
// The numbers are those of DeviceFault in Swift.

#pragma once

enum Fault : unsigned {
  FAULT_TOPK_IDX = 1,  // a choice outside [0, E)
  FAULT_LOGITS = 2,    // a logit that is NaN or +inf, or a token without a finite one
};

__device__ inline void report(volatile unsigned *fault, Fault what) { *fault = what; }
