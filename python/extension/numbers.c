/* Reads and creates lists of 64-bit integers. */
#include "engine.h"

void counts_release(Counts *counts) {
  PyMem_Free(counts->values);
  counts->values = NULL;
}

static int read_one(const Counts *counts, PyObject *object, Py_ssize_t index, int64_t *value) {
  PyObject *item = PySequence_GetItem(object, index);
  if (item == NULL) return 0;
  int overflow = 0;
  *value = PyLong_AsLongLongAndOverflow(item, &overflow);
  Py_DECREF(item);
  if (overflow) return raise_invalid("%s: entry %zd does not fit 64 bits", counts->name, index);
  return !PyErr_Occurred();
}

int counts_read(PyObject *object, void *argument) {
  Counts *counts = argument;
  if (counts->is_optional && object == Py_None) return 1;
  Py_ssize_t count = PySequence_Check(object) ? PySequence_Size(object) : -1;
  if (count < 0) {
    PyErr_Clear();
    return raise_invalid("%s: expected a sequence of integers, got %R", counts->name,
                         (PyObject *)Py_TYPE(object));
  }
  counts->values = PyMem_Calloc((size_t)count + 1, sizeof(int64_t));
  if (counts->values == NULL) return PyErr_NoMemory() != NULL;
  counts->count = count;
  for (Py_ssize_t i = 0; i < count; i++)
    if (!read_one(counts, object, i, &counts->values[i])) return 0;
  return 1;
}

int counts_check(const Counts *counts, int32_t ranks) {
  if (counts->count == ranks) return 1;
  return raise_invalid("%s: expected one count for each of the %d ranks, got %zd", counts->name,
                       (int)ranks, counts->count);
}

PyObject *counts_list(const int64_t *values, Py_ssize_t count) {
  PyObject *list = PyList_New(count);
  for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
    PyObject *number = PyLong_FromLongLong(values[i]);
    if (number == NULL) {
      Py_CLEAR(list);
    } else {
      PyList_SetItem(list, i, number);
    }
  }
  return list;
}

int uint64_read(PyObject *object, void *value) {
  unsigned long long number = PyLong_AsUnsignedLongLong(object);
  if (PyErr_Occurred()) {
    PyErr_Clear();
    return raise_invalid("expected an integer from 0 to 2^64 - 1, got %R", object);
  }
  *(uint64_t *)value = number;
  return 1;
}
