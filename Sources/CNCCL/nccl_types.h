#pragma once

/* The part of NCCL's binary interface that is used here, from NCCL 2.18 on. */

#include <stddef.h>
#include <stdint.h>

typedef int32_t nccl_result;
static const nccl_result nccl_success = 0;
static const nccl_result nccl_unhandled_cuda_error = 1;
static const nccl_result nccl_system_error = 2;
static const nccl_result nccl_remote_error = 6;
static const nccl_result nccl_in_progress = 7;

/* As ncclGetVersion counts: 2.18.0. */
static const int32_t nccl_oldest_version = 21800;

typedef struct nccl_communicator_object *nccl_communicator;

enum { NCCL_ID_BYTES = 128 };
typedef struct nccl_unique_id {
  uint8_t bytes[NCCL_ID_BYTES];
} nccl_unique_id;

/* The configuration as NCCL 2.18 has it. Later versions append fields, and take their defaults
 * where `size` and `version` say that the caller does not know them. */
typedef struct nccl_config {
  size_t size;
  uint32_t magic;
  uint32_t version;
  int32_t blocking;
  int32_t cga_cluster_size;
  int32_t min_ctas;
  int32_t max_ctas;
  const char *net_name;
  int32_t split_share;
} nccl_config;
static const uint32_t nccl_config_magic = 0xcafebeef;
/* NCCL's choice. */
static const int32_t nccl_undefined = INT32_MIN;

/* A data type of one byte. */
static const int32_t nccl_uint8 = 1;

typedef nccl_result (*ncclGetVersion_t)(int32_t *version);
typedef const char *(*ncclGetErrorString_t)(nccl_result result);
typedef const char *(*ncclGetLastError_t)(nccl_communicator communicator);
typedef nccl_result (*ncclGetUniqueId_t)(nccl_unique_id *id);
typedef nccl_result (*ncclCommInitRankConfig_t)(nccl_communicator *communicator, int32_t size,
                                                nccl_unique_id id, int32_t rank,
                                                nccl_config *config);
typedef nccl_result (*ncclCommGetAsyncError_t)(nccl_communicator communicator, nccl_result *state);
typedef nccl_result (*ncclCommDestroy_t)(nccl_communicator communicator);
typedef nccl_result (*ncclCommAbort_t)(nccl_communicator communicator);
typedef nccl_result (*ncclGroupStart_t)(void);
typedef nccl_result (*ncclGroupEnd_t)(void);
/* `stream` is a cudaStream_t. */
typedef nccl_result (*ncclSend_t)(const void *data, size_t count, int32_t type, int32_t peer,
                                  nccl_communicator communicator, void *stream);
typedef nccl_result (*ncclRecv_t)(void *data, size_t count, int32_t type, int32_t peer,
                                  nccl_communicator communicator, void *stream);
