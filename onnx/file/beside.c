/* Names of files of weights. Invariant: what is removed has a name that only we give, and no model names it. */
#include "onnx/file/beside.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mapped.h"
#include "onnx/file/wire.h"

static const char *last_part(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

char *beside_path(Arena *arena, const char *path, const char *name) {
  return arena_format(arena, "%.*s%s", (int)(last_part(path) - path), path, name);
}

Status beside_choose(Arena *arena, const char *path, const char **name) {
  struct stat info;
  for (int i = 0;; i++) {
    const char *base = last_part(path), *whole;
    *name = i ? arena_format(arena, "%s.%d.data", base, i) : arena_format(arena, "%s.data", base);
    if (!*name || !(whole = beside_path(arena, path, *name)))
      return status_code();
    if (lstat(whole, &info) && errno == ENOENT)
      return OK;
  }
}

/* "m.onnx.data" or "m.onnx.7.data" for the model "m.onnx". */
static bool is_of(const char *name, const char *base) {
  size_t n = strlen(base);
  if (strncmp(name, base, n) != 0)
    return false;
  if (strcmp(name + n, ".data") == 0)
    return true;
  size_t digits = name[n] == '.' ? strspn(name + n + 1, "0123456789") : 0;
  return digits && name[n + 1] != '0' && strcmp(name + n + 1 + digits, ".data") == 0;
}

/* Whether the model at `path` has `name` as a value of a property, as external data is named; what cannot be read may.
 */
static bool refers(const char *path, const char *name) {
  uint8_t pattern[1 + 10 + NAME_MAX];
  int descriptor;
  size_t bytes, length = strlen(name);
  Mapped mapped;
  if (length > NAME_MAX || file_open(path, &descriptor, &bytes) != OK)
    return true;
  pattern[0] = 2 << 3 | 2; /* StringStringEntryProto.value */
  size_t n = 1 + wire_put_varint(pattern + 1, length, 0);
  memcpy(pattern + n, name, length);
  bool may = true;
  if (mapped_open(descriptor, 0, bytes, &mapped) == OK) {
    may = mapped.data && memmem(mapped.data, mapped.bytes, pattern, n + length);
    may |= mapped_damaged(&mapped);
    mapped_close(&mapped);
  }
  close(descriptor);
  return may;
}

static DIR *open_folder(Arena *arena, const char *path) {
  char *folder = beside_path(arena, path, ".");
  return folder ? opendir(folder) : NULL;
}

Status beside_list(Arena *arena, const char *path, const char ***names, int *n) {
  size_t capacity = 0;
  *names = NULL;
  *n = 0;
  if (access(path, F_OK) != 0)
    return OK;
  DIR *folder = open_folder(arena, path);
  Status status = OK;
  for (struct dirent *entry; folder && status == OK && (entry = readdir(folder));) {
    if (!is_of(entry->d_name, last_part(path)) || !refers(path, entry->d_name))
      continue;
    status = ARENA_RESERVE(arena, *names, *n, capacity, *n + 1);
    if (status == OK && !((*names)[(*n)++] = arena_string(arena, entry->d_name)))
      status = status_code();
  }
  if (folder)
    closedir(folder);
  return status;
}

void beside_remove(Arena *arena, const char *path, const char *name) {
  DIR *folder = open_folder(arena, path);
  bool needed = folder == NULL;
  for (struct dirent *entry; !needed && (entry = readdir(folder));) {
    size_t length = strlen(entry->d_name);
    if (length < 5 || strcmp(entry->d_name + length - 5, ".onnx") != 0)
      continue;
    char *other = beside_path(arena, path, entry->d_name);
    needed = !other || refers(other, name);
  }
  if (folder)
    closedir(folder);
  needed = needed || refers(path, name); /* whatever its name ends in */
  char *whole = beside_path(arena, path, name);
  struct stat info;
  if (!needed && whole && lstat(whole, &info) == 0 && S_ISREG(info.st_mode))
    unlink(whole);
}
