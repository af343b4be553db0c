/* Owns the proof that a schedule runs. Invariant: a schedule that passes ends on every transport that keeps order per
 * pair and direction, buffers nothing and moves what both ends have posted; each rule assumes those before it. */
#include "partitioner/schedule/internal.h"

#include <stdarg.h>

typedef struct {
  Arena *arena;
  const Schedule *schedule;
  const Crossings *crossings;
  SchedulePlace *where;
  int *next;     /* [ACTION_KINDS * stages]: the microbatch whose turn it is */
  int *position; /* [ACTION_KINDS * stages * microbatches], at walk_index */
  int *computes; /* the same: compute actions that stand before it on its rank */
} Prover;

__attribute__((format(printf, 4, 5))) static Status fault(const Prover *prover, int rank, int position,
                                                          const char *format, ...) {
  char reason[512], text[32];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, sizeof reason, format, arguments);
  va_end(arguments);
  if (prover->where)
    *prover->where = (SchedulePlace){rank, position};
  if (rank < 0)
    return fail(E_USAGE, "schedule %s: %s", prover->schedule->name, reason);
  const ActionList *list = &prover->schedule->lists[rank];
  if (position >= list->n_actions)
    return fail(E_USAGE, "schedule %s: rank %d, end of its list: %s", prover->schedule->name, rank, reason);
  return fail(E_USAGE, "schedule %s: rank %d, action %d, %s: %s", prover->schedule->name, rank, position,
              action_text(list->actions[position], text), reason);
}

static size_t at(const Prover *prover, int kind, int stage, int microbatch) {
  return walk_index(prover->schedule, kind, stage, microbatch);
}

/* ---- numbers in range, before any table is made ---- */

static Status prove_sizes(const Prover *prover) {
  const Schedule *schedule = prover->schedule;
  if (schedule->ranks < 1 || schedule->ranks > SCHEDULE_LIMIT || schedule->stages < 1 ||
      schedule->stages > SCHEDULE_LIMIT || schedule->microbatches < 1 || schedule->microbatches > SCHEDULE_LIMIT)
    return fault(prover, -1, -1, "%d ranks, %d stages, %d microbatches: each must be 1 to %d", schedule->ranks,
                 schedule->stages, schedule->microbatches, SCHEDULE_LIMIT);
  if (schedule->send_depth < 1)
    return fault(prover, -1, -1, "send_depth is %d, must be 1 or more", schedule->send_depth);
  if (schedule->receive_ahead < 0)
    return fault(prover, -1, -1, "receive_ahead is %d, must be 0 or more", schedule->receive_ahead);
  if (schedule->joined && schedule->forward_only)
    return fault(prover, -1, -1, "forward_only has no joined backward");
  for (int stage = 0; stage < schedule->stages; stage++)
    if (schedule->rank_of_stage[stage] < 0 || schedule->rank_of_stage[stage] >= schedule->ranks)
      return fault(prover, -1, -1, "stage %d is on rank %d of %d", stage, schedule->rank_of_stage[stage],
                   schedule->ranks);
  size_t forwards = 0;
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++)
      forwards += schedule->lists[rank].actions[i].kind == ACTION_F;
  if (forwards != (size_t)schedule->stages * (size_t)schedule->microbatches)
    return fault(prover, -1, -1, "%d stages and %d microbatches need %zu forward actions, there are %zu",
                 schedule->stages, schedule->microbatches, (size_t)schedule->stages * (size_t)schedule->microbatches,
                 forwards);
  return OK;
}

/* ---- which actions a stage has ---- */

/* NULL where the stage has actions of this kind, else why it has none. */
static const char *kind_refusal(const Prover *prover, int kind, int stage) {
  const Schedule *schedule = prover->schedule;
  bool backward = kind == ACTION_B || kind == ACTION_W || kind == ACTION_BW;
  int cut = kind == ACTION_SEND_F || kind == ACTION_RECV_B ? stage : stage - 1;
  if (kind == ACTION_F)
    return NULL;
  if (backward && schedule->forward_only)
    return "a backward action in a forward-only schedule";
  if (backward && schedule->joined != (kind == ACTION_BW))
    return schedule->joined ? "B and W are one action, BW, in this schedule" : "B and W are apart in this schedule";
  if (kind == ACTION_B && !schedule_has_b(prover->crossings, stage))
    return "no gradient leaves this stage: it has W alone";
  if (backward)
    return NULL;
  if (cut < 0 || cut + 1 >= schedule->stages)
    return "there is no stage on that side";
  if (schedule->rank_of_stage[cut] == schedule->rank_of_stage[cut + 1])
    return "both stages are on this rank: nothing is sent";
  if (kind == ACTION_SEND_F || kind == ACTION_RECV_F)
    return schedule_crosses_f(prover->crossings, cut) ? NULL : "nothing crosses that cut forward";
  return schedule_transfers_b(schedule, prover->crossings, cut) ? NULL : "nothing crosses that cut backward";
}

