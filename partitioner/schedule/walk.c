/* Owns the model of how ranks walk their lists when nothing is buffered. Invariant: what a rank waits for never becomes
 * false again, so the order in which ranks are looked at decides nothing: either every walk ends or none does. */
#include "partitioner/schedule/internal.h"

typedef struct {
  const Schedule *schedule;
  const Crossings *crossings;
  bool transfers;
  ScheduleWalk *walk;
  int *unsent; /* [ranks]: where the search for SENDs that are not taken yet goes on */
  int *free;   /* [ranks]: the end of a rank's latest compute action */
} Walker;

static bool is_done(const Walker *walker, int kind, int stage, int microbatch) {
  return walker->walk->done[walk_index(walker->schedule, kind, stage, microbatch)];
}

/* Whether that action is done; else it is what the rank waits for. */
static bool met(const Walker *walker, int kind, int stage, int microbatch) {
  if (is_done(walker, kind, stage, microbatch))
    return true;
  walker->walk->missing = (Action){.kind = (uint8_t)kind, .stage = (uint16_t)stage, .microbatch = (uint16_t)microbatch};
  return false;
}

/* Whether SEND_F (or SEND_B) of a stage was taken: both ends are posted. */
static bool taken(const Walker *walker, bool forward, int stage, int microbatch) {
  return met(walker, forward ? ACTION_SEND_F : ACTION_SEND_B, stage, microbatch) &&
         met(walker, forward ? ACTION_RECV_F : ACTION_RECV_B, forward ? stage + 1 : stage - 1, microbatch);
}

/* Whether what a stage computed is at hand in the stage after (or before) it. */
static bool arrived(const Walker *walker, bool forward, int kind, int from, int microbatch) {
  const Schedule *schedule = walker->schedule;
  int to = forward ? from + 1 : from - 1;
  if (walker->transfers && schedule->rank_of_stage[from] != schedule->rank_of_stage[to])
    return taken(walker, forward, from, microbatch);
  return met(walker, kind, from, microbatch);
}

static bool inputs_met(const Walker *walker, Action action) {
  const Schedule *schedule = walker->schedule;
  int stage = action.stage, microbatch = action.microbatch;
  if (action.kind == ACTION_F)
    return stage == 0 || !schedule_crosses_f(walker->crossings, stage - 1) ||
           arrived(walker, true, ACTION_F, stage - 1, microbatch);
  if (!met(walker, ACTION_F, stage, microbatch))
    return false;
  if (action.kind != schedule_first_backward(schedule, walker->crossings, stage))
    return met(walker, ACTION_B, stage, microbatch);
  return stage + 1 == schedule->stages || !schedule_crosses_b(walker->crossings, stage) ||
         arrived(walker, false, schedule_gradient_kind(schedule), stage + 1, microbatch);
}

/* Whether the buffer that the action's result goes into is free. */
static bool buffer_met(const Walker *walker, Action action) {
  const Schedule *schedule = walker->schedule;
  int stage = action.stage, before = action.microbatch - schedule->send_depth;
  if (!walker->transfers || before < 0 || action.kind == ACTION_W)
    return true;
  if (action.kind == ACTION_F)
    return stage + 1 == schedule->stages || !schedule_transfers_f(schedule, walker->crossings, stage) ||
           taken(walker, true, stage, before);
  return !schedule_has_b(walker->crossings, stage) || !schedule_transfers_b(schedule, walker->crossings, stage - 1) ||
         taken(walker, false, stage, before);
}

/* Whether all SENDs of a rank at the end of its list were taken. */
static bool sends_taken(Walker *walker, int rank) {
  const ActionList *list = &walker->schedule->lists[rank];
  for (int *i = &walker->unsent[rank]; *i < list->n_actions; ++*i) {
    Action action = list->actions[*i];
    if ((action.kind == ACTION_SEND_F || action.kind == ACTION_SEND_B) &&
        !taken(walker, action.kind == ACTION_SEND_F, action.stage, action.microbatch))
      return false;
  }
  return true;
}

static int later_end(const Walker *walker, int kind, int stage, int microbatch, int time) {
  int end = walker->walk->end[walk_index(walker->schedule, kind, stage, microbatch)];
  return end > time ? end : time;
}

/* Notes when a compute action whose inputs are met ends. */
static void clock_action(Walker *walker, int rank, Action action) {
  const Schedule *schedule = walker->schedule;
  int *time = &walker->free[rank], stage = action.stage, m = action.microbatch;
  if (action.kind == ACTION_F && stage > 0 && schedule_crosses_f(walker->crossings, stage - 1))
    *time = later_end(walker, ACTION_F, stage - 1, m, *time);
  if (action.kind != ACTION_F && stage + 1 < schedule->stages && schedule_crosses_b(walker->crossings, stage) &&
      action.kind == schedule_first_backward(schedule, walker->crossings, stage))
    *time = later_end(walker, schedule_gradient_kind(schedule), stage + 1, m, *time);
  *time += schedule_units(walker->crossings, action);
  walker->walk->end[walk_index(schedule, action.kind, stage, m)] = *time;
}

/* As far as the rank can go; whether it moved. */
static bool advance(Walker *walker, int rank) {
  const ActionList *list = &walker->schedule->lists[rank];
  int *position = &walker->walk->position[rank];
  int begin = *position;
  for (; *position < list->n_actions; ++*position) {
    Action action = list->actions[*position];
    if (action_is_compute(action) && !(inputs_met(walker, action) && buffer_met(walker, action)))
      break;
    if (action_is_compute(action))
      clock_action(walker, rank, action);
    walker->walk->done[walk_index(walker->schedule, action.kind, action.stage, action.microbatch)] = true;
  }
  return *position > begin;
}

Status schedule_walk(Arena *arena, const Schedule *schedule, const Crossings *crossings, bool transfers,
                     ScheduleWalk *walk) {
  Walker walker = {.schedule = schedule, .crossings = crossings, .transfers = transfers, .walk = walk};
  TRY(ARENA_NEW(arena, walk->position, schedule->ranks));
  TRY(ARENA_NEW(arena, walker.unsent, schedule->ranks));
  TRY(ARENA_NEW(arena, walker.free, schedule->ranks));
  TRY(ARENA_NEW(arena, walk->done, walk_index(schedule, ACTION_KINDS, 0, 0)));
  TRY(ARENA_NEW(arena, walk->end, walk_index(schedule, ACTION_KINDS, 0, 0)));
  for (bool moved = true; moved;) {
    moved = false;
    for (int rank = 0; rank < schedule->ranks; rank++)
      moved |= advance(&walker, rank);
  }
  walk->ended = true;
  for (int rank = 0; rank < schedule->ranks && walk->ended; rank++) {
    walk->rank = rank;
    advance(&walker, rank); /* sets what it waits for */
    walk->ended = walk->position[rank] == schedule->lists[rank].n_actions && sends_taken(&walker, rank);
  }
  return OK;
}
