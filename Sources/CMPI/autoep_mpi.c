/* The MPI transport: nonblocking exchanges of rows, with a deadline.
 *
 * MPI can neither withdraw a send nor stop a receive that has started, and both use the caller's
 * memory. A rank therefore first announces an exchange to the others with a few bytes of this
 * file's own memory. Rows are sent only between two ranks that have both announced it and agree on
 * the counts. If a rank never joins, only announcements are left in flight. */
#define _POSIX_C_SOURCE 200809L
#include "autoep_mpi.h"

#include <limits.h>
#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ------------------------------------------------------------------------- */
/* Errors                                                                    */
/* ------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static int32_t fail(char *message, int32_t status,
                                                          const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, AUTOEP_ERROR_MESSAGE_SIZE, format, arguments);
  va_end(arguments);
  return status;
}

/* Turns the result of an MPI call into a status; the message names the call and its error. */
static int32_t check(int code, const char *call, char *message) {
  if (code == MPI_SUCCESS) return AUTOEP_OK;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return fail(message, AUTOEP_ERROR_COMMUNICATION, "%.*s failed: %s", (int)strcspn(call, "("), call,
              text);
}

/* Returns from the calling function with the status of `expression` unless it is AUTOEP_OK. */
#define TRY(expression)                       \
  do {                                        \
    int32_t status_ = (expression);           \
    if (status_ != AUTOEP_OK) return status_; \
  } while (0)

/* Calls MPI; every call goes through this macro, with `message` in scope. */
#define TRY_MPI(call) TRY(check((call), #call, message))

/* ------------------------------------------------------------------------- */
/* The process: one lock, one initialisation                                 */
/* ------------------------------------------------------------------------- */

/* Held during MPI calls: MPI may allow only one thread at a time. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int initialised_here = 0;

/* Set when rows could not be withdrawn from MPI. Rows move only while this process calls MPI, so it
 * makes no further calls: the caller may free the rows' memory. */
static int abandoned = 0;

static int32_t enter(char *message) {
  pthread_mutex_lock(&lock);
  if (!abandoned) return AUTOEP_OK;
  pthread_mutex_unlock(&lock);
  return fail(message, AUTOEP_ERROR_COMMUNICATION,
              "MPI is no longer used by this process: a failed exchange left rows in flight");
}

/* Releases the lock and returns the status. */
static int32_t leave(int32_t status) {
  pthread_mutex_unlock(&lock);
  return status;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

enum { FIRST_YIELD = 50, FIRST_SLEEP = 250 };

/* Pauses between two polls: first not at all, then yielding, then sleeping for increasing
 * times. */
static void pause_after(int polls) {
  if (polls < FIRST_YIELD) return;
  if (polls < FIRST_SLEEP) {
    sched_yield();
    return;
  }
  int doublings = (polls - FIRST_SLEEP) / 8;
  long nanoseconds = 10000L << (doublings < 5 ? doublings : 5);
  nanosleep(&(struct timespec){.tv_nsec = nanoseconds}, NULL);
}

static int32_t initialise(char *message) {
  int initialised, finalised, level;
  TRY_MPI(MPI_Finalized(&finalised));
  if (finalised) {
    return fail(message, AUTOEP_ERROR_COMMUNICATION,
                "MPI was finalised and cannot be initialised again");
  }
  TRY_MPI(MPI_Initialized(&initialised));
  if (!initialised) {
    TRY_MPI(MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level));
    initialised_here = 1;
    TRY_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  }
  TRY_MPI(MPI_Query_thread(&level));
  if (level < MPI_THREAD_SERIALIZED) {
    return fail(message, AUTOEP_ERROR_UNSUPPORTED,
                "MPI's thread level is %d, but calls come from several threads: initialise MPI "
                "with MPI_THREAD_SERIALIZED (%d) or higher, or let AutoEP initialise it",
                level, MPI_THREAD_SERIALIZED);
  }
  return AUTOEP_OK;
}

/* ------------------------------------------------------------------------- */
/* Groups and exchanges                                                      */
/* ------------------------------------------------------------------------- */

typedef struct exchange exchange;

