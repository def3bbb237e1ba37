/* Memory of the fake driver that processes share: a memory is a file without a name, and the ranks
 * of a group, which are threads of one process, map it as those of several would. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cuda_driver_types.h"

enum { GRANULARITY = 2 << 20, INVALID_VALUE = 1 };

/* What tests read and set. */
typedef struct fake_sharing_state {
  int32_t fails_create_with;
  int32_t fails_import_with;
  /* Which devices reach each other: all, or none. */
  int32_t reaches_no_peer;
  /* Device 1 is hidden from the process under its name: its name is another in every call. */
  int32_t hides_names;
  int32_t memories;
  int32_t mappings;
  int32_t waits; /* of streams for events */
} fake_sharing_state;

static fake_sharing_state state;
fake_sharing_state *fake_sharing(void) { return &state; }

static int add(int32_t *counter, int32_t change) {
  return __atomic_add_fetch(counter, change, __ATOMIC_SEQ_CST);
}

cuda_result cuDeviceGetUuid_v2(cuda_uuid *uuid, cuda_device device) {
  static int32_t calls;
  for (int i = 0; i < 16; i++) uuid->bytes[i] = (uint8_t)(device + i);
  if (state.hides_names) uuid->bytes[15] = (uint8_t)add(&calls, 1);
  return cuda_success;
}

cuda_result cuDeviceCanAccessPeer(int32_t *can_access, cuda_device device, cuda_device peer) {
  /* No device is its own peer. */
  *can_access = !state.reaches_no_peer && device != peer;
  return cuda_success;
}

/* Everything is done when it is asked for. */
cuda_result cuStreamWaitEvent(cuda_stream stream, cuda_event event, uint32_t flags) {
  (void)stream, (void)event;
  add(&state.waits, 1);
  return (cuda_result)flags;
}

static int is_whole(size_t byte_count) { return byte_count > 0 && byte_count % GRANULARITY == 0; }

static int is_sharable(const cuda_memory_properties *properties) {
  return properties->type == cuda_memory_pinned &&
         properties->handle_type == cuda_memory_handle_descriptor &&
         properties->location.type == cuda_memory_location_device &&
         properties->win32_attributes == NULL;
}

cuda_result cuMemGetAllocationGranularity(size_t *granularity,
                                          const cuda_memory_properties *properties,
                                          int32_t option) {
  *granularity = GRANULARITY;
  return is_sharable(properties) && option == cuda_memory_granularity_recommended ? cuda_success
                                                                                  : INVALID_VALUE;
}

cuda_result cuMemCreate(cuda_memory *memory, size_t byte_count,
                        const cuda_memory_properties *properties, uint64_t flags) {
  if (state.fails_create_with != 0) return state.fails_create_with;
  if (!is_whole(byte_count) || !is_sharable(properties) || flags != 0) return INVALID_VALUE;
  const int file = memfd_create("fake memory", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, (off_t)byte_count) != 0) return cuda_error_out_of_memory;
  /* What a device's memory is before it is written. */
  const uint8_t junk[64] = {0xAB, 0xCD, 0xEF};
  for (off_t at = 0; at < 1 << 16; at += sizeof junk)
    if (pwrite(file, junk, sizeof junk, at) < 0) return cuda_error_out_of_memory;
  add(&state.memories, 1);
  *memory = (cuda_memory)file + 1;
  return cuda_success;
}

cuda_result cuMemRelease(cuda_memory memory) {
  add(&state.memories, -1);
  return close((int)memory - 1) == 0 ? cuda_success : INVALID_VALUE;
}

cuda_result cuMemExportToShareableHandle(void *handle, cuda_memory memory, int32_t handle_type,
                                         uint64_t flags) {
  if (handle_type != cuda_memory_handle_descriptor || flags != 0) return INVALID_VALUE;
  *(int *)handle = dup((int)memory - 1);
  return *(int *)handle < 0 ? cuda_error_out_of_memory : cuda_success;
}

cuda_result cuMemImportFromShareableHandle(cuda_memory *memory, void *handle, int32_t handle_type) {
  if (state.fails_import_with != 0) return state.fails_import_with;
  if (handle_type != cuda_memory_handle_descriptor) return INVALID_VALUE;
  const int file = dup((int)(intptr_t)handle);
  if (file < 0) return INVALID_VALUE;
  add(&state.memories, 1);
  *memory = (cuda_memory)file + 1;
  return cuda_success;
}

cuda_result cuMemAddressReserve(cuda_address *address, size_t byte_count, size_t alignment,
                                cuda_address wish, uint64_t flags) {
  if (!is_whole(byte_count) || alignment != 0 || wish != 0 || flags != 0) return INVALID_VALUE;
  void *reserved = mmap(NULL, byte_count, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (reserved == MAP_FAILED) return cuda_error_out_of_memory;
  *address = (cuda_address)(uintptr_t)reserved;
  return cuda_success;
}

cuda_result cuMemAddressFree(cuda_address address, size_t byte_count) {
  return munmap((void *)(uintptr_t)address, byte_count) == 0 ? cuda_success : INVALID_VALUE;
}

/* Without access, until cuMemSetAccess gives it. */
cuda_result cuMemMap(cuda_address address, size_t byte_count, size_t offset, cuda_memory memory,
                     uint64_t flags) {
  if (!is_whole(byte_count) || offset != 0 || flags != 0) return INVALID_VALUE;
  if (mmap((void *)(uintptr_t)address, byte_count, PROT_NONE, MAP_SHARED | MAP_FIXED,
           (int)memory - 1, 0) == MAP_FAILED)
    return INVALID_VALUE;
  add(&state.mappings, 1);
  return cuda_success;
}

cuda_result cuMemUnmap(cuda_address address, size_t byte_count) {
  add(&state.mappings, -1);
  return mmap((void *)(uintptr_t)address, byte_count, PROT_NONE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED
             ? INVALID_VALUE
             : cuda_success;
}

cuda_result cuMemSetAccess(cuda_address address, size_t byte_count,
                           const cuda_memory_access *accesses, size_t count) {
  if (count != 1 || accesses->flags != cuda_memory_read_write ||
      accesses->location.type != cuda_memory_location_device)
    return INVALID_VALUE;
  return mprotect((void *)(uintptr_t)address, byte_count, PROT_READ | PROT_WRITE) == 0
             ? cuda_success
             : INVALID_VALUE;
}
