/* Inflated contents in a file. Invariant: the mark behind the contents is written last, under the lock, so that what is
 * whole is known to be. */
#include "runtime/data/spill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/machine.h"

static const char mark[8] = "arrays 1";
enum { ATTEMPTS = 100 };

static Status fail_spill(const char *path) {
  return fail(errno == ENOMEM ? E_MEMORY : E_IO, "%s: %s", path, strerror(errno));
}

/* Waits until nobody else fills it. *whole: it is filled; *lost: it has no name any more, and never will be. */
static Status take(const char *path, int descriptor, size_t bytes, bool *whole, bool *lost) {
  char found[sizeof mark];
  struct stat info;
  while (flock(descriptor, LOCK_EX))
    if (errno != EINTR)
      return fail_spill(path);
  if (fstat(descriptor, &info))
    return fail_spill(path);
  if (!S_ISREG(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 077))
    return fail(E_IO, "%s: is not a file of this user alone", path);
  *whole = (uint64_t)info.st_size == bytes + sizeof mark &&
           pread(descriptor, found, sizeof found, (off_t)bytes) == sizeof found &&
           memcmp(found, mark, sizeof mark) == 0;
  *lost = !*whole && info.st_nlink == 0;
  return OK;
}

/* Room for all of it, so that no write can fail later. */
static Status make_room(Spill *spill) {
  size_t all = spill->bytes + sizeof mark;
  void *memory = MAP_FAILED;
  if (ftruncate(spill->descriptor, 0) == 0 && fallocate(spill->descriptor, 0, 0, (off_t)all) == 0)
    memory = mmap(NULL, spill->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, spill->descriptor, 0);
  if (memory == MAP_FAILED) {
    Status status = fail_spill(spill->path);
    unlink(spill->path);
    return status;
  }
  spill->memory = memory;
  return OK;
}

static Status open_spill(Spill *spill) {
  bool whole = false, lost = true;
  for (int i = 0; lost && i < ATTEMPTS; i++) {
    if (spill->descriptor >= 0)
      close(spill->descriptor);
    spill->descriptor = open(spill->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (spill->descriptor < 0)
      return fail_spill(spill->path);
    TRY(take(spill->path, spill->descriptor, spill->bytes, &whole, &lost));
  }
  if (lost)
    return fail(E_IO, "%s: others remove it again and again", spill->path);
  return whole ? mapped_open(spill->descriptor, 0, spill->bytes, &spill->map) : make_room(spill);
}

/* Gives the lock back, too, which would stay as long as the file is mapped. */
static void close_descriptor(Spill *spill) {
  if (spill->descriptor >= 0) {
    flock(spill->descriptor, LOCK_UN);
    close(spill->descriptor);
  }
  spill->descriptor = -1;
}

Status spill_open(Arena *arena, const FileStamp *stamp, size_t bytes, Spill *spill) {
  const char *folder = getenv("TMPDIR");
  char boot[MACHINE_BOOT]; /* what a machine that went down left may be zeros */
  machine_boot(boot);
  const char *path =
      arena_format(arena, "%s/onnxpipe-%lu-%s-%llx-%llx-%lld.%09lld-%lld-%zu", folder && *folder ? folder : "/var/tmp",
                   (unsigned long)geteuid(), boot, (unsigned long long)stamp->device, (unsigned long long)stamp->inode,
                   (long long)stamp->seconds, (long long)stamp->nanoseconds, (long long)stamp->bytes, bytes);
  *spill = (Spill){.path = path, .bytes = bytes, .descriptor = -1};
  Status status = path ? open_spill(spill) : status_code();
  if (status != OK) {
    close_descriptor(spill);
    *spill = (Spill){0};
  } else if (!spill->memory) {
    close_descriptor(spill);
  }
  return status;
}

Status spill_finish(Spill *spill) {
  munmap(spill->memory, spill->bytes);
  spill->memory = NULL;
  Status status = pwrite(spill->descriptor, mark, sizeof mark, (off_t)spill->bytes) == sizeof mark
                      ? mapped_open(spill->descriptor, 0, spill->bytes, &spill->map)
                      : fail_spill(spill->path);
  close_descriptor(spill);
  return status;
}

void spill_settle(Spill *spill) {
  if (spill->path)
    unlink(spill->path);
  spill->path = NULL;
}

void spill_close(Spill *spill) {
  spill_settle(spill);
  if (spill->memory) {
    munmap(spill->memory, spill->bytes);
    close_descriptor(spill);
  }
  mapped_close(&spill->map);
  *spill = (Spill){0};
}
