/* Streams, events, copies and memory of the fake driver: device memory is the host's. */
#include <stdlib.h>
#include <string.h>

#include "fake_streams.h"

pthread_mutex_t fake_streams_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t fake_streams_ended = PTHREAD_COND_INITIALIZER;

static fake_work *pending;
static uint64_t tickets;

struct cuda_event_object {
  cuda_stream stream;
  uint64_t ticket; /* of the stream's last work before the event */
};

struct cuda_stream_object {
  int32_t unused;
};

fake_work *fake_work_add(cuda_stream stream, int32_t remaining) {
  fake_work *work = calloc(1, sizeof *work);
  work->stream = stream;
  work->ticket = ++tickets;
  work->remaining = remaining;
  work->next = pending;
  pending = work;
  return work;
}

void fake_work_end(fake_work *work, int32_t parts) {
  work->remaining -= parts;
  if (work->remaining > 0) return;
  for (fake_work **link = &pending; *link != NULL; link = &(*link)->next) {
    if (*link != work) continue;
    *link = work->next;
    free(work);
    break;
  }
  pthread_cond_broadcast(&fake_streams_ended);
}

/* Whether a stream has work up to a ticket. */
static int is_busy(cuda_stream stream, uint64_t ticket) {
  for (const fake_work *work = pending; work != NULL; work = work->next)
    if (work->stream == stream && work->ticket <= ticket) return 1;
  return 0;
}

static void wait_for(cuda_stream stream) {
  pthread_mutex_lock(&fake_streams_lock);
  while (is_busy(stream, UINT64_MAX)) pthread_cond_wait(&fake_streams_ended, &fake_streams_lock);
  pthread_mutex_unlock(&fake_streams_lock);
}

cuda_result cuStreamCreate(cuda_stream *stream, uint32_t flags) {
  *stream = calloc(1, sizeof **stream);
  return flags == cuda_stream_non_blocking ? cuda_success : 1;
}

cuda_result cuStreamDestroy_v2(cuda_stream stream) {
  free(stream);
  return cuda_success;
}

cuda_result cuStreamSynchronize(cuda_stream stream) {
  wait_for(stream);
  return cuda_success;
}

cuda_result cuEventCreate(cuda_event *event, uint32_t flags) {
  *event = calloc(1, sizeof **event);
  return flags == cuda_event_disable_timing ? cuda_success : 1;
}

cuda_result cuEventRecord(cuda_event event, cuda_stream stream) {
  pthread_mutex_lock(&fake_streams_lock);
  event->stream = stream;
  event->ticket = tickets;
  pthread_mutex_unlock(&fake_streams_lock);
  return cuda_success;
}

cuda_result cuEventQuery(cuda_event event) {
  pthread_mutex_lock(&fake_streams_lock);
  const int busy = is_busy(event->stream, event->ticket);
  pthread_mutex_unlock(&fake_streams_lock);
  return busy ? cuda_error_not_ready : cuda_success;
}

cuda_result cuEventDestroy_v2(cuda_event event) {
  free(event);
  return cuda_success;
}

cuda_result cuMemAlloc_v2(cuda_address *address, size_t byte_count) {
  *address = (cuda_address)(uintptr_t)aligned_alloc(256, (byte_count + 255) / 256 * 256);
  return cuda_success;
}

cuda_result cuMemFree_v2(cuda_address address) {
  free((void *)(uintptr_t)address);
  return cuda_success;
}

cuda_result cuMemFreeHost(void *memory) {
  free(memory);
  return cuda_success;
}

/* A copy waits for the stream, as a program that reads what comes out cannot tell. */
static cuda_result copy(void *target, const void *source, size_t byte_count, cuda_stream stream) {
  wait_for(stream);
  memmove(target, source, byte_count);
  return cuda_success;
}

cuda_result cuMemcpyHtoDAsync_v2(cuda_address target, const void *source, size_t byte_count,
                                 cuda_stream stream) {
  return copy((void *)(uintptr_t)target, source, byte_count, stream);
}

cuda_result cuMemcpyDtoHAsync_v2(void *target, cuda_address source, size_t byte_count,
                                 cuda_stream stream) {
  return copy(target, (const void *)(uintptr_t)source, byte_count, stream);
}

cuda_result cuMemcpyDtoDAsync_v2(cuda_address target, cuda_address source, size_t byte_count,
                                 cuda_stream stream) {
  return copy((void *)(uintptr_t)target, (const void *)(uintptr_t)source, byte_count, stream);
}

cuda_result cuMemcpyHtoD_v2(cuda_address target, const void *source, size_t byte_count) {
  return copy((void *)(uintptr_t)target, source, byte_count, NULL);
}

cuda_result cuMemcpyDtoH_v2(void *target, cuda_address source, size_t byte_count) {
  return copy(target, (const void *)(uintptr_t)source, byte_count, NULL);
}
