/* Borrows the memory of a DLPack producer (torch, numpy, ...) as an autoep_tensor. */
#include "_dlpack.h"
#include "_engine.h"

enum { MAX_DIMENSIONS = 8 };

/* The capsule is never renamed, so it stays the producer's: dropping it ends the loan. */
void tensor_release(Tensor *tensor) { Py_CLEAR(tensor->capsule); }

const autoep_tensor *tensor_view(const Tensor *tensor) {
  return tensor->capsule == NULL ? NULL : &tensor->view;
}

/* Asks for DLPack 1, which can lend read-only memory, then for what older producers have. */
static PyObject *lend(PyObject *object) {
  PyObject *method = PyObject_GetAttrString(object, "__dlpack__");
  if (method == NULL) return NULL;
  PyObject *none = PyTuple_New(0);
  PyObject *version = Py_BuildValue("{s(ii)}", "max_version", 1, 0);
  PyObject *capsule = none && version ? PyObject_Call(method, none, version) : NULL;
  if (capsule == NULL && PyErr_ExceptionMatches(PyExc_TypeError)) {
    PyErr_Clear();
    capsule = PyObject_CallObject(method, NULL);
  }
  Py_XDECREF(version);
  Py_XDECREF(none);
  Py_DECREF(method);
  return capsule;
}

/* Turns what the producer raised into InvalidArgumentError, but not an interrupt. */
static int raise_refusal(const Tensor *tensor, PyObject *object) {
  if (!PyErr_ExceptionMatches(PyExc_Exception)) return 0;
  PyObject *reason = exception_text();
  raise_invalid("%s: expected a tensor that lends its memory through DLPack, got %R (%S)",
                tensor->name, (PyObject *)Py_TYPE(object), reason);
  Py_XDECREF(reason);
  return 0;
}

static const DLTensor *capsule_tensor(PyObject *capsule, int *is_read_only) {
  *is_read_only = 0;
  if (PyCapsule_IsValid(capsule, "dltensor")) return PyCapsule_GetPointer(capsule, "dltensor");
  DLVersionedTensor *versioned = PyCapsule_GetPointer(capsule, "dltensor_versioned");
  if (versioned == NULL || versioned->version_major != 1) return NULL;
  *is_read_only = (versioned->flags & DL_FLAG_READ_ONLY) != 0;
  return &versioned->tensor;
}

/* The ABI's number of a DLPack type; 0 where there is none. */
static autoep_dtype dtype_of(const DLTensor *source) {
  static const struct {
    uint8_t code, bits;
    autoep_dtype dtype;
  } known[] = {{DL_FLOAT, 32, AUTOEP_F32}, {DL_FLOAT, 64, AUTOEP_F64}, {DL_BFLOAT, 16, AUTOEP_BF16},
               {DL_FLOAT, 16, AUTOEP_F16}, {DL_INT, 32, AUTOEP_I32},   {DL_INT, 64, AUTOEP_I64}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (source->type_code == known[i].code && source->type_bits == known[i].bits &&
        source->type_lanes == 1)
      return known[i].dtype;
  return 0;
}

static int is_bytes(const DLTensor *source) {
  return source->type_code == DL_UINT && source->type_bits == 8 && source->type_lanes == 1 &&
         source->ndim == 1 && (source->strides == NULL || source->strides[0] == 1);
}

static int check(const Tensor *tensor, const DLTensor *source, int is_read_only) {
  if (source->ndim < 0 || source->ndim > MAX_DIMENSIONS || (source->ndim && !source->shape))
    return raise_invalid("%s: expected at most %d dimensions, got %d", tensor->name,
                         (int)MAX_DIMENSIONS, (int)source->ndim);
  if (tensor->is_bytes && !is_bytes(source))
    return raise_invalid("%s: expected dense bytes (uint8, one dimension)", tensor->name);
  if (!tensor->is_bytes && dtype_of(source) == 0)
    return raise_invalid(
        "%s: expected float32, float64, bfloat16, float16, int32 or int64 elements, got %d-bit "
        "elements of DLPack type code %d",
        tensor->name, (int)source->type_bits, (int)source->type_code);
  if (tensor->is_output && is_read_only)
    return raise_invalid("%s: an output cannot be read-only memory", tensor->name);
  return 1;
}

static void view(Tensor *tensor, const DLTensor *source) {
  tensor->view = (autoep_tensor){
      .data = source->data == NULL ? NULL : (char *)source->data + source->byte_offset,
      .shape = source->shape,
      .strides = source->strides,
      .ndim = source->ndim,
      .dtype = dtype_of(source),
      /* Page-locked host memory is read as any other. */
      .device_type = source->device_type == DL_CUDA_HOST ? DL_CPU : source->device_type,
      .device_id = source->device_type == DL_CUDA_HOST ? 0 : source->device_id,
  };
}

int tensor_read(PyObject *object, void *argument) {
  Tensor *tensor = argument;
  if (tensor->is_optional && object == Py_None) return 1;
  PyObject *capsule = lend(object);
  if (capsule == NULL) return raise_refusal(tensor, object);
  int is_read_only;
  const DLTensor *source = capsule_tensor(capsule, &is_read_only);
  if (source == NULL) {
    PyErr_Clear();
    raise_invalid("%s: __dlpack__ gave no tensor of DLPack 0 or 1", tensor->name);
  } else if (check(tensor, source, is_read_only)) {
    view(tensor, source);
    tensor->capsule = capsule;
    return 1;
  }
  Py_DECREF(capsule);
  return 0;
}
