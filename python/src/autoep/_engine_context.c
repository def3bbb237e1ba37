/* Contexts and their statistics. */
#include "_engine.h"

FUNCTION(context_create) {
  autoep_context_config config = {.struct_size = sizeof config, .device_type = AUTOEP_DEVICE_CPU};
  if (!PyArg_ParseTuple(args, "i:context_create", &config.num_threads)) return NULL;
  autoep_context context = 0;
  RUN(autoep_context_create(&config, &context, &error));
  return (PyObject *)handle_new(CONTEXT, context, NULL);
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
    METHOD(context_create, "(num_threads) -> Handle; 0 threads: the default"),
    METHOD(context_num_threads, "(context) -> int"),
    METHOD(context_statistics, "(context) -> the six counters, in the header's order"),
    METHOD(context_reset_statistics, "(context)"),
    {0},
};
