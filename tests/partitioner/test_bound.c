/* The proved bound beside the optimum of small problems, found by trying every order: never above it, and where memory
 * is short not far below. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/partitioner/auto_case.h"

enum { MOST_OPERATIONS = 24, MOST_ORDERS = 1 << 16, RANKS = 3 };

/* All orders of one rank's operations that keep passes in order, dependencies on the rank and memory. */
typedef struct {
  int n, length;
  uint8_t (*orders)[MOST_OPERATIONS]; /* (stage * 3 + kind) * microbatches + microbatch */
} Orders;

typedef struct {
  Timing timing;
  Orders orders[RANKS];
  const uint8_t *chosen[RANKS];
  double best[2]; /* by objective */
  double end[6 * RANKS * MOST_OPERATIONS];
} Search;

static void list_orders(Search *s, int rank, int *done, uint8_t *order, int length, double held) {
  const Timing *t = &s->timing;
  Orders *orders = &s->orders[rank];
  int all = 0;
  for (int stage = 0; stage < t->stages; stage++)
    for (int kind = 0; kind < 3 && t->rank_of_stage[stage] == rank; kind++) {
      int m = done[stage * 3 + kind];
      double change = kind == ACTION_F ? t->activation[stage] : stage == 0 ? 0 : -t->activation[stage] / 2;
      if (kind == ACTION_W && stage == 0)
        change = -t->activation[stage];
      all += t->microbatches;
      if (m == t->microbatches || (kind != ACTION_F && done[stage * 3 + kind - 1] <= m))
        continue;
      if (t->memory_limit && held + change > t->memory_limit[rank] + 1e-9)
        continue;
      bool waits = false; /* for another stage of the rank */
      for (int other = 0; other < t->stages; other++)
        if (t->rank_of_stage[other] == rank)
          waits |= (kind == ACTION_F && other < stage && done[other * 3] <= m) ||
                   (kind == ACTION_B && other > stage && done[other * 3 + ACTION_B] <= m);
      if (waits)
        continue;
      order[length] = (uint8_t)((stage * 3 + kind) * t->microbatches + m);
      done[stage * 3 + kind]++;
      list_orders(s, rank, done, order, length + 1, held + change);
      done[stage * 3 + kind]--;
    }
  if (length < all)
    return;
  if (orders->n == MOST_ORDERS)
    FAIL_TEST("more than %d orders", MOST_ORDERS);
  memcpy(orders->orders[orders->n++], order, (size_t)length);
  orders->length = length;
}

/* When the inputs of an operation are there; below 0: not known yet. */
static double inputs_at(const Search *s, int operation) {
  const Timing *t = &s->timing;
  int m = t->microbatches, stage = operation / m / 3, kind = operation / m % 3;
  double at = kind == ACTION_F ? 0 : s->end[operation - m];
  int from = kind == ACTION_F ? stage - 1 : kind == ACTION_B ? stage + 1 : -1;
  if (from < 0 || from == t->stages)
    return at;
  double other = s->end[operation + (from - stage) * 3 * m];
  if (at < 0 || other < 0)
    return -1;
  other += t->rank_of_stage[from] == t->rank_of_stage[stage] ? 0 : t->link_latency_seconds;
  return other > at ? other : at;
}

static double seconds_of(const Timing *t, int operation) {
  int stage = operation / t->microbatches / 3, kind = operation / t->microbatches % 3;
  if (stage == 0) /* all W */
    return kind == ACTION_F   ? t->forward_seconds[0]
           : kind == ACTION_W ? t->backward_weight_seconds[0] + t->backward_input_seconds[0]
                              : 0;
  return (kind == ACTION_F   ? t->forward_seconds
          : kind == ACTION_B ? t->backward_input_seconds
                             : t->backward_weight_seconds)[stage];
}

/* Span and makespan of the chosen orders, each operation as early as it can be. */
static void time_orders(Search *s) {
  const Timing *t = &s->timing;
  int at[RANKS] = {0}, n = 3 * t->stages * t->microbatches;
  double free_at[RANKS] = {0}, begin[RANKS] = {0}, span = 0, makespan = 0;
  for (int i = 0; i < n; i++)
    s->end[i] = -1;
  for (bool moved = true; moved;) {
    moved = false;
    for (int rank = 0; rank < t->ranks; rank++)
      for (; at[rank] < s->orders[rank].length; at[rank]++) {
        int operation = s->chosen[rank][at[rank]];
        double from = inputs_at(s, operation);
        if (from < 0)
          break;
        from = fmax(from, free_at[rank]);
        begin[rank] = at[rank] ? begin[rank] : from;
        s->end[operation] = free_at[rank] = from + seconds_of(t, operation);
        moved = true;
      }
  }
  for (int rank = 0; rank < t->ranks; rank++) {
    if (at[rank] < s->orders[rank].length) /* for ever */
      return;
    span = fmax(span, free_at[rank] - begin[rank]);
    makespan = fmax(makespan, free_at[rank]);
  }
  s->best[OBJECTIVE_SPAN] = fmin(s->best[OBJECTIVE_SPAN], span);
  s->best[OBJECTIVE_MAKESPAN] = fmin(s->best[OBJECTIVE_MAKESPAN], makespan);
}

