/* Owns the improvement of an order by moving single operations on their rank: what a critical path runs through one
 * rank without a pause gets shorter only if an operation leaves that block at one of its ends (after Nowicki and
 * Smutnicki's tabu search for job shops). Invariant: the order kept runs, within every memory limit, and never gets
 * worse. */
#include "partitioner/synthesis/internal.h"

#include <math.h>
#include <string.h>

enum { PATIENCE = 60 /* moves refused before the path is traced anew */ };

typedef struct {
  int rank, from, to; /* places in the sequence */
} Move;

typedef struct {
  const Problem *problem;
  Clock *clock;
  Random *random;
  Order *order;
  int *place; /* [operations]: in the sequence */
  Move *moves;
  int n_moves, room;
  double work, cost;
  bool timed; /* the clock shows the order as it is */
} Improver;

/* Small where all ranks are about as good as the busiest must be: their excess, the worst ranks counting most. */
static double cost_of(const Improver *i) {
  double sum = 0;
  for (int rank = 0; rank < i->problem->ranks; rank++) {
    double excess = fmax(0, i->clock->span[rank] - i->problem->busiest_seconds);
    sum += excess * excess * excess * excess;
  }
  return sum;
}

static void time_order(Improver *i) {
  clock_run(i->problem, i->clock, i->order);
  i->work += i->problem->operations;
  i->timed = true;
}

static void add_move(Improver *i, int rank, int from, int to) {
  if (from != to && i->n_moves < i->room)
    i->moves[i->n_moves++] = (Move){rank, from, to};
}

/* Moves to the ends of a block, and single steps within it. */
static void add_block(Improver *i, int rank, int first, int last) {
  for (int at = first; at <= last; at++) {
    add_move(i, rank, at, last);
    add_move(i, rank, at, first);
    if (at < last)
      add_move(i, rank, at, at + 1);
  }
}

/* The operation of another rank that this one began right after; -1: none. */
static int awaited(const Improver *i, int operation) {
  const Problem *p = i->problem;
  int m = p->microbatches, stage = operation / m / 3, kind = operation / m % 3;
  int from = kind == ACTION_F ? stage - 1 : kind == ACTION_B && p->gradient_crosses[stage] ? stage + 1 : -1;
  if (from < 0 || p->timing->rank_of_stage[from] == p->timing->rank_of_stage[stage])
    return -1;
  int before = operation + (from - stage) * 3 * m;
  double arrives = i->clock->end[before] + p->lag[kind][from < stage ? from : stage];
  return arrives >= i->clock->begin[operation] - 1e-9 * p->period ? before : -1;
}

/* Collects moves along the path that ends with the rank's last operation. */
static void trace(Improver *i, int rank) {
  const Problem *p = i->problem;
  i->n_moves = 0;
  int at = p->sequence_begin[rank + 1] - 1, last = at;
  for (;;) {
    int operation = i->order->sequence[at], before = awaited(i, operation);
    bool follows = at > p->sequence_begin[rank] &&
                   i->clock->end[i->order->sequence[at - 1]] >= i->clock->begin[operation] - 1e-9 * p->period;
    if (follows && (before < 0 || random_unit(i->random) < 0.5)) {
      at--;
      continue;
    }
    add_block(i, rank, at, last);
    if (before < 0)
      return;
    rank = p->timing->rank_of_stage[before / p->microbatches / 3];
    at = last = i->place[before];
  }
}

static void apply(Improver *i, int from, int to) {
  int *q = i->order->sequence, operation = q[from], m = i->problem->microbatches, pass = operation / m;
  int low = from < to ? from : to, high = from < to ? to : from, first = operation;
  if (from < to)
    memmove(q + from, q + from + 1, (size_t)(to - from) * sizeof *q);
  else
    memmove(q + to + 1, q + to, (size_t)(from - to) * sizeof *q);
  q[to] = operation;
  for (int at = low; at <= high; at++)
    first = q[at] / m == pass && q[at] < first ? q[at] : first;
  for (int at = low; at <= high; at++) { /* a pass stays in the order of its microbatches */
    q[at] = q[at] / m == pass ? first++ : q[at];
    i->place[q[at]] = at;
  }
  i->timed = false;
}

