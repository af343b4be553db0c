/* What-if studies of schedules: from times, latency and memory limit to a schedule, its timing and the ways of showing
 * it. The data side of `onnxpipe simulate`. */
#ifndef PARTITIONER_STUDY_H
#define PARTITIONER_STUDY_H

#include "partitioner/auto.h"

/* Milliseconds of one microbatch on one rank; with several stages a rank, times and memory divide evenly. */
typedef struct {
  int ranks, microbatches;
  int chunks;                                                        /* 0: what the schedule has; auto: any */
  const double *forward_ms, *backward_input_ms, *backward_weight_ms; /* [ranks] */
  double p2p_ms;                                                     /* latency between different ranks */
  const double *memory_limit_microbatches;                           /* [ranks]; NULL: none */
  double backward_input_frees;                                       /* fraction of activations, 0 to 1 */
  const char *schedule;                                              /* a name, or "auto" */
  const char *schedule_text; /* not NULL: this one, in text form, instead of the name; as in a schedule file */
  Objective objective;
} StudyRequest;

typedef struct {
  Schedule schedule;
  Timing timing; /* in seconds */
  Simulation simulation;
  Objective objective;
  double lower_bound_seconds, gap; /* of the objective, any schedule of any placement; gap = reached / bound - 1 */
} StudyResult;

/* Makes or reads the schedule, checks and times it. E_USAGE for numbers that make no sense, an unknown name, or a text
 * that schedule_check refuses; E_MEMORY where the limit does not suffice, with rank and numbers. */
Status study_run(Arena *arena, const StudyRequest *request, StudyResult *result);

/* One JSON object: schedule, makespan_ms, longest_span_ms, bubble, lower_bound (ms of the objective), gap,
 * peak_memory (microbatches, one number a rank), text. */
Status study_json(const StudyResult *result, FILE *file);

/* The numbers in a few lines, then the rank × time grid, no line wider than `columns`. */
Status study_print(const StudyResult *result, FILE *file, int columns);

/* One self-contained HTML page: rank × time with forward, backward, weight, transfer and idle; memory over time
 * against the limit. */
Status study_report_html(const StudyResult *result, FILE *file);

#endif
