/* Owns orders that are made in rounds: in each, every rank takes one B and one F, whatever it has to wait for, and W
 * goes into the pauses. A list scheduler that looks no further than what is on its way leaves that rhythm where
 * latencies add up. Two placements have such a rhythm: a line of one stage a rank, in rounds of F then B, and a V of
 * two, in rounds of B then F (the heuristics of Qi et al. 2023, "Zero bubble pipeline parallelism", and 2024, "Pipeline
 * parallelism with controllable memory", here for unlike stages and limits). Invariant: what is taken has its inputs
 * and its room; where a round cannot go on there is no order. */
#include "partitioner/auto_internal.h"

#include <math.h>

enum { PASSES = 6 };

/* What is not settled by the rhythm. Every combination is tried. */
typedef struct {
  bool at_once;  /* W follows B where no gradient leaves the stage: both are one action there */
  bool late_f;   /* W makes an F late where the rank would else become the one that idles most */
  bool late_b;   /* the same for B */
  bool greedy;   /* line: W makes others late even where the rank would not */
  bool cautious; /* line: what a rank takes before its first B never makes it late */
  bool yields;   /* line: an F waits for the next round where the next rank will soon send a gradient */
} Habits;

typedef struct {
  const Problem *problem;
  Order *order;
  Habits habits;
  int *done;                  /* [stages * 3]: microbatches */
  int *taken;                 /* [ranks] */
  int *owed, *n_owed, *paid;  /* [stages * microbatches], [ranks], [ranks]: stages of B in order, each owes a W */
  double *end;                /* [operations] */
  double *free, *held;        /* [ranks] */
  double *idle, *idle_before; /* [ranks]: less what the rank has to spare; of this pass and the one before */
  double worst, worst_before; /* of all ranks */
  int *wanted;                /* [ranks]: F; in a V, which of its stages gives its B of the round */
  bool stuck;
} Rounds;

static int lower(const Rounds *r, int rank) {
  return r->problem->chunk_stage[r->problem->first_chunk[rank]];
}

static int upper(const Rounds *r, int rank) {
  return r->problem->chunk_stage[r->problem->first_chunk[rank + 1] - 1];
}

static int done(const Rounds *r, int kind, int stage) {
  return r->done[stage * 3 + kind];
}

static bool all_done(const Rounds *r, int kind, int stage) {
  return done(r, kind, stage) == r->problem->microbatches;
}

static bool from_elsewhere(const Rounds *r, int kind, int stage) {
  const Problem *p = r->problem;
  int from = kind == ACTION_F ? stage - 1 : kind == ACTION_B && p->gradient_crosses[stage] ? stage + 1 : stage;
  return from >= 0 && p->timing->rank_of_stage[from] != p->timing->rank_of_stage[stage];
}

/* When the neighbour's result comes that the next operation of a pass needs: -1 where it needs none, INFINITY where
 * that is not made yet or nothing is left to do. */
static double arrival(const Rounds *r, int kind, int stage) {
  const Problem *p = r->problem;
  int next = done(r, kind, stage);
  int from = kind == ACTION_F ? stage - 1 : kind == ACTION_B && p->gradient_crosses[stage] ? stage + 1 : -1;
  if (next == p->microbatches)
    return INFINITY;
  if (from < 0)
    return -1;
  if (done(r, kind, from) <= next)
    return INFINITY;
  return r->end[operation_of(p, from, kind, next)] + p->lag[kind][from < stage ? from : stage];
}

/* The next operation of a pass, memory allowing. */
static void take(Rounds *r, int kind, int stage) {
  const Problem *p = r->problem;
  int rank = p->timing->rank_of_stage[stage], next = done(r, kind, stage);
  double begin = kind == ACTION_W ? -1 : arrival(r, kind, stage);
  bool known = begin < INFINITY && next < p->microbatches && (kind == ACTION_F || done(r, kind - 1, stage) > next);
  if (r->stuck || !known || r->held[rank] + p->memory[kind][stage] > p->limit[rank]) {
    r->stuck = true;
    return;
  }
  int operation = operation_of(p, stage, kind, next);
  begin = fmax(begin, r->free[rank]); /* what this rank did before has ended */
  if (r->taken[rank] > 0 || p->objective == OBJECTIVE_MAKESPAN)
    r->idle[rank] += begin - r->free[rank];
  r->worst = fmax(r->worst, r->idle[rank]);
  r->free[rank] = r->end[operation] = begin + p->seconds[kind][stage];
  r->held[rank] += p->memory[kind][stage];
  r->order->sequence[p->sequence_begin[rank] + r->taken[rank]++] = operation;
  r->done[stage * 3 + kind]++;
  if (kind == ACTION_B)
    r->owed[p->first_chunk[rank] * p->microbatches + r->n_owed[rank]++] = stage;
}