/* A list of ranks of one communicator. */
typedef struct group {
  MPI_Comm comm;
  const int32_t *members; /* [size] ranks of comm, or NULL: rank p is p */
  int rank;
  int size;
  int first_tag;
  unsigned exchanges;  /* started so far */
  exchange *under_way; /* a list, linked by `next` */
  /* Set by a failed exchange: the communicator is then never freed. The library's GroupHealth keeps
   * the reason and refuses later calls: this file is compiled separately and cannot call Swift. */
  int failed;
} group;

/* Tags identify the exchanges in progress. MPI guarantees tags up to 32767. */
enum { TAGS_PER_EXCHANGE = 2, EXCHANGES_AT_ONCE = 8192 };

/* The message that a rank sends to another before rows are sent between the two. */
typedef struct announcement {
  int64_t sends;   /* rows sent to the other rank */
  int64_t expects; /* rows expected from the other rank */
  int64_t row_bytes;
} announcement;

struct exchange {
  group *group;
  exchange *next;
  const char *send;
  char *receive;
  const int64_t *send_rows;
  const int64_t *receive_rows;
  int64_t row_bytes;
  MPI_Datatype row;
  int tag; /* of announcements; rows use the next tag */

  announcement *announced; /* [size] to the others */
  announcement *arrived;   /* [size] from the others */
  MPI_Request *arrivals;   /* [size] */
  MPI_Request *transfers;  /* [3 * size]: announcing, receiving rows, sending rows */
  int *completed;          /* [3 * size]: scratch */
  int arrivals_pending;
  int transfers_pending;
  char mismatch[AUTOEP_ERROR_MESSAGE_SIZE]; /* the first disagreement, or "" */
};

static int member(const group *group, int p) { return group->members ? group->members[p] : p; }

static int64_t rows_before(const int64_t *rows, int p) {
  int64_t sum = 0;
  for (int q = 0; q < p; q++) sum += rows[q];
  return sum;
}

static void exchange_free(exchange *x) {
  if (x->row != MPI_DATATYPE_NULL) MPI_Type_free(&x->row);
  free(x->announced);
  free(x->arrived);
  free(x->arrivals);
  free(x->transfers);
  free(x->completed);
  free(x);
}

/* Makes an exchange with nothing in flight; returns NULL if out of memory. */
static exchange *exchange_new(group *group) {
  size_t size = (size_t)group->size;
  exchange *x = calloc(1, sizeof *x);
  if (!x) return NULL;
  x->group = group;
  x->row = MPI_DATATYPE_NULL;
  x->announced = calloc(size, sizeof *x->announced);
  x->arrived = calloc(size, sizeof *x->arrived);
  x->arrivals = calloc(size, sizeof *x->arrivals);
  x->transfers = calloc(3 * size, sizeof *x->transfers);
  x->completed = calloc(3 * size, sizeof *x->completed);
  if (!x->announced || !x->arrived || !x->arrivals || !x->transfers || !x->completed) {
    exchange_free(x);
    return NULL;
  }
  for (size_t i = 0; i < size; i++) x->arrivals[i] = MPI_REQUEST_NULL;
  for (size_t i = 0; i < 3 * size; i++) x->transfers[i] = MPI_REQUEST_NULL;
  return x;
}

/* ------------------------------------------------------------------------- */
/* The steps of an exchange                                                  */
/* ------------------------------------------------------------------------- */

/* MPI counts rows, of any size, as int. */
static int32_t check_counts(const exchange *x, char *message) {
  if (x->row_bytes > INT_MAX) {
    return fail(message, AUTOEP_ERROR_UNSUPPORTED, "a row has %lld bytes; MPI takes at most %d",
                (long long)x->row_bytes, INT_MAX);
  }
  for (int p = 0; p < x->group->size; p++) {
    int64_t most = x->send_rows[p] > x->receive_rows[p] ? x->send_rows[p] : x->receive_rows[p];
    if (most > INT_MAX) {
      return fail(message, AUTOEP_ERROR_UNSUPPORTED,
                  "%lld rows pass between ranks %d and %d; MPI takes at most %d", (long long)most,
                  x->group->rank, p, INT_MAX);
    }
  }
  return AUTOEP_OK;
}

