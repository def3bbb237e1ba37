/* Communicators and their collectives. */
#include "engine.h"

/* Makes the object of a new communicator, which stores its number of ranks. */
static PyObject *communicator_new(autoep_comm comm) {
  int32_t rank = 0, size = 0;
  Handle *handle = handle_new(COMMUNICATOR, comm);
  if (handle == NULL) return NULL;
  autoep_error error = AUTOEP_ERROR_INIT;
  if (autoep_comm_rank(comm, &rank, &size, &error) == AUTOEP_OK) {
    handle->size = size;
    return (PyObject *)handle;
  }
  Py_DECREF(handle);
  return raise_error(&error);
}

FUNCTION(comm_create_self) {
  if (!PyArg_ParseTuple(args, ":comm_create_self")) return NULL;
  autoep_comm comm = 0;
  RUN(autoep_comm_create_self(&comm, &error));
  return communicator_new(comm);
}

/* Turns the ids into objects; frees those that get no object. */
static PyObject *communicator_list(const autoep_comm *comms, int32_t size) {
  PyObject *list = PyList_New(size);
  for (int32_t p = 0; p < size; p++) {
    PyObject *communicator = list == NULL ? NULL : communicator_new(comms[p]);
    if (communicator != NULL) {
      PyList_SetItem(list, p, communicator);
    } else {
      if (list == NULL) autoep_comm_free(comms[p], NULL);
      Py_CLEAR(list);
    }
  }
  return list;
}

/* The ids are stored in an array on the stack: local groups are for tests. */
enum { MAX_LOCAL_RANKS = 1024 };

FUNCTION(comm_create_local) {
  int32_t size;
  double timeout;
  if (!PyArg_ParseTuple(args, "id:comm_create_local", &size, &timeout)) return NULL;
  if (size > MAX_LOCAL_RANKS) {
    raise_invalid("size: expected at most %d local ranks, got %d", MAX_LOCAL_RANKS, (int)size);
    return NULL;
  }
  autoep_comm comms[MAX_LOCAL_RANKS] = {0};
  RUN(autoep_comm_create_local(size, timeout, comms, &error));
  return communicator_list(comms, size);
}

FUNCTION(comm_create_callback) {
  PyObject *object;
  int32_t rank, size;
  double timeout;
  if (!PyArg_ParseTuple(args, "Oiid:comm_create_callback", &object, &rank, &size, &timeout))
    return NULL;
  autoep_transport transport;
  if (!transport_of_object(object, rank, size, &transport)) return NULL;
  autoep_comm comm = 0;
  autoep_error error = AUTOEP_ERROR_INIT;
  if (autoep_comm_create_callback(&transport, timeout, &comm, &error) == AUTOEP_OK)
    return communicator_new(comm);
  transport.release(transport.state);
  return raise_error(&error);
}

static void ranks_release(int32_t **ranks) { PyMem_Free(*ranks); }

/* The ABI's ranks are 32-bit. Raises and returns NULL when one does not fit. */
static int32_t *ranks_narrow(const Counts *wide) {
  int32_t *ranks = PyMem_Calloc((size_t)wide->count + 1, sizeof *ranks);
  if (ranks == NULL) PyErr_NoMemory();
  for (Py_ssize_t i = 0; ranks != NULL && i < wide->count; i++) {
    ranks[i] = (int32_t)wide->values[i];
    if (ranks[i] == wide->values[i] && i < INT32_MAX) continue;
    raise_invalid("ranks: %lld does not fit a 32-bit rank", (long long)wide->values[i]);
    PyMem_Free(ranks);
    ranks = NULL;
  }
  return ranks;
}

FUNCTION(comm_create_mpi) {
  autoep_mpi_config config = AUTOEP_MPI_CONFIG_INIT;
  OPTIONAL_COUNTS(wide);
  if (!PyArg_ParseTuple(args, "sO&d:comm_create_mpi", &config.library_path, counts_read, &wide,
                        &config.timeout_seconds))
    return NULL;
  int32_t *ranks FREED_BY(ranks_release) = ranks_narrow(&wide);
  if (ranks == NULL) return NULL;
  config.ranks = wide.values == NULL ? NULL : ranks;
  config.num_ranks = (int32_t)wide.count;
  autoep_comm comm = 0;
  RUN(autoep_comm_create_mpi(&config, &comm, &error));
  return communicator_new(comm);
}

FUNCTION(mpi_finalize) {
  if (!PyArg_ParseTuple(args, ":mpi_finalize")) return NULL;
  RUN(autoep_mpi_finalize(&error));
  Py_RETURN_NONE;
}

FUNCTION(nccl_unique_id) {
  const char *library_path;
  if (!PyArg_ParseTuple(args, "z:nccl_unique_id", &library_path)) return NULL;
  uint8_t unique_id[AUTOEP_NCCL_ID_SIZE];
  RUN(autoep_nccl_unique_id(library_path, unique_id, &error));
  return PyBytes_FromStringAndSize((const char *)unique_id, sizeof unique_id);
}

