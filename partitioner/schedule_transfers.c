/* Owns where SENDs and RECVs stand among compute actions. Invariant: both ends of a pair and direction list the same
 * transfers in the same order, whatever the compute orders are. */
#include "partitioner/schedule_internal.h"

#include <stdlib.h>

/* A RECV that a rank has to post right before its compute action number `before`. */
typedef struct {
  Action action;
  int before, use; /* use: the number of the compute action that needs it */
  int order;
} Receive;

typedef struct {
  Receive *items;
  int n;
  size_t capacity;
} Receives;

typedef struct {
  Arena *arena, *scratch;
  const Crossings *crossings;
  Schedule *out;      /* compute actions alone, until the transfers are put in */
  int *number;        /* at walk_index: of a compute action on its rank, -1: there is none */
  Receives *receives; /* [ranks]; by sender, each sender's in the order in which it sends */
} Placer;

static int *number_of(const Placer *placer, int kind, int stage, int microbatch) {
  return &placer->number[walk_index(placer->out, kind, stage, microbatch)];
}

static Status misplaced(const Schedule *schedule, int rank, Action action, const char *problem) {
  char text[32];
  return fail(E_USAGE, "schedule %s: rank %d: %s %s", schedule->name, rank, action_text(action, text), problem);
}

/* The compute actions of each rank into lists of their own. */
static Status copy_computes(Placer *placer, const Schedule *schedule) {
  TRY(ARENA_NEW(placer->arena, placer->out->lists, schedule->ranks));
  for (int rank = 0; rank < schedule->ranks; rank++) {
    const ActionList *from = &schedule->lists[rank];
    ActionList *to = &placer->out->lists[rank];
    TRY(ARENA_NEW(placer->scratch, to->actions, from->n_actions));
    for (int i = 0; i < from->n_actions; i++) {
      Action action = from->actions[i];
      if (!action_is_compute(action) && action.kind < ACTION_KINDS)
        continue;
      if (action.kind >= ACTION_KINDS || action.stage >= schedule->stages ||
          action.microbatch >= schedule->microbatches || schedule->rank_of_stage[action.stage] != rank)
        return misplaced(schedule, rank, action, "does not belong there");
      to->actions[to->n_actions++] = action;
    }
  }
  return OK;
}

/* Numbers the compute actions of each rank; each that the walk and the transfers ask for is there. */
static Status number_computes(Placer *placer) {
  const Schedule *schedule = placer->out;
  size_t n = walk_index(schedule, ACTION_KINDS, 0, 0);
  TRY(ARENA_NEW(placer->scratch, placer->number, n));
  for (size_t i = 0; i < n; i++)
    placer->number[i] = -1;
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
      Action action = schedule->lists[rank].actions[i];
      int *number = number_of(placer, action.kind, action.stage, action.microbatch);
      if (*number >= 0)
        return misplaced(schedule, rank, action, "stands a second time");
      *number = i;
    }
  for (int stage = 0; stage < schedule->stages; stage++)
    for (int m = 0; m < schedule->microbatches; m++) {
      Action needed[2] = {{.kind = ACTION_F, .stage = (uint16_t)stage, .microbatch = (uint16_t)m}};
      needed[1] = needed[0];
      needed[1].kind = (uint8_t)schedule_first_backward(schedule, placer->crossings, stage);
      for (int i = 0; i < (schedule->forward_only ? 1 : 2); i++)
        if (*number_of(placer, needed[i].kind, stage, m) < 0)
          return misplaced(schedule, schedule->rank_of_stage[stage], needed[i], "is missing");
    }
  return OK;
}

/* The SEND that follows a compute action and the RECV that it meets; false: none does. */
static bool transfer_after(const Placer *placer, Action action, Action *send, Action *receive) {
  const Schedule *schedule = placer->out;
  bool forward = action.kind == ACTION_F;
  int stage = action.stage, other = forward ? stage + 1 : stage - 1;
  if (action.kind == ACTION_W || other < 0 || other >= schedule->stages)
    return false;
  if (forward ? !schedule_transfers_f(schedule, placer->crossings, stage)
              : !schedule_transfers_b(schedule, placer->crossings, other))
    return false;
  *send = *receive = action;
  send->kind = forward ? ACTION_SEND_F : ACTION_SEND_B;
  send->peer = (uint16_t)schedule->rank_of_stage[other];
  receive->kind = forward ? ACTION_RECV_F : ACTION_RECV_B;
  receive->stage = (uint16_t)other;
  receive->peer = (uint16_t)schedule->rank_of_stage[stage];
  return true;
}

