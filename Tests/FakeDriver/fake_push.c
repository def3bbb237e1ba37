/* The kernels of push.cu on the host: the same steps, whose lanes take turns. */
#include "fake_push.h"

#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PUSH_STEP static inline

typedef unsigned long long PushWord;
static PushWord push_load(PushWord address) {
  return __atomic_load_n((PushWord *)address, __ATOMIC_ACQUIRE);
}
static void push_store(PushWord address, PushWord word) {
  __atomic_store_n((PushWord *)address, word, __ATOMIC_RELEASE);
}

#include "push_steps.h"

static PushWord nanoseconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (PushWord)time.tv_sec * 1000000000 + (PushWord)time.tv_nsec;
}

static void wait_for_peers(const PushCall *call, int what) {
  const PushWord begin = nanoseconds();
  PushWord waiting = 0;
  for (int rank = 0; rank < call->ranks; rank++) {
    const PushPeer *peer = &call->peers[rank];
    if ((what == PUSH_FOR_ARRIVAL ? peer->received : peer->room) != 0)
      waiting |= (PushWord)1 << rank;
  }
  for (int polls = 0; waiting != 0; polls++) {
    PushReport report = push_own_failure(call, PUSH_NO_FAILURE, 0);
    for (int rank = 0; rank < call->ranks; rank++) {
      if ((waiting >> rank & 1) == 0) continue;
      if (push_look(call, &call->peers[rank], rank, what, &report))
        waiting &= ~((PushWord)1 << rank);
      if (report.kind != PUSH_NO_FAILURE) {
        push_fail(call, &report);
        return;
      }
    }
    if (waiting != 0 && push_is_aborted(call))
      report = push_own_failure(call, PUSH_ABORT, 0);
    else if (waiting != 0 && nanoseconds() - begin > call->timeout_ns)
      report = push_own_failure(call, PUSH_TIMEOUT, waiting);
    if (report.kind != PUSH_NO_FAILURE) {
      push_fail(call, &report);
      return;
    }
    /* Tests have more ranks than there are cores. */
    if (polls < 64)
      sched_yield();
    else
      usleep(50);
  }
}

static void signal_and_wait(const PushCall *call) {
  for (int rank = 0; rank < call->ranks; rank++) push_signal(call, &call->peers[rank]);
  wait_for_peers(call, PUSH_FOR_ARRIVAL);
}

static void give_back_and_wait(const PushCall *call) {
  for (int rank = 0; rank < call->ranks; rank++) {
    PushReport report;
    if (rank == call->rank || !push_read_notice(call, rank, &report)) continue;
    push_fail(call, &report);
    return;
  }
  for (int rank = 0; rank < call->ranks; rank++) push_give_back(call, &call->peers[rank]);
  wait_for_peers(call, PUSH_FOR_ROOM);
}

void fake_push(const char *name, void *const *parameters) {
  const PushCall *call = parameters[0];
  if (strcmp(name, "push_signal_and_wait") != 0 && strcmp(name, "push_give_back_and_wait") != 0)
    return;
  if (push_has_failed(call)) return;
  if (strcmp(name, "push_signal_and_wait") == 0)
    signal_and_wait(call);
  else
    give_back_and_wait(call);
}
