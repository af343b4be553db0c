/* Folders of checkpoints on the disk. Invariant: a step's folder appears and goes by one rename each. */
#include "runtime/checkpoint/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static const char prefix[] = "step-", lock_name[] = ".lock", best_name[] = "best";

char *folder_step_path(Arena *arena, const char *folder, int64_t step) {
  return arena_format(arena, "%s/%s%09lld", folder, prefix, (long long)step);
}

Status folder_aside_file(const char *folder, int64_t step, const char *name, char path[FOLDER_PATH]) {
  int n = snprintf(path, FOLDER_PATH, "%s/.%s%09lld.part/%s", folder, prefix, (long long)step, name);
  return n < FOLDER_PATH ? OK : fail(E_IO, "%s: the path is longer than %d", folder, FOLDER_PATH);
}

static Status fail_path(const char *path, const char *what) {
  return fail(E_IO, "%s: %s: %s", path, what, strerror(errno));
}

/* folder/before + step's name + after into path [FOLDER_PATH]. */
static Status join(char *path, const char *folder, const char *before, int64_t step, const char *after) {
  int n = snprintf(path, FOLDER_PATH, "%s/%s%s%09lld%s", folder, before, prefix, (long long)step, after);
  return n < FOLDER_PATH ? OK : fail(E_IO, "%s: the path is longer than %d", folder, FOLDER_PATH);
}

/* "step-000000010" → 10, else -1. */
static int64_t step_of_name(const char *name) {
  char *end;
  if (strncmp(name, prefix, strlen(prefix)) != 0 || name[strlen(prefix)] < '0' || name[strlen(prefix)] > '9')
    return -1;
  errno = 0;
  long long step = strtoll(name + strlen(prefix), &end, 10);
  return *end || errno ? -1 : step;
}

/* Where the link to the best leads; -1: there is none. */
static int64_t step_of_link(const char *path) {
  char name[64];
  ssize_t n = readlink(path, name, sizeof name - 1);
  if (n < 0)
    return -1;
  name[n] = '\0';
  return step_of_name(name);
}

int64_t folder_step_of(const char *path) {
  char own[FOLDER_PATH];
  size_t end = strlen(path);
  while (end && path[end - 1] == '/')
    end--;
  if (end >= sizeof own)
    return -1;
  memcpy(own, path, end);
  own[end] = '\0';
  const char *slash = strrchr(own, '/'), *name = slash ? slash + 1 : own;
  return strcmp(name, best_name) == 0 ? step_of_link(own) : step_of_name(name);
}

static int compare_steps(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

Status folder_list(Arena *arena, const char *folder, int64_t **steps, int *n) {
  DIR *dir = opendir(folder);
  size_t capacity = 0;
  Status status = OK;
  const struct dirent *entry;
  *steps = NULL;
  *n = 0;
  if (!dir)
    return fail_path(folder, "cannot be read");
  while (status == OK && (entry = readdir(dir))) {
    int64_t step = step_of_name(entry->d_name);
    if (step < 0)
      continue;
    status = ARENA_RESERVE(arena, *steps, *n, capacity, *n + 1);
    if (status == OK)
      (*steps)[(*n)++] = step;
  }
  closedir(dir);
  if (*n)
    qsort(*steps, (size_t)*n, sizeof **steps, compare_steps);
  return status;
}

Status folder_sync(const char *path) {
  int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  Status status = descriptor < 0 || fsync(descriptor) != 0 ? fail_path(path, "cannot be synced") : OK;
  if (descriptor >= 0)
    close(descriptor);
  return status;
}

/* A folder of files, with them; it may be absent. */
static Status remove_folder(const char *path) {
  DIR *dir = opendir(path);
  const struct dirent *entry;
  if (!dir)
    return errno == ENOENT ? OK : fail_path(path, "cannot be removed");
  while ((entry = readdir(dir)))
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
      unlinkat(dirfd(dir), entry->d_name, 0);
  closedir(dir);
  return rmdir(path) == 0 ? OK : fail_path(path, "cannot be removed");
}

/* A name of ours that is no step's: of what was being written, or removed. */
static bool is_left_over(const char *name) {
  size_t n = strlen(name);
  return name[0] == '.' && strncmp(name + 1, prefix, strlen(prefix)) == 0 &&
         ((n > 5 && strcmp(name + n - 5, ".part") == 0) || (n > 4 && strcmp(name + n - 4, ".old") == 0));
}

static Status sweep(const char *folder) {
  DIR *dir = opendir(folder);
  const struct dirent *entry;
  Status status = OK;
  char path[FOLDER_PATH];
  if (!dir)
    return fail_path(folder, "cannot be read");
  while (status == OK && (entry = readdir(dir)))
    if (is_left_over(entry->d_name) && snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) < FOLDER_PATH)
      status = remove_folder(path);
  closedir(dir);
  return status;
}

/* Every folder on the way, too. */
static Status make_folders(const char *folder) {
  char path[FOLDER_PATH];
  size_t n = strlen(folder);
  if (n >= sizeof path)
    return fail(E_IO, "%s: the path is longer than %d", folder, FOLDER_PATH);
  memcpy(path, folder, n + 1);
  for (size_t i = 1; i <= n; i++) {
    if (path[i] != '/' && path[i])
      continue;
    char kept = path[i];
    path[i] = '\0';
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
      return fail_path(path, "cannot be made");
    path[i] = kept;
  }
  return OK;
}

/* folder/name into path [FOLDER_PATH]. */
static Status join_name(char *path, const char *folder, const char *name) {
  return snprintf(path, FOLDER_PATH, "%s/%s", folder, name) < FOLDER_PATH
             ? OK
             : fail(E_IO, "%s: the path is longer than %d", folder, FOLDER_PATH);
}

