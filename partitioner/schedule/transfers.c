/* Owns where SENDs and RECVs stand among compute actions. Invariant: both ends of a pair and direction list the same
 * transfers in the order in which the receiver needs them. So a RECV stands no earlier than it should, and a SEND that
 * waits for another one delays nobody: what its receiver needs first is not there before. */
#include "partitioner/schedule/internal.h"

/* A transfer and its places on both ranks, in numbers of compute actions. */
typedef struct {
  Action send, receive;
  int made, after; /* the sender's action that makes it; the one that its SEND follows */
  int use, before; /* the receiver's action that needs it; the one that its RECV stands right before */
} Passage;

/* What a rank posts, by place. */
typedef struct {
  Passage *items;
  int n;
  size_t capacity;
} Passages;

typedef struct {
  Arena *arena, *scratch;
  const Crossings *crossings;
  Schedule *out;              /* compute actions alone, until the transfers are put in */
  int *number;                /* at walk_index: of a compute action on its rank, -1: there is none */
  ScheduleWalk walk;          /* over the compute actions */
  Passages *receives, *sends; /* [ranks] */
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

static Status append(Placer *placer, Passages *passages, const Passage *passage) {
  TRY(ARENA_RESERVE(placer->scratch, passages->items, passages->n, passages->capacity, passages->n + 1));
  passages->items[passages->n++] = *passage;
  return OK;
}

static Status collect_receives(Placer *placer) {
  const Schedule *schedule = placer->out;
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
      Passage passage = {.made = i};
      if (!transfer_after(placer, schedule->lists[rank].actions[i], &passage.send, &passage.receive))
        continue;
      Action receive = passage.receive;
      int kind = receive.kind == ACTION_RECV_F ? ACTION_F
                                               : schedule_first_backward(schedule, placer->crossings, receive.stage);
      passage.use = *number_of(placer, kind, receive.stage, receive.microbatch);
      passage.before = passage.use > schedule->receive_ahead ? passage.use - schedule->receive_ahead : 0;
      TRY(append(placer, &placer->receives[passage.send.peer], &passage));
    }
  return OK;
}

/* By the action of the rank that uses it, or that its SEND follows; what is equal in that stays in its order. */
static Status sort(Placer *placer, int rank, Passages *passages, bool by_use) {
  int *place; /* [actions + 1]: of the next passage of each action */
  Passage *sorted;
  TRY(ARENA_NEW(placer->scratch, place, placer->out->lists[rank].n_actions + 1));
  TRY(ARENA_NEW(placer->scratch, sorted, passages->n));
  for (int i = 0; i < passages->n; i++)
    place[(by_use ? passages->items[i].use : passages->items[i].after) + 1]++;
  for (int action = 0; action < placer->out->lists[rank].n_actions; action++)
    place[action + 1] += place[action];
  for (int i = 0; i < passages->n; i++)
    sorted[place[by_use ? passages->items[i].use : passages->items[i].after]++] = passages->items[i];
  passages->items = sorted;
  return OK;
}

/* A SEND follows the action that makes it, or a later one where its receiver needs that one's result first. Those that
 * follow the same one stand in the order of their receivers, which they are appended in, and there of their uses. */
static Status place_sends(Placer *placer) {
  int ranks = placer->out->ranks;
  int *latest; /* [ranks]: the action that made the latest thing this receiver needs so far, by sender */
  TRY(ARENA_NEW(placer->scratch, latest, ranks));
  for (int rank = 0; rank < ranks; rank++) {
    Passages *receives = &placer->receives[rank];
    TRY(sort(placer, rank, receives, true));
    for (int i = 0; i < receives->n; i++)
      latest[receives->items[i].receive.peer] = 0;
    for (int i = 0; i < receives->n; i++) {
      Passage *passage = &receives->items[i];
      int *after = &latest[passage->receive.peer];
      *after = passage->made > *after ? passage->made : *after;
      passage->after = *after;
      TRY(append(placer, &placer->sends[passage->receive.peer], passage));
    }
  }
  for (int rank = 0; rank < ranks; rank++)
    TRY(sort(placer, rank, &placer->sends[rank], false));
  return OK;
}

