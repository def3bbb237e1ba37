#pragma once

/* The part of NVRTC's binary interface that this library uses. */

#include <stddef.h>
#include <stdint.h>

typedef int32_t nvrtc_result;
static const nvrtc_result nvrtc_success = 0;

typedef struct nvrtc_program_object *nvrtc_program;

typedef const char *(*nvrtcGetErrorString_t)(nvrtc_result result);
typedef nvrtc_result (*nvrtcVersion_t)(int32_t *major, int32_t *minor);
typedef nvrtc_result (*nvrtcCreateProgram_t)(nvrtc_program *program, const char *source,
                                             const char *name, int32_t header_count,
                                             const char *const *headers,
                                             const char *const *header_names);
typedef nvrtc_result (*nvrtcDestroyProgram_t)(nvrtc_program *program);
typedef nvrtc_result (*nvrtcCompileProgram_t)(nvrtc_program program, int32_t option_count,
                                              const char *const *options);
typedef nvrtc_result (*nvrtcGetProgramLogSize_t)(nvrtc_program program, size_t *size);
typedef nvrtc_result (*nvrtcGetProgramLog_t)(nvrtc_program program, char *log);
typedef nvrtc_result (*nvrtcGetCUBINSize_t)(nvrtc_program program, size_t *size);
typedef nvrtc_result (*nvrtcGetCUBIN_t)(nvrtc_program program, char *image);
