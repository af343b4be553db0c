/* Schedules that came as compute actions alone. Invariant: a refusal names a place in the lists as they were written.
 */
#include "partitioner/schedule/internal.h"

static bool has_transfers(const Schedule *schedule) {
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++)
      if (!action_is_compute(schedule->lists[rank].actions[i]))
        return true;
  return false;
}

Status schedule_copy(Arena *arena, const Schedule *schedule, Schedule *copy) {
  *copy = *schedule;
  copy->name = arena_string(arena, schedule->name);
  copy->rank_of_stage = arena_copy(arena, schedule->rank_of_stage, (size_t)schedule->stages * sizeof(int));
  if (!copy->name || !copy->rank_of_stage)
    return status_code();
  TRY(ARENA_NEW(arena, copy->lists, schedule->ranks));
  for (int rank = 0; rank < schedule->ranks; rank++) {
    const ActionList *from = &schedule->lists[rank];
    copy->lists[rank].n_actions = from->n_actions;
    if (from->n_actions &&
        !(copy->lists[rank].actions = arena_copy(arena, from->actions, (size_t)from->n_actions * sizeof(Action))))
      return status_code();
  }
  return OK;
}

/* What schedule_prove would find as well, once transfers stand between the actions that were written: NULL where this
 * action may stand here, as number `turn` of its kind. */
static const char *objection(const Schedule *schedule, const Crossings *crossings, Action action, int turn) {
  if (schedule->joined && (action.kind == ACTION_B || action.kind == ACTION_W))
    return "B and W are one action, BW, in this schedule";
  if (action.kind == ACTION_B && !schedule_has_b(crossings, action.stage))
    return "no gradient leaves this stage: it has W alone";
  if (action.microbatch != turn)
    return action.microbatch < turn ? "stands twice" : "each kind runs in increasing microbatch order";
  return NULL;
}

static Status check_order(Arena *arena, const Schedule *schedule, const Crossings *crossings, SchedulePlace *where) {
  int *next; /* [(ACTION_BW + 1) * stages]: microbatch */
  char text[32];
  TRY(ARENA_NEW(arena, next, (ACTION_BW + 1) * schedule->stages));
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
      Action action = schedule->lists[rank].actions[i];
      const char *problem =
          objection(schedule, crossings, action, next[action.kind * schedule->stages + action.stage]++);
      if (!problem)
        continue;
      *where = (SchedulePlace){rank, i};
      return fail(E_USAGE, "schedule %s: rank %d, action %d, %s: %s", schedule->name, rank, i,
                  action_text(action, text), problem);
    }
  return OK;
}

static Status complete(Arena *arena, Arena *scratch, const Crossings *crossings, Schedule *schedule,
                       SchedulePlace *where) {
  TRY(check_order(scratch, schedule, crossings, where));
  if (schedule->receive_ahead < 1)
    schedule->receive_ahead = 1;
  Status status = schedule_add_transfers(arena, schedule, crossings, schedule);
  if (status == OK || status == E_MEMORY)
    return status;
  char *message = arena_string(scratch, status_message());
  ScheduleWalk walk;
  if (!message || schedule_walk(scratch, schedule, crossings, false, &walk) != OK)
    return status_code();
  if (!walk.ended)
    *where = (SchedulePlace){walk.rank, walk.position[walk.rank]};
  return fail(E_USAGE, "%s", message);
}

Status schedule_complete(Arena *arena, const Crossings *crossings, Schedule *schedule, SchedulePlace *where) {
  SchedulePlace place;
  if (has_transfers(schedule))
    return OK;
  Arena *scratch = arena_create();
  if (!scratch)
    return status_code();
  Status status = complete(arena, scratch, crossings, schedule, where ? where : &place);
  arena_destroy(scratch);
  return status;
}
