#pragma once

/* The cores that this process may run on, at least 1. Swift cannot call sched_getaffinity, a GNU extension. */
long usable_cores(void);
