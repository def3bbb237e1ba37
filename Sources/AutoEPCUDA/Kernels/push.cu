// The flags of a push group. Copy engines move the rows, between these kernels. A kernel is one
// warp, whose lane p serves rank p. push_layout.h describes the memory, push_steps.h what a lane
// does.

#include "integers.cuh"
#include "push_layout.h"

#define PUSH_STEP __device__ __forceinline__

PUSH_STEP PushWord push_load(PushWord address) {
  PushWord word;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(word) : "l"(address) : "memory");
  return word;
}

PUSH_STEP void push_store(PushWord address, PushWord word) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(address), "l"(word) : "memory");
}

#include "push_steps.h"

constexpr u32 EVERY_LANE = 0xFFFFFFFF;

// Polls per read of the abort word, which is slower because the word is in the host's memory.
constexpr u32 POLLS_PER_ABORT_CHECK = 64;

__device__ __forceinline__ u64 nanoseconds() {
  u64 time;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
  return time;
}

// Ends the group with the report of the first lane that has one.
__device__ __forceinline__ void fail_by_lane(const PushCall& call, u32 lanes,
                                             const PushReport& report) {
  if (threadIdx.x == __ffs(lanes) - 1) push_fail(&call, &report);
}

// Returns when no lane waits any more. Ends the group first if a lane finds a failure, or at the
// deadline.
__device__ __forceinline__ void wait(const PushCall& call, const PushPeer& peer, bool waits,
                                     int what) {
  const int lane = threadIdx.x;
  const u64 begin = nanoseconds();
  PushReport report = push_own_failure(&call, PUSH_NO_FAILURE, 0);
  for (u32 polls = 1;; polls++) {
    if (waits && push_look(&call, &peer, lane, what, &report)) waits = false;
    const u32 failed = __ballot_sync(EVERY_LANE, report.kind != PUSH_NO_FAILURE);
    if (failed != 0) return fail_by_lane(call, failed, report);
    const u32 waiting = __ballot_sync(EVERY_LANE, waits);
    if (waiting == 0) return;
    // Lane 0 decides, so that all lanes go the same way.
    if (lane == 0) {
      if (polls % POLLS_PER_ABORT_CHECK == 0 && push_is_aborted(&call))
        report = push_own_failure(&call, PUSH_ABORT, 0);
      else if (nanoseconds() - begin > call.timeout_ns)
        report = push_own_failure(&call, PUSH_TIMEOUT, waiting);
    }
  }
}

// Tells the peers of the chunks that the stream has copied to them, and waits for theirs.
extern "C" __global__ void __launch_bounds__(32)
    push_signal_and_wait(const __grid_constant__ PushCall call) {
  if (push_has_failed(&call)) return;
  const PushPeer peer = call.peers[threadIdx.x];
  __threadfence_system();
  push_signal(&call, &peer);
  wait(call, peer, peer.received != 0, PUSH_FOR_ARRIVAL);
}

// Gives the slots back that the stream has copied out, and waits until there is room for the next
// chunks.
extern "C" __global__ void __launch_bounds__(32)
    push_give_back_and_wait(const __grid_constant__ PushCall call) {
  if (push_has_failed(&call)) return;
  const int lane = threadIdx.x;
  const PushPeer peer = call.peers[lane];
  // A rank that has failed no longer waits for room, so it may have overwritten a slot while it was
  // copied out.
  PushReport report = push_own_failure(&call, PUSH_NO_FAILURE, 0);
  if (lane < call.ranks && lane != call.rank) push_read_notice(&call, lane, &report);
  const u32 failed = __ballot_sync(EVERY_LANE, report.kind != PUSH_NO_FAILURE);
  if (failed != 0) return fail_by_lane(call, failed, report);
  push_give_back(&call, &peer);
  wait(call, peer, peer.room != 0, PUSH_FOR_ROOM);
}