static Status collect_receives(Placer *placer) {
  const Schedule *schedule = placer->out;
  TRY(ARENA_NEW(placer->scratch, placer->receives, schedule->ranks));
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
      Action send, receive;
      if (!transfer_after(placer, schedule->lists[rank].actions[i], &send, &receive))
        continue;
      int kind = receive.kind == ACTION_RECV_F ? ACTION_F
                                               : schedule_first_backward(schedule, placer->crossings, receive.stage);
      Receives *receives = &placer->receives[send.peer];
      TRY(ARENA_RESERVE(placer->scratch, receives->items, receives->n, receives->capacity, receives->n + 1));
      receives->items[receives->n] = (Receive){
          .action = receive, .use = *number_of(placer, kind, receive.stage, receive.microbatch), .order = receives->n};
      receives->n++;
    }
  return OK;
}

static int compare_receives(const void *a, const void *b) {
  const Receive *left = a, *right = b;
  return left->before != right->before ? left->before - right->before : left->order - right->order;
}

/* Where each RECV of a rank stands: receive_ahead before its use, but not after one that the same peer sends later. */
static void place_receives(Placer *placer, Receives *receives) {
  Schedule *schedule = placer->out;
  int ahead = schedule->receive_ahead;
  for (int i = receives->n - 1; i >= 0; i--) {
    Receive *receive = &receives->items[i];
    receive->before = receive->use > ahead ? receive->use - ahead : 0;
    if (i + 1 < receives->n && receives->items[i + 1].action.peer == receive->action.peer &&
        receives->items[i + 1].before < receive->before)
      receive->before = receives->items[i + 1].before;
  }
  if (receives->n > 0)
    qsort(receives->items, (size_t)receives->n, sizeof *receives->items, compare_receives);
}

/* Compute actions with what is posted between them. */
static Status merge(Placer *placer, int rank) {
  ActionList *list = &placer->out->lists[rank], merged = {0};
  Receives *receives = &placer->receives[rank];
  TRY(ARENA_NEW(placer->arena, merged.actions, 2 * list->n_actions + receives->n));
  uint8_t group = 1;
  for (int i = 0, next = 0; i <= list->n_actions; i++) {
    Action send, receive;
    int begin = merged.n_actions;
    if (i > 0 && transfer_after(placer, list->actions[i - 1], &send, &receive))
      merged.actions[merged.n_actions++] = send;
    while (next < receives->n && receives->items[next].before == i)
      merged.actions[merged.n_actions++] = receives->items[next++].action;
    if (merged.n_actions > begin + 1) {
      for (int k = begin; k < merged.n_actions; k++)
        merged.actions[k].group = group;
      group = group == 1 ? 2 : 1;
    }
    if (i < list->n_actions)
      merged.actions[merged.n_actions++] = list->actions[i];
  }
  *list = merged;
  return OK;
}

static Status refuse_order(const Schedule *schedule, const ScheduleWalk *walk) {
  char waits[32], missing[32];
  return fail(E_USAGE, "schedule %s: rank %d, compute action %d, %s: waits for ever for %s", schedule->name, walk->rank,
              walk->position[walk->rank],
              action_text(schedule->lists[walk->rank].actions[walk->position[walk->rank]], waits),
              action_text(walk->missing, missing));
}

/* As much depth as lets the ranks go on; with one for every microbatch no SEND is ever waited for before the end. */
static Status deepen(Placer *placer) {
  for (Schedule *out = placer->out;; out->send_depth++) {
    ScheduleWalk walk;
    TRY(schedule_walk(placer->scratch, out, placer->crossings, true, &walk));
    if (walk.ended || out->send_depth >= out->microbatches)
      return OK;
  }
}

static Status place(Placer *placer, const Schedule *schedule) {
  ScheduleWalk walk;
  TRY(copy_computes(placer, schedule));
  TRY(number_computes(placer));
  TRY(schedule_walk(placer->scratch, placer->out, placer->crossings, false, &walk));
  if (!walk.ended)
    return refuse_order(placer->out, &walk);
  TRY(collect_receives(placer));
  for (int rank = 0; rank < schedule->ranks; rank++)
    place_receives(placer, &placer->receives[rank]);
  for (int rank = 0; rank < schedule->ranks; rank++) {
    const Receives *receives = &placer->receives[rank];
    for (int i = 0; i < receives->n; i++)
      if (receives->items[i].use - receives->items[i].before > placer->out->receive_ahead)
        placer->out->receive_ahead = receives->items[i].use - receives->items[i].before;
    TRY(merge(placer, rank));
  }
  return deepen(placer);
}

Status schedule_add_transfers(Arena *arena, const Schedule *schedule, const Crossings *crossings, Schedule *out) {
  Schedule result = *schedule;
  Placer placer = {.arena = arena, .scratch = arena_create(), .crossings = crossings, .out = &result};
  if (!placer.scratch)
    return status_code();
  Status status = place(&placer, schedule);
  arena_destroy(placer.scratch);
  if (status == OK)
    *out = result;
  return status;
}
