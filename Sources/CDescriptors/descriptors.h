#pragma once

/* Unix sockets of datagrams that carry a file descriptor each. Names are abstract: they are in no
 * folder, and go with the socket. Nothing here waits. */

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>
#include <unistd.h>

static inline socklen_t descriptors_address(struct sockaddr_un *address, const char *name) {
  const size_t most = sizeof address->sun_path - 1, length = strlen(name);
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path + 1, name, length < most ? length : most);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (length < most ? length : most));
}

/* Opens a socket with a name; returns -1 and sets errno on failure. */
static inline int descriptors_open(const char *name) {
  struct sockaddr_un address;
  const socklen_t length = descriptors_address(&address, name);
  const int opened = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (opened < 0 || bind(opened, (struct sockaddr *)&address, length) == 0) return opened;
  const int error = errno;
  close(opened);
  errno = error;
  return -1;
}

/* Sends a message and a descriptor, which stays open here, to the socket with a name. Returns 0, or
 * the error; EAGAIN while that socket is full. */
static inline int descriptors_send(int from, const char *name, const void *message,
                                   size_t byte_count, int descriptor) {
  struct sockaddr_un address;
  union {
    struct cmsghdr aligned;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec part = {(void *)message, byte_count};
  struct msghdr header;
  memset(&header, 0, sizeof header);
  memset(&control, 0, sizeof control);
  header.msg_namelen = descriptors_address(&address, name);
  header.msg_name = &address;
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = &control;
  header.msg_controllen = sizeof control.bytes;
  struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(rights), &descriptor, sizeof descriptor);
  return sendmsg(from, &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0;
}

/* Receives a message of exactly `byte_count` bytes and its descriptor. Returns 0, or the error;
 * EAGAIN while there is none, EBADMSG for one of another form, which is dropped. */
static inline int descriptors_receive(int at, void *message, size_t byte_count, int *descriptor) {
  union {
    struct cmsghdr aligned;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec part = {message, byte_count};
  struct msghdr header;
  memset(&header, 0, sizeof header);
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = &control;
  header.msg_controllen = sizeof control.bytes;
  const ssize_t length = recvmsg(at, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (length < 0) return errno;
  const struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
  if (rights == NULL || rights->cmsg_type != SCM_RIGHTS ||
      rights->cmsg_len != CMSG_LEN(sizeof(int)))
    return EBADMSG;
  memcpy(descriptor, CMSG_DATA(rights), sizeof *descriptor);
  if ((size_t)length == byte_count && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0) return 0;
  close(*descriptor);
  return EBADMSG;
}
