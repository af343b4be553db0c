/* Writing files so that a reader sees the old one or the new one, never a part. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdio.h>

#include "base/status.h"

/* A file being written aside its final place. */
typedef struct {
  FILE *stream; /* write here */
  char *path, *aside;
} FileReplace;

/* Opens a new file in the folder of `path`. Fails E_IO naming the path and the reason. */
Status file_replace_begin(const char *path, FileReplace *file);
/* Flushes, syncs and renames over `path`. On failure the old file stands and the new one is removed. */
Status file_replace_commit(FileReplace *file);
/* Removes what was written aside; the old file stands. */
void file_replace_abandon(FileReplace *file);

#endif