/* The lock's file, with who has it. */
static Status take_lock(const char *folder, int *lock) {
  char path[FOLDER_PATH], who[256] = "";
  TRY(join_name(path, folder, lock_name));
  int descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0)
    return fail_path(folder, "cannot be written");
  if (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    int error = errno;
    ssize_t n = pread(descriptor, who, sizeof who - 1, 0);
    who[n > 0 ? n : 0] = '\0';
    close(descriptor);
    return error == EWOULDBLOCK
               ? fail(E_USAGE, "%s: another run writes its checkpoints there%s%s", folder, *who ? ": " : "", who)
               : fail(E_IO, "%s: cannot be locked: %s", path, strerror(error));
  }
  char host[128] = "";
  gethostname(host, sizeof host - 1);
  int n = snprintf(who, sizeof who, "process %d on %s", (int)getpid(), host);
  if (ftruncate(descriptor, 0) != 0 || pwrite(descriptor, who, (size_t)n, 0) != n) {
    Status status = fail_path(path, "cannot be written");
    close(descriptor);
    return status;
  }
  *lock = descriptor;
  return OK;
}

Status folder_take(const char *folder, int *lock) {
  *lock = -1;
  TRY(make_folders(folder));
  TRY(take_lock(folder, lock));
  Status status = sweep(folder);
  if (status != OK) {
    close(*lock);
    *lock = -1;
  }
  return status;
}

Status folder_hold(const char *folder, int lock) {
  char path[FOLDER_PATH];
  struct stat own, there;
  int fresh;
  TRY(join_name(path, folder, lock_name));
  if (fstat(lock, &own) == 0 && stat(path, &there) == 0 && own.st_dev == there.st_dev && own.st_ino == there.st_ino)
    return OK;
  Status status = take_lock(folder, &fresh);
  if (status == E_USAGE)
    status_context("the lock that this run had was removed: ");
  TRY(status);
  if (dup3(fresh, lock, O_CLOEXEC) < 0)
    status = fail_path(path, "cannot be locked");
  close(fresh);
  return status;
}

Status folder_begin(const char *folder, int64_t step, uint64_t bytes) {
  char path[FOLDER_PATH], aside[FOLDER_PATH];
  TRY(join(path, folder, "", step, ""));
  TRY(join(aside, folder, ".", step, ".part"));
  TRY(remove_folder(aside));
  TRY(file_check_space(path, bytes));
  return mkdir(aside, 0777) == 0 ? OK : fail_path(aside, "cannot be made");
}

/* Out of sight at once, then away. */
static Status remove_step(const char *folder, int64_t step) {
  char path[FOLDER_PATH], old[FOLDER_PATH];
  TRY(join(path, folder, "", step, ""));
  TRY(join(old, folder, ".", step, ".old"));
  TRY(remove_folder(old));
  if (rename(path, old) != 0)
    return errno == ENOENT ? OK : fail_path(path, "cannot be removed");
  return remove_folder(old);
}

Status folder_commit(const char *folder, int64_t step) {
  char path[FOLDER_PATH], aside[FOLDER_PATH];
  TRY(join(path, folder, "", step, ""));
  TRY(join(aside, folder, ".", step, ".part"));
  TRY(folder_sync(aside));
  if (renameat2(AT_FDCWD, aside, AT_FDCWD, path, RENAME_EXCHANGE) == 0) {
    TRY(folder_sync(folder));
    (void)remove_folder(aside); /* what is left of the old one folder_take removes */
    return OK;
  }
  if (access(path, F_OK) == 0) /* a file system that exchanges nothing */
    TRY(remove_step(folder, step));
  if (rename(aside, path) != 0)
    return fail_path(path, "cannot be written");
  return folder_sync(folder);
}

void folder_abandon(const char *folder, int64_t step) {
  char aside[FOLDER_PATH];
  if (join(aside, folder, ".", step, ".part") == OK)
    (void)remove_folder(aside);
}

Status folder_mark_best(const char *folder, int64_t step) {
  char path[FOLDER_PATH], aside[FOLDER_PATH], name[64];
  TRY(join_name(path, folder, best_name));
  TRY(join_name(aside, folder, ".best"));
  snprintf(name, sizeof name, "%s%09lld", prefix, (long long)step);
  if ((unlink(aside) != 0 && errno != ENOENT) || symlink(name, aside) != 0 || rename(aside, path) != 0)
    return fail_path(path, "cannot be written");
  return folder_sync(folder);
}

Status folder_keep(const char *folder, int keep) {
  Arena *arena = arena_create();
  int64_t *steps;
  int n;
  char best[FOLDER_PATH];
  Status status = arena ? join_name(best, folder, best_name) : status_code();
  if (status == OK)
    status = folder_list(arena, folder, &steps, &n);
  for (int i = 0; status == OK && i + keep < n; i++)
    if (steps[i] != step_of_link(best))
      status = remove_step(folder, steps[i]);
  arena_destroy(arena);
  return status;
}

static Status set_aside(const char *folder, int64_t step) {
  char path[FOLDER_PATH], other[FOLDER_PATH];
  TRY(join(path, folder, "", step, ""));
  TRY(join(other, folder, "damaged-", step, ""));
  TRY(remove_folder(other));
  return rename(path, other) == 0 ? OK : fail_path(path, "cannot be renamed");
}

Status folder_set_aside_after(const char *folder, int64_t step) {
  Arena *arena = arena_create();
  int64_t *steps;
  int n;
  Status status = arena ? folder_list(arena, folder, &steps, &n) : status_code();
  for (int i = 0; status == OK && i < n; i++)
    if (steps[i] > step)
      status = set_aside(folder, steps[i]);
  arena_destroy(arena);
  return status;
}
