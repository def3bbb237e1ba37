/* Borrows the memory of a DLPack producer (torch, numpy, ...) as an autoep_tensor. */
#include "engine.h"
#include "lend.h"

void tensor_release(Tensor *tensor) { Py_CLEAR(tensor->lender); }

const autoep_tensor *tensor_view(const Tensor *tensor) {
  return tensor->lender == NULL ? NULL : &tensor->view;
}

autoep_buffer tensor_buffer(const Tensor *tensor) {
  if (tensor->lender == NULL || tensor->view.shape[0] == 0) return (autoep_buffer){NULL, 0};
  return (autoep_buffer){tensor->view.data, (size_t)tensor->view.shape[0]};
}

/* Converts the producer's exception to InvalidArgumentError, unless it is an interrupt. */
static int raise_refusal(const Tensor *tensor, PyObject *object) {
  if (!PyErr_ExceptionMatches(PyExc_Exception)) return 0;
  PyObject *reason = exception_text();
  raise_invalid("%s: expected a tensor that lends its memory through DLPack, got %R (%S)",
                tensor->name, (PyObject *)Py_TYPE(object), reason);
  Py_XDECREF(reason);
  return 0;
}

/* The ABI's number of a DLPack type; 0 if there is none. */
static autoep_dtype dtype_of(const DLTensor *source) {
  static const struct {
    uint8_t code, bits;
    autoep_dtype dtype;
  } known[] = {{DL_FLOAT, 32, AUTOEP_DTYPE_F32}, {DL_FLOAT, 64, AUTOEP_DTYPE_F64}, {DL_BFLOAT, 16, AUTOEP_DTYPE_BF16},
               {DL_FLOAT, 16, AUTOEP_DTYPE_F16}, {DL_INT, 32, AUTOEP_DTYPE_I32},   {DL_INT, 64, AUTOEP_DTYPE_I64}};
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
  /* Copied, because another thread may resize the tensor while the GIL is released. */
  for (int32_t i = 0; i < source->ndim; i++) {
    tensor->shape[i] = source->shape[i];
    if (source->strides != NULL) tensor->strides[i] = source->strides[i];
  }
  tensor->view = (autoep_tensor){
      .data = source->data == NULL ? NULL : (char *)source->data + source->byte_offset,
      .shape = tensor->shape,
      .strides = source->strides == NULL ? NULL : tensor->strides,
      .ndim = source->ndim,
      .dtype = dtype_of(source),
      /* Page-locked host memory is read like any other. */
      .device_type = source->device_type == DL_CUDA_HOST ? DL_CPU : source->device_type,
      .device_id = source->device_type == DL_CUDA_HOST ? 0 : source->device_id,
  };
}

int buffer_check(const Tensor *tensor, const Handle *context) {
  const autoep_tensor *view = tensor_view(tensor);
  if (view == NULL || view->shape[0] == 0) return 1;
  if (view->device_type == context->device_type && view->device_id == context->device_id) return 1;
  return raise_invalid("%s: expected memory of the context's device, type %d and number %d; got "
                       "type %d and number %d",
                       tensor->name, (int)context->device_type, (int)context->device_id,
                       (int)view->device_type, (int)view->device_id);
}

int tensor_read(PyObject *object, void *argument) {
  Tensor *tensor = argument;
  if (tensor->is_optional && object == Py_None) return 1;
  Loan loan;
  if (!lend(object, &loan)) return raise_refusal(tensor, object);
  if (!check(tensor, &loan.tensor, loan.is_read_only)) {
    Py_DECREF(loan.lender);
    return 0;
  }
  view(tensor, &loan.tensor);
  tensor->lender = loan.lender;
  return 1;
}
