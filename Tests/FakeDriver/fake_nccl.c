/* An NCCL without GPUs: its ranks are threads of this process, and it moves the memory of the fake
 * driver. It checks how it is called, and fails or stalls when a test wants it to. */
#include <stdlib.h>
#include <string.h>

#include "fake_streams.h"
#include "nccl_types.h"

enum { MOST_RANKS = 64, MOST_CALLS = 2 * MOST_RANKS };
enum { INTERNAL_ERROR = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5 };

/* What tests read and set, for all communicators. */
typedef struct fake_nccl_state {
  int32_t version;
  int32_t fails_id_with;
  int32_t fails_send_with;
  /* A result that communicators report from now on. */
  int32_t async_result;
  /* Polls after a group that still tell of progress. */
  int32_t polls_in_progress;
  /* Exchanges end with an abort only. */
  int32_t stalls;
  int32_t communicators;
  int32_t aborted;
  int32_t destroyed;
  int32_t groups;
  /* Calls on a communicator that was aborted or destroyed, or that is not ready. */
  int32_t misuses;
} fake_nccl_state;

static fake_nccl_state state = {.version = 22809, .polls_in_progress = 2};
fake_nccl_state *fake_nccl(void) { return &state; }

/* One side of a transfer whose other side has not come yet. */
typedef struct half {
  void *data;
  size_t byte_count;
  fake_work *work;
  struct half *next;
} half;

typedef struct world {
  nccl_unique_id id;
  int32_t size, joined;
  half *sends[MOST_RANKS][MOST_RANKS], *receives[MOST_RANKS][MOST_RANKS]; /* [source][target] */
  struct world *next;
} world;

struct nccl_communicator_object {
  world *world;
  int32_t rank;
  int32_t polls; /* that still tell of progress */
  int32_t closed;
};

typedef struct call {
  int32_t sends, peer;
  void *data;
  size_t byte_count;
} call;

static world *worlds;
static uint64_t last_id;
static _Thread_local int32_t in_group, call_count;
static _Thread_local call calls[MOST_CALLS];
static _Thread_local nccl_communicator group_communicator;
static _Thread_local cuda_stream group_stream;
static _Thread_local nccl_result group_result;

nccl_result ncclGetVersion(int32_t *version) {
  *version = state.version;
  return nccl_success;
}

const char *ncclGetErrorString(nccl_result result) {
  return result == nccl_system_error ? "unhandled system error" : "a fake error";
}

const char *ncclGetLastError(nccl_communicator communicator) {
  return communicator == NULL ? "" : "the cable is out";
}

nccl_result ncclGetUniqueId(nccl_unique_id *id) {
  pthread_mutex_lock(&fake_streams_lock);
  memset(id, 0, sizeof *id);
  const uint64_t number = ++last_id;
  memcpy(id->bytes, &number, sizeof number);
  pthread_mutex_unlock(&fake_streams_lock);
  return state.fails_id_with;
}

static world *world_of(nccl_unique_id id, int32_t size) {
  for (world *known = worlds; known != NULL; known = known->next)
    if (memcmp(&known->id, &id, sizeof id) == 0) return known;
  world *made = calloc(1, sizeof *made);
  made->id = id;
  made->size = size;
  made->next = worlds;
  worlds = made;
  return made;
}

nccl_result ncclCommInitRankConfig(nccl_communicator *communicator, int32_t size, nccl_unique_id id,
                                   int32_t rank, nccl_config *config) {
  if (config->size != sizeof *config || config->magic != nccl_config_magic ||
      config->version != (uint32_t)nccl_oldest_version || config->blocking != 0 ||
      config->split_share != nccl_undefined || size > MOST_RANKS || rank < 0 || rank >= size)
    return INVALID_ARGUMENT;
  pthread_mutex_lock(&fake_streams_lock);
  nccl_communicator made = calloc(1, sizeof *made);
  made->world = world_of(id, size);
  made->world->joined++;
  made->rank = rank;
  made->polls = state.polls_in_progress;
  state.communicators++;
  *communicator = made;
  pthread_mutex_unlock(&fake_streams_lock);
  return nccl_in_progress;
}

/* Whether a communicator may be used, with the lock. */
static int is_open(nccl_communicator communicator) {
  if (communicator != NULL && !communicator->closed) return 1;
  state.misuses++;
  return 0;
}

nccl_result ncclCommGetAsyncError(nccl_communicator communicator, nccl_result *result) {
  pthread_mutex_lock(&fake_streams_lock);
  const int open = is_open(communicator);
  if (open) {
    const int waits = communicator->world->joined < communicator->world->size;
    *result = waits || communicator->polls > 0 ? nccl_in_progress : state.async_result;
    if (!waits && communicator->polls > 0) communicator->polls--;
  }
  pthread_mutex_unlock(&fake_streams_lock);
  return open ? nccl_success : INVALID_ARGUMENT;
}

