/* A driver without a GPU: it answers the CUDA backend's calls and records their arguments. Images
 * are real: it reads the kernels and their parameters from them. */
#include <elf.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_driver_types.h"
#include "fake_push.h"

enum { INVALID_VALUE = 1, INVALID_IMAGE = 200, NOT_CURRENT = 201, NOT_FOUND = 500 };
enum { PARAMETERS = 32, PARAMETER_BYTES = 4096, KERNELS = 1024, NAME_SIZE = 64 };

/* State that tests read and set. */
typedef struct fake_state {
  int32_t compute_major;
  int32_t fails_launch_with;
  int32_t modules_loaded;
  int32_t launches;
  int32_t max_dynamic_shared_bytes;
  int32_t context_switches;
  cuda_launch_config config;
  cuda_launch_attribute attribute;
  void *host_memory;
} fake_state;

static fake_state state = {.compute_major = 9};
static _Thread_local cuda_context current;
static struct cuda_context_object *const primary = (struct cuda_context_object *)64;

/* A kernel of a loaded image; a cuda_function is the address of one. */
typedef struct kernel {
  char name[NAME_SIZE];
  cuda_module module;
  uint32_t most_threads; /* of a block, from __launch_bounds__ */
  uint32_t parameter_count;
  struct {
    uint32_t offset, size;
  } parameters[PARAMETERS];
  int32_t launches;
} kernel;

static kernel kernels[KERNELS];
static int kernel_count;
static pthread_mutex_t kernels_lock = PTHREAD_MUTEX_INITIALIZER;

/* The kernels launched by the calling thread, the last one first. */
static const kernel none;
static _Thread_local const kernel *launched[3] = {&none, &none, &none};
/* The arguments of the thread's last launch, at the offsets at which the kernel reads them. */
static _Thread_local _Alignas(64) uint8_t arguments[PARAMETER_BYTES];

fake_state *fake_driver(void) { return &state; }

const char *fake_driver_launched(int32_t launches_ago) { return launched[launches_ago]->name; }

/* An argument of the calling thread's last launch. */
const void *fake_driver_argument(int32_t index) {
  return arguments + launched[0]->parameters[index].offset;
}

/* The number of launches of kernels with a name. */
int32_t fake_driver_launches_of(const char *name) {
  int32_t launches = 0;
  for (int i = 0; i < kernel_count; i++)
    if (strcmp(kernels[i].name, name) == 0) launches += kernels[i].launches;
  return launches;
}

/* Reads a section .nv.info.<kernel>: each attribute has two bytes, format and kind, and then two
 * bytes for the value, or for the size of a value that follows. Returns 0 if it cannot parse the
 * section. */
static int read_info(kernel *kernel, const uint8_t *info, size_t byte_count) {
  enum { FOLLOWS = 4, MOST_THREADS = 0x05, PARAMETER = 0x17 };
  for (size_t at = 0; at + 4 <= byte_count;) {
    const uint8_t format = info[at], kind = info[at + 1];
    uint16_t size;
    memcpy(&size, info + at + 2, sizeof size);
    const uint8_t *value = info + (at += 4);
    if (format != FOLLOWS) continue;
    if ((at += size) > byte_count) return 0;
    if (kind == MOST_THREADS && size >= 12) {
      uint32_t sizes[3];
      memcpy(sizes, value, sizeof sizes);
      kernel->most_threads = sizes[0] * sizes[1] * sizes[2];
    }
    if (kind != PARAMETER) continue;
    /* The parameter's index in a table, its number, its offset, and from bit 18 on its size. */
    struct {
      uint32_t index;
      uint16_t number, offset;
      uint32_t flags;
    } parameter;
    if (size != sizeof parameter) return 0;
    memcpy(&parameter, value, sizeof parameter);
    const uint32_t bytes = parameter.flags >> 18;
    if (parameter.number >= PARAMETERS || parameter.offset + bytes > PARAMETER_BYTES) return 0;
    kernel->parameters[parameter.number].offset = parameter.offset;
    kernel->parameters[parameter.number].size = bytes;
    if (kernel->parameter_count <= parameter.number) kernel->parameter_count = parameter.number + 1;
  }
  return 1;
}