static int32_t make_row_type(exchange *x, char *message) {
  TRY_MPI(MPI_Type_contiguous((int)x->row_bytes, MPI_BYTE, &x->row));
  TRY_MPI(MPI_Type_commit(&x->row));
  return AUTOEP_OK;
}

static int32_t announce(exchange *x, int p, char *message) {
  group *group = x->group;
  int peer = member(group, p);
  x->announced[p] = (announcement){x->send_rows[p], x->receive_rows[p], x->row_bytes};
  TRY_MPI(MPI_Irecv(&x->arrived[p], sizeof x->arrived[p], MPI_BYTE, peer, x->tag, group->comm,
                    &x->arrivals[p]));
  x->arrivals_pending++;
  TRY_MPI(MPI_Isend(&x->announced[p], sizeof x->announced[p], MPI_BYTE, peer, x->tag, group->comm,
                    &x->transfers[p]));
  x->transfers_pending++;
  return AUTOEP_OK;
}

/* Whether rank p's announcement matches this rank's; records the first that does not. */
static int agrees(exchange *x, int p, const announcement *theirs) {
  const announcement *ours = &x->announced[p];
  int same_counts = ours->sends == theirs->expects && ours->expects == theirs->sends;
  int same_rows = ours->row_bytes == theirs->row_bytes || (!ours->sends && !ours->expects);
  if (same_counts && same_rows) return 1;
  if (x->mismatch[0]) return 0;
  int is_receiver = ours->expects != theirs->sends || !same_rows;
  const announcement *sender = is_receiver ? theirs : ours, *receiver = is_receiver ? ours : theirs;
  fail(x->mismatch, AUTOEP_ERROR_COMMUNICATION,
       "rank %d sends %lld rows of %lld bytes to rank %d, which expects %lld rows of %lld bytes",
       is_receiver ? p : x->group->rank, (long long)sender->sends, (long long)sender->row_bytes,
       is_receiver ? x->group->rank : p, (long long)receiver->expects,
       (long long)receiver->row_bytes);
  return 0;
}

static void copy_own_rows(exchange *x) {
  int own = x->group->rank;
  x->announced[own] = (announcement){x->send_rows[own], x->receive_rows[own], x->row_bytes};
  int64_t bytes = x->send_rows[own] * x->row_bytes;
  if (!agrees(x, own, &x->announced[own]) || bytes == 0) return;
  memcpy(x->receive + rows_before(x->receive_rows, own) * x->row_bytes,
         x->send + rows_before(x->send_rows, own) * x->row_bytes, (size_t)bytes);
}

/* Starts the rows between this rank and rank p, which has announced the exchange too. */
static int32_t begin_rows(exchange *x, int p, char *message) {
  group *group = x->group;
  int peer = member(group, p);
  if (!agrees(x, p, &x->arrived[p])) return AUTOEP_OK;
  if (x->receive_rows[p] > 0) {
    char *rows = x->receive + rows_before(x->receive_rows, p) * x->row_bytes;
    TRY_MPI(MPI_Irecv(rows, (int)x->receive_rows[p], x->row, peer, x->tag + 1, group->comm,
                      &x->transfers[group->size + p]));
    x->transfers_pending++;
  }
  if (x->send_rows[p] > 0) {
    const char *rows = x->send + rows_before(x->send_rows, p) * x->row_bytes;
    TRY_MPI(MPI_Isend(rows, (int)x->send_rows[p], x->row, peer, x->tag + 1, group->comm,
                      &x->transfers[2 * group->size + p]));
    x->transfers_pending++;
  }
  return AUTOEP_OK;
}

/* Makes progress without waiting. */
static int32_t advance(exchange *x, char *message) {
  int size = x->group->size, count = 0;
  if (x->arrivals_pending > 0) {
    TRY_MPI(MPI_Testsome(size, x->arrivals, &count, x->completed, MPI_STATUSES_IGNORE));
    for (int i = 0; i < count; i++) {
      x->arrivals_pending--;
      TRY(begin_rows(x, x->completed[i], message));
    }
  }
  if (x->transfers_pending > 0) {
    TRY_MPI(MPI_Testsome(3 * size, x->transfers, &count, x->completed, MPI_STATUSES_IGNORE));
    x->transfers_pending -= count;
  }
  return AUTOEP_OK;
}

