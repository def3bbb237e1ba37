/* A driver without a GPU: it answers the calls of the CUDA backend and remembers what it was given. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_driver_types.h"

enum { NOT_CURRENT = 201, ARGUMENTS = 8, KERNELS = 256, NAME_SIZE = 64 };

/* What tests read and set. */
typedef struct fake_state {
  int32_t compute_major;
  int32_t fails_launch_with;
  int32_t modules_loaded;
  int32_t launches;
  int32_t max_dynamic_shared_bytes;
  int32_t context_switches;
  cuda_launch_config config;
  cuda_launch_attribute attribute;
  int32_t argument_count;
  _Alignas(8) uint8_t arguments[ARGUMENTS][128];
  uint32_t argument_sizes[ARGUMENTS];
  void *host_memory;
} fake_state;

static fake_state state = {.compute_major = 9};
static _Thread_local cuda_context current;
static struct cuda_context_object *const primary = (struct cuda_context_object *)64;

/* Kernels that were asked for: a function is the address of its name. */
static char names[KERNELS][NAME_SIZE];
static atomic_int name_count;
/* What the calling thread launched: the last kernel, and those before. */
static _Thread_local const char *launched[3] = {"", "", ""};

fake_state *fake_driver(void) { return &state; }

const char *fake_driver_launched(int32_t launches_ago) { return launched[launches_ago]; }

cuda_result cuInit(uint32_t flags) { return (cuda_result)flags; }

/* NVRTC asks for this one, for a cache of its own. */
cuda_result cuGetExportTable(const void **table, const void *id) {
  (void)id;
  *table = NULL;
  return 500;
}

cuda_result cuDriverGetVersion(int32_t *version) {
  *version = 13000;
  return cuda_success;
}

cuda_result cuGetErrorName(cuda_result error, const char **text) {
  *text = error == cuda_error_out_of_memory ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_FAKE";
  return cuda_success;
}

cuda_result cuGetErrorString(cuda_result error, const char **text) {
  *text = error == cuda_error_out_of_memory ? "out of memory" : "a fake";
  return cuda_success;
}

cuda_result cuDeviceGetCount(int32_t *count) {
  *count = 2;
  return cuda_success;
}

cuda_result cuDeviceGet(cuda_device *device, int32_t ordinal) {
  *device = ordinal;
  return cuda_success;
}

cuda_result cuDeviceGetAttribute(int32_t *value, int32_t attribute, cuda_device device) {
  (void)device;
  *value = attribute == cuda_compute_capability_major           ? state.compute_major
           : attribute == cuda_compute_capability_minor         ? 0
           : attribute == cuda_multiprocessor_count             ? 132
           : attribute == cuda_max_shared_bytes_per_block_optin ? 232448
                                                                : 1;
  return cuda_success;
}

cuda_result cuDevicePrimaryCtxRetain(cuda_context *context, cuda_device device) {
  (void)device;
  *context = primary;
  return cuda_success;
}

cuda_result cuCtxSetCurrent(cuda_context context) {
  current = context;
  state.context_switches++;
  return cuda_success;
}

cuda_result cuCtxGetCurrent(cuda_context *context) {
  *context = current;
  return cuda_success;
}

cuda_result cuModuleLoadDataEx(cuda_module *module, const void *image, uint32_t option_count,
                               int32_t *options, void **option_values) {
  (void)options, (void)option_values;
  if (current != primary || option_count != 0) return NOT_CURRENT;
  if (memcmp(image, "\x7f" "ELF", 4) != 0) return 200;
  state.modules_loaded++;
  *module = (cuda_module)128;
  return cuda_success;
}

cuda_result cuModuleGetFunction(cuda_function *function, cuda_module module, const char *name) {
  (void)module;
  if (current != primary) return NOT_CURRENT;
  if (strcmp(name, "absent") == 0) return 500;
  int number = name_count++;
  if (number >= KERNELS || strlen(name) >= NAME_SIZE) return cuda_error_out_of_memory;
  strcpy(names[number], name);
  *function = (cuda_function)(void *)names[number];
  return cuda_success;
}

cuda_result cuFuncGetAttribute(int32_t *value, int32_t attribute, cuda_function function) {
  (void)function;
  *value = attribute == cuda_function_shared_bytes ? 1024 : -1;
  return cuda_success;
}

cuda_result cuFuncSetAttribute(cuda_function function, int32_t attribute, int32_t value) {
  (void)function;
  if (attribute == cuda_function_max_dynamic_shared_bytes) state.max_dynamic_shared_bytes = value;
  return cuda_success;
}

cuda_result cuLaunchKernelEx(const cuda_launch_config *config, cuda_function function,
                             void **parameters, void **extra) {
  const char *name = (const char *)function;
  if (current != primary || name < names[0] || name >= names[KERNELS] || extra != NULL)
    return NOT_CURRENT;
  launched[2] = launched[1];
  launched[1] = launched[0];
  launched[0] = name;
  state.launches++;
  state.config = *config;
  if (config->attribute_count > 0) state.attribute = config->attributes[0];
  for (int i = 0; i < state.argument_count; i++)
    memcpy(state.arguments[i], parameters[i], state.argument_sizes[i]);
  return state.fails_launch_with;
}

cuda_result cuMemHostAlloc(void **memory, size_t byte_count, uint32_t flags) {
  if (current != primary || flags != (cuda_host_portable | cuda_host_device_map))
    return NOT_CURRENT;
  state.host_memory = *memory = calloc(1, byte_count);
  return *memory == NULL ? cuda_error_out_of_memory : cuda_success;
}

cuda_result cuMemHostGetDevicePointer_v2(cuda_address *address, void *memory, uint32_t flags) {
  *address = (cuda_address)(uintptr_t)memory;
  return (cuda_result)flags;
}

cuda_result cuTensorMapEncodeTiled(cuda_tensor_map *map, int32_t dtype, uint32_t rank,
                                   void *address, const uint64_t *sizes, const uint64_t *strides,
                                   const uint32_t *box, const uint32_t *element_strides,
                                   int32_t interleave, int32_t swizzle, int32_t l2_promotion,
                                   int32_t out_of_bounds_fill) {
  if ((uintptr_t)map % 64 != 0 || interleave != 0 || out_of_bounds_fill != 0) return 1;
  uint64_t words[16] = {(uint64_t)dtype,    rank,   (uint64_t)(uintptr_t)address,
                        (uint64_t)swizzle, (uint64_t)l2_promotion};
  for (uint32_t i = 0; i < rank && i < 3; i++) {
    words[5 + i] = sizes[i];
    if (i + 1 < rank) words[8 + i] = strides[i];
    words[10 + i] = box[i];
    words[13 + i] = element_strides[i];
  }
  memcpy(map->words, words, sizeof words);
  return cuda_success;
}