/* Adds the kernels of an image to the list. */
static cuda_result read_image(const uint8_t *image, cuda_module module) {
  const char prefix[] = ".nv.info.";
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
  if (memcmp(image, ELFMAG, SELFMAG) != 0) return INVALID_IMAGE;
  const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);
  const char *names = (const char *)image + sections[header->e_shstrndx].sh_offset;
  for (int i = 0; i < header->e_shnum; i++) {
    const char *name = names + sections[i].sh_name;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) continue;
    name += sizeof prefix - 1;
    if (kernel_count == KERNELS || strlen(name) >= NAME_SIZE) return cuda_error_out_of_memory;
    kernel *added = &kernels[kernel_count];
    strcpy(added->name, name);
    added->module = module;
    if (!read_info(added, image + sections[i].sh_offset, sections[i].sh_size)) return INVALID_IMAGE;
    kernel_count++;
  }
  return cuda_success;
}

cuda_result cuInit(uint32_t flags) { return (cuda_result)flags; }

/* NVRTC calls this, for a cache of its own. */
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
  pthread_mutex_lock(&kernels_lock);
  *module = (cuda_module)(uintptr_t)(128 + state.modules_loaded++);
  const cuda_result result = read_image(image, *module);
  pthread_mutex_unlock(&kernels_lock);
  return result;
}

cuda_result cuModuleGetFunction(cuda_function *function, cuda_module module, const char *name) {
  if (current != primary) return NOT_CURRENT;
  cuda_result result = NOT_FOUND;
  pthread_mutex_lock(&kernels_lock);
  for (int i = 0; i < kernel_count; i++) {
    if (kernels[i].module != module || strcmp(kernels[i].name, name) != 0) continue;
    *function = (cuda_function)(void *)&kernels[i];
    result = cuda_success;
  }
  pthread_mutex_unlock(&kernels_lock);
  return result;
}

cuda_result cuFuncGetParamInfo(cuda_function function, size_t index, size_t *offset, size_t *size) {
  const kernel *asked = (const kernel *)function;
  if (index >= asked->parameter_count) return INVALID_VALUE;
  *offset = asked->parameters[index].offset;
  *size = asked->parameters[index].size;
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
  kernel *started = (kernel *)function;
  if (current != primary || started < kernels || started >= kernels + KERNELS || extra != NULL)
    return NOT_CURRENT;
  const uint64_t threads = (uint64_t)config->block_x * config->block_y * config->block_z;
  if (threads > 1024 || (started->most_threads != 0 && threads > started->most_threads))
    return INVALID_VALUE;
  if (config->shared_bytes > (uint32_t)state.max_dynamic_shared_bytes) return INVALID_VALUE;
  launched[2] = launched[1];
  launched[1] = launched[0];
  launched[0] = started;
  started->launches++;
  state.launches++;
  state.config = *config;
  if (config->attribute_count > 0) state.attribute = config->attributes[0];
  for (uint32_t i = 0; i < started->parameter_count; i++)
    memcpy(arguments + started->parameters[i].offset, parameters[i], started->parameters[i].size);
  if (state.fails_launch_with == cuda_success) fake_push(started->name, parameters);
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
  if ((uintptr_t)map % 64 != 0 || interleave != 0 || out_of_bounds_fill != 0) return INVALID_VALUE;
  /* The real driver's requirements for a tensor and its boxes. */
  const uint32_t element_bytes = dtype == cuda_tensor_map_float32 ? 4 : 2;
  if (rank < 1 || rank > 5 || (uintptr_t)address % 16 != 0) return INVALID_VALUE;
  if (swizzle == 3 && box[0] * element_bytes > 128) return INVALID_VALUE;
  for (uint32_t i = 0; i < rank; i++) {
    if (sizes[i] < 1 || sizes[i] > 1ull << 32 || box[i] < 1 || box[i] > 256) return INVALID_VALUE;
    if (i + 1 < rank && strides[i] % 16 != 0) return INVALID_VALUE;
  }
  uint64_t words[16] = {(uint64_t)dtype, rank, (uint64_t)(uintptr_t)address, (uint64_t)swizzle,
                        (uint64_t)l2_promotion};
  for (uint32_t i = 0; i < rank && i < 3; i++) {
    words[5 + i] = sizes[i];
    if (i + 1 < rank) words[8 + i] = strides[i];
    words[10 + i] = box[i];
    words[13 + i] = element_strides[i];
  }
  memcpy(map->words, words, sizeof words);
  return cuda_success;
}
