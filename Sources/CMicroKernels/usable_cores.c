#define _GNU_SOURCE
#include "usable_cores.h"

#include <sched.h>
#include <unistd.h>

long usable_cores(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    return CPU_COUNT(&set);
  }
  /* The machine has more cores than the set holds. */
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? online : 1;
}