static Status prove_action(const Prover *prover, int rank, int i) {
  const Schedule *schedule = prover->schedule;
  Action action = schedule->lists[rank].actions[i];
  if (action.kind >= ACTION_KINDS)
    return fault(prover, rank, i, "there is no kind %d", action.kind);
  if (action.stage >= schedule->stages)
    return fault(prover, rank, i, "there are %d stages", schedule->stages);
  if (action.microbatch >= schedule->microbatches)
    return fault(prover, rank, i, "there are %d microbatches", schedule->microbatches);
  if (schedule->rank_of_stage[action.stage] != rank)
    return fault(prover, rank, i, "stage %d is on rank %d", action.stage, schedule->rank_of_stage[action.stage]);
  const char *refusal = kind_refusal(prover, action.kind, action.stage);
  if (refusal)
    return fault(prover, rank, i, "%s", refusal);
  if (action_is_compute(action)) {
    if (action.group)
      return fault(prover, rank, i, "only transfers can be posted together");
  } else {
    bool forward_neighbour = action.kind == ACTION_SEND_F || action.kind == ACTION_RECV_B;
    int peer = schedule->rank_of_stage[action.stage + (forward_neighbour ? 1 : -1)];
    if (action.peer != peer)
      return fault(prover, rank, i, "its peer is rank %d, not rank %d", peer, action.peer);
  }
  int *next = &prover->next[action.kind * schedule->stages + action.stage];
  if (action.microbatch < *next)
    return fault(prover, rank, i, "stands a second time");
  if (action.microbatch > *next) {
    Action skipped = action;
    skipped.microbatch = (uint16_t)*next;
    char text[32];
    return fault(prover, rank, i, "comes before %s: each kind runs in increasing microbatch order",
                 action_text(skipped, text));
  }
  ++*next;
  return OK;
}

/* Every action that must be is there, once, in its order, on its rank. */
static Status prove_actions(const Prover *prover) {
  const Schedule *schedule = prover->schedule;
  for (int rank = 0; rank < schedule->ranks; rank++) {
    int computes = 0;
    for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
      TRY(prove_action(prover, rank, i));
      Action action = schedule->lists[rank].actions[i];
      size_t index = at(prover, action.kind, action.stage, action.microbatch);
      prover->position[index] = i;
      prover->computes[index] = computes;
      computes += action_is_compute(action);
    }
  }
  for (int stage = 0; stage < schedule->stages; stage++)
    for (int kind = 0; kind < ACTION_KINDS; kind++) {
      int next = prover->next[kind * schedule->stages + stage];
      if (next == schedule->microbatches || kind_refusal(prover, kind, stage))
        continue;
      char text[32];
      Action missing = {.kind = (uint8_t)kind, .stage = (uint16_t)stage, .microbatch = (uint16_t)next};
      int rank = schedule->rank_of_stage[stage];
      return fault(prover, rank, schedule->lists[rank].n_actions, "%s is missing", action_text(missing, text));
    }
  return OK;
}

/* ---- what one list says about itself ---- */

/* On one list, `first` stands before `then`. */
static Status prove_before(const Prover *prover, int rank, Action first, Action then) {
  int i = prover->position[at(prover, first.kind, first.stage, first.microbatch)];
  int j = prover->position[at(prover, then.kind, then.stage, then.microbatch)];
  char text[32];
  return i < j ? OK : fault(prover, rank, j, "stands before %s, which it needs", action_text(first, text));
}

static Action action_of(int kind, int stage, int microbatch) {
  return (Action){.kind = (uint8_t)kind, .stage = (uint16_t)stage, .microbatch = (uint16_t)microbatch};
}