static bool owes(const Rounds *r, int rank) {
  return !r->stuck && r->paid[rank] < r->n_owed[rank];
}

static int stage_owed(const Rounds *r, int rank) {
  return r->owed[r->problem->first_chunk[rank] * r->problem->microbatches + r->paid[rank]];
}

/* The oldest W. */
static void pay(Rounds *r, int rank) {
  int stage = stage_owed(r, rank);
  r->paid[rank]++;
  take(r, ACTION_W, stage);
}

/* W into the pause before `at`, and one more that does not fit where the habits say so. */
static void fill_pause(Rounds *r, int rank, double at, bool late) {
  while (owes(r, rank) && at >= r->free[rank] + r->problem->seconds[ACTION_W][stage_owed(r, rank)])
    pay(r, rank);
  double pause = at - r->free[rank], allowed = fmax(r->worst, r->worst_before - r->idle_before[rank]) - r->idle[rank];
  if (owes(r, rank) && pause > 0 && (pause > allowed ? late : r->habits.greedy))
    pay(r, rank);
}

/* W until F has room, W into the pause before it, then F. */
static void take_f(Rounds *r, int stage) {
  const Problem *p = r->problem;
  int rank = p->timing->rank_of_stage[stage];
  while (owes(r, rank) && r->held[rank] + p->memory[ACTION_F][stage] > p->limit[rank])
    pay(r, rank);
  double at = arrival(r, ACTION_F, stage);
  if (from_elsewhere(r, ACTION_F, stage) && at < INFINITY)
    fill_pause(r, rank, at, r->habits.late_f);
  take(r, ACTION_F, stage);
}

static void take_b(Rounds *r, int stage, bool late) {
  const Problem *p = r->problem;
  int rank = p->timing->rank_of_stage[stage];
  double at = arrival(r, ACTION_B, stage);
  if (from_elsewhere(r, ACTION_B, stage) && at < INFINITY)
    fill_pause(r, rank, at, late);
  take(r, ACTION_B, stage);
  if (r->habits.at_once && !schedule_has_b(p->crossings, stage))
    while (owes(r, rank) && done(r, ACTION_W, stage) < done(r, ACTION_B, stage))
      pay(r, rank);
}

/* ---- a V of two stages a rank ---- */

static bool fits_above(const Rounds *r, int rank) {
  for (int above = 0; above <= rank; above++) {
    int stage = lower(r, above);
    if (all_done(r, ACTION_F, stage) || r->held[above] + r->problem->memory[ACTION_F][stage] > r->problem->limit[above])
      return false;
  }
  return true;
}

/* While the first microbatch comes back: F of lower stages on the rank and all above it, as long as they leave the
 * rank room for what all of those will want between. */
static void descend_and_return(Rounds *r) {
  const Problem *p = r->problem;
  for (int rank = 0; rank < p->ranks; rank++)
    take(r, ACTION_F, lower(r, rank));
  for (int rank = p->ranks - 1; rank >= 0 && !r->stuck; rank--) {
    int stage = lower(r, rank);
    double at = arrival(r, ACTION_F, upper(r, rank)), room = p->memory[ACTION_F][stage] * (2 + 2 * rank);
    while (rank + 1 < p->ranks && !r->stuck && fits_above(r, rank) && r->held[rank] + room <= p->limit[rank] &&
           r->free[rank] + p->seconds[ACTION_F][stage] <= at)
      for (int above = 0; above <= rank; above++)
        take(r, ACTION_F, lower(r, above));
    take(r, ACTION_F, upper(r, rank));
  }
}

/* F of both stages in turns, until every rank has begun as many as the one above it. */
static void level(Rounds *r) {
  const Problem *p = r->problem;
  bool high = false;
  for (int rank = 1; rank < p->ranks; rank++) {
    int low_above = done(r, ACTION_F, lower(r, rank - 1)), high_above = done(r, ACTION_F, upper(r, rank - 1));
    while (!r->stuck &&
           (done(r, ACTION_F, lower(r, rank)) + done(r, ACTION_F, upper(r, rank)) < low_above + high_above ||
            (done(r, ACTION_F, upper(r, rank)) <= high_above && high_above < p->microbatches))) {
      for (int below = p->ranks - 1; below >= rank; below--) {
        int stage = high ? upper(r, below) : lower(r, below);
        if (!all_done(r, ACTION_F, stage))
          take(r, ACTION_F, stage);
      }
      high = !high;
    }
  }
}

