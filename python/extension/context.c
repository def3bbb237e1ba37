/* Contexts and their statistics. */
#include "engine.h"

FUNCTION(context_create) {
  autoep_context_config config = AUTOEP_CONTEXT_CONFIG_INIT;
  uint64_t stream = 0;
  if (!PyArg_ParseTuple(args, "iiiO&z:context_create", &config.device_type, &config.device_id,
                        &config.num_threads, uint64_read, &stream, &config.nvrtc_path))
    return NULL;
  config.stream = (void *)(uintptr_t)stream;
  autoep_context context = 0;
  RUN(autoep_context_create(&config, &context, &error));
  Handle *handle = handle_new(CONTEXT, context);
  if (handle == NULL) return NULL;
  handle->device_type = config.device_type;
  handle->device_id = config.device_id;
  return (PyObject *)handle;
}

FUNCTION(context_num_threads) {
  Handle *context;
  if (!PyArg_ParseTuple(args, "O&:context_num_threads", context_read, &context)) return NULL;
  int32_t num_threads = 0;
  RUN(autoep_context_num_threads(context->id, &num_threads, &error));
  return PyLong_FromLong(num_threads);
}

FUNCTION(context_statistics) {
  Handle *context;
  if (!PyArg_ParseTuple(args, "O&:context_statistics", context_read, &context)) return NULL;
  autoep_statistics statistics = {.struct_size = sizeof statistics};
  RUN(autoep_context_statistics(context->id, &statistics, &error));
  return Py_BuildValue("LLLLLL", (long long)statistics.forward_calls,
                       (long long)statistics.backward_calls, (long long)statistics.rows_sent,
                       (long long)statistics.rows_sent_remote,
                       (long long)statistics.rows_received,
                       (long long)statistics.bytes_sent_remote);
}

FUNCTION(context_reset_statistics) {
  Handle *context;
  if (!PyArg_ParseTuple(args, "O&:context_reset_statistics", context_read, &context)) return NULL;
  RUN(autoep_context_reset_statistics(context->id, &error));
  Py_RETURN_NONE;
}

PyMethodDef context_methods[] = {
    METHOD(context_create,
           "(device_type, device_id, num_threads, stream, nvrtc_path) -> Handle; 0 threads: the "
           "default; the stream by its address"),
    METHOD(context_num_threads, "(context) -> int"),
    METHOD(context_statistics, "(context) -> the six counters, in the header's order"),
    METHOD(context_reset_statistics, "(context)"),
    {0},
};
