/* What the files of the schedule share and nobody else needs. */
#ifndef PARTITIONER_SCHEDULE_INTERNAL_H
#define PARTITIONER_SCHEDULE_INTERNAL_H

#include "partitioner/schedule/schedule.h"

/* A walk over well-formed lists as ranks would make it that buffer nothing: ended at the end of all lists, or where no
 * rank can go on. */
typedef struct {
  int *position; /* [ranks]: the action that each rank stands before; n_actions: it waits for SENDs to be taken */
  bool *done;    /* [ACTION_KINDS * stages * microbatches]: computed, or posted; at walk_index */
  int *end;      /* the same: when a compute action ends by schedule_units, if nothing else takes time */
  bool ended;
  int rank;       /* not ended: the first rank that waits, and what for: */
  Action missing; /* the action, on whatever rank, that it waits for */
} ScheduleWalk;

static inline size_t walk_index(const Schedule *schedule, int kind, int stage, int microbatch) {
  return ((size_t)kind * (size_t)schedule->stages + (size_t)stage) * (size_t)schedule->microbatches +
         (size_t)microbatch;
}

/* Walks the lists. Kinds, stages, microbatches and peers must be in range. Without `transfers` (lists of compute
 * actions alone) results are at hand as soon as they are computed. Memory comes from the arena. */
Status schedule_walk(Arena *arena, const Schedule *schedule, const Crossings *crossings, bool transfers,
                     ScheduleWalk *walk);

/* How long a compute action takes where nothing is known: F, B and W 1 each, BW and W of a stage without B do both. */
static inline int schedule_units(const Crossings *crossings, Action action) {
  return action.kind == ACTION_BW || (action.kind == ACTION_W && !schedule_has_b(crossings, action.stage)) ? 2 : 1;
}

/* Whether something goes over the cut between two ranks. */
static inline bool schedule_transfers_f(const Schedule *schedule, const Crossings *crossings, int cut) {
  return schedule_crosses_f(crossings, cut) && schedule->rank_of_stage[cut] != schedule->rank_of_stage[cut + 1];
}
static inline bool schedule_transfers_b(const Schedule *schedule, const Crossings *crossings, int cut) {
  return !schedule->forward_only && schedule_crosses_b(crossings, cut) &&
         schedule->rank_of_stage[cut] != schedule->rank_of_stage[cut + 1];
}

/* The kind of a stage's backward action that takes the gradient from the next stage, and of the one that makes the
 * gradient for the stage before (where it has one). */
static inline int schedule_first_backward(const Schedule *schedule, const Crossings *crossings, int stage) {
  return schedule->joined ? ACTION_BW : schedule_has_b(crossings, stage) ? ACTION_B : ACTION_W;
}
static inline int schedule_gradient_kind(const Schedule *schedule) {
  return schedule->joined ? ACTION_BW : ACTION_B;
}

#endif