/* Other ranks may be waiting for any of the exchanges in progress. */
static int32_t advance_all(group *group, char *message) {
  for (exchange *x = group->under_way; x; x = x->next) TRY(advance(x, message));
  return AUTOEP_OK;
}

/* Advances until the exchange has ended or the deadline has passed. */
static int32_t advance_until(exchange *x, double deadline, char *message) {
  for (int polls = 0;; polls++) {
    TRY(enter(message));
    TRY(leave(advance_all(x->group, message)));
    if (x->arrivals_pending + x->transfers_pending == 0) return AUTOEP_OK;
    if (now() >= deadline) return AUTOEP_ERROR_TIMEOUT;
    /* Rows are transferred only while polling: do not sleep while some are in flight. */
    pause_after(x->transfers_pending > 0 && polls >= FIRST_SLEEP ? FIRST_SLEEP - 1 : polls);
  }
}

static void unlink_exchange(exchange *x) {
  exchange **link = &x->group->under_way;
  while (*link != x) link = &(*link)->next;
  *link = x->next;
}

static void mark_missing(const exchange *x, int32_t *missing) {
  int size = x->group->size;
  for (int p = 0; p < size; p++) {
    missing[p] = x->arrivals[p] != MPI_REQUEST_NULL || x->transfers[p] != MPI_REQUEST_NULL ||
                 x->transfers[size + p] != MPI_REQUEST_NULL ||
                 x->transfers[2 * size + p] != MPI_REQUEST_NULL;
  }
}

/* Ends the remaining requests of a failed exchange, so that MPI releases the caller's memory:
 * receives are cancelled, rows in flight get some seconds to arrive. Returns whether all have
 * ended. Otherwise the exchange's own memory must stay allocated and, if rows are among the
 * requests, MPI is not called again. */
static int withdraw(exchange *x) {
  enum { GRACE_SECONDS = 5 };
  int size = x->group->size, arrivals_ended = 0, announced = 0, rows_ended = 0;
  for (int p = 0; p < size; p++) {
    if (x->arrivals[p] != MPI_REQUEST_NULL) MPI_Cancel(&x->arrivals[p]);
    if (x->transfers[size + p] != MPI_REQUEST_NULL) MPI_Cancel(&x->transfers[size + p]);
  }
  double deadline = now() + GRACE_SECONDS;
  for (int polls = 0;; polls++) {
    MPI_Testall(size, x->arrivals, &arrivals_ended, MPI_STATUSES_IGNORE);
    MPI_Testall(size, x->transfers, &announced, MPI_STATUSES_IGNORE);
    MPI_Testall(2 * size, x->transfers + size, &rows_ended, MPI_STATUSES_IGNORE);
    if ((arrivals_ended && announced && rows_ended) || now() >= deadline) break;
    pause_after(polls);
  }
  if (!rows_ended) abandoned = 1;
  return arrivals_ended && announced && rows_ended;
}

/* ------------------------------------------------------------------------- */
/* The table's functions                                                     */
/* ------------------------------------------------------------------------- */

/* Ends a failed exchange and its group; returns the status. */
static int32_t give_up(exchange *x, int32_t status) {
  pthread_mutex_lock(&lock);
  unlink_exchange(x);
  x->group->failed = 1;
  if (!abandoned && withdraw(x)) exchange_free(x);
  pthread_mutex_unlock(&lock);
  return status;
}

static int32_t begin(exchange *x, char *message) {
  group *group = x->group;
  x->next = group->under_way;
  group->under_way = x;
  TRY(check_counts(x, message));
  TRY(make_row_type(x, message));
  x->tag = group->first_tag +
           TAGS_PER_EXCHANGE * (int)(group->exchanges++ % (unsigned)EXCHANGES_AT_ONCE);
  for (int p = 0; p < group->size; p++) {
    if (p != group->rank) TRY(announce(x, p, message));
  }
  copy_own_rows(x);
  return AUTOEP_OK;
}