/* Whether `before` is on another rank or stands before `at`. */
static bool stands_before(const Improver *i, int rank, int before, int at) {
  return i->problem->timing->rank_of_stage[before / i->problem->microbatches / 3] != rank || i->place[before] < at;
}

static bool in_order(const Improver *i, int rank, int low, int high) {
  const Problem *p = i->problem;
  int m = p->microbatches;
  for (int at = low; at <= high; at++) {
    int operation = i->order->sequence[at], stage = operation / m / 3, kind = operation / m % 3;
    if (kind != ACTION_F && !stands_before(i, rank, operation - m, at))
      return false;
    if (kind == ACTION_F && stage > 0 && !stands_before(i, rank, operation - 3 * m, at))
      return false;
    if (kind == ACTION_B && p->gradient_crosses[stage] && !stands_before(i, rank, operation + 3 * m, at))
      return false;
  }
  return true;
}

static Move vary(Improver *i, Move move) {
  Random *r = i->random;
  const Problem *p = i->problem;
  int step = move.to > move.from ? 1 : -1, distance = (move.to - move.from) * step;
  if (random_unit(r) < 0.3)
    distance = 1 + random_below(r, distance);
  if (random_unit(r) < 0.2)
    distance += random_below(r, 6);
  move.to = move.from + step * distance;
  if (move.to < p->sequence_begin[move.rank])
    move.to = p->sequence_begin[move.rank];
  if (move.to >= p->sequence_begin[move.rank + 1])
    move.to = p->sequence_begin[move.rank + 1] - 1;
  return move;
}

/* Whether the move was good, or at least did no harm, and stays. */
static bool try_move(Improver *i, Move move) {
  const Problem *p = i->problem;
  int low = move.from < move.to ? move.from : move.to, high = move.from < move.to ? move.to : move.from;
  double value = i->order->value;
  apply(i, move.from, move.to);
  i->work += 2 * (high - low) + 10;
  if (in_order(i, move.rank, low, high) && order_fits(p, i->order, move.rank)) {
    time_order(i);
    double cost = i->order->value < INFINITY ? cost_of(i) : INFINITY;
    if (cost <= i->cost) {
      i->cost = cost;
      return true;
    }
  }
  apply(i, move.to, move.from);
  i->order->value = value;
  return false;
}

static int worst_rank(const Improver *i) {
  int worst = 0;
  for (int rank = 1; rank < i->problem->ranks; rank++)
    worst = i->clock->span[rank] > i->clock->span[worst] ? rank : worst;
  return worst;
}

Status improve_order(Arena *arena, const Problem *p, Clock *clock, Random *random, double operations, Order *order) {
  Improver i = {.problem = p, .clock = clock, .random = random, .order = order, .room = 3 * p->operations};
  TRY(ARENA_NEW(arena, i.place, p->operations));
  TRY(ARENA_NEW(arena, i.moves, i.room));
  for (int at = 0; at < p->operations; at++)
    i.place[order->sequence[at]] = at;
  time_order(&i);
  i.cost = cost_of(&i);
  while (i.work < operations && order->value > p->bound_seconds * (1 + 1e-9)) {
    if (!i.timed)
      time_order(&i);
    trace(&i, random_unit(random) < 0.7 ? worst_rank(&i) : random_below(random, p->ranks));
    i.work += i.n_moves / 3;
    for (int refused = 0; refused < PATIENCE && i.n_moves > 0; refused++) {
      Move move = vary(&i, i.moves[random_below(random, i.n_moves)]);
      if (move.from != move.to && try_move(&i, move))
        break;
    }
    if (i.n_moves == 0)
      i.work += p->operations;
  }
  return OK;
}
