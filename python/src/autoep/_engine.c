/* The module autoep._engine: its functions, and how a status becomes an exception. */
#include <stdarg.h>

#include "_engine.h"

/* The classes of autoep.errors, by status. */
static PyObject *error_classes;

int errors_load(void) {
  PyObject *errors = PyImport_ImportModule("autoep.errors");
  if (errors == NULL) return 0;
  error_classes = PyObject_GetAttrString(errors, "BY_STATUS");
  Py_DECREF(errors);
  return error_classes != NULL;
}

PyObject *raise_status(autoep_status status, const char *message) {
  if (message[0] == '\0') message = autoep_status_name(status);
  /* The engine may have cut the text inside a character. */
  PyObject *text = PyUnicode_DecodeUTF8(message, (Py_ssize_t)strlen(message), "replace");
  if (text == NULL) return NULL;
  PyObject *error_class = PySequence_GetItem(error_classes, status);
  if (error_class != NULL) PyErr_SetObject(error_class, text);
  Py_XDECREF(error_class);
  Py_DECREF(text);
  return NULL;
}

int raise_invalid(const char *format, ...) {
  PyObject *error_class = PySequence_GetItem(error_classes, AUTOEP_INVALID_ARGUMENT);
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

FUNCTION(version) {
  if (!PyArg_ParseTuple(args, ":version")) return NULL;
  return PyUnicode_FromString(autoep_version());
}

static PyMethodDef module_methods[] = {
    METHOD(version, "The engine's version."),
    {0},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "autoep._engine",
    .m_doc = "The C interface of libautoep.so, one function each; see include/autoep.h.",
    .m_size = -1,
    .m_methods = module_methods,
};

/* The interface number of the header that this file was compiled with. */
enum { ABI_VERSION = 1 };

static int abi_check(void) {
  if (autoep_abi_version() == ABI_VERSION) return 1;
  PyErr_Format(PyExc_ImportError,
               "libautoep.so has interface %d and this extension was built for %d; install "
               "autoep again",
               (int)autoep_abi_version(), (int)ABI_VERSION);
  return 0;
}

PyMODINIT_FUNC PyInit__engine(void) {
  PyMethodDef *sections[] = {context_methods, comm_methods, routing_methods,
                             permutation_methods, experts_methods, local_experts_methods};
  if (!abi_check() || !errors_load()) return NULL;
  PyObject *module = PyModule_Create(&module_definition);
  if (module == NULL) return NULL;
  int ready = handle_type_add(module);
  for (size_t i = 0; ready && i < sizeof sections / sizeof *sections; i++)
    ready = PyModule_AddFunctions(module, sections[i]) == 0;
  if (ready) return module;
  Py_DECREF(module);
  return NULL;
}
