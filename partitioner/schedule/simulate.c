/* Owns the time model of a schedule. Invariant: an action begins at the latest of three times, the end of the action
 * before it on its rank and the arrivals of its two inputs; nothing else delays it. Where ranks share cores it runs
 * slower while more of them compute than there are. */
#include "partitioner/schedule/simulate.h"

#include <string.h>

enum { HAS_F = 1, HAS_B = 2, HAS_W = 4 };

/* What the walk knows about (stage, microbatch). */
typedef struct {
  uint8_t has;              /* which actions the lists hold */
  uint8_t done;             /* which of them have ended */
  double forward, backward; /* arrival at the next stage's and the previous stage's rank */
  double local;             /* end of F; then of B */
} Cell;

typedef struct {
  const Schedule *schedule;
  const Timing *timing;
  Cell *cells;       /* [stages * microbatches] */
  double *rank_free; /* [ranks] */
  double *link_free; /* [ranks * ranks]: sender, receiver */
  double *held;      /* [ranks]: activations */
  int *next;         /* [ranks] */
} Walk;

static Cell *cell_at(const Walk *walk, int stage, int microbatch) {
  return &walk->cells[(size_t)stage * (size_t)walk->timing->microbatches + (size_t)microbatch];
}

static int kind_bits(ActionKind kind) {
  switch (kind) {
  case ACTION_F:
    return HAS_F;
  case ACTION_B:
    return HAS_B;
  case ACTION_W:
    return HAS_W;
  case ACTION_BW:
    return HAS_B | HAS_W;
  default:
    return 0;
  }
}

static Status check_fit(const Schedule *schedule, const Timing *timing) {
  if (schedule->ranks != timing->ranks || schedule->stages != timing->stages ||
      schedule->microbatches != timing->microbatches)
    return fail(E_USAGE,
                "schedule has %d ranks, %d stages, %d microbatches; the times are for %d ranks, %d stages, %d "
                "microbatches",
                schedule->ranks, schedule->stages, schedule->microbatches, timing->ranks, timing->stages,
                timing->microbatches);
  for (int stage = 0; stage < timing->stages; stage++)
    if (schedule->rank_of_stage[stage] != timing->rank_of_stage[stage])
      return fail(E_USAGE, "schedule has stage %d on rank %d, the times on rank %d", stage,
                  schedule->rank_of_stage[stage], timing->rank_of_stage[stage]);
  return OK;
}

/* Notes which actions there are; refuses what stands twice or on another rank than its stage. */
static Status index_actions(Walk *walk) {
  const Schedule *schedule = walk->schedule;
  char text[32];
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
      Action action = schedule->lists[rank].actions[i];
      if (action.kind >= ACTION_KINDS || action.stage >= schedule->stages ||
          action.microbatch >= schedule->microbatches || schedule->rank_of_stage[action.stage] != rank)
        return fail(E_USAGE, "rank %d, action %d: kind %d of stage %d, microbatch %d does not belong there", rank, i,
                    action.kind, action.stage, action.microbatch);
      if (!action_is_compute(action))
        continue;
      Cell *cell = cell_at(walk, action.stage, action.microbatch);
      if (cell->has & kind_bits(action.kind))
        return fail(E_USAGE, "rank %d, action %d: %s stands twice", rank, i, action_text(action, text));
      cell->has |= (uint8_t)kind_bits(action.kind);
    }
  return OK;
}

/* The arrival of the gradient from the next stage, if its backward is in the lists; false: not there yet. */
static bool gradient_arrived(const Walk *walk, Action action, double *at) {
  if (action.stage + 1 == walk->timing->stages)
    return true;
  const Cell *after = cell_at(walk, action.stage + 1, action.microbatch);
  if (!(after->has & HAS_B))
    return true;
  if (!(after->done & HAS_B))
    return false;
  *at = after->backward > *at ? after->backward : *at;
  return true;
}

/* Whether the inputs of an action are known to arrive, and when at the earliest it could begin. */
static bool inputs_arrived(const Walk *walk, Action action, double *at) {
  const Cell *cell = cell_at(walk, action.stage, action.microbatch);
  *at = 0;
  if (action.kind == ACTION_F) {
    if (action.stage == 0)
      return true;
    const Cell *before = cell_at(walk, action.stage - 1, action.microbatch);
    *at = before->forward;
    return before->done & HAS_F;
  }
  if (!(cell->done & HAS_F))
    return false;
  *at = cell->local;
  if (action.kind == ACTION_W && cell->has & HAS_B)
    return cell->done & HAS_B;
  return gradient_arrived(walk, action, at);
}