/* Which stage a rank's B of this round is of: gradients that came further go first. */
static int next_b(const Rounds *r, int rank) {
  int low = lower(r, rank), high = upper(r, rank);
  if (done(r, ACTION_B, low) >= done(r, ACTION_B, high))
    return high;
  return all_done(r, ACTION_B, high) || arrival(r, ACTION_B, low) < INFINITY ? low : high;
}

static int next_f(const Rounds *r, int rank) {
  int low = lower(r, rank), high = upper(r, rank);
  if (done(r, ACTION_F, high) < done(r, ACTION_F, low) && arrival(r, ACTION_F, high) < INFINITY)
    return high;
  return arrival(r, ACTION_F, low) < INFINITY ? low : -1;
}

static void run_v(Rounds *r) {
  const Problem *p = r->problem;
  descend_and_return(r);
  level(r);
  for (int round = 0; round < 2 * p->microbatches && !r->stuck; round++) {
    for (int rank = 0; rank < p->ranks; rank++)
      r->wanted[rank] = next_b(r, rank);
    for (int rank = p->ranks - 1; rank >= 0; rank--)
      if (r->wanted[rank] == lower(r, rank))
        take_b(r, lower(r, rank), true);
    for (int rank = 0; rank < p->ranks; rank++)
      if (r->wanted[rank] == upper(r, rank))
        take_b(r, upper(r, rank), r->habits.late_b);
    for (int rank = 0; rank < p->ranks; rank++) {
      int stage = next_f(r, rank);
      if (stage >= 0 && !r->stuck)
        take_f(r, stage);
    }
  }
}

/* ---- a line of one stage a rank ---- */

/* How many F each rank takes while its first gradient is on the way: those that fit time and memory, and fewer than the
 * rank before it, which else could not send them. */
static void count_first(Rounds *r) {
  const Problem *p = r->problem;
  double returned = 0; /* the gradient from the next rank */
  for (int rank = p->ranks - 1; rank >= 0; rank--) {
    int stage = lower(r, rank), more = 0;
    double at = r->free[rank], held = r->held[rank], f = p->seconds[ACTION_F][stage];
    if (rank + 1 < p->ranks)
      returned += p->lag[ACTION_B][stage];
    while (rank + 1 < p->ranks && 1 + more < p->microbatches && held + p->memory[ACTION_F][stage] <= p->limit[rank] &&
           (r->habits.cautious ? at + f <= returned : at < returned)) {
      held += p->memory[ACTION_F][stage];
      at += f;
      more++;
    }
    r->wanted[rank] = more;
    returned = fmax(at, returned) + p->seconds[ACTION_B][stage];
  }
  for (int rank = 1; rank < p->ranks; rank++)
    if (r->wanted[rank] >= r->wanted[rank - 1] && 1 + r->wanted[rank] < p->microbatches)
      r->wanted[rank] = r->wanted[rank - 1] > 0 ? r->wanted[rank - 1] - 1 : 0;
}

/* Whether the rank does better to wait for the gradient of the next one than to send it yet another F: that one has
 * fewer by two or more, and its gradient comes before this F has ended, or so soon that the rank may idle so long. */
static bool gives_way(const Rounds *r, int rank) {
  const Problem *p = r->problem;
  if (!r->habits.yields || rank + 1 == p->ranks)
    return false;
  int stage = lower(r, rank), next = lower(r, rank + 1);
  if (done(r, ACTION_F, stage) < done(r, ACTION_F, next) + 2)
    return false;
  double gradient =
      r->free[rank + 1] + p->seconds[ACTION_F][next] + p->seconds[ACTION_B][next] + p->lag[ACTION_B][stage];
  if (r->free[rank] >= gradient)
    return true;
  double held = r->held[rank] + p->memory[ACTION_F][stage], first = r->free[rank] + p->seconds[ACTION_F][stage];
  for (int owed = r->n_owed[rank] - r->paid[rank]; owed > 0 && held > p->limit[rank]; owed--) {
    held += p->memory[ACTION_W][stage];
    first += p->seconds[ACTION_W][stage];
  }
  return first > gradient && gradient - r->free[rank] <= r->worst - r->idle[rank];
}

