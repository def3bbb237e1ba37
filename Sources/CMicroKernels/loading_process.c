#include "loading_process.h"

#include <unistd.h>

static pid_t loading_process;

__attribute__((constructor)) static void remember_process(void) { loading_process = getpid(); }

int is_forked(void) { return getpid() != loading_process; }
