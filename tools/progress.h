/* How far training is, on standard error: one line that is redrawn on a terminal, else a line now and then. */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include "runtime/onnxpipe.h"

typedef struct {
  int quiet, terminal;
  double begun, shown; /* seconds of a monotonic clock */
  OnnxpipeMetrics first, last;
} Progress;

/* Begins to count the time. `quiet`: nothing is shown. */
Progress progress_start(int quiet);
/* An OnnxpipeProgress; context: a Progress. */
void progress_step(void *progress, const OnnxpipeMetrics *metrics);
/* Ends the line, and says in one line on `out` what came of it, where it went well. */
void progress_end(Progress *progress, FILE *out, int good);

#endif
