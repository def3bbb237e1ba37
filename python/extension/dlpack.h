/* The frozen structures of DLPack (github.com/dmlc/dlpack), reduced to the fields that a consumer
 * needs. */
#ifndef AUTOEP_DLPACK_H
#define AUTOEP_DLPACK_H

#include <stdint.h>

enum { DL_INT = 0, DL_UINT = 1, DL_FLOAT = 2, DL_BFLOAT = 4 };
enum { DL_CPU = 1, DL_CUDA = 2, DL_CUDA_HOST = 3 };

typedef struct DLTensor {
  void *data;
  int32_t device_type;
  int32_t device_id;
  int32_t ndim;
  uint8_t type_code;
  uint8_t type_bits;
  uint16_t type_lanes;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
} DLTensor;

/* A capsule named "dltensor" points to a struct that begins with the tensor. */

/* A capsule named "dltensor_versioned" points to this struct. */
typedef struct DLVersionedTensor {
  uint32_t version_major;
  uint32_t version_minor;
  void *manager;
  void (*deleter)(struct DLVersionedTensor *);
  uint64_t flags;
  DLTensor tensor;
} DLVersionedTensor;

#define DL_FLAG_READ_ONLY UINT64_C(1)

/* A type's __dlpack_c_exchange_api__, a capsule named "dlpack_exchange_api", points to this struct:
 * functions that lend without calling Python. It lives as long as the process. */
typedef struct DLExchange {
  uint32_t version_major;
  uint32_t version_minor;
  struct DLExchange *previous;
  void *allocate;
  void *managed_from_object;
  void *managed_to_object;
  /* Borrows an object's memory, without a wait for its device. 0, or -1 with an exception set.
   * The object owns the shape and strides. */
  int (*tensor_from_object)(void *object, DLTensor *tensor);
  void *current_stream;
} DLExchange;

#endif
