/* Replacing files whole. Invariant: what lies at `path` is either the old file or the complete new one. */
#include "base/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void release(FileReplace *file) {
  free(file->path);
  free(file->aside);
  *file = (FileReplace){0};
}

Status file_replace_begin(const char *path, FileReplace *file) {
  *file = (FileReplace){.path = strdup(path)};
  if (!file->path || asprintf(&file->aside, "%s.tmpXXXXXX", path) < 0) {
    file->aside = NULL;
    release(file);
    return fail(E_MEMORY, "out of memory");
  }
  int descriptor = mkstemp(file->aside);
  if (descriptor >= 0) {
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
