/* Spans of ranks as a file that Chrome and Perfetto open: the JSON object form of the Trace Event Format. Invariant: it
 * is written as it comes, a rank after the other; nothing grows with the number of spans. */
#ifndef RUNTIME_TRAINING_CHROME_H
#define RUNTIME_TRAINING_CHROME_H

#include <stdio.h>

#include "partitioner/plan/plan.h"
#include "runtime/executor/trace.h"

/* How far a rank's clock is ahead of rank 0's, at two moments of its own; between and beside them it drifts evenly. */
typedef struct {
  double at[2], ahead[2];
} ClockFit;

/* What stands in front of the spans. Steps from 0. */
typedef struct {
  int64_t first, last; /* steps of which spans are written; `last` less than `first`: none */
  int64_t dropped;     /* steps before `first` that were recorded and had no room */
  bool complete;       /* every rank's spans of every step are whole */
  bool kernels;
  double clock_error_seconds; /* of aligning clocks, ranks' and their devices', at most */
} ChromeHead;

typedef struct Chrome Chrome;

/* `origin`: where ts is 0, on rank 0's clock. rest: NULL, or the plan of the last one of every epoch_steps steps, of no
 * more microbatches. Everything lives in the arena. */
Status chrome_begin(Arena *arena, const Plan *plan, const Plan *rest, int64_t epoch_steps, FILE *stream,
                    const ChromeHead *head, double origin, Chrome **chrome);
/* What follows is this rank's. process: the lowest rank in its process; has_device: some spans may be on one. */
void chrome_rank(Chrome *chrome, int rank, int process, const char *host, bool has_device, ClockFit fit);
/* Spans of the rank in order of their beginnings; those before head->first are left out. */
void chrome_spans(Chrome *chrome, const TraceEvent *events, size_t n);
/* The file is whole but for errors of its stream. */
void chrome_end(Chrome *chrome);

#endif