FUNCTION(comm_create_nccl) {
  autoep_nccl_config config = AUTOEP_NCCL_CONFIG_INIT;
  PyObject *unique_id;
  if (!PyArg_ParseTuple(args, "Siiidz:comm_create_nccl", &unique_id, &config.rank, &config.size,
                        &config.device_id, &config.timeout_seconds, &config.library_path))
    return NULL;
  if (PyBytes_Size(unique_id) != AUTOEP_NCCL_ID_SIZE) {
    raise_invalid("unique_id: expected the %d bytes of nccl_unique_id, got %d",
                  AUTOEP_NCCL_ID_SIZE, (int)PyBytes_Size(unique_id));
    return NULL;
  }
  config.unique_id = (const uint8_t *)PyBytes_AsString(unique_id);
  autoep_comm comm = 0;
  RUN(autoep_comm_create_nccl(&config, &comm, &error));
  return communicator_new(comm);
}

FUNCTION(comm_create_push) {
  autoep_push_config config = AUTOEP_PUSH_CONFIG_INIT;
  Handle *control;
  if (!PyArg_ParseTuple(args, "O&idz:comm_create_push", communicator_read, &control,
                        &config.device_id, &config.timeout_seconds, &config.nvrtc_path))
    return NULL;
  config.control = control->id;
  autoep_comm comm = 0;
  RUN(autoep_comm_create_push(&config, &comm, &error));
  return communicator_new(comm);
}

FUNCTION(comm_rank) {
  Handle *comm;
  if (!PyArg_ParseTuple(args, "O&:comm_rank", communicator_read, &comm)) return NULL;
  int32_t rank = 0, size = 0;
  RUN(autoep_comm_rank(comm->id, &rank, &size, &error));
  return Py_BuildValue("ii", rank, size);
}

FUNCTION(comm_abort) {
  Handle *comm;
  const char *reason;
  if (!PyArg_ParseTuple(args, "O&z:comm_abort", communicator_read, &comm, &reason)) return NULL;
  RUN(autoep_comm_abort(comm->id, reason, &error));
  Py_RETURN_NONE;
}

FUNCTION(comm_health) {
  Handle *comm;
  if (!PyArg_ParseTuple(args, "O&:comm_health", communicator_read, &comm)) return NULL;
  autoep_error health = AUTOEP_ERROR_INIT;
  RUN(autoep_comm_health(comm->id, &health, &error));
  if (health.status != AUTOEP_OK) return error_new(&health);
  Py_RETURN_NONE;
}

FUNCTION(all_to_all) {
  Handle *comm;
  INPUT(send);
  COUNTS(send_rows);
  OUTPUT(receive);
  COUNTS(receive_rows);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&:all_to_all", communicator_read, &comm, tensor_read,
                        &send, counts_read, &send_rows, tensor_read, &receive, counts_read,
                        &receive_rows) ||
      !counts_check(&send_rows, comm->size) || !counts_check(&receive_rows, comm->size))
    return NULL;
  autoep_all_to_all_args call = {
      .struct_size = sizeof call,
      .send = &send.view,
      .send_rows = send_rows.values,
      .receive = &receive.view,
      .receive_rows = receive_rows.values,
  };
  RUN(autoep_all_to_all(comm->id, &call, &error));
  Py_RETURN_NONE;
}

FUNCTION(exchange_counts) {
  Handle *comm;
  COUNTS(counts);
  if (!PyArg_ParseTuple(args, "O&O&:exchange_counts", communicator_read, &comm, counts_read,
                        &counts) ||
      !counts_check(&counts, comm->size))
    return NULL;
  Counts received FREED_BY(counts_release) = {.count = counts.count};
  received.values = PyMem_Calloc((size_t)counts.count + 1, sizeof(int64_t));
  if (received.values == NULL) return PyErr_NoMemory();
  RUN(autoep_exchange_counts(comm->id, counts.values, received.values, &error));
  return counts_list(received.values, received.count);
}

FUNCTION(all_reduce) {
  Handle *comm;
  OUTPUT(data);
  if (!PyArg_ParseTuple(args, "O&O&:all_reduce", communicator_read, &comm, tensor_read, &data))
    return NULL;
  RUN(autoep_all_reduce(comm->id, &data.view, &error));
  Py_RETURN_NONE;
}

FUNCTION(barrier) {
  Handle *comm;
  if (!PyArg_ParseTuple(args, "O&:barrier", communicator_read, &comm)) return NULL;
  RUN(autoep_barrier(comm->id, &error));
  Py_RETURN_NONE;
}

PyMethodDef comm_methods[] = {
    METHOD(comm_create_self, "() -> Handle"),
    METHOD(comm_create_local, "(size, timeout) -> list of Handle"),
    METHOD(comm_create_callback, "(object, rank, size, timeout) -> Handle"),
    METHOD(comm_create_mpi, "(library_path, ranks or None, timeout) -> Handle"),
    METHOD(mpi_finalize, "()"),
    METHOD(nccl_unique_id, "(library_path or None) -> bytes"),
    METHOD(comm_create_nccl,
           "(unique_id, rank, size, device, timeout, library_path or None) -> Handle"),
    METHOD(comm_create_push, "(control, device, timeout, nvrtc_path or None) -> Handle"),
    METHOD(comm_rank, "(comm) -> (rank, size)"),
    METHOD(comm_abort, "(comm, reason or None)"),
    METHOD(comm_health, "(comm) -> None or the autoep.Error after which the group is unusable"),
    METHOD(all_to_all, "(comm, send, send_rows, receive, receive_rows)"),
    METHOD(exchange_counts, "(comm, counts) -> list of int"),
    METHOD(all_reduce, "(comm, data)"),
    METHOD(barrier, "(comm)"),
    {0},
};
