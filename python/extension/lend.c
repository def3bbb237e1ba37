/* Borrows memory through a type's C functions if it has them, else through a capsule. */
#include "lend.h"

/* The C functions of a type itself, or NULL. Those of a base class are not used, because they ignore
 * what the type changed. */
static const DLExchange *exchange_of_type(PyObject *type) {
  static const char name[] = "__dlpack_c_exchange_api__";
  PyObject *own = PyObject_GetAttrString(type, "__dict__");
  PyObject *capsule = own == NULL ? NULL : PyMapping_GetItemString(own, name);
  const DLExchange *exchange =
      capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  PyErr_Clear();
  Py_XDECREF(capsule);
  Py_XDECREF(own);
  while (exchange != NULL && exchange->version_major > 1) exchange = exchange->previous;
  return exchange != NULL && exchange->version_major == 1 ? exchange : NULL;
}

/* Looks up the functions of an object's type. Caches the last type with C functions, and the last
 * type without. */
static const DLExchange *exchange_of(PyObject *object) {
  static struct {
    PyObject *type;
    const DLExchange *exchange;
  } known[2];
  PyObject *type = (PyObject *)Py_TYPE(object);
  for (int i = 0; i < 2; i++)
    if (type == known[i].type) return known[i].exchange;
  const DLExchange *exchange = exchange_of_type(type);
  /* Holds a reference, so that no other type gets the same address. */
  Py_INCREF(type);
  PyObject *forgotten = known[exchange != NULL].type;
  known[exchange != NULL].type = type;
  known[exchange != NULL].exchange = exchange;
  Py_XDECREF(forgotten);
  return exchange;
}

/* Whether autograd tracks an object: the C functions would lend it, but __dlpack__ refuses. */
static int requires_grad(PyObject *object) {
  PyObject *flag = PyObject_GetAttrString(object, "requires_grad");
  int is_set = flag != NULL && PyObject_IsTrue(flag) == 1;
  PyErr_Clear();
  Py_XDECREF(flag);
  return is_set;
}

/* Whether an object lends GPU memory; -1 with an exception set. */
static int is_on_cuda(PyObject *object) {
  PyObject *method = PyObject_GetAttrString(object, "__dlpack_device__");
  if (method == NULL) {
    /* A producer without a device is not asked for a stream. */
    PyErr_Clear();
    return 0;
  }
  PyObject *device = PyObject_CallObject(method, NULL);
  Py_DECREF(method);
  if (device == NULL) return -1;
  PyObject *type = PySequence_GetItem(device, 0);
  Py_DECREF(device);
  if (type == NULL) return -1;
  long number = PyLong_AsLong(type);
  Py_DECREF(type);
  return number == -1 && PyErr_Occurred() ? -1 : number == DL_CUDA;
}

/* Calls __dlpack__ with the options that are not NULL. */
static PyObject *call_dlpack(PyObject *method, PyObject *version, PyObject *stream) {
  PyObject *none = PyTuple_New(0);
  PyObject *options = PyDict_New();
  PyObject *capsule = NULL;
  if (none && options && (!version || PyDict_SetItemString(options, "max_version", version) == 0) &&
      (!stream || PyDict_SetItemString(options, "stream", stream) == 0))
    capsule = PyObject_Call(method, none, options);
  Py_XDECREF(options);
  Py_XDECREF(none);
  return capsule;
}

/* Asks for DLPack 1, which can lend read-only memory, then for the version of older producers. */
static PyObject *lend_capsule(PyObject *object) {
  int on_cuda = is_on_cuda(object);
  PyObject *method = on_cuda < 0 ? NULL : PyObject_GetAttrString(object, "__dlpack__");
  if (method == NULL) return NULL;
  PyObject *version = Py_BuildValue("(ii)", 1, 0);
  PyObject *no_wait = on_cuda ? PyLong_FromLong(-1) : NULL;
  PyObject *capsule = NULL;
  if (version != NULL && (no_wait != NULL || !on_cuda)) {
    capsule = call_dlpack(method, version, no_wait);
    if (capsule == NULL && PyErr_ExceptionMatches(PyExc_TypeError)) {
      PyErr_Clear();
      capsule = call_dlpack(method, NULL, no_wait);
    }
  }
  Py_XDECREF(no_wait);
  Py_XDECREF(version);
  Py_DECREF(method);
  return capsule;
}

/* The tensor of a capsule; NULL with an exception set. */
static const DLTensor *capsule_tensor(PyObject *capsule, int *is_read_only) {
  *is_read_only = 0;
  if (PyCapsule_IsValid(capsule, "dltensor")) return PyCapsule_GetPointer(capsule, "dltensor");
  DLVersionedTensor *versioned = PyCapsule_GetPointer(capsule, "dltensor_versioned");
  if (versioned == NULL || versioned->version_major != 1) {
    PyErr_SetString(PyExc_BufferError, "__dlpack__ gave no tensor of DLPack 0 or 1");
    return NULL;
  }
  *is_read_only = (versioned->flags & DL_FLAG_READ_ONLY) != 0;
  return &versioned->tensor;
}

int lend(PyObject *object, Loan *loan) {
  *loan = (Loan){0};
  const DLExchange *exchange = exchange_of(object);
  if (exchange != NULL && !requires_grad(object)) {
    if (exchange->tensor_from_object(object, &loan->tensor) != 0) return 0;
    Py_INCREF(object);
    loan->lender = object;
    return 1;
  }
  /* The capsule is never renamed, so the producer still owns it: dropping it ends the loan. */
  PyObject *capsule = lend_capsule(object);
  const DLTensor *tensor = capsule == NULL ? NULL : capsule_tensor(capsule, &loan->is_read_only);
  if (tensor == NULL) {
    Py_XDECREF(capsule);
    return 0;
  }
  loan->tensor = *tensor;
  loan->lender = capsule;
  return 1;
}
