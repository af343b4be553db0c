/* Synthesis of the `auto` schedule for given, unequal times, latencies and memory limits: list scheduling under many
 * priorities, then local improvement, a fixed amount of work and no clock, so that the same request gives the same
 * schedule. */
#ifndef PARTITIONER_SYNTHESIS_AUTO_H
#define PARTITIONER_SYNTHESIS_AUTO_H

#include "partitioner/schedule/schedule.h"
#include "partitioner/schedule/simulate.h"

typedef enum { OBJECTIVE_SPAN, OBJECTIVE_MAKESPAN } Objective;

/* One placement that the schedule may have. Where stages are already cut, all candidates have the same stages. */
typedef struct {
  Placement placement;
  const Timing *timing;       /* memory_limit NULL: none */
  const Crossings *crossings; /* NULL: everything crosses */
} AutoCandidate;

typedef struct {
  const AutoCandidate *candidates; /* [n_candidates], all of the same ranks and microbatches */
  int n_candidates;
  Objective objective;
  double most_effort;  /* operations placed or timed for each candidate, some times over; 0: as many as pay */
  double beat_seconds; /* of the objective: what is not below is of no use, and candidates whose bound is not are left
                          out; 0: everything is */
} AutoRequest;

typedef struct {
  int chosen; /* index of the candidate */
  /* Of the objective, over all candidates: no schedule of any of them is shorter. gap = reached / bound - 1. */
  double lower_bound_seconds, gap;
} AutoReport;

/* The best schedule found over the candidates, transfers included. E_LIMIT where no candidate can hold one
 * microbatch, naming the rank, its limit and what it needs, or where none was found below beat_seconds. */
Status schedule_auto(Arena *arena, const AutoRequest *request, Schedule *schedule, AutoReport *report);

/* A proved lower bound of the objective for any schedule of this placement where everything crosses, in seconds. */
Status schedule_lower_bound(const Timing *timing, Objective objective, double *seconds);

/* The rank of each stage: line and loop go round, a V turns at its ends. rank_of_stage [ranks * chunks]. */
void placement_ranks(Placement placement, int ranks, int chunks, int *rank_of_stage);

#endif
