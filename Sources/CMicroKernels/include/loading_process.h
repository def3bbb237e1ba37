#pragma once

/* Whether this process is not the one that loaded the library, but a child that it forked: threads of
 * the parent are not there, and an OpenMP runtime waits for them. */
int is_forked(void);
