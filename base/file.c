/* Files whole. Invariant: what lies at a path that is replaced is either the old file or the complete new one, and what
 * was no regular file is neither read nor replaced. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Paths that are being written aside, for a signal's handler: whoever takes one out of its slot owns it. What finds no
 * slot free is not removed there. */
enum { ASIDE = 64 };
static _Atomic(char *) aside_paths[ASIDE];

static void remember(char *aside) {
  for (int i = 0; i < ASIDE; i++) {
    char *none = NULL;
    if (atomic_compare_exchange_strong(&aside_paths[i], &none, aside))
      return;
  }
}

/* Whether it is the caller's to free: a handler that has it ends the process. */
static bool forget(char *aside) {
  for (int i = 0; i < ASIDE; i++) {
    char *own = aside;
    if (atomic_load(&aside_paths[i]) == aside)
      return atomic_compare_exchange_strong(&aside_paths[i], &own, NULL);
  }
  return true;
}

void file_replace_abandon_all(void) {
  for (int i = 0; i < ASIDE; i++) {
    char *aside = atomic_exchange(&aside_paths[i], NULL);
    if (aside)
      unlink(aside);
  }
}

static void release(FileReplace *file) {
  free(file->path);
  if (file->aside && forget(file->aside))
    free(file->aside);
  *file = (FileReplace){0};
}

static Status check_regular(const struct stat *info) {
  if (S_ISREG(info->st_mode))
    return OK;
  return fail(E_IO, S_ISDIR(info->st_mode) ? "is a directory" : "is not a regular file");
}

Status file_open(const char *path, int *descriptor, size_t *bytes) {
  struct stat info;
  *descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (*descriptor < 0)
    return fail(E_IO, "cannot be opened: %s", strerror(errno));
  Status status = fstat(*descriptor, &info) ? fail(E_IO, "cannot be read: %s", strerror(errno)) : check_regular(&info);
  if (status != OK) {
    close(*descriptor);
    *descriptor = -1;
    return status;
  }
  *bytes = (size_t)info.st_size;
  return OK;
}

bool file_same(const char *path, const char *other) {
  struct stat a, b;
  return stat(path, &a) == 0 && stat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool file_same_place(const char *path, const char *other) {
  const char *slash = strrchr(path, '/'), *other_slash = strrchr(other, '/');
  if (strcmp(slash ? slash + 1 : path, other_slash ? other_slash + 1 : other) != 0)
    return false;
  char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
  char *other_folder = other_slash ? strndup(other, (size_t)(other_slash - other) + 1) : strdup(".");
  bool same = folder && other_folder && file_same(folder, other_folder);
  free(folder);
  free(other_folder);
  return same || strcmp(path, other) == 0;
}

Status file_check_space(const char *path, uint64_t bytes) {
  struct statvfs info;
  const char *slash = strrchr(path, '/');
  char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
  if (!folder)
    return fail(E_MEMORY, "out of memory");
  int known = statvfs(folder, &info) == 0 && info.f_blocks; /* some have no number of blocks */
  free(folder);
  uint64_t left = known ? (uint64_t)info.f_bavail * info.f_frsize : UINT64_MAX;
  if (left >= bytes)
    return OK;
  return fail(E_IO, "%s: cannot be written: it takes %llu bytes or more, and its file system has %llu left", path,
              (unsigned long long)bytes, (unsigned long long)left);
}

Status file_replace_begin(const char *path, FileReplace *file) {
  struct stat info;
  if (stat(path, &info) == 0 && check_regular(&info) != OK) {
    status_context("%s: ", path);
    *file = (FileReplace){0};
    return status_code();
  }
  *file = (FileReplace){.path = strdup(path)};
  if (!file->path || asprintf(&file->aside, "%s.tmpXXXXXX", path) < 0) {
    file->aside = NULL;
    release(file);
    return fail(E_MEMORY, "out of memory");
  }
  int descriptor = mkstemp(file->aside);
  if (descriptor >= 0) {
    remember(file->aside);
    mode_t mask = umask(0);
    umask(mask);
    fchmod(descriptor, 0666 & ~mask); /* mkstemp's 0600 would surprise whoever reads the result */
    file->stream = fdopen(descriptor, "w");
    if (!file->stream) {
      close(descriptor);
      unlink(file->aside);
    }
  }
  if (!file->stream) {
    Status status = fail(E_IO, "%s: cannot be written: %s", path, strerror(errno));
    release(file);
    return status;
  }
  return OK;
}

Status file_replace_commit(FileReplace *file) {
  int failed = ferror(file->stream);
  failed |= fflush(file->stream) || fsync(fileno(file->stream));
  failed |= fclose(file->stream);
  if (failed || rename(file->aside, file->path)) {
    Status status = fail(E_IO, "%s: cannot be written: %s", file->path, strerror(errno));
    unlink(file->aside);
    release(file);
    return status;
  }
  release(file);
  return OK;
}

void file_replace_abandon(FileReplace *file) {
  if (!file->stream)
    return;
  fclose(file->stream);
  unlink(file->aside);
  release(file);
}

Status file_read_text(Arena *arena, const char *path, const char **text) {
  enum { MOST = 256 << 20 };
  int descriptor;
  size_t bytes, n = 0;
  char *buffer;
  if (file_open(path, &descriptor, &bytes) != OK) {
    status_context("%s: ", path);
    return status_code();
  }
  Status status = bytes > MOST ? fail(E_IO, "%s: %zu bytes are more than a text has", path, bytes)
                               : ARENA_NEW(arena, buffer, bytes + 1);
  while (status == OK && n < bytes) {
    ssize_t got = read(descriptor, buffer + n, bytes - n);
    if (got <= 0)
      status = fail(E_IO, "%s: %s", path, got ? strerror(errno) : "ends early");
    else
      n += (size_t)got;
  }
  close(descriptor);
  if (status == OK && memchr(buffer, 0, bytes))
    status = fail(E_MODEL, "%s: is no text", path);
  *text = status == OK ? buffer : NULL;
  return status;
}
