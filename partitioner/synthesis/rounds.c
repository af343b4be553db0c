/* Owns orders that are made in rounds: in each, every rank takes one B and one F, whatever it has to wait for, and W
 * goes into the pauses. A list scheduler that looks no further than what is on its way leaves that rhythm where
 * latencies add up. Two placements have such a rhythm: a line of one stage a rank, in rounds of F then B, and a V of
 * two, in rounds of B then F (the heuristics of Qi et al. 2023, "Zero bubble pipeline parallelism", and 2024, "Pipeline
 * parallelism with controllable memory", here for unlike stages and limits, and for a first stage whose backward is
 * one action). Invariant: what is taken has its inputs
 * and its room; where a round cannot go on there is no order. */
#include "partitioner/synthesis/internal.h"

#include <math.h>
#include <string.h>

enum { PASSES = 6 };

static const double never = 1e300;

/* The first stage has one action for B and W, and nobody waits for it. */
typedef enum {
  AS_W,     /* it comes where a W would */
  AS_B,     /* it comes where a B would, after all W that are older */
  AS_OTHERS /* the rounds are made as though B and W were two, then it is put where it makes nothing late */
} FirstStage;

/* What is not settled by the rhythm. Every combination is tried. */
typedef struct {
  FirstStage first;
  bool late_f;   /* W makes an F late where the rank would else become the one that idles most */
  bool late_b;   /* the same for B */
  bool greedy;   /* W makes others late even where the rank would not */
  bool cautious; /* line: what a rank takes before its first B never makes it late */
  bool yields;   /* line: an F waits for the next round where the next rank will soon send a gradient */
} Habits;

