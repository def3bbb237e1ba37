// The memory through which the ranks of a push group exchange rows. Every rank has one part of it,
// on its own GPU, which all ranks of the group write to. The kernels and the fake driver of the
// tests include this file, and Swift imports it as part of CKernels.
//
// A rank's memory, for P ranks and S slots per ring; a line has PUSH_LINE bytes, so that a flag
// shares its cache line with nothing that another rank writes:
//   1 line             the failure of this rank
//   P lines            a notice of each rank's failure
//   P lines            the number of this rank's chunks that each rank has taken out
//   P * S lines        a flag for each slot below
//   (P - 1) * S slots  a ring of chunks from each other rank
// The chunks from one rank to another are numbered 0, 1, 2, ... over the life of the group; chunk n
// travels through slot n % S. Flags and counters hold the number of chunks, so n + 1 for chunk n.

#pragma once

#include "host_and_device.h"

// A number that ranks exchange. Writes and reads of one are atomic.
typedef unsigned long long PushWord;

enum {
  PUSH_MOST_RANKS = 32,  // each has a lane of a warp, and a bit of a word
  PUSH_LINE = 128        // bytes
};

// The reasons for which a group ends.
enum {
  PUSH_NO_FAILURE = 0,
  PUSH_TIMEOUT,   // ranks did not send or take a chunk in time
  PUSH_MISMATCH,  // a rank sent another number of bytes than was expected
  PUSH_ABORT      // the host of `origin` gave the group up
};

// A failure, as the rank that found it tells the others. `kind` is written last.
typedef struct PushReport {
  PushWord kind;
  PushWord origin;    // the rank that found it
  PushWord peers;     // a bit for each rank that was missing, or that sent the wrong number
  PushWord exchange;  // the number of the exchange at `origin`
  PushWord expected;  // bytes
  PushWord found;
} PushReport;

// The flag of a slot.
typedef struct PushArrival {
  PushWord chunks;  // written last
  PushWord bytes;   // of the whole message that the chunk belongs to
} PushArrival;

// Words in the host's memory: the kernels write the report, and the host sets `abort` to end them.
typedef struct PushHostWords {
  PushReport report;
  PushWord padding[PUSH_LINE / 8 - 6];
  PushWord abort;
} PushHostWords;

// The work of a kernel for one peer. Chunks are counted over the life of the group; a count of 0
// means that there is nothing to do.
typedef struct PushPeer {
  PushWord memory;      // the peer's memory, as this rank's GPU sees it
  PushWord sent;        // chunks that are in the peer's memory when the kernel starts
  PushWord sent_bytes;  // of the message
  PushWord received;    // chunks to wait for, or to give back
  PushWord received_bytes;
  PushWord room;  // chunks that the peer must have taken before the next one is sent
} PushPeer;

// The argument of both kernels.
typedef struct PushCall {
  PushWord memory;  // of this rank
  PushWord words;   // PushHostWords, as the GPU sees them
  PushWord timeout_ns;
  PushWord exchange;
  int rank;
  int ranks;
  int slots;
  int padding;
  PushPeer peers[PUSH_MOST_RANKS];
} PushCall;

// ---- Offsets in a rank's memory, in bytes ----

BOTH_SIDES PushWord push_notice_offset(int rank) { return (PushWord)PUSH_LINE * (1 + rank); }

BOTH_SIDES PushWord push_taken_offset(int ranks, int rank) {
  return (PushWord)PUSH_LINE * (1 + ranks + rank);
}

BOTH_SIDES PushWord push_arrival_offset(int ranks, int slots, int source, PushWord chunk) {
  return PUSH_LINE * (1 + 2 * (PushWord)ranks + (PushWord)source * slots + chunk % slots);
}

// The bytes before the rings, all 0 in a new group. A multiple of 4096, as rows are copied fastest
// between aligned addresses.
BOTH_SIDES PushWord push_flag_bytes(int ranks, int slots) {
  return (PUSH_LINE * (1 + 2 * (PushWord)ranks + (PushWord)ranks * slots) + 4095) / 4096 * 4096;
}

// The slot of a chunk from `source` in the memory of `target`, another rank.
BOTH_SIDES PushWord push_slot_offset(int ranks, int slots, PushWord chunk_bytes, int source,
                                     int target, PushWord chunk) {
  return push_flag_bytes(ranks, slots) +
         ((PushWord)((source - target + ranks - 1) % ranks) * slots + chunk % slots) * chunk_bytes;
}

BOTH_SIDES PushWord push_memory_bytes(int ranks, int slots, PushWord chunk_bytes) {
  return push_flag_bytes(ranks, slots) + (PushWord)(ranks - 1) * slots * chunk_bytes;
}
