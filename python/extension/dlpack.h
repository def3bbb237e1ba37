/* The frozen structures of DLPack (github.com/dmlc/dlpack), as far as a consumer on this side
 * of a capsule needs them. */
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

/* What a capsule named "dltensor" points to begins with the tensor. */

/* What a capsule named "dltensor_versioned" points to. */
typedef struct DLVersionedTensor {
  uint32_t version_major;
  uint32_t version_minor;
  void *manager;
  void (*deleter)(struct DLVersionedTensor *);
  uint64_t flags;
  DLTensor tensor;
} DLVersionedTensor;

#define DL_FLAG_READ_ONLY UINT64_C(1)

/* What a type's __dlpack_c_exchange_api__, a capsule named "dlpack_exchange_api", points to: ways
 * to lend without a call of Python. It lives as long as the process. */
typedef struct DLExchange {
  uint32_t version_major;
  uint32_t version_minor;
  struct DLExchange *previous;
  void *allocate;
  void *managed_from_object;
  void *managed_to_object;
  /* Borrows an object's memory, without a wait for its device. 0, or -1 with an exception set.
   * What it points to belongs to the object. */
  int (*tensor_from_object)(void *object, DLTensor *tensor);
  void *current_stream;
} DLExchange;

#endif