static void run_line(Rounds *r) {
  const Problem *p = r->problem;
  for (int rank = 0; rank < p->ranks; rank++)
    take(r, ACTION_F, lower(r, rank));
  count_first(r);
  for (int rank = 0; rank < p->ranks; rank++)
    for (int i = 0; i < r->wanted[rank]; i++)
      take(r, ACTION_F, lower(r, rank));
  for (int rank = p->ranks - 1; rank >= 0; rank--)
    take_b(r, lower(r, rank), true);
  for (int i = 1; i < p->microbatches && !r->stuck; i++) {
    for (int rank = p->ranks - 1; rank >= 0; rank--)
      r->wanted[rank] = !all_done(r, ACTION_F, lower(r, rank)) && !gives_way(r, rank) &&
                        (rank + 1 == p->ranks || r->wanted[rank + 1]);
    for (int rank = 0; rank < p->ranks; rank++)
      if (r->wanted[rank])
        take_f(r, lower(r, rank));
    for (int rank = p->ranks - 1; rank >= 0; rank--)
      take_b(r, lower(r, rank), r->habits.late_b);
  }
}

/* ---- passes ---- */

/* One pass; false: it got stuck. */
static bool run(Rounds *r) {
  const Problem *p = r->problem;
  r->stuck = false;
  r->worst = -INFINITY;
  for (int i = 0; i < 3 * p->stages; i++)
    r->done[i] = 0;
  for (int rank = 0; rank < p->ranks; rank++) {
    r->taken[rank] = r->n_owed[rank] = r->paid[rank] = 0;
    r->free[rank] = r->held[rank] = 0;
    r->idle[rank] = p->work[rank] - p->busiest_seconds;
    r->worst = fmax(r->worst, r->idle[rank]);
  }
  if (p->stages == p->ranks)
    run_line(r);
  else
    run_v(r);
  for (int rank = 0; rank < p->ranks; rank++)
    while (owes(r, rank))
      pay(r, rank);
  for (int i = 0; i < 3 * p->stages; i++)
    r->stuck |= r->done[i] < p->microbatches;
  return !r->stuck;
}

static Status allocate(Arena *arena, const Problem *p, Rounds *r) {
  TRY(ARENA_NEW(arena, r->done, 3 * p->stages));
  TRY(ARENA_NEW(arena, r->taken, p->ranks));
  TRY(ARENA_NEW(arena, r->owed, (size_t)p->stages * (size_t)p->microbatches));
  TRY(ARENA_NEW(arena, r->n_owed, p->ranks));
  TRY(ARENA_NEW(arena, r->paid, p->ranks));
  TRY(ARENA_NEW(arena, r->wanted, p->ranks));
  TRY(ARENA_NEW(arena, r->end, p->operations));
  TRY(ARENA_NEW(arena, r->free, p->ranks));
  TRY(ARENA_NEW(arena, r->held, p->ranks));
  TRY(ARENA_NEW(arena, r->idle, p->ranks));
  return ARENA_NEW(arena, r->idle_before, p->ranks);
}

/* A line has one stage a rank, a V two. */
static bool has_rhythm(const Problem *p) {
  bool line = true, v = p->placement == PLACE_V && p->stages == 2 * p->ranks;
  for (int stage = 0; stage < p->stages; stage++) {
    int rank = p->timing->rank_of_stage[stage];
    line &= rank == stage;
    v &= rank == (stage < p->ranks ? stage : p->stages - 1 - stage);
  }
  return line || v;
}

Status rounds_orders(Arena *arena, const Problem *p, Clock *clock, Order *order, OrderTaker *taker, void *context) {
  Rounds r = {.problem = p, .order = order};
  if (!has_rhythm(p))
    return OK;
  TRY(allocate(arena, p, &r));
  int ways = p->stages == p->ranks ? 64 : 16;
  for (int way = 0; way < ways; way++) {
    r.habits = (Habits){way & 1, !(way & 2), !(way & 4), way & 8, way & 16, way & 32};
    r.worst_before = -INFINITY;
    for (int rank = 0; rank < p->ranks; rank++)
      r.idle_before[rank] = 0;
    /* what the worst rank came to idle in one pass, the others may in the next */
    for (int pass = 0; pass < PASSES && run(&r); pass++) {
      clock_run(p, clock, order);
      if (order->value < INFINITY)
        taker(context, order);
      if (order->value <= p->bound_seconds * (1 + 1e-9))
        return OK;
      if (pass > 0 && r.worst >= r.worst_before)
        break;
      r.worst_before = r.worst;
      for (int rank = 0; rank < p->ranks; rank++)
        r.idle_before[rank] = r.idle[rank];
    }
  }
  return OK;
}
