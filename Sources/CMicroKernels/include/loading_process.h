#pragma once

/* Whether this process is a forked child of the one that loaded the library. A child has none of its parent's
 * threads, and an OpenMP runtime would wait for them. */
int is_forked(void);