static Status prove_receive(const Prover *prover, int rank, Action receive, Action use) {
  TRY(prove_before(prover, rank, receive, use));
  size_t i = at(prover, receive.kind, receive.stage, receive.microbatch);
  int between = prover->computes[at(prover, use.kind, use.stage, use.microbatch)] - prover->computes[i];
  char text[32];
  if (between > prover->schedule->receive_ahead)
    return fault(prover, rank, prover->position[i],
                 "is posted %d compute actions before %s, more than receive_ahead, which is %d", between,
                 action_text(use, text), prover->schedule->receive_ahead);
  return OK;
}

/* What one stage's actions on one microbatch need of each other and of neighbours on the same rank. */
static Status prove_cell(const Prover *prover, int stage, int m) {
  const Schedule *schedule = prover->schedule;
  const Crossings *crossings = prover->crossings;
  int rank = schedule->rank_of_stage[stage];
  bool first = stage == 0, last = stage + 1 == schedule->stages;
  Action forward = action_of(ACTION_F, stage, m);
  if (!first && schedule_transfers_f(schedule, crossings, stage - 1))
    TRY(prove_receive(prover, rank, action_of(ACTION_RECV_F, stage, m), forward));
  else if (!first && schedule_crosses_f(crossings, stage - 1))
    TRY(prove_before(prover, rank, action_of(ACTION_F, stage - 1, m), forward));
  if (!last && schedule_transfers_f(schedule, crossings, stage))
    TRY(prove_before(prover, rank, forward, action_of(ACTION_SEND_F, stage, m)));
  if (schedule->forward_only)
    return OK;
  Action backward = action_of(schedule_first_backward(schedule, crossings, stage), stage, m);
  TRY(prove_before(prover, rank, forward, backward));
  if (backward.kind == ACTION_B)
    TRY(prove_before(prover, rank, backward, action_of(ACTION_W, stage, m)));
  int gradient = schedule_gradient_kind(schedule);
  if (!last && schedule_transfers_b(schedule, crossings, stage))
    TRY(prove_receive(prover, rank, action_of(ACTION_RECV_B, stage, m), backward));
  else if (!last && schedule_crosses_b(crossings, stage))
    TRY(prove_before(prover, rank, action_of(gradient, stage + 1, m), backward));
  if (!first && schedule_transfers_b(schedule, crossings, stage - 1))
    TRY(prove_before(prover, rank, action_of(gradient, stage, m), action_of(ACTION_SEND_B, stage, m)));
  return OK;
}

/* ---- sends and receives meet ---- */

static bool is_receive(Action action) {
  return action.kind == ACTION_RECV_F || action.kind == ACTION_RECV_B;
}

static Action send_of(Action receive) {
  bool forward = receive.kind == ACTION_RECV_F;
  return action_of(forward ? ACTION_SEND_F : ACTION_SEND_B, forward ? receive.stage - 1 : receive.stage + 1,
                   receive.microbatch);
}

/* Every SEND has its RECV by now, so that a difference in order is all that can be wrong. */
static Status prove_pairs(const Prover *prover) {
  const Schedule *schedule = prover->schedule;
  int *last; /* [ranks]: position in this rank's list of the latest receive from each other rank */
  TRY(ARENA_NEW(prover->arena, last, schedule->ranks));
  for (int rank = 0; rank < schedule->ranks; rank++) {
    const ActionList *list = &schedule->lists[rank];
    for (int i = 0; i < list->n_actions; i++)
      if (is_receive(list->actions[i]))
        last[list->actions[i].peer] = -1;
    for (int i = 0; i < list->n_actions; i++) {
      Action receive = list->actions[i];
      if (!is_receive(receive))
        continue;
      int before = last[receive.peer];
      last[receive.peer] = i;
      if (before < 0)
        continue;
      Action send = send_of(receive), earlier = send_of(list->actions[before]);
      if (prover->position[at(prover, earlier.kind, earlier.stage, earlier.microbatch)] <
          prover->position[at(prover, send.kind, send.stage, send.microbatch)])
        continue;
      char text[32];
      return fault(prover, rank, i, "stands after %s, but rank %d sends the two in the other order",
                   action_text(list->actions[before], text), receive.peer);
    }
  }
  return OK;
}