static int32_t start_exchange(void *state, const autoep_exchange *given, void **request,
                              char *message) {
  TRY(enter(message));
  exchange *x = exchange_new(state);
  if (!x) return leave(fail(message, AUTOEP_ERROR_OUT_OF_MEMORY, "cannot allocate an exchange"));
  x->send = given->send;
  x->send_rows = given->send_rows;
  x->receive = given->receive;
  x->receive_rows = given->receive_rows;
  x->row_bytes = given->row_bytes;
  int32_t status = leave(begin(x, message));
  if (status != AUTOEP_OK) return give_up(x, status);
  *request = x;
  return AUTOEP_OK;
}

static int32_t wait_exchange(void *state, void *request, double timeout_seconds, int32_t *missing,
                             char *message) {
  (void)state;
  exchange *x = request;
  int32_t status = advance_until(x, now() + timeout_seconds, message);
  if (status == AUTOEP_ERROR_TIMEOUT) mark_missing(x, missing);
  if (x->mismatch[0]) status = fail(message, AUTOEP_ERROR_COMMUNICATION, "%s", x->mismatch);
  if (status != AUTOEP_OK) return give_up(x, status);
  pthread_mutex_lock(&lock);
  unlink_exchange(x);
  exchange_free(x);
  return leave(AUTOEP_OK);
}

static void release_group(void *state) {
  group *group = state;
  int finalised = 1;
  pthread_mutex_lock(&lock);
  if (!abandoned) MPI_Finalized(&finalised);
  /* A failed group keeps its communicator: late ranks may still send to it, and their messages must
   * never match the receives of another group. */
  if (!finalised && !group->failed) MPI_Comm_free(&group->comm);
  pthread_mutex_unlock(&lock);
  free(group);
}

/* ------------------------------------------------------------------------- */
/* Opening a group                                                           */
/* ------------------------------------------------------------------------- */

/* The tag of the announcements on MPI_COMM_WORLD by which the ranks of a new group find each other;
 * the host is unlikely to use the same. */
enum { GATHERING_TAG = 25968 };

/* Checks the requested ranks, and finds this rank among them. */
static int32_t place(group *world, int32_t count, char *message) {
  int own, size;
  TRY_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &own));
  TRY_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size));
  world->size = world->members ? count : size;
  world->rank = -1;
  for (int p = 0; p < world->size; p++) {
    int rank = member(world, p);
    if (rank < 0 || rank >= size) {
      return fail(message, AUTOEP_ERROR_INVALID_ARGUMENT, "ranks[%d] is %d; expected 0 to %d", p,
                  rank, size - 1);
    }
    for (int q = 0; q < p; q++) {
      if (member(world, q) == rank) {
        return fail(message, AUTOEP_ERROR_INVALID_ARGUMENT, "ranks[%d] and ranks[%d] are both %d",
                    q, p, rank);
      }
    }
    if (rank == own) world->rank = p;
  }
  if (world->rank >= 0) return AUTOEP_OK;
  return fail(message, AUTOEP_ERROR_INVALID_ARGUMENT,
              "this rank, %d, is not among the group's ranks", own);
}

static int32_t name_missing(const group *world, const int32_t *missing, double seconds,
                            char *message) {
  char names[256] = "";
  for (int p = 0; p < world->size; p++) {
    size_t length = strlen(names);
    if (missing[p]) snprintf(names + length, sizeof names - length, " %d", member(world, p));
  }
  return fail(
      message, AUTOEP_ERROR_TIMEOUT,
      "world rank %d waited %g s for world rank(s)%s to open the same group: every rank of "
      "a group must open it, and ranks must open the groups that they share in the same order",
      member(world, world->rank), seconds, names);
}

