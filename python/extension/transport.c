/* A transport whose exchanges a Python object performs with two methods:
 *   start(send, receive) -> request   lists of one memoryview per rank, valid until wait returns
 *   wait(request, timeout_seconds) -> the ranks whose part did not arrive
 * The engine calls from threads of its own choice, without the GIL. */
#include <stdio.h>

#include "engine.h"

/* An exchange in progress: the result of `start`, and the views that end with it. */
typedef struct Exchange {
  PyObject *request;
  PyObject *send;
  PyObject *receive;
} Exchange;

/* The `state` that the engine passes back. */
typedef struct State {
  PyObject *object;
  int32_t size;
} State;

static int32_t fail(char *message) {
  /* A Ctrl-C caught here must still interrupt the script. */
  if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) PyErr_SetInterrupt();
  PyObject *text = exception_text();
  const char *utf8 = PyUnicode_AsUTF8AndSize(text, NULL);
  snprintf(message, AUTOEP_ERROR_MESSAGE_SIZE, "%s", utf8 != NULL ? utf8 : "unreadable exception");
  PyErr_Clear();
  Py_DECREF(text);
  return AUTOEP_ERROR_COMMUNICATION;
}

/* PyBUF_WRITE, which the headers of Python 3.10's limited interface leave out. */
enum { WRITABLE = 0x200 };

/* One view per rank of the memory that holds the ranks' rows consecutively. */
static PyObject *rank_views(char *memory, const int64_t *rows, int64_t row_bytes, int32_t size) {
  static char nothing[1];
  PyObject *views = PyList_New(size);
  for (int32_t p = 0; views != NULL && p < size; p++) {
    Py_ssize_t bytes = (Py_ssize_t)(rows[p] * row_bytes);
    /* Writable on the sending side too: torch has no tensors of read-only memory. */
    PyObject *view = PyMemoryView_FromMemory(bytes ? memory : nothing, bytes, WRITABLE);
    if (view == NULL) {
      Py_CLEAR(views);
    } else {
      PyList_SetItem(views, p, view);
      if (bytes) memory += bytes;
    }
  }
  return views;
}

/* Makes the views unusable, so that an object that kept one cannot read freed memory. */
static void release_views(PyObject *views) {
  Py_ssize_t count = views == NULL ? 0 : PyList_Size(views);
  for (Py_ssize_t i = 0; i < count; i++) {
    Py_XDECREF(PyObject_CallMethod(PyList_GetItem(views, i), "release", NULL));
    PyErr_Clear();
  }
}

static void exchange_free(Exchange *exchange) {
  release_views(exchange->send);
  release_views(exchange->receive);
  Py_XDECREF(exchange->send);
  Py_XDECREF(exchange->receive);
  Py_XDECREF(exchange->request);
  PyMem_Free(exchange);
}

static Exchange *exchange_start(State *state, const autoep_exchange *rows) {
  Exchange *exchange = PyMem_Calloc(1, sizeof *exchange);
  if (exchange == NULL) return (Exchange *)PyErr_NoMemory();
  exchange->send = rank_views((char *)rows->send, rows->send_rows, rows->row_bytes, state->size);
  if (exchange->send != NULL)
    exchange->receive =
        rank_views(rows->receive, rows->receive_rows, rows->row_bytes, state->size);
  if (exchange->receive != NULL)
    exchange->request = PyObject_CallMethod(state->object, "start", "OO", exchange->send,
                                            exchange->receive);
  if (exchange->request != NULL) return exchange;
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  exchange_free(exchange);
  PyErr_Restore(type, value, traceback);
  return NULL;
}

static int32_t transport_start(void *state, const autoep_exchange *rows, void **request,
                               char *message) {
  PyGILState_STATE gil = PyGILState_Ensure();
  Exchange *exchange = exchange_start(state, rows);
  int32_t result = exchange == NULL ? fail(message) : AUTOEP_OK;
  *request = exchange;
  PyGILState_Release(gil);
  return result;
}

/* Marks the ranks that `wait` returned; returns 0 with an exception set if it is not a list of
 * ranks. */
static int mark_missing(PyObject *ranks, int32_t size, int32_t *missing, int32_t *count) {
  Counts counts FREED_BY(counts_release) = {.name = "the ranks that wait() returned"};
  if (!counts_read(ranks, &counts)) return 0;
  for (Py_ssize_t i = 0; i < counts.count; i++) {
    if (counts.values[i] < 0 || counts.values[i] >= size)
      return raise_invalid("wait() returned %lld, which is not a rank",
                           (long long)counts.values[i]);
    missing[counts.values[i]] = 1;
  }
  *count = (int32_t)counts.count;
  return 1;
}

static int32_t transport_wait(void *opaque, void *request, double timeout_seconds,
                              int32_t *missing, char *message) {
  State *state = opaque;
  Exchange *exchange = request;
  PyGILState_STATE gil = PyGILState_Ensure();
  int32_t count = 0;
  PyObject *ranks =
      PyObject_CallMethod(state->object, "wait", "Od", exchange->request, timeout_seconds);
  int32_t result = AUTOEP_OK;
  if (ranks == NULL || !mark_missing(ranks, state->size, missing, &count)) {
    result = fail(message);
  } else if (count != 0) {
    result = AUTOEP_ERROR_TIMEOUT;
  }
  Py_XDECREF(ranks);
  exchange_free(exchange);
  PyGILState_Release(gil);
  return result;
}

static void transport_release(void *opaque) {
  State *state = opaque;
  PyGILState_STATE gil = PyGILState_Ensure();
  Py_DECREF(state->object);
  PyMem_Free(state);
  PyGILState_Release(gil);
}

int transport_of_object(PyObject *object, int32_t rank, int32_t size,
                        autoep_transport *transport) {
  State *state = PyMem_Calloc(1, sizeof *state);
  if (state == NULL) return PyErr_NoMemory() != NULL;
  *state = (State){.object = object, .size = size};
  Py_INCREF(object);
  *transport = (autoep_transport){
      .struct_size = sizeof *transport,
      .state = state,
      .rank = rank,
      .size = size,
      .start = transport_start,
      .wait = transport_wait,
      .release = transport_release,
  };
  return 1;
}
