#pragma once

/* The part of the CUDA driver's binary interface that this library uses, from driver 12.0 on. Names
 * are the driver's own, with a prefix if they would clash with its header. */

#include <stddef.h>
#include <stdint.h>

typedef int32_t cuda_result;
static const cuda_result cuda_success = 0;
static const cuda_result cuda_error_out_of_memory = 2;
static const cuda_result cuda_error_no_device = 100;
static const cuda_result cuda_error_not_ready = 600;

typedef int32_t cuda_device;
typedef uint64_t cuda_address;
typedef struct cuda_context_object *cuda_context;
typedef struct cuda_module_object *cuda_module;
typedef struct cuda_function_object *cuda_function;
typedef struct cuda_stream_object *cuda_stream;
typedef struct cuda_event_object *cuda_event;

/* Device attributes. */
static const int32_t cuda_multiprocessor_count = 16;
static const int32_t cuda_l2_cache_size = 38;
static const int32_t cuda_compute_capability_major = 75;
static const int32_t cuda_compute_capability_minor = 76;
static const int32_t cuda_max_shared_bytes_per_block_optin = 97;

/* Function attributes. */
static const int32_t cuda_function_shared_bytes = 1;
static const int32_t cuda_function_max_dynamic_shared_bytes = 8;

/* Flags of host memory: usable in all contexts, and mapped into the device's address space. */
static const uint32_t cuda_host_portable = 1;
static const uint32_t cuda_host_device_map = 2;

/* Flags of a stream that does not wait for the default stream, and of an event that keeps no time.
 */
static const uint32_t cuda_stream_non_blocking = 1;
static const uint32_t cuda_event_disable_timing = 2;

/* An attribute of a launch; the value is a union of 64 bytes. */
typedef struct cuda_launch_attribute {
  int32_t id;
  int32_t padding;
  struct {
    uint32_t x, y, z;
    uint32_t rest[13];
  } value;
} cuda_launch_attribute;
static const int32_t cuda_launch_cluster_dimension = 4;

typedef struct cuda_launch_config {
  uint32_t grid_x, grid_y, grid_z;
  uint32_t block_x, block_y, block_z;
  uint32_t shared_bytes;
  cuda_stream stream;
  cuda_launch_attribute *attributes;
  uint32_t attribute_count;
} cuda_launch_config;

/* The TMA's description of a tensor. The driver requires an address that is a multiple of 64. */
typedef struct cuda_tensor_map {
  uint64_t words[16];
} cuda_tensor_map;
static const int32_t cuda_tensor_map_float16 = 6;
static const int32_t cuda_tensor_map_float32 = 7;
static const int32_t cuda_tensor_map_bfloat16 = 9;
static const int32_t cuda_tensor_map_l2_promotion_256 = 3;

/* Physical memory of a device, which has no address until it is mapped. */
typedef uint64_t cuda_memory;

/* A device, as a place of memory or of what accesses it. */
typedef struct cuda_memory_location {
  int32_t type;
  int32_t id;
} cuda_memory_location;
static const int32_t cuda_memory_location_device = 1;

typedef struct cuda_memory_properties {
  int32_t type;
  int32_t handle_type; /* the kind of handle that it can be exported as */
  cuda_memory_location location;
  void *win32_attributes;
  uint8_t flags[8];
} cuda_memory_properties;
static const int32_t cuda_memory_pinned = 1;
static const int32_t cuda_memory_handle_descriptor = 1; /* a POSIX file descriptor */

typedef struct cuda_memory_access {
  cuda_memory_location location;
  int32_t flags;
} cuda_memory_access;
static const int32_t cuda_memory_read_write = 3;

static const int32_t cuda_memory_granularity_recommended = 1;

typedef struct cuda_uuid {
  uint8_t bytes[16];
} cuda_uuid;

typedef cuda_result (*cuInit_t)(uint32_t flags);
typedef cuda_result (*cuDriverGetVersion_t)(int32_t *version);
typedef cuda_result (*cuGetErrorName_t)(cuda_result error, const char **text);
typedef cuda_result (*cuGetErrorString_t)(cuda_result error, const char **text);
typedef cuda_result (*cuDeviceGetCount_t)(int32_t *count);
typedef cuda_result (*cuDeviceGet_t)(cuda_device *device, int32_t ordinal);
typedef cuda_result (*cuDeviceGetAttribute_t)(int32_t *value, int32_t attribute,
                                              cuda_device device);
typedef cuda_result (*cuDevicePrimaryCtxRetain_t)(cuda_context *context, cuda_device device);
typedef cuda_result (*cuCtxSetCurrent_t)(cuda_context context);
typedef cuda_result (*cuCtxGetCurrent_t)(cuda_context *context);
typedef cuda_result (*cuModuleLoadDataEx_t)(cuda_module *module, const void *image,
                                            uint32_t option_count, int32_t *options,
                                            void **option_values);
