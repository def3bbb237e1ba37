/* The module autoep._engine: its functions. */
#include "engine.h"

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

static int abi_check(void) {
  if (autoep_abi_version() == AUTOEP_ABI_VERSION) return 1;
  PyErr_Format(PyExc_ImportError,
               "libautoep.so has interface %d and this extension was built for %d; install "
               "autoep again",
               (int)autoep_abi_version(), AUTOEP_ABI_VERSION);
  return 0;
}

PyMODINIT_FUNC PyInit__engine(void) {
  PyMethodDef *sections[] = {context_methods, comm_methods, routing_methods,
                             permutation_methods, layer_methods};
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