/* Where no gradient leaves the stage its W does all. */
static double action_seconds(const Walk *walk, Action action) {
  const Timing *timing = walk->timing;
  double b = timing->backward_input_seconds[action.stage], w = timing->backward_weight_seconds[action.stage];
  switch (action.kind) {
  case ACTION_F:
    return timing->forward_seconds[action.stage];
  case ACTION_B:
    return b;
  case ACTION_W:
    return cell_at(walk, action.stage, action.microbatch)->has & HAS_B ? w : b + w;
  default:
    return b + w;
  }
}

/* When what stage `from` made at `end` is where stage `to` runs. */
static double travel(Walk *walk, int from, int to, const double *link_seconds, double end) {
  const Timing *timing = walk->timing;
  if (to < 0 || to >= timing->stages || timing->rank_of_stage[from] == timing->rank_of_stage[to])
    return end;
  double *link = &walk->link_free[timing->rank_of_stage[from] * timing->ranks + timing->rank_of_stage[to]];
  double seconds = link_seconds ? link_seconds[from < to ? from : to] : 0;
  double begin = end > *link ? end : *link;
  *link = begin + seconds;
  return begin + seconds + timing->link_latency_seconds;
}

/* What an action adds to the activations that its rank holds. */
static double memory_change(const Walk *walk, Action action) {
  double activation = walk->timing->activation ? walk->timing->activation[action.stage] : 0;
  if (action.kind == ACTION_F)
    return activation;
  if (action.kind == ACTION_B)
    return -activation * walk->timing->backward_input_frees;
  if (action.kind == ACTION_W && cell_at(walk, action.stage, action.microbatch)->has & HAS_B)
    return -activation * (1 - walk->timing->backward_input_frees);
  return -activation;
}

/* The rank's next action ran from `begin` to `end`. */
static void pass_action(Walk *walk, int rank, double begin, double end, Simulation *result) {
  int i = walk->next[rank]++;
  Action action = walk->schedule->lists[rank].actions[i];
  result->begin[rank][i] = begin;
  result->end[rank][i] = result->arrival[rank][i] = end;
  if (!action_is_compute(action))
    return;
  walk->rank_free[rank] = end;
  walk->held[rank] += memory_change(walk, action);
  if (walk->held[rank] > result->peak_memory[rank])
    result->peak_memory[rank] = walk->held[rank];
  Cell *cell = cell_at(walk, action.stage, action.microbatch);
  cell->done |= (uint8_t)kind_bits(action.kind);
  cell->local = end;
  if (action.kind == ACTION_F)
    cell->forward = result->arrival[rank][i] =
        travel(walk, action.stage, action.stage + 1, walk->timing->forward_link_seconds, end);
  else if (action.kind != ACTION_W)
    cell->backward = result->arrival[rank][i] =
        travel(walk, action.stage, action.stage - 1, walk->timing->backward_link_seconds, end);
}

/* When the rank's next compute action can begin, transfers before it posted; false: it has none, or that is not known
 * yet. */
static bool ready(Walk *walk, int rank, double *begin, Simulation *result) {
  const ActionList *list = &walk->schedule->lists[rank];
  while (walk->next[rank] < list->n_actions && !action_is_compute(list->actions[walk->next[rank]]))
    pass_action(walk, rank, walk->rank_free[rank], walk->rank_free[rank], result);
  if (walk->next[rank] == list->n_actions || !inputs_arrived(walk, list->actions[walk->next[rank]], begin))
    return false;
  if (*begin < walk->rank_free[rank])
    *begin = walk->rank_free[rank];
  return true;
}

/* Runs the actions of a rank until one waits; whether any ran. */
static bool advance_rank(Walk *walk, int rank, Simulation *result) {
  int first = walk->next[rank];
  double begin;
  while (ready(walk, rank, &begin, result)) {
    Action action = walk->schedule->lists[rank].actions[walk->next[rank]];
    pass_action(walk, rank, begin, begin + action_seconds(walk, action), result);
  }
  return walk->next[rank] > first;
}

/* What a rank is at, where ranks share cores. */
typedef struct {
  bool runs;
  double begun, left; /* seconds of work */
} Turn;

/* Begins what can begin by now. *next: when the first of the others can; 0: of none is that known. Returns how many
 * ranks compute. */
static int begin_turns(Walk *walk, Turn *turns, double now, double *next, Simulation *result) {
  int running = 0;
  *next = 0;
  for (int rank = 0; rank < walk->timing->ranks; rank++) {
    Turn *turn = &turns[rank];
    double begin;
    if (!turn->runs && ready(walk, rank, &begin, result)) {
      turn->runs = begin <= now;
      if (turn->runs)
        *turn = (Turn){true, now, action_seconds(walk, walk->schedule->lists[rank].actions[walk->next[rank]])};
      else if (*next == 0 || begin < *next)
        *next = begin;
    }
    running += turn->runs;
  }
  return running;
}