typedef cuda_result (*cuModuleGetFunction_t)(cuda_function *function, cuda_module module,
                                             const char *name);
typedef cuda_result (*cuFuncGetAttribute_t)(int32_t *value, int32_t attribute,
                                            cuda_function function);
/* From driver 12.4 on; fails for the index after the last parameter. */
typedef cuda_result (*cuFuncGetParamInfo_t)(cuda_function function, size_t index, size_t *offset,
                                            size_t *size);
typedef cuda_result (*cuFuncSetAttribute_t)(cuda_function function, int32_t attribute,
                                            int32_t value);
typedef cuda_result (*cuLaunchKernelEx_t)(const cuda_launch_config *config, cuda_function function,
                                          void **parameters, void **extra);
typedef cuda_result (*cuMemHostAlloc_t)(void **memory, size_t byte_count, uint32_t flags);
typedef cuda_result (*cuMemHostGetDevicePointer_v2_t)(cuda_address *address, void *memory,
                                                      uint32_t flags);
typedef cuda_result (*cuMemFreeHost_t)(void *memory);
typedef cuda_result (*cuMemcpyHtoDAsync_v2_t)(cuda_address target, const void *source,
                                              size_t byte_count, cuda_stream stream);
typedef cuda_result (*cuMemcpyDtoHAsync_v2_t)(void *target, cuda_address source, size_t byte_count,
                                              cuda_stream stream);
typedef cuda_result (*cuMemcpyDtoDAsync_v2_t)(cuda_address target, cuda_address source,
                                              size_t byte_count, cuda_stream stream);
typedef cuda_result (*cuStreamCreate_t)(cuda_stream *stream, uint32_t flags);
typedef cuda_result (*cuStreamDestroy_v2_t)(cuda_stream stream);
typedef cuda_result (*cuStreamSynchronize_t)(cuda_stream stream);
typedef cuda_result (*cuEventCreate_t)(cuda_event *event, uint32_t flags);
typedef cuda_result (*cuEventRecord_t)(cuda_event event, cuda_stream stream);
typedef cuda_result (*cuEventQuery_t)(cuda_event event);
typedef cuda_result (*cuEventDestroy_v2_t)(cuda_event event);
typedef cuda_result (*cuTensorMapEncodeTiled_t)(cuda_tensor_map *map, int32_t dtype, uint32_t rank,
                                                void *address, const uint64_t *sizes,
                                                const uint64_t *strides, const uint32_t *box,
                                                const uint32_t *element_strides, int32_t interleave,
                                                int32_t swizzle, int32_t l2_promotion,
                                                int32_t out_of_bounds_fill);
typedef cuda_result (*cuDeviceGetUuid_v2_t)(cuda_uuid *uuid, cuda_device device);
typedef cuda_result (*cuDeviceCanAccessPeer_t)(int32_t *can_access, cuda_device device,
                                               cuda_device peer);
typedef cuda_result (*cuStreamWaitEvent_t)(cuda_stream stream, cuda_event event, uint32_t flags);
typedef cuda_result (*cuMemGetAllocationGranularity_t)(size_t *granularity,
                                                       const cuda_memory_properties *properties,
                                                       int32_t option);
typedef cuda_result (*cuMemCreate_t)(cuda_memory *memory, size_t byte_count,
                                     const cuda_memory_properties *properties, uint64_t flags);
typedef cuda_result (*cuMemRelease_t)(cuda_memory memory);
/* Export: `handle` points to where the file descriptor is written. Import: `handle` is the
 * descriptor itself, cast to a pointer. */
typedef cuda_result (*cuMemExportToShareableHandle_t)(void *handle, cuda_memory memory,
                                                      int32_t handle_type, uint64_t flags);
typedef cuda_result (*cuMemImportFromShareableHandle_t)(cuda_memory *memory, void *handle,
                                                        int32_t handle_type);
typedef cuda_result (*cuMemAddressReserve_t)(cuda_address *address, size_t byte_count,
                                             size_t alignment, cuda_address wish, uint64_t flags);
typedef cuda_result (*cuMemAddressFree_t)(cuda_address address, size_t byte_count);
typedef cuda_result (*cuMemMap_t)(cuda_address address, size_t byte_count, size_t offset,
                                  cuda_memory memory, uint64_t flags);
typedef cuda_result (*cuMemUnmap_t)(cuda_address address, size_t byte_count);
typedef cuda_result (*cuMemSetAccess_t)(cuda_address address, size_t byte_count,
                                        const cuda_memory_access *accesses, size_t count);
