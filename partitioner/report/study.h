/* What-if studies of schedules: from times, latency and memory limit to a schedule, its timing and the ways of showing
 * it. The data side of `onnxpipe simulate`. */
#ifndef PARTITIONER_REPORT_STUDY_H
#define PARTITIONER_REPORT_STUDY_H

#include "partitioner/synthesis/auto.h"

/* Milliseconds of one microbatch on one rank; with several stages a rank, times and memory divide evenly. No gradient
 * leaves the first stage: its backward, B and W together, is one action. */
typedef struct {
  int ranks, microbatches;
  int chunks;                                                        /* 0: what the schedule has; auto: 1 or 2 */
  const double *forward_ms, *backward_input_ms, *backward_weight_ms; /* [ranks] */
  double p2p_ms;                                                     /* latency between different ranks */
  const double *memory_limit_microbatches;                           /* [ranks]; NULL: none */
  double backward_input_frees;                                       /* fraction of activations, 0 to 1 */
  const char *schedule;                                              /* a name of schedule_names, or "auto" */
  const char *schedule_text; /* not NULL: this one, in text form, instead of the name; compute actions alone get their
                                transfers put in */
  Objective objective;
} StudyRequest;

typedef struct {
  Schedule schedule;
  Timing timing; /* in seconds; memory in microbatches of one rank */
  Simulation simulation;
  Objective objective;
  /* Of the objective: no schedule that fits is shorter, of this placement, of a line with one stage a rank, and of
   * loops and Vs with two or request.chunks. gap = reached / bound - 1. */
  double lower_bound_seconds, gap;
  /* After a failure: whether `schedule` is what was read from the text and refused, and where. */
  bool refused;
  SchedulePlace refused_at;
} StudyResult;

enum { STUDY_CELLS = 1 << 22 }; /* most stages x microbatches */

/* Makes or reads the schedule, proves and times it. E_USAGE for numbers that make no sense, an unknown name, or a text
 * for other ranks, microbatches or stages a rank, or with a rank that has none; E_MODEL for a text that is no schedule
 * or that schedule_prove refuses; E_LIMIT where the limit does not suffice, with rank and numbers. */
Status study_run(Arena *arena, const StudyRequest *request, StudyResult *result);

/* One JSON object: schedule, makespan_ms, longest_span_ms, bubble, lower_bound (ms of the objective), gap,
 * peak_memory (microbatches, one number a rank), text. */
Status study_json(const StudyResult *result, FILE *file);

/* The numbers in a few lines, then the rank × time grid, no line wider than `columns`. */
Status study_print(const StudyResult *result, FILE *file, int columns, bool colours);

/* One self-contained HTML page: rank × time with forward, backward, weight, transfer and idle; memory over time
 * against the limit. */
Status study_report_html(const StudyResult *result, FILE *file);

#endif