static void try_orders(Search *s, int rank) {
  if (rank == RANKS || rank == s->timing.ranks) {
    time_orders(s);
    return;
  }
  for (int i = 0; i < s->orders[rank].n; i++) {
    s->chosen[rank] = s->orders[rank].orders[i];
    try_orders(s, rank + 1);
  }
}

static void exhaust(Arena *arena, const Timing *timing, Search *s) {
  int done[6 * RANKS];
  uint8_t order[MOST_OPERATIONS];
  *s = (Search){.timing = *timing, .best = {INFINITY, INFINITY}};
  for (int rank = 0; rank < timing->ranks; rank++) {
    s->orders[rank].orders = arena_alloc(arena, MOST_ORDERS, sizeof *s->orders[rank].orders);
    memset(done, 0, sizeof done);
    list_orders(s, rank, done, order, 0, 0);
  }
  try_orders(s, 0);
}

static double chance(unsigned *seed, double from, double to) {
  return from + (to - from) * (rand_r(seed) / (RAND_MAX + 1.0));
}

static Setting draw(unsigned *seed, int ranks, int microbatches) {
  Setting setting = equal(ranks, microbatches, 1, 1, 1, chance(seed, 0, 1) < 0.3 ? 0 : chance(seed, 0, 3), 0);
  bool alike = chance(seed, 0, 1) < 0.3;
  for (int rank = 0; rank < ranks; rank++) {
    setting.f[rank] = alike && rank ? setting.f[0] : 1 + floor(chance(seed, 0, 9));
    setting.b[rank] = alike && rank ? setting.b[0] : 1 + floor(chance(seed, 0, 9));
    setting.w[rank] = alike && rank ? setting.w[0] : floor(chance(seed, 0, 9));
    setting.limit[rank] = 1 + floor(chance(seed, 0, 5)) / 4;
  }
  return setting;
}

/* Line, loop and V of few ranks and microbatches. */
static void never_above_the_optimum(void **state) {
  (void)state;
  static const struct {
    int placement, ranks, microbatches;
  } sizes[] = {{PLACE_LINE, 2, 3}, {PLACE_LINE, 2, 4}, {PLACE_LINE, 3, 3}, {PLACE_LOOP, 2, 2}, {PLACE_V, 2, 2}};
  unsigned seed = 5;
  static Search search;
  int met = 0, tried = 0;
  for (int i = 0; i < 120; i++) {
    int at = i % 5;
    Arena *arena = arena_create();
    Setting setting = draw(&seed, sizes[at].ranks, sizes[at].microbatches);
    Asked asked;
    ask(arena, &setting, OBJECTIVE_SPAN, &asked);
    const Timing *timing = &asked.timings[sizes[at].placement];
    exhaust(arena, timing, &search);
    for (Objective objective = OBJECTIVE_SPAN; objective <= OBJECTIVE_MAKESPAN; objective++) {
      double bound, optimum = search.best[objective];
      ASSERT_OK(schedule_lower_bound(timing, objective, &bound));
      if (bound > optimum * (1 + 1e-9))
        FAIL_TEST("case %d: the bound is %.9g, the optimum %.9g", i, bound, optimum);
      met += bound > optimum * (1 - 1e-9);
      tried++;
    }
    arena_destroy(arena);
  }
  if (met * 2 < tried)
    FAIL_TEST("the bound is met %d times of %d", met, tried);
}

/* With room for so many microbatches a rank each waits for one that came as many before it. */
static void memory_far_below_the_ranks(void **state) {
  (void)state;
  static const struct {
    double limit, gap; /* without what must have come back, 1e-9, 0.50, 0.07 and 0.43 */
  } cases[] = {{1, 1e-6}, {1.5, 1e-6}, {2, 0.065}, {2.7, 0.065}};
  for (int i = 0; i < 4; i++) {
    Setting setting = equal(4, 32, 10, 11, 7, 0.5, cases[i].limit);
    Arena *arena = arena_create();
    Asked asked;
    Schedule schedule;
    AutoReport report;
    ask(arena, &setting, OBJECTIVE_SPAN, &asked);
    asked.request.n_candidates = 1; /* a line */
    ASSERT_OK(schedule_auto(arena, &asked.request, &schedule, &report));
    if (report.gap > cases[i].gap)
      FAIL_TEST("limit %g: the gap is %.3f", cases[i].limit, report.gap);
    arena_destroy(arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(never_above_the_optimum),
      cmocka_unit_test(memory_far_below_the_ranks),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
