/* The type Handle: owns one handle of the engine and frees it once. */
#include <stddef.h>
#include <unistd.h>

#include "engine.h"

static const char *const kind_names[] = {"context", "communicator", "layer"};

static PyTypeObject *handle_type;

static autoep_status free_id(HandleKind kind, uint64_t id, autoep_error *error) {
  switch (kind) {
    case CONTEXT: return autoep_context_free(id, error);
    case COMMUNICATOR: return autoep_comm_free(id, error);
    case LAYER: return autoep_layer_free(id, error);
  }
  return AUTOEP_ERROR_INTERNAL;
}

Handle *handle_new(HandleKind kind, uint64_t id) {
  Handle *handle = PyObject_New(Handle, handle_type);
  if (handle == NULL) {
    free_id(kind, id, NULL);
    return NULL;
  }
  handle->id = id;
  handle->kind = kind;
  handle->process = getpid();
  handle->device_type = 0;
  handle->device_id = 0;
  handle->size = 0;
  return handle;
}

/* Frees the engine's object if it still exists and belongs to this process. */
static autoep_status close_handle(Handle *handle, autoep_error *error) {
  uint64_t id = handle->id;
  handle->id = 0;
  return id == 0 || handle->process != getpid() ? AUTOEP_OK : free_id(handle->kind, id, error);
}

static PyObject *handle_close(PyObject *self, PyObject *Py_UNUSED(none)) {
  autoep_error error = AUTOEP_ERROR_INIT;
  if (close_handle((Handle *)self, &error) != AUTOEP_OK) return raise_error(&error);
  Py_RETURN_NONE;
}

static void handle_dealloc(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  close_handle((Handle *)self, NULL);
  PyObject_Free(self);
  Py_DECREF(type);
}

static PyObject *handle_is_open(PyObject *self, void *Py_UNUSED(closure)) {
  return PyBool_FromLong(((Handle *)self)->id != 0);
}

static PyMethodDef methods[] = {
    {"close", handle_close, METH_NOARGS, "Frees what the handle owns; does nothing when closed."},
    {0},
};

static PyGetSetDef properties[] = {
    {"is_open", handle_is_open, NULL, "Whether the handle still owns something.", NULL},
    {0},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Owns a context, a communicator or a layer of the engine."},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "autoep._engine.Handle",
    .basicsize = sizeof(Handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

int handle_type_add(PyObject *module) {
  handle_type = (PyTypeObject *)PyType_FromSpec(&spec);
  return handle_type != NULL && PyModule_AddType(module, handle_type) == 0;
}

static int handle_read(PyObject *object, HandleKind kind, Handle **handle) {
  const char *name = kind_names[kind];
  Handle *candidate = (Handle *)object;
  if (!PyObject_TypeCheck(object, handle_type) || candidate->kind != kind)
    return raise_invalid("expected a %s of the engine, got %R", name, object);
  if (candidate->id == 0 || candidate->process != getpid()) {
    char text[96];
    snprintf(text, sizeof text,
             candidate->id == 0 ? "the %s was closed"
                                : "the %s belongs to the process that this one was forked from",
             name);
    return raise_status(AUTOEP_ERROR_INVALID_HANDLE, text) != NULL;
  }
  *handle = candidate;
  return 1;
}

int context_read(PyObject *object, void *handle) { return handle_read(object, CONTEXT, handle); }

int communicator_read(PyObject *object, void *handle) {
  return handle_read(object, COMMUNICATOR, handle);
}

int optional_communicator_read(PyObject *object, void *handle) {
  *(Handle **)handle = NULL;
  return object == Py_None || handle_read(object, COMMUNICATOR, handle);
}

int layer_read(PyObject *object, void *handle) { return handle_read(object, LAYER, handle); }
