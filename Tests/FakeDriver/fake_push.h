#pragma once

/* Does what a kernel of push.cu does, if `name` is one's; the calling thread waits as the stream
 * would. */
void fake_push(const char *name, void *const *parameters);
