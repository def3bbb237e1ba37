#pragma once

/* The cores this process may run on, at least 1. Swift cannot see sched_getaffinity, a GNU extension. */
long usable_cores(void);