/* An exchange of no rows. It has a deadline, which creating an MPI communicator has not. */
static int32_t await_ranks(group *world, double timeout_seconds, char *message) {
  int64_t *no_rows = calloc((size_t)world->size, sizeof *no_rows);
  int32_t *missing = calloc((size_t)world->size, sizeof *missing);
  void *request;
  int32_t status = AUTOEP_ERROR_OUT_OF_MEMORY;
  if (no_rows && missing) {
    autoep_exchange nothing = {sizeof nothing, NULL, no_rows, NULL, no_rows, 0};
    status = start_exchange(world, &nothing, &request, message);
    if (status == AUTOEP_OK) {
      status = wait_exchange(world, request, timeout_seconds, missing, message);
    }
    if (status == AUTOEP_ERROR_TIMEOUT) name_missing(world, missing, timeout_seconds, message);
  }
  free(no_rows);
  free(missing);
  return status;
}

static int32_t make_communicator(const group *world, MPI_Comm *comm, char *message) {
  if (world->members) {
    MPI_Group all, chosen;
    TRY_MPI(MPI_Comm_group(MPI_COMM_WORLD, &all));
    TRY_MPI(MPI_Group_incl(all, world->size, world->members, &chosen));
    TRY_MPI(MPI_Comm_create_group(MPI_COMM_WORLD, chosen, GATHERING_TAG, comm));
    TRY_MPI(MPI_Group_free(&chosen));
    TRY_MPI(MPI_Group_free(&all));
  } else {
    TRY_MPI(MPI_Comm_dup(MPI_COMM_WORLD, comm));
  }
  TRY_MPI(MPI_Comm_set_errhandler(*comm, MPI_ERRORS_RETURN));
  return AUTOEP_OK;
}

static int32_t join_world(group *world, int32_t count, char *message) {
  TRY(initialise(message));
  return place(world, count, message);
}

int32_t autoep_mpi_open(const int32_t *ranks, int32_t count, double timeout_seconds,
                        autoep_transport *transport, char *message) {
  group world = {.comm = MPI_COMM_WORLD, .members = ranks, .first_tag = GATHERING_TAG};
  TRY(enter(message));
  TRY(leave(join_world(&world, count, message)));
  TRY(await_ranks(&world, timeout_seconds, message));

  group *made = calloc(1, sizeof *made);
  if (!made) return fail(message, AUTOEP_ERROR_OUT_OF_MEMORY, "cannot allocate a group");
  made->rank = world.rank;
  made->size = world.size;
  int32_t status = enter(message);
  if (status == AUTOEP_OK) status = leave(make_communicator(&world, &made->comm, message));
  if (status != AUTOEP_OK) {
    free(made);
    return status;
  }
  *transport = (autoep_transport){.struct_size = sizeof *transport,
                                  .state = made,
                                  .rank = made->rank,
                                  .size = made->size,
                                  .start = start_exchange,
                                  .wait = wait_exchange,
                                  .release = release_group};
  return AUTOEP_OK;
}

/* ------------------------------------------------------------------------- */
/* Closing MPI                                                               */
/* ------------------------------------------------------------------------- */

/* A barrier with a deadline, because MPI_Finalize waits for all ranks without one. */
static int32_t await_all(double timeout_seconds, char *message) {
  MPI_Request barrier;
  int done = 0;
  double deadline = now() + timeout_seconds;
  TRY_MPI(MPI_Ibarrier(MPI_COMM_WORLD, &barrier));
  for (int polls = 0; !done; polls++) {
    TRY_MPI(MPI_Test(&barrier, &done, MPI_STATUS_IGNORE));
    if (!done && now() >= deadline) {
      return fail(
          message, AUTOEP_ERROR_TIMEOUT,
          "not every rank joined the finalisation of MPI within %g s; MPI stays initialised",
          timeout_seconds);
    }
    pause_after(polls);
  }
  return AUTOEP_OK;
}

static int32_t finalise(double timeout_seconds, char *message) {
  int finalised;
  TRY_MPI(MPI_Finalized(&finalised));
  if (finalised) return AUTOEP_OK;
  TRY(await_all(timeout_seconds, message));
  TRY_MPI(MPI_Finalize());
  return AUTOEP_OK;
}

int32_t autoep_mpi_close(double timeout_seconds, char *message) {
  if (!initialised_here) return AUTOEP_OK;
  TRY(enter(message));
  return leave(finalise(timeout_seconds, message));
}
