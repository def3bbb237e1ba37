/* Converts failures of the engine to exceptions. */
#include <stdarg.h>

#include "engine.h"

/* The classes of autoep.errors, by status. */
static PyObject *error_classes;

int errors_load(void) {
  PyObject *errors = PyImport_ImportModule("autoep.errors");
  if (errors == NULL) return 0;
  error_classes = PyObject_GetAttrString(errors, "BY_STATUS");
  Py_DECREF(errors);
  return error_classes != NULL;
}

/* The ranks of a failure, as a tuple. */
static PyObject *ranks_tuple(const autoep_error *error) {
  int32_t count = error->num_ranks;
  if (count < 0) count = 0;
  if (count > AUTOEP_ERROR_MAX_RANKS) count = AUTOEP_ERROR_MAX_RANKS;
  PyObject *ranks = PyTuple_New(count);
  for (int32_t i = 0; ranks != NULL && i < count; i++) {
    PyObject *rank = PyLong_FromLong(error->ranks[i]);
    if (rank == NULL || PyTuple_SetItem(ranks, i, rank) != 0) Py_CLEAR(ranks);
  }
  return ranks;
}

/* A text of the engine, which may be truncated within a character. */
static PyObject *text_of(const char *text) {
  return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

/* Sets an attribute to a new reference, which it consumes; returns 0 with an exception set on
 * failure. */
static int set_attribute(PyObject *object, const char *name, PyObject *value) {
  int is_set = value != NULL && PyObject_SetAttrString(object, name, value) == 0;
  Py_XDECREF(value);
  return is_set;
}

PyObject *error_new(const autoep_error *error) {
  const char *message = error->message[0] ? error->message : autoep_status_name(error->status);
  PyObject *text = text_of(message);
  PyObject *error_class = text == NULL ? NULL : PySequence_GetItem(error_classes, error->status);
  PyObject *exception =
      error_class == NULL ? NULL : PyObject_CallFunctionObjArgs(error_class, text, NULL);
  Py_XDECREF(error_class);
  Py_XDECREF(text);
  if (exception == NULL) return NULL;
  int is_whole = error->step[0] == '\0' || set_attribute(exception, "step", text_of(error->step));
  if (is_whole && error->num_ranks > 0)
    is_whole = set_attribute(exception, "ranks", ranks_tuple(error));
  if (!is_whole) Py_CLEAR(exception);
  return exception;
}

PyObject *raise_error(const autoep_error *error) {
  PyObject *exception = error_new(error);
  if (exception != NULL) PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
  Py_XDECREF(exception);
  return NULL;
}

PyObject *raise_status(autoep_status status, const char *text) {
  autoep_error error = AUTOEP_ERROR_INIT;
  error.status = status;
  snprintf(error.message, sizeof error.message, "%s", text);
  return raise_error(&error);
}

int raise_invalid(const char *format, ...) {
  PyObject *error_class = PySequence_GetItem(error_classes, AUTOEP_ERROR_INVALID_ARGUMENT);
  if (error_class == NULL) return 0;
  va_list arguments;
  va_start(arguments, format);
  PyErr_FormatV(error_class, format, arguments);
  va_end(arguments);
  Py_DECREF(error_class);
  return 0;
}

PyObject *exception_text(void) {
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  PyObject *name = PyObject_GetAttrString(type, "__name__");
  PyObject *text = name == NULL ? NULL : PyUnicode_FromFormat("%U: %S", name, value);
  Py_XDECREF(name);
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(traceback);
  PyErr_Clear();
  return text != NULL ? text : PyUnicode_FromString("an exception without a text");
}
