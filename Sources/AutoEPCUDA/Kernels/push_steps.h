// The steps of a push group's kernels: what the lane of one peer does. In C, so that the driver of
// the tests runs the same steps. Whoever includes the file defines before:
//   PUSH_STEP                                     the functions' storage class
//   PushWord push_load(PushWord address)          a load that acquires, from any GPU or the host
//   void push_store(PushWord address, PushWord)   a store that releases, to any GPU or the host

#pragma once

#include "push_layout.h"

// Offsets of the words of structs, in bytes.
enum {
  PUSH_KIND = 0,
  PUSH_ORIGIN = 8,
  PUSH_PEERS = 16,
  PUSH_EXCHANGE = 24,
  PUSH_EXPECTED = 32,
  PUSH_FOUND = 40,
  PUSH_CHUNKS = 0,
  PUSH_BYTES = 8,
  PUSH_ABORT_WORD = PUSH_LINE
};

// The events for which a lane waits.
enum { PUSH_FOR_ARRIVAL = 1, PUSH_FOR_ROOM };

PUSH_STEP int push_has_failed(const PushCall* call) {
  return push_load(call->memory + PUSH_KIND) != PUSH_NO_FAILURE;
}

// Tells the peer that the chunks are in its memory.
PUSH_STEP void push_signal(const PushCall* call, const PushPeer* peer) {
  if (peer->sent == 0) return;
  const PushWord arrival =
      peer->memory + push_arrival_offset(call->ranks, call->slots, call->rank, peer->sent - 1);
  push_store(arrival + PUSH_BYTES, peer->sent_bytes);
  push_store(arrival + PUSH_CHUNKS, peer->sent);
}

// Tells the peer that its chunks have been copied out.
PUSH_STEP void push_give_back(const PushCall* call, const PushPeer* peer) {
  if (peer->received == 0) return;
  push_store(peer->memory + push_taken_offset(call->ranks, call->rank), peer->received);
}

// Returns whether a rank has told this one of a failure, and copies it to `report`.
PUSH_STEP int push_read_notice(const PushCall* call, int rank, PushReport* report) {
  const PushWord notice = call->memory + push_notice_offset(rank);
  const PushWord kind = push_load(notice + PUSH_KIND);
  if (kind == PUSH_NO_FAILURE) return 0;
  report->kind = kind;
  report->origin = push_load(notice + PUSH_ORIGIN);
  report->peers = push_load(notice + PUSH_PEERS);
  report->exchange = push_load(notice + PUSH_EXCHANGE);
  report->expected = push_load(notice + PUSH_EXPECTED);
  report->found = push_load(notice + PUSH_FOUND);
  return 1;
}

// Returns whether the wait for a peer is over: what the lane waits for is there, or `report` has a
// failure.
PUSH_STEP int push_look(const PushCall* call, const PushPeer* peer, int rank, int what,
                        PushReport* report) {
  if (what == PUSH_FOR_ROOM) {
    if (push_load(call->memory + push_taken_offset(call->ranks, rank)) >= peer->room) return 1;
    return push_read_notice(call, rank, report);
  }
  const PushWord arrival =
      call->memory + push_arrival_offset(call->ranks, call->slots, rank, peer->received - 1);
  if (push_load(arrival + PUSH_CHUNKS) < peer->received)
    return push_read_notice(call, rank, report);
  const PushWord bytes = push_load(arrival + PUSH_BYTES);
  if (bytes == peer->received_bytes) return 1;
  report->kind = PUSH_MISMATCH;
  report->origin = call->rank;
  report->peers = (PushWord)1 << rank;
  report->exchange = call->exchange;
  report->expected = peer->received_bytes;
  report->found = bytes;
  return 1;
}

// A failure that this rank found itself, other than a mismatch.
PUSH_STEP PushReport push_own_failure(const PushCall* call, PushWord kind, PushWord peers) {
  PushReport report;
  report.kind = kind;
  report.origin = call->rank;
  report.peers = peers;
  report.exchange = call->exchange;
  report.expected = 0;
  report.found = 0;
  return report;
}

PUSH_STEP int push_is_aborted(const PushCall* call) {
  return push_load(call->words + PUSH_ABORT_WORD) != 0;
}

PUSH_STEP void push_write_report(PushWord address, const PushReport* report) {
  push_store(address + PUSH_ORIGIN, report->origin);
  push_store(address + PUSH_PEERS, report->peers);
  push_store(address + PUSH_EXCHANGE, report->exchange);
  push_store(address + PUSH_EXPECTED, report->expected);
  push_store(address + PUSH_FOUND, report->found);
  push_store(address + PUSH_KIND, report->kind);
}

// Ends the group: every later kernel of this rank returns at once, and the host and the other ranks
// are told. Called once per rank, by one lane.
PUSH_STEP void push_fail(const PushCall* call, const PushReport* report) {
  push_store(call->memory + PUSH_KIND, report->kind);
  push_write_report(call->words, report);
  for (int rank = 0; rank < call->ranks; rank++)
    if (rank != call->rank)
      push_write_report(call->peers[rank].memory + push_notice_offset(call->rank), report);
}
