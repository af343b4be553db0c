/* Files whole. Invariant: what lies at a path that is replaced is either the old file or the complete new one, and what
 * was no regular file is neither read nor replaced. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
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

/* How the name of what is written aside goes on, behind the path that it is for. */
static const char aside_mark[] = ".onnxpipe.tmp";
enum { RANDOM = 6 };

static bool is_same(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Removes it where whoever wrote it has ended, in whichever way: a writer has it locked. */
static void remove_stale(int folder, const char *name) {
  struct stat own, there;
  int descriptor = openat(folder, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0)
    return;
  if (fstat(descriptor, &own) == 0 && S_ISREG(own.st_mode) && flock(descriptor, LOCK_EX | LOCK_NB) == 0 &&
      fstatat(folder, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && is_same(&own, &there))
    unlinkat(folder, name, 0);
  close(descriptor);
}

/* What was written aside for this path, and never took its place. */
static void sweep(const char *path) {
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
  DIR *dir = folder ? opendir(folder) : NULL;
  const struct dirent *entry;
  size_t n = strlen(name), mark = strlen(aside_mark);
  while (dir && (entry = readdir(dir)))
    if (strncmp(entry->d_name, name, n) == 0 && strncmp(entry->d_name + n, aside_mark, mark) == 0 &&
        strlen(entry->d_name) == n + mark + RANDOM)
      remove_stale(dirfd(dir), entry->d_name);
  if (dir)
    closedir(dir);
  free(folder);
}

/* A new file that is locked; -1: there is none, by errno, or *aside is NULL for want of memory. One that a sweep takes
 * for stale before it is locked is made again. */
static int make_aside(const char *path, char **aside) {
  for (;;) {
    struct stat own, there;
    if (asprintf(aside, "%s%sXXXXXX", path, aside_mark) < 0) {
      *aside = NULL;
      return -1;
    }
    int descriptor = mkostemp(*aside, O_CLOEXEC);
    bool locked = descriptor >= 0 && flock(descriptor, LOCK_EX) == 0; /* where there are no locks, none are seen */
    if (descriptor < 0 || !locked ||
        (fstat(descriptor, &own) == 0 && stat(*aside, &there) == 0 && is_same(&own, &there)))
      return descriptor;
    close(descriptor);
    free(*aside);
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
  return stat(path, &a) == 0 && stat(other, &b) == 0 && is_same(&a, &b);
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
  if (!file->path)
    return fail(E_MEMORY, "out of memory");
  sweep(path);
  int descriptor = make_aside(path, &file->aside);
  if (!file->aside) {
    release(file);
    return fail(E_MEMORY, "out of memory");
  }
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
  int failed = ferror(file->stream), lock = dup(fileno(file->stream)); /* until it has its name */
  failed |= fflush(file->stream) || fsync(fileno(file->stream));
  failed |= fclose(file->stream);
  if (failed || rename(file->aside, file->path)) {
    Status status = fail(E_IO, "%s: cannot be written: %s", file->path, strerror(errno));
    unlink(file->aside);
    close(lock);
    release(file);
    return status;
  }
  close(lock);
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
