#pragma once

/* What the fake driver and the fake NCCL share: work that a stream has still to do. Everything else
 * is done when it is asked for. */

#include <pthread.h>

#include "cuda_driver_types.h"

typedef struct fake_work {
  cuda_stream stream;
  uint64_t ticket; /* counts up over all streams */
  int32_t remaining;
  struct fake_work *next;
} fake_work;

/* Held while work is added or changed; the condition tells of work that has ended. */
extern pthread_mutex_t fake_streams_lock;
extern pthread_cond_t fake_streams_ended;

/* Adds work to a stream, which has `remaining` parts; ends one part of it, or all. With the lock.
 */
fake_work *fake_work_add(cuda_stream stream, int32_t remaining);
void fake_work_end(fake_work *work, int32_t parts);