typedef struct {
  const Problem *problem;
  Order *order;
  Habits habits;
  double *seconds[3], *memory[3]; /* [F, B, W][stages]: the problem's, but for AS_OTHERS */
  int *done;                      /* [stages * 3]: microbatches */
  int *taken;                     /* [ranks] */
  double *end;                    /* [operations] */
  double *free, *held;            /* [ranks] */
  double *idle, *idle_before;     /* [ranks]: less what the rank has to spare; of this pass and the one before */
  double worst, worst_before;     /* of all ranks */
  int *wanted;                    /* [ranks]: F; in a V, which of its stages gives its B of the round */
  int *sequence;                  /* [operations]: of a rank that is settled */
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

/* No gradient leaves the stage: its backward is one action. */
static bool is_joined(const Problem *p, int stage) {
  return !schedule_has_b(p->crossings, stage);
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
  if (r->stuck || !known || r->held[rank] + r->memory[kind][stage] > p->limit[rank]) {
    r->stuck = true;
    return;
  }
  int operation = operation_of(p, stage, kind, next);
  begin = fmax(begin, r->free[rank]); /* what this rank did before has ended */
  if (r->taken[rank] > 0 || p->objective == OBJECTIVE_MAKESPAN)
    r->idle[rank] += begin - r->free[rank];
  r->worst = fmax(r->worst, r->idle[rank]);
  r->free[rank] = r->end[operation] = begin + r->seconds[kind][stage];
  r->held[rank] += r->memory[kind][stage];
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

/* W into the pause before `at`, and one more that does not fit where the habits say so. */
static void fill_pause(Rounds *r, int rank, double at, bool late) {
  double dust = 1e-9 * r->problem->period;
  int stage;
  while ((stage = owed(r, rank)) >= 0 && r->free[rank] + r->seconds[ACTION_W][stage] <= at + dust)
    take(r, ACTION_W, stage);
  double pause = at - r->free[rank], allowed = fmax(r->worst, r->worst_before - r->idle_before[rank]) - r->idle[rank];
  if (stage >= 0 && pause > dust && (pause > allowed + dust ? late : r->habits.greedy))
    take(r, ACTION_W, stage);
}

/* W until F has room, W into the pause before it, then F. */
static void take_f(Rounds *r, int stage) {
  const Problem *p = r->problem;
  int rank = p->timing->rank_of_stage[stage];
  for (int w; r->held[rank] + r->memory[ACTION_F][stage] > p->limit[rank] && (w = owed(r, rank)) >= 0;)
    take(r, ACTION_W, w);
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
  if (r->habits.first == AS_B && is_joined(p, stage))
    while (!r->stuck && done(r, ACTION_W, stage) < done(r, ACTION_B, stage))
      take(r, ACTION_W, owed(r, rank));
}

/* ---- a V of two stages a rank ---- */

static bool fits_above(const Rounds *r, int rank) {
  for (int above = 0; above <= rank; above++) {
    int stage = lower(r, above);
    if (all_done(r, ACTION_F, stage) || r->held[above] + r->memory[ACTION_F][stage] > r->problem->limit[above])
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
    double at = arrival(r, ACTION_F, upper(r, rank)), room = r->memory[ACTION_F][stage] * (2 + 2 * rank);
    while (rank + 1 < p->ranks && !r->stuck && fits_above(r, rank) && r->held[rank] + room <= p->limit[rank] &&
           r->free[rank] + r->seconds[ACTION_F][stage] <= at)
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
    double at = r->free[rank], held = r->held[rank], f = r->seconds[ACTION_F][stage];
    if (rank + 1 < p->ranks)
      returned += p->lag[ACTION_B][stage];
    while (rank + 1 < p->ranks && 1 + more < p->microbatches && held + r->memory[ACTION_F][stage] <= p->limit[rank] &&
           (r->habits.cautious ? at + f <= returned : at < returned)) {
      held += r->memory[ACTION_F][stage];
      at += f;
      more++;
    }
    r->wanted[rank] = more;
    returned = fmax(at, returned) + r->seconds[ACTION_B][stage];
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
      r->free[rank + 1] + r->seconds[ACTION_F][next] + r->seconds[ACTION_B][next] + p->lag[ACTION_B][stage];
  if (r->free[rank] >= gradient)
    return true;
  double held = r->held[rank] + r->memory[ACTION_F][stage], first = r->free[rank] + r->seconds[ACTION_F][stage];
  for (int w = done(r, ACTION_W, stage); w < done(r, ACTION_B, stage) && held > p->limit[rank]; w++) {
    held += r->memory[ACTION_W][stage];
    first += r->seconds[ACTION_W][stage];
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

/* ---- the first stage as it is ---- */

/* A rank's new sequence while it is made. */
typedef struct {
  int rank, taken;
  double free, held, idle;
  int *done; /* [stages * 3] */
} Settled;

/* When the inputs of the pass's next operation are there as the rounds have it; INFINITY: it waits for one of the
 * rank itself. A W that is all of a backward has the inputs of B. */
static double settled_inputs(const Rounds *r, const Settled *s, int stage, int kind) {
  const Problem *p = r->problem;
  int next = s->done[stage * 3 + kind], neighbour = kind;
  if (next == p->microbatches)
    return INFINITY;
  if (kind != ACTION_F && s->done[stage * 3 + (is_joined(p, stage) ? ACTION_F : kind - 1)] <= next)
    return INFINITY;
  if (kind == ACTION_W && is_joined(p, stage))
    neighbour = ACTION_B;
  int from = neighbour == ACTION_F ? stage - 1 : neighbour == ACTION_B && p->gradient_crosses[stage] ? stage + 1 : -1;
  if (from < 0)
    return 0;
  if (p->timing->rank_of_stage[from] == s->rank)
    return s->done[from * 3 + neighbour] > next ? 0 : INFINITY;
  return r->end[operation_of(p, from, neighbour, next)] + p->lag[neighbour][from < stage ? from : stage];
}

static void settle_one(Rounds *r, Settled *s, int stage, int kind) {
  const Problem *p = r->problem;
  int *sequence = &r->order->sequence[p->sequence_begin[s->rank]], next = s->done[stage * 3 + kind];
  double begin = fmax(s->free, settled_inputs(r, s, stage, kind));
  s->idle += begin - s->free;
  s->free = begin + p->seconds[kind][stage];
  s->done[stage * 3 + kind]++;
  s->held += p->memory[kind][stage];
  if (kind == ACTION_W && is_joined(p, stage)) {
    s->done[stage * 3 + ACTION_B]++;
    sequence[s->taken++] = operation_of(p, stage, ACTION_B, next);
  }
  sequence[s->taken++] = operation_of(p, stage, kind, next);
}

/* The stage of the filler that comes first in the rounds, of those that end by `until`; -1: none. */
static int next_filler(const Rounds *r, const Settled *s, double until) {
  const Problem *p = r->problem;
  int best = -1;
  double first = INFINITY;
  for (int i = p->first_chunk[s->rank]; i < p->first_chunk[s->rank + 1]; i++) {
    int stage = p->chunk_stage[i];
    double at = settled_inputs(r, s, stage, ACTION_W);
    if (at == INFINITY || fmax(s->free, at) + p->seconds[ACTION_W][stage] > until)
      continue;
    double end = r->end[operation_of(p, stage, ACTION_W, s->done[stage * 3 + ACTION_W])];
    if (end < first) {
      first = end;
      best = stage;
    }
  }
  return best;
}

/* Puts the rank's sequence anew with the first stage's backward as one action: what others wait for keeps its order
 * and, memory allowing, its time; all W go where they fit between. */
static void settle(Rounds *r, int rank) {
  const Problem *p = r->problem;
  int begin = p->sequence_begin[rank], count = p->sequence_begin[rank + 1] - begin, stage;
  Settled s = {.rank = rank, .done = r->done};
  memcpy(r->sequence, &r->order->sequence[begin], (size_t)count * sizeof(int));
  for (int i = p->first_chunk[rank]; i < p->first_chunk[rank + 1]; i++)
    for (int kind = 0; kind < 3; kind++)
      s.done[p->chunk_stage[i] * 3 + kind] = 0;
  s.idle = p->work[rank] - p->busiest_seconds;
  s.free = r->end[r->sequence[0]] - r->seconds[ACTION_F][p->chunk_stage[p->first_chunk[rank]]];
  for (int i = 0; i < count; i++) {
    int pass = r->sequence[i] / p->microbatches, kind = pass % 3;
    if (kind == ACTION_W || (kind == ACTION_B && is_joined(p, pass / 3)))
      continue;
    double at = r->end[r->sequence[i]] - r->seconds[kind][pass / 3];
    while ((stage = next_filler(r, &s, at + 1e-9 * p->period)) >= 0)
      settle_one(r, &s, stage, ACTION_W);
    if (settled_inputs(r, &s, pass / 3, kind) - s.free > r->worst - s.idle + 1e-9 * p->period &&
        (stage = next_filler(r, &s, never)) >= 0)
      settle_one(r, &s, stage, ACTION_W);
    while (s.held + p->memory[kind][pass / 3] > p->limit[rank] && (stage = next_filler(r, &s, never)) >= 0)
      settle_one(r, &s, stage, ACTION_W);
    r->stuck |= s.held + p->memory[kind][pass / 3] > p->limit[rank];
    settle_one(r, &s, pass / 3, kind);
  }
  while ((stage = next_filler(r, &s, never)) >= 0)
    settle_one(r, &s, stage, ACTION_W);
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
    r->taken[rank] = 0;
    r->free[rank] = r->held[rank] = 0;
    r->idle[rank] = p->work[rank] - p->busiest_seconds;
    r->worst = fmax(r->worst, r->idle[rank]);
  }
  if (p->stages == p->ranks)
    run_line(r);
  else
    run_v(r);
  for (int rank = 0; rank < p->ranks; rank++)
    for (int stage; (stage = owed(r, rank)) >= 0;)
      take(r, ACTION_W, stage);
  for (int i = 0; i < 3 * p->stages; i++)
    r->stuck |= r->done[i] < p->microbatches;
  for (int rank = 0; rank < p->ranks && r->habits.first == AS_OTHERS && !r->stuck; rank++)
    for (int i = p->first_chunk[rank]; i < p->first_chunk[rank + 1]; i++)
      if (is_joined(p, p->chunk_stage[i])) {
        settle(r, rank);
        break;
      }
  return !r->stuck;
}

/* The times and sizes that the rounds go by. */
static void set_stages(Rounds *r) {
  const Problem *p = r->problem;
  for (int stage = 0; stage < p->stages; stage++) {
    for (int kind = 0; kind < 3; kind++) {
      r->seconds[kind][stage] = p->seconds[kind][stage];
      r->memory[kind][stage] = p->memory[kind][stage];
    }
    if (r->habits.first != AS_OTHERS || !is_joined(p, stage))
      continue;
    r->seconds[ACTION_B][stage] = p->timing->backward_input_seconds[stage];
    r->seconds[ACTION_W][stage] = p->timing->backward_weight_seconds[stage];
    r->memory[ACTION_B][stage] = -p->memory[ACTION_F][stage] * p->timing->backward_input_frees;
    r->memory[ACTION_W][stage] = -p->memory[ACTION_F][stage] - r->memory[ACTION_B][stage];
  }
}

static Status allocate(Arena *arena, const Problem *p, Rounds *r) {
  TRY(ARENA_NEW(arena, r->done, 3 * p->stages));
  TRY(ARENA_NEW(arena, r->taken, p->ranks));
  for (int kind = 0; kind < 3; kind++) {
    TRY(ARENA_NEW(arena, r->seconds[kind], p->stages));
    TRY(ARENA_NEW(arena, r->memory[kind], p->stages));
  }
  TRY(ARENA_NEW(arena, r->sequence, p->operations));
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

Status rounds_orders(Arena *arena, const Problem *p, Clock *clock, Order *order, double operations, OrderTaker *taker,
                     void *context) {
  Rounds r = {.problem = p, .order = order};
  if (!has_rhythm(p))
    return OK;
  TRY(allocate(arena, p, &r));
  int ways = p->stages == p->ranks ? 3 * 32 : 3 * 8;
  for (int way = 0; way < ways && operations > 0; way++) {
    int rest = way / 3;
    r.habits = (Habits){(FirstStage)(way % 3), !(rest & 1), !(rest & 2), rest & 4, rest & 8, rest & 16};
    set_stages(&r);
    r.worst_before = -INFINITY;
    for (int rank = 0; rank < p->ranks; rank++)
      r.idle_before[rank] = 0;
    /* what the worst rank came to idle in one pass, the others may in the next */
    for (int pass = 0; pass < PASSES && run(&r); pass++) {
      operations -= p->operations;
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