/* From event to event: one ends, or can begin. */
static void share_cores(Walk *walk, Turn *turns, Simulation *result) {
  const Timing *timing = walk->timing;
  double now = 0, next;
  for (int running; (running = begin_turns(walk, turns, now, &next, result)) > 0 || next > 0;) {
    double rate = running > timing->capacity ? timing->capacity / running : 1, until = next;
    for (int rank = 0; rank < timing->ranks; rank++)
      if (turns[rank].runs && (until == 0 || now + turns[rank].left / rate < until))
        until = now + turns[rank].left / rate;
    for (int rank = 0; rank < timing->ranks; rank++) {
      Turn *turn = &turns[rank];
      if (!turn->runs)
        continue;
      bool ends = now + turn->left / rate <= until;
      turn->left -= (until - now) * rate;
      turn->runs = !ends;
      if (ends)
        pass_action(walk, rank, turn->begun, until, result);
    }
    now = until;
  }
}

static void summarise(const Schedule *schedule, Simulation *result) {
  double first = 0, last = 0, busiest = 0;
  bool any = false;
  for (int rank = 0; rank < schedule->ranks; rank++) {
    const ActionList *list = &schedule->lists[rank];
    double begin = 0, end = 0;
    bool seen = false;
    for (int i = 0; i < list->n_actions; i++) {
      if (!action_is_compute(list->actions[i]))
        continue;
      begin = seen ? begin : result->begin[rank][i];
      end = result->end[rank][i];
      seen = true;
      result->work_seconds[rank] += result->end[rank][i] - result->begin[rank][i];
    }
    result->span_seconds[rank] = end - begin;
    if (!seen)
      continue;
    first = any && first < begin ? first : begin;
    last = any && last > end ? last : end;
    any = true;
    if (result->span_seconds[rank] > result->longest_span_seconds)
      result->longest_span_seconds = result->span_seconds[rank];
    busiest = result->work_seconds[rank] > busiest ? result->work_seconds[rank] : busiest;
  }
  result->makespan_seconds = last - first;
  result->bubble = result->longest_span_seconds > 0 ? 1 - busiest / result->longest_span_seconds : 0;
}

static Status allocate(Arena *arena, const Schedule *schedule, Simulation *result) {
  *result = (Simulation){0};
  TRY(ARENA_NEW(arena, result->span_seconds, schedule->ranks));
  TRY(ARENA_NEW(arena, result->work_seconds, schedule->ranks));
  TRY(ARENA_NEW(arena, result->peak_memory, schedule->ranks));
  TRY(ARENA_NEW(arena, result->begin, schedule->ranks));
  TRY(ARENA_NEW(arena, result->end, schedule->ranks));
  TRY(ARENA_NEW(arena, result->arrival, schedule->ranks));
  for (int rank = 0; rank < schedule->ranks; rank++) {
    TRY(ARENA_NEW(arena, result->begin[rank], schedule->lists[rank].n_actions));
    TRY(ARENA_NEW(arena, result->end[rank], schedule->lists[rank].n_actions));
    TRY(ARENA_NEW(arena, result->arrival[rank], schedule->lists[rank].n_actions));
  }
  return OK;
}

static Status walk_lists(Arena *scratch, const Schedule *schedule, const Timing *timing, Simulation *result) {
  Walk walk = {.schedule = schedule, .timing = timing};
  TRY(ARENA_NEW(scratch, walk.cells, (size_t)timing->stages * (size_t)timing->microbatches));
  TRY(ARENA_NEW(scratch, walk.rank_free, timing->ranks));
  TRY(ARENA_NEW(scratch, walk.link_free, (size_t)timing->ranks * (size_t)timing->ranks));
  TRY(ARENA_NEW(scratch, walk.held, timing->ranks));
  TRY(ARENA_NEW(scratch, walk.next, timing->ranks));
  TRY(index_actions(&walk));
  bool shared = timing->capacity > 0 && timing->capacity < timing->ranks;
  if (shared) {
    Turn *turns;
    TRY(ARENA_NEW(scratch, turns, timing->ranks));
    share_cores(&walk, turns, result);
  }
  for (bool moved = !shared; moved;) {
    moved = false;
    for (int rank = 0; rank < timing->ranks; rank++)
      moved |= advance_rank(&walk, rank, result);
  }
  char text[32];
  for (int rank = 0; rank < timing->ranks; rank++)
    if (walk.next[rank] < schedule->lists[rank].n_actions)
      return fail(E_USAGE, "rank %d waits for ever at action %d, %s", rank, walk.next[rank],
                  action_text(schedule->lists[rank].actions[walk.next[rank]], text));
  return OK;
}

Status simulate_schedule(Arena *arena, const Schedule *schedule, const Timing *timing, Simulation *result) {
  TRY(check_fit(schedule, timing));
  TRY(allocate(arena, schedule, result));
  Arena *scratch = arena_create();
  if (!scratch)
    return status_code();
  Status status = walk_lists(scratch, schedule, timing, result);
  arena_destroy(scratch);
  TRY(status);
  summarise(schedule, result);
  return OK;
}
