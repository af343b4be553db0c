/* Invariant: the file is a beginning of all lines, in their order, whatever failed in between: a part of a line that
 * was written is followed by its rest. */
#include "runtime/training/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

enum { MOST_WAITING = 16 << 20 }; /* bytes */

struct Metrics {
  char *path;
  int descriptor;
  Text waiting;
  bool fails;   /* since the last line that was written */
  long dropped; /* lines for which there was no room; none is added after the first */
};

Status metrics_open(const char *path, bool anew, Metrics **out) {
  Metrics *m = calloc(1, sizeof *m);
  if (!m || !(m->path = strdup(path))) {
    free(m);
    return fail(E_MEMORY, "out of memory");
  }
  m->descriptor = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (anew ? O_TRUNC : O_APPEND), 0666);
  if (m->descriptor < 0) {
    Status status = fail(E_IO, "%s: cannot be written: %s", path, strerror(errno));
    free(m->path);
    free(m);
    return status;
  }
  *out = m;
  return OK;
}

/* As much of what waits as the file takes; the error that ended it, 0: all. */
static int flush(Metrics *m) {
  size_t done = 0;
  int error = 0;
  while (done < m->waiting.length && !error) {
    ssize_t n = write(m->descriptor, m->waiting.data + done, m->waiting.length - done);
    if (n > 0)
      done += (size_t)n;
    else if (errno != EINTR)
      error = n < 0 ? errno : ENOSPC;
  }
  if (done) {
    m->waiting.length -= done;
    memmove(m->waiting.data, m->waiting.data + done, m->waiting.length + 1);
  }
  return error;
}

bool metrics_add(Metrics *m, const char *line) {
  bool failed_before = m->fails;
  if (m->dropped || m->waiting.length + strlen(line) > MOST_WAITING)
    m->dropped++;
  else
    text_add_string(&m->waiting, line);
  if (m->waiting.failed) { /* memory is out: what waits is whole up to here */
    m->waiting.failed = false;
    m->dropped++;
  }
  int error = flush(m);
  m->fails = error != 0;
  if (error && !failed_before)
    fail(E_IO, "%s: cannot be written: %s", m->path, strerror(error));
  return error && !failed_before;
}

static void release(Metrics *m) {
  text_free(&m->waiting);
  free(m->path);
  free(m);
}

Status metrics_close(Metrics *m) {
  if (!m)
    return OK;
  Status status = OK;
  int error = flush(m);
  long lines = m->dropped;
  for (size_t i = 0; i < m->waiting.length; i++)
    lines += m->waiting.data[i] == '\n';
  if (close(m->descriptor) && !error)
    error = errno;
  if (lines)
    status = fail(E_IO, "%s: cannot be written: %s; its last %ld line%s missing", m->path,
                  error ? strerror(error) : "too much has waited", lines, lines == 1 ? " is" : "s are");
  else if (error)
    status = fail(E_IO, "%s: cannot be written: %s", m->path, strerror(error));
  release(m);
  return status;
}

void metrics_discard(Metrics *m) {
  if (!m)
    return;
  flush(m);
  close(m->descriptor);
  release(m);
}