nccl_result ncclGroupStart(void) {
  if (in_group++ == 0) {
    call_count = 0;
    group_communicator = NULL;
    group_result = nccl_success;
  }
  return nccl_success;
}

static nccl_result add_call(int32_t sends, const void *data, size_t count, int32_t type,
                            int32_t peer, nccl_communicator communicator, void *stream) {
  pthread_mutex_lock(&fake_streams_lock);
  const int open = is_open(communicator);
  if (open && communicator->polls > 0) state.misuses++;
  pthread_mutex_unlock(&fake_streams_lock);
  nccl_result result = nccl_success;
  if (!open || type != nccl_uint8 || peer < 0 || peer >= communicator->world->size || data == NULL)
    result = INVALID_ARGUMENT;
  else if (in_group != 1 || call_count == MOST_CALLS)
    result = INVALID_USAGE;
  else if (sends && state.fails_send_with != 0)
    result = state.fails_send_with;
  if (result != nccl_success) return group_result = result;
  group_communicator = communicator;
  group_stream = stream;
  calls[call_count++] = (call){sends, peer, (void *)data, count};
  return nccl_success;
}

nccl_result ncclSend(const void *data, size_t count, int32_t type, int32_t peer,
                     nccl_communicator communicator, void *stream) {
  return add_call(1, data, count, type, peer, communicator, stream);
}

nccl_result ncclRecv(void *data, size_t count, int32_t type, int32_t peer,
                     nccl_communicator communicator, void *stream) {
  return add_call(0, data, count, type, peer, communicator, stream);
}

/* Puts a half behind those that wait, or takes the first that waits for it out and moves the rows.
 * Counts that differ never meet. */
static void post(half **own, half **other, half posted, int sends) {
  if (state.stalls || *other == NULL || (*other)->byte_count != posted.byte_count) {
    while (*own != NULL) own = &(*own)->next;
    *own = malloc(sizeof **own);
    **own = posted;
    return;
  }
  half *found = *other;
  *other = found->next;
  memcpy(sends ? found->data : posted.data, sends ? posted.data : found->data, found->byte_count);
  fake_work_end(found->work, 1);
  fake_work_end(posted.work, 1);
  free(found);
}

nccl_result ncclGroupEnd(void) {
  if (in_group != 1) return INVALID_USAGE;
  in_group = 0;
  if (group_result != nccl_success) return group_result;
  if (call_count == 0) return nccl_success;
  pthread_mutex_lock(&fake_streams_lock);
  world *world = group_communicator->world;
  const int32_t rank = group_communicator->rank;
  /* One part more, so that the work is there until all calls are made. */
  fake_work *work = fake_work_add(group_stream, call_count + 1);
  for (int32_t i = 0; i < call_count; i++) {
    const call *made = &calls[i];
    half **sends = made->sends ? &world->sends[rank][made->peer] : &world->sends[made->peer][rank];
    half **receives =
        made->sends ? &world->receives[rank][made->peer] : &world->receives[made->peer][rank];
    half posted = {made->data, made->byte_count, work, NULL};
    post(made->sends ? sends : receives, made->sends ? receives : sends, posted, made->sends);
  }
  fake_work_end(work, 1);
  group_communicator->polls = state.polls_in_progress;
  state.groups++;
  pthread_mutex_unlock(&fake_streams_lock);
  return nccl_in_progress;
}

/* Takes out what a rank has posted, and lets its streams go on. */
static void drop(half **queue) {
  while (*queue != NULL) {
    half *dropped = *queue;
    *queue = dropped->next;
    fake_work_end(dropped->work, 1);
    free(dropped);
  }
}

nccl_result ncclCommAbort(nccl_communicator communicator) {
  pthread_mutex_lock(&fake_streams_lock);
  const int open = is_open(communicator);
  if (open) {
    communicator->closed = 1;
    state.aborted++;
    world *world = communicator->world;
    for (int32_t peer = 0; peer < world->size; peer++) {
      drop(&world->sends[communicator->rank][peer]);
      drop(&world->receives[peer][communicator->rank]);
    }
  }
  pthread_mutex_unlock(&fake_streams_lock);
  return open ? nccl_success : INVALID_ARGUMENT;
}

/* Frees nothing, so that a later use is noticed. */
nccl_result ncclCommDestroy(nccl_communicator communicator) {
  pthread_mutex_lock(&fake_streams_lock);
  const int open = is_open(communicator);
  if (open) {
    communicator->closed = 1;
    state.destroyed++;
  }
  pthread_mutex_unlock(&fake_streams_lock);
  return open ? nccl_success : INVALID_ARGUMENT;
}
