/* Times a schedule: when each action begins and ends on each rank, for given F, B and W times, link latency and
 * memory. The same model serves `simulate`, the planner's prediction and the synthesis of `auto`. */
#ifndef PARTITIONER_SCHEDULE_SIMULATE_H
#define PARTITIONER_SCHEDULE_SIMULATE_H

#include "partitioner/schedule/schedule.h"

/* Times of one microbatch in one stage and what it keeps. Arrays are per stage. */
typedef struct {
  int ranks, stages, microbatches;
  const int *rank_of_stage;
  const double *forward_seconds, *backward_input_seconds, *backward_weight_seconds; /* [stages] */
  const double *activation;    /* [stages]: kept from F until B (and W) ends; any unit */
  double backward_input_frees; /* fraction of it that B frees already, the rest goes with W */
  const double *memory_limit;  /* [ranks], same unit; NULL: none */
  double link_latency_seconds; /* between different ranks, on every hop */
  double capacity;             /* so many ranks can compute at once, more share their time evenly; 0: all can */
  const double *forward_link_seconds, *backward_link_seconds; /* [stages - 1]: transfer time over a cut; NULL: none */
} Timing;

typedef struct {
  double makespan_seconds;     /* first F to last W of all ranks */
  double longest_span_seconds; /* the longest of the ranks' spans, first F to last W */
  double bubble;               /* 1 - busiest rank's work / longest span */
  double *span_seconds;        /* [ranks] */
  double *work_seconds;        /* [ranks] */
  double *peak_memory;         /* [ranks]; F adds its stage's activation, B frees its fraction, W the rest */
  double **begin, **end;       /* [rank][action]; a transfer has both where it is posted */
  double **arrival;            /* [rank][action]: when what a compute action sends has arrived; its end if nothing */
} Simulation;

/* Every action as early as the order of its rank and its inputs allow; transfers in the lists take no rank time.
 * Lists may hold compute actions alone: what crosses between ranks travels all the same, one transfer after the other
 * per ordered pair of ranks for the link's seconds, then the latency. A backward needs the next stage's backward
 * where the lists have one; a W whose stage has no B takes the time of both. E_USAGE where the schedule does not fit
 * the timing or waits for ever. */
Status simulate_schedule(Arena *arena, const Schedule *schedule, const Timing *timing, Simulation *result);

#endif
