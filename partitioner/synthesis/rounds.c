/* Owns orders that are made in rounds: in each, every rank takes one B and one F, whatever it has to wait for, and W
 * goes into the pauses. A list scheduler that looks no further than what is on its way leaves that rhythm where
 * latencies add up: with the memory of 1F1B, six ranks or more and more microbatches (tests/partitioner/test_rounds.c).
 * A V of two stages a rank has the rhythm (the heuristic of Qi et al. 2024, "Pipeline parallelism with controllable
 * memory", here for unlike stages and limits). Invariant: what is taken has its inputs and its room; where a round
 * cannot go on there is no order. */
#include "partitioner/synthesis/internal.h"

#include <math.h>

typedef struct {
  const Problem *problem;
  Order *order;
  int *done;           /* [stages * 3]: microbatches */
  int *taken;          /* [ranks] */
  double *end;         /* [operations] */
  double *free, *held; /* [ranks] */
  double *idle;        /* [ranks]: less what the rank has to spare */
  double worst;        /* of all ranks */
  int *wanted;         /* [ranks]: which of its stages gives its B of the round */
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
}

/* The stage that has owed a W for longest; -1: none. */
static int owed(const Rounds *r, int rank) {
  const Problem *p = r->problem;
  int oldest = -1;
  double since = INFINITY;
  for (int i = p->first_chunk[rank + 1] - 1; i >= p->first_chunk[rank] && !r->stuck; i--) {
    int stage = p->chunk_stage[i], next = done(r, ACTION_W, stage);
    if (next < done(r, ACTION_B, stage) && r->end[operation_of(p, stage, ACTION_B, next)] < since) {
      oldest = stage;
      since = r->end[operation_of(p, stage, ACTION_B, next)];
    }
  }
  return oldest;
}

/* W into the pause before `at`; with `late`, one more that makes what comes then late, where the rank would else become
 * the one that idles most. */
static void fill_pause(Rounds *r, int rank, double at, bool late) {
  double dust = 1e-9 * r->problem->period;
  int stage;
  while ((stage = owed(r, rank)) >= 0 && r->free[rank] + r->problem->seconds[ACTION_W][stage] <= at + dust)
    take(r, ACTION_W, stage);
  double pause = at - r->free[rank], allowed = r->worst - r->idle[rank];
  if (late && stage >= 0 && pause > dust && pause > allowed + dust)
    take(r, ACTION_W, stage);
}

/* W until F has room, W into the pause before it, then F. */
static void take_f(Rounds *r, int stage) {
  const Problem *p = r->problem;
  int rank = p->timing->rank_of_stage[stage];
  for (int w; r->held[rank] + p->memory[ACTION_F][stage] > p->limit[rank] && (w = owed(r, rank)) >= 0;)
    take(r, ACTION_W, w);
  double at = arrival(r, ACTION_F, stage);
  if (from_elsewhere(r, ACTION_F, stage) && at < INFINITY)
    fill_pause(r, rank, at, false);
  take(r, ACTION_F, stage);
}

/* Others wait for a B of the upper stages: no W makes it late. */
static void take_b(Rounds *r, int stage) {
  int rank = r->problem->timing->rank_of_stage[stage];
  double at = arrival(r, ACTION_B, stage);
  if (from_elsewhere(r, ACTION_B, stage) && at < INFINITY)
    fill_pause(r, rank, at, stage == lower(r, rank));
  take(r, ACTION_B, stage);
}

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
    double at = arrival(r, ACTION_F, upper(r, rank)), room = r->problem->memory[ACTION_F][stage] * (2 + 2 * rank);
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

static void run_rounds(Rounds *r) {
  const Problem *p = r->problem;
  descend_and_return(r);
  level(r);
  for (int round = 0; round < 2 * p->microbatches && !r->stuck; round++) {
    for (int rank = 0; rank < p->ranks; rank++)
      r->wanted[rank] = next_b(r, rank);
    for (int rank = p->ranks - 1; rank >= 0; rank--)
      if (r->wanted[rank] == lower(r, rank))
        take_b(r, lower(r, rank));
    for (int rank = 0; rank < p->ranks; rank++)
      if (r->wanted[rank] == upper(r, rank))
        take_b(r, upper(r, rank));
    for (int rank = 0; rank < p->ranks; rank++) {
      int stage = next_f(r, rank);
      if (stage >= 0 && !r->stuck)
        take_f(r, stage);
    }
  }
}

static void begin(Rounds *r) {
  const Problem *p = r->problem;
  r->worst = -INFINITY;
  for (int rank = 0; rank < p->ranks; rank++) {
    r->idle[rank] = p->work[rank] - p->busiest_seconds;
    r->worst = fmax(r->worst, r->idle[rank]);
  }
}

/* What W is left, when the rounds are over. */
static void end(Rounds *r) {
  const Problem *p = r->problem;
  for (int rank = 0; rank < p->ranks; rank++)
    for (int stage; (stage = owed(r, rank)) >= 0;)
      take(r, ACTION_W, stage);
  for (int i = 0; i < 3 * p->stages; i++)
    r->stuck |= r->done[i] < p->microbatches;
}

static Status allocate(Arena *arena, const Problem *p, Rounds *r) {
  TRY(ARENA_NEW(arena, r->done, 3 * p->stages));
  TRY(ARENA_NEW(arena, r->taken, p->ranks));
  TRY(ARENA_NEW(arena, r->wanted, p->ranks));
  TRY(ARENA_NEW(arena, r->end, p->operations));
  TRY(ARENA_NEW(arena, r->free, p->ranks));
  TRY(ARENA_NEW(arena, r->held, p->ranks));
  return ARENA_NEW(arena, r->idle, p->ranks);
}

static bool has_rhythm(const Problem *p) {
  bool v = p->placement == PLACE_V && p->stages == 2 * p->ranks;
  for (int stage = 0; stage < p->stages; stage++)
    v &= p->timing->rank_of_stage[stage] == (stage < p->ranks ? stage : p->stages - 1 - stage);
  return v;
}

Status rounds_order(Arena *arena, const Problem *p, Clock *clock, Order *order) {
  Rounds r = {.problem = p, .order = order};
  order->value = INFINITY;
  if (!has_rhythm(p))
    return OK;
  TRY(allocate(arena, p, &r));
  begin(&r);
  run_rounds(&r);
  end(&r);
  if (!r.stuck)
    clock_run(p, clock, order);
  return OK;
}
