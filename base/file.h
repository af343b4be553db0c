/* Opening files to read, and writing them so that a reader sees the old one or the new one, never a part. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/status.h"

/* A file being written aside its final place. */
typedef struct {
  FILE *stream; /* write here */
  char *path, *aside;
} FileReplace;

/* Opens to read a file of `bytes` bytes. A directory, a pipe or a device is refused, and none is waited for. Fails E_IO
 * with the reason alone: the caller names the path. */
Status file_open(const char *path, int *descriptor, size_t *bytes);

/* A whole file as text in the arena. Fails E_IO, and E_MODEL where it holds a zero byte, with the path. */
Status file_read_text(Arena *arena, const char *path, const char **text);

/* Whether both paths lead to one file that is there. */
bool file_same(const char *path, const char *other);
/* Whether both say one name in one folder, whatever lies there. */
bool file_same_place(const char *path, const char *other);

/* Fails E_IO, with both numbers, where the file system of `path` has less than so many bytes left for this user. */
Status file_check_space(const char *path, uint64_t bytes);

/* Opens a new file in the folder of `path`, where nothing but a regular file may stand: a device would be lost. What
 * writers that were killed left there of this path is removed. Fails E_IO naming the path and the reason. */
Status file_replace_begin(const char *path, FileReplace *file);
/* Flushes, syncs and renames over `path`. On failure the old file stands and the new one is removed. */
Status file_replace_commit(FileReplace *file);
/* Removes what was written aside; the old file stands. */
void file_replace_abandon(FileReplace *file);
/* For a signal's handler that ends the process: removes whatever is being written aside just now. */
void file_replace_abandon_all(void);

#endif
