/* Preloaded into a program under test: does what FAULT says when the program calls the C library for a file, "fsync
 * model-00002 kill": the first call of that kind (FAULT_AT: the K-th) for a path that has those letters, on the rank
 * FAULT_RANK alone where that is set. Kinds: open, fsync, rename, write, fallocate, and start, before main. Then the
 * process is killed or stopped; the call fails for want of space (full); half of the file is lost and the process
 * killed, as a machine that goes down does it (tear); or the call waits until the file FAULT_MARK, which it makes, is
 * removed. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static char kind[16], letters[64], action[16];
static long when = 1;
static atomic_long count;

__attribute__((constructor)) static void begin(void) {
  const char *fault = getenv("FAULT"), *at = getenv("FAULT_AT"), *wanted = getenv("FAULT_RANK");
  const char *rank = getenv("OMPI_COMM_WORLD_RANK");
  if (!fault || (wanted && (!rank || strcmp(rank, wanted) != 0)) ||
      sscanf(fault, "%15s %63s %15s", kind, letters, action) != 3)
    *kind = '\0';
  when = at ? atol(at) : 1;
  if (strcmp(kind, "start") == 0)
    raise(strcmp(action, "stop") == 0 ? SIGSTOP : SIGKILL);
}

static void wait_for_test(void) {
  const char *mark = getenv("FAULT_MARK");
  int made = REAL(open)(mark, O_CREAT | O_WRONLY, 0600);
  close(made);
  while (access(mark, F_OK) == 0)
    usleep(1000);
}

/* Whether the call fails for want of space. `descriptor`: of the file, where there is one. */
static bool strike(const char *call, const char *path, int descriptor) {
  struct stat info;
  if (strcmp(call, kind) != 0 || !strstr(path, letters) || atomic_fetch_add(&count, 1) + 1 != when)
    return false;
  if (strcmp(action, "tear") == 0 && fstat(descriptor, &info) == 0 && ftruncate(descriptor, info.st_size / 2) == 0)
    raise(SIGKILL);
  if (strcmp(action, "kill") == 0 || strcmp(action, "stop") == 0)
    raise(*action == 'k' ? SIGKILL : SIGSTOP);
  if (strcmp(action, "wait") == 0)
    wait_for_test();
  errno = ENOSPC;
  return strcmp(action, "full") == 0;
}

static bool strike_open(const char *call, int descriptor) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t n = *kind ? readlink(link, path, sizeof path - 1) : -1;
  path[n > 0 ? n : 0] = '\0';
  return n > 0 && strike(call, path, descriptor);
}

static mode_t mode_of(int flags, va_list arguments) {
  return flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
}

EXPORT int open(const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return strike("open", path, -1) ? -1 : REAL(open)(path, flags, mode);
}

EXPORT FILE *fopen(const char *path, const char *mode) {
  return strike("open", path, -1) ? NULL : REAL(fopen)(path, mode);
}

EXPORT int fsync(int descriptor) {
  return strike_open("fsync", descriptor) ? -1 : REAL(fsync)(descriptor);
}

EXPORT ssize_t write(int descriptor, const void *data, size_t bytes) {
  return strike_open("write", descriptor) ? -1 : REAL(write)(descriptor, data, bytes);
}

EXPORT int fallocate(int descriptor, int mode, off_t offset, off_t bytes) {
  return strike_open("fallocate", descriptor) ? -1 : REAL(fallocate)(descriptor, mode, offset, bytes);
}

EXPORT int rename(const char *path, const char *other) {
  return strike("rename", other, -1) ? -1 : REAL(rename)(path, other);
}