/* Compute actions with what is posted between them. */
static Status merge(Placer *placer, int rank) {
  ActionList *list = &placer->out->lists[rank], merged = {0};
  const Passages *receives = &placer->receives[rank], *sends = &placer->sends[rank];
  TRY(ARENA_NEW(placer->arena, merged.actions, list->n_actions + receives->n + sends->n));
  uint8_t group = 1;
  for (int i = 0, sent = 0, received = 0; i <= list->n_actions; i++) {
    int begin = merged.n_actions;
    while (sent < sends->n && sends->items[sent].after == i - 1)
      merged.actions[merged.n_actions++] = sends->items[sent++].send;
    while (received < receives->n && receives->items[received].before == i)
      merged.actions[merged.n_actions++] = receives->items[received++].receive;
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

/* When a rank's compute action number i ends, all taking equally long; number -1 at 0. */
static int end_of(const Placer *placer, int rank, int i) {
  if (i < 0)
    return 0;
  Action action = placer->out->lists[rank].actions[i];
  return placer->walk.end[walk_index(placer->out, action.kind, action.stage, action.microbatch)];
}

/* As deep as it takes for no action to wait for its buffer where all take equally long. So the ranks can go on, and
 * then they can with any other times. */
static Status deepen(Placer *placer) {
  Schedule *out = placer->out;
  size_t cells = walk_index(out, ACTION_KINDS, 0, 0);
  int *taken; /* at walk_index of a SEND: when both ends are posted */
  TRY(ARENA_NEW(placer->scratch, taken, cells));
  for (int rank = 0; rank < out->ranks; rank++)
    for (int i = 0; i < placer->sends[rank].n; i++) {
      const Passage *passage = &placer->sends[rank].items[i];
      int sent = end_of(placer, rank, passage->after),
          received = end_of(placer, passage->send.peer, passage->before - 1);
      taken[walk_index(out, passage->send.kind, passage->send.stage, passage->send.microbatch)] =
          sent > received ? sent : received;
    }
  for (int rank = 0; rank < out->ranks; rank++)
    for (int i = 0; i < placer->sends[rank].n; i++) {
      const Passage *passage = &placer->sends[rank].items[i];
      Action made = out->lists[rank].actions[passage->made], send = passage->send;
      int begin = end_of(placer, rank, passage->made) - schedule_units(placer->crossings, made);
      while (send.microbatch >= out->send_depth &&
             taken[walk_index(out, send.kind, send.stage, send.microbatch - out->send_depth)] > begin)
        out->send_depth++;
    }
  return OK;
}

static Status refuse_order(const Schedule *schedule, const ScheduleWalk *walk) {
  char waits[32], missing[32];
  return fail(E_USAGE, "schedule %s: rank %d, compute action %d, %s: waits for ever for %s", schedule->name, walk->rank,
              walk->position[walk->rank],
              action_text(schedule->lists[walk->rank].actions[walk->position[walk->rank]], waits),
              action_text(walk->missing, missing));
}

static Status place(Placer *placer, const Schedule *schedule) {
  TRY(copy_computes(placer, schedule));
  TRY(number_computes(placer));
  TRY(schedule_walk(placer->scratch, placer->out, placer->crossings, false, &placer->walk));
  if (!placer->walk.ended)
    return refuse_order(placer->out, &placer->walk);
  TRY(ARENA_NEW(placer->scratch, placer->receives, schedule->ranks));
  TRY(ARENA_NEW(placer->scratch, placer->sends, schedule->ranks));
  TRY(collect_receives(placer));
  TRY(place_sends(placer));
  TRY(deepen(placer));
  for (int rank = 0; rank < schedule->ranks; rank++)
    TRY(merge(placer, rank));
  return OK;
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
