/* Declarations that the files of the C extension share. Each exported function of autoep.h has one
 * small function here, which reads its arguments, runs the call without the GIL, and raises. */
#ifndef AUTOEP_ENGINE_EXTENSION_H
#define AUTOEP_ENGINE_EXTENSION_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "autoep.h"

#define FREED_BY(function) __attribute__((cleanup(function)))

enum { MAX_DIMENSIONS = 8 };

/* A tensor argument. Set the name and the flags, then read it with PyArg_Parse's "O&". */
typedef struct Tensor {
  const char *name;  /* in error texts */
  int is_output;     /* must be writable */
  int is_optional;   /* may be None */
  int is_bytes;      /* uint8, for the ABI's buffers */
  PyObject *lender;  /* keeps the memory borrowed; NULL if nothing is borrowed */
  autoep_tensor view;
  int64_t shape[MAX_DIMENSIONS], strides[MAX_DIMENSIONS]; /* of the view */
} Tensor;

int tensor_read(PyObject *object, void *tensor);
void tensor_release(Tensor *tensor);
/* The tensor in the ABI's form: NULL for None. */
const autoep_tensor *tensor_view(const Tensor *tensor);
/* Bytes in the ABI's form: {NULL, 0} for None and for zero bytes. */
autoep_buffer tensor_buffer(const Tensor *tensor);

#define INPUT(x) Tensor x FREED_BY(tensor_release) = {.name = #x}
#define OPTIONAL_INPUT(x) Tensor x FREED_BY(tensor_release) = {.name = #x, .is_optional = 1}
#define OUTPUT(x) Tensor x FREED_BY(tensor_release) = {.name = #x, .is_output = 1}
#define OPTIONAL_OUTPUT(x) \
  Tensor x FREED_BY(tensor_release) = {.name = #x, .is_output = 1, .is_optional = 1}
#define BYTES(x) \
  Tensor x FREED_BY(tensor_release) = {.name = #x, .is_output = 1, .is_optional = 1, .is_bytes = 1}

/* The four weights of a rank's experts, or their gradients: a tuple with None for an absent one. Set
 * the names and flags before reading it. */
typedef struct Weights {
  Tensor gate_up, gate_up_bias, down, down_bias;
  autoep_experts_weights view;
} Weights;

int weights_read(PyObject *object, void *weights);
void weights_release(Weights *weights);

#define WEIGHTS(x)                                              \
  Weights x FREED_BY(weights_release) = {                       \
      .gate_up = {.name = "gate_up"},                           \
      .gate_up_bias = {.name = "gate_up_bias", .is_optional = 1}, \
      .down = {.name = "down"},                                 \
      .down_bias = {.name = "down_bias", .is_optional = 1},     \
  }
#define GRADIENT(x) {.name = "grad_" x, .is_output = 1, .is_optional = 1}
#define WEIGHT_GRADIENTS(x)                  \
  Weights x FREED_BY(weights_release) = {    \
      .gate_up = GRADIENT("gate_up"),        \
      .gate_up_bias = GRADIENT("gate_up_bias"), \
      .down = GRADIENT("down"),              \
      .down_bias = GRADIENT("down_bias"),    \
  }

/* A sequence of integers. */
typedef struct Counts {
  const char *name; /* in error texts */
  int is_optional;  /* may be None, which leaves values NULL */
  Py_ssize_t count;
  int64_t *values;
} Counts;

int counts_read(PyObject *object, void *counts);
void counts_release(Counts *counts);
/* Checks that there is one count per rank; raises and returns 0 otherwise. */
int counts_check(const Counts *counts, int32_t ranks);
PyObject *counts_list(const int64_t *values, Py_ssize_t count);

#define COUNTS(x) Counts x FREED_BY(counts_release) = {.name = #x}
#define OPTIONAL_COUNTS(x) Counts x FREED_BY(counts_release) = {.name = #x, .is_optional = 1}

/* An unsigned 64-bit integer, for "O&". */
int uint64_read(PyObject *object, void *value);

typedef enum { CONTEXT, COMMUNICATOR, LAYER } HandleKind;

/* Owns one handle of the engine. */
typedef struct Handle {
  PyObject_HEAD
  uint64_t id; /* 0 once closed */
  HandleKind kind;
  int32_t process;     /* the process that made it: a forked child must not use it */
  int32_t device_type; /* CONTEXT */
  int32_t device_id;   /* CONTEXT */
  int32_t size;        /* COMMUNICATOR: ranks */
} Handle;

int handle_type_add(PyObject *module);
/* Takes over `id`; frees it if the object cannot be allocated. */
Handle *handle_new(HandleKind kind, uint64_t id);
int context_read(PyObject *object, void *handle);
int communicator_read(PyObject *object, void *handle);
int optional_communicator_read(PyObject *object, void *handle); /* NULL for None */
int layer_read(PyObject *object, void *handle);
/* Checks that bytes are on a context's device, which the ABI cannot check; raises and returns 0
 * otherwise. */
int buffer_check(const Tensor *tensor, const Handle *context);

int errors_load(void);
/* Returns the autoep.Error of a failure. */
PyObject *error_new(const autoep_error *error);
/* Raises it; returns NULL. */
PyObject *raise_error(const autoep_error *error);
/* Raises the error of a status with a text; returns NULL. */
PyObject *raise_status(autoep_status status, const char *text);
/* Raises InvalidArgumentError with a text made as PyErr_Format does; returns 0. */
int raise_invalid(const char *format, ...);
/* "TypeName: text" of the exception that is set, which is cleared. */
PyObject *exception_text(void);

/* Runs an ABI call, which may use `&error`, without the GIL; raises its failure. */
#define RUN(call)                                  \
  do {                                             \
    autoep_error error = AUTOEP_ERROR_INIT;        \
    PyThreadState *saved_thread = PyEval_SaveThread(); \
    autoep_status status = (call);                 \
    PyEval_RestoreThread(saved_thread);            \
    if (status != AUTOEP_OK) return raise_error(&error); \
  } while (0)

#define FUNCTION(name) static PyObject *name(PyObject *Py_UNUSED(module), PyObject *args)
#define METHOD(name, doc) {#name, name, METH_VARARGS, doc}

/* Fills the table of a transport that calls a Python object; its release drops the object. */
int transport_of_object(PyObject *object, int32_t rank, int32_t size,
                         autoep_transport *transport);

extern PyMethodDef context_methods[];
extern PyMethodDef comm_methods[];
extern PyMethodDef routing_methods[];
extern PyMethodDef permutation_methods[];
extern PyMethodDef layer_methods[];

#endif