static Status prove_progress(const Prover *prover) {
  ScheduleWalk walk;
  TRY(schedule_walk(prover->arena, prover->schedule, prover->crossings, true, &walk));
  if (walk.ended)
    return OK;
  char text[32];
  int other = prover->schedule->rank_of_stage[walk.missing.stage];
  if (other == walk.rank)
    return fault(prover, walk.rank, walk.position[walk.rank], "waits for ever: for %s, which comes later",
                 action_text(walk.missing, text));
  return fault(prover, walk.rank, walk.position[walk.rank],
               "waits for ever: for %s of rank %d, which itself waits at its action %d",
               action_text(walk.missing, text), other, walk.position[other]);
}

/* ---- memory ---- */

/* How an action changes what its rank keeps, at its begin and its end. */
static void memory_change(const Schedule *schedule, const ScheduleLimits *limits, Action action, double *begin,
                          double *end) {
  double activation = limits->activation[action.stage], freed = activation * limits->backward_input_frees;
  *begin = *end = 0;
  if (action.kind == ACTION_F) {
    *begin = activation;
    *end = schedule->forward_only ? -activation : 0;
  } else if (action.kind == ACTION_B) {
    *end = -freed;
  } else if (action.kind == ACTION_BW) {
    *end = -activation;
  } else if (action.kind == ACTION_W) {
    *end = freed - activation;
  }
}

/* The peak of a list and where it first is. A stage whose backward is W alone frees all with it. */
static double list_peak(const Schedule *schedule, const Crossings *crossings, const ScheduleLimits *limits, int rank,
                        int *where) {
  const ActionList *list = &schedule->lists[rank];
  double kept = 0, peak = 0, begin, end;
  *where = 0;
  for (int i = 0; i < list->n_actions; i++) {
    Action action = list->actions[i];
    memory_change(schedule, limits, action, &begin, &end);
    if (action.kind == ACTION_W && !schedule_has_b(crossings, action.stage))
      end = -limits->activation[action.stage];
    kept += begin;
    if (kept > peak) {
      peak = kept;
      *where = i;
    }
    kept += end;
  }
  return peak;
}

void schedule_peaks(const Schedule *schedule, const Crossings *crossings, const ScheduleLimits *limits, double *peak) {
  int where;
  for (int rank = 0; rank < schedule->ranks; rank++)
    peak[rank] = list_peak(schedule, crossings, limits, rank, &where);
}

static Status prove_limits(const Prover *prover, const ScheduleLimits *limits) {
  const Schedule *schedule = prover->schedule;
  char text[32];
  for (int rank = 0; rank < schedule->ranks; rank++) {
    int where;
    double peak = list_peak(schedule, prover->crossings, limits, rank, &where);
    if (peak <= limits->limit[rank])
      continue;
    if (prover->where)
      *prover->where = (SchedulePlace){rank, where};
    return fail(E_LIMIT, "schedule %s: rank %d, action %d, %s: activations reach %.6g, the limit is %.6g",
                schedule->name, rank, where, action_text(schedule->lists[rank].actions[where], text), peak,
                limits->limit[rank]);
  }
  return OK;
}

/* ---- all of it ---- */

static Status prove(Prover *prover, const ScheduleLimits *limits) {
  const Schedule *schedule = prover->schedule;
  TRY(prove_sizes(prover));
  TRY(ARENA_NEW(prover->arena, prover->next, ACTION_KINDS * schedule->stages));
  TRY(ARENA_NEW(prover->arena, prover->position, walk_index(schedule, ACTION_KINDS, 0, 0)));
  TRY(ARENA_NEW(prover->arena, prover->computes, walk_index(schedule, ACTION_KINDS, 0, 0)));
  TRY(prove_actions(prover));
  for (int stage = 0; stage < schedule->stages; stage++)
    for (int m = 0; m < schedule->microbatches; m++)
      TRY(prove_cell(prover, stage, m));
  TRY(prove_pairs(prover));
  TRY(prove_progress(prover));
  return limits ? prove_limits(prover, limits) : OK;
}

Status schedule_prove(const Schedule *schedule, const Crossings *crossings, const ScheduleLimits *limits,
                      SchedulePlace *where) {
  Prover prover = {.arena = arena_create(), .schedule = schedule, .crossings = crossings, .where = where};
  if (!prover.arena)
    return status_code();
  if (where)
    *where = (SchedulePlace){-1, -1};
  Status status = prove(&prover, limits);
  arena_destroy(prover.arena);
  return status;
}

Status schedule_check(const Schedule *schedule, const Crossings *crossings) {
  return schedule_prove(schedule, crossings, NULL, NULL);
}
