/* Forks a process that has used communicators only, while a thread creates and frees them. Each child
 * must be able to use communicators too. Prints the number of children that could. */
#define _POSIX_C_SOURCE 200809L
#include <autoep.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILDREN = 300, ALARM_SECONDS = 20 };

static atomic_int stopped;

static int make_and_free(void) {
  autoep_comm comm;
  return autoep_comm_create_self(&comm, NULL) == AUTOEP_OK &&
         autoep_comm_free(comm, NULL) == AUTOEP_OK;
}

static void *keep_busy(void *unused) {
  (void)unused;
  while (!stopped) {
    if (!make_and_free()) abort();
  }
  return NULL;
}

int main(void) {
  pthread_t thread;
  if (!make_and_free() || pthread_create(&thread, NULL, keep_busy, NULL) != 0) return 1;
  int well = 0;
  for (int i = 0; i < CHILDREN; i++) {
    pid_t child = fork();
    if (child < 0) return 1;
    if (child == 0) {
      alarm(ALARM_SECONDS); /* for a lock that nobody frees */
      _exit(make_and_free() ? 0 : 1);
    }
    int status;
    if (waitpid(child, &status, 0) != child) return 1;
    if (status != 0) break;
    well++;
  }
  stopped = 1;
  pthread_join(thread, NULL);
  printf("%d of %d children used communicators\n", well, CHILDREN);
  return well == CHILDREN ? 0 : 1;
}
