/* Which device each rank is: as good as the best of all orders where they are few, never worse than the given one, and
 * what is plain to see beyond. */
#include <math.h>
#include <string.h>

#include "partitioner/plan/internal.h"
#include "partitioner/plan/partition.h"
#include "tests/partitioner/plan_case.h"

enum { MOST = 16 };

typedef struct {
  PlanRequest request;
  DeviceSpec devices[MOST];
  double pair[MOST * MOST];
  size_t limits[MOST];
} Machine;

/* Devices of three speeds on nodes of two, whose links are fast within and slow between, or any. */
static void draw(uint64_t *seed, int ranks, bool nodes, Machine *m) {
  m->request = request_of(ranks, 4, "1f1b");
  for (int a = 0; a < ranks; a++) {
    m->devices[a] = device;
    m->devices[a].flops_per_second *= 1 + random_below(seed, 3);
    m->limits[a] = random_below(seed, 4) ? SIZE_MAX : 12000;
    for (int b = 0; b < ranks; b++)
      m->pair[a * ranks + b] = nodes ? (a / 2 == b / 2 ? 1e9 : 5e7) : 3e7 * (1 + random_below(seed, 8));
  }
  m->request.devices = m->devices;
  m->request.pair_bytes_per_second = m->pair;
  m->request.memory_limits = m->limits;
}

/* The same machine, rank r on device[r]. */
static void seat(const Machine *from, const int *seats, Machine *to) {
  int n = from->request.ranks;
  *to = *from;
  for (int a = 0; a < n; a++) {
    to->devices[a] = from->devices[seats[a]];
    to->limits[a] = from->limits[seats[a]];
    for (int b = 0; b < n; b++)
      to->pair[a * n + b] = from->pair[seats[a] * n + seats[b]];
  }
  to->request.devices = to->devices;
  to->request.pair_bytes_per_second = to->pair;
  to->request.memory_limits = to->limits;
}

typedef struct {
  PlanWindow *window;
  const Machine *machine;
} Room;

static bool fits(void *context, int stage, int from, int to) {
  const Room *room = context;
  return plan_window_bytes(room->window, from, to, room->machine->request.ranks - stage) <=
         room->machine->limits[stage];
}

/* The slowest stage with devices in this order; INFINITY: it does not fit. */
static double slowest(const Graph *g, const Machine *m, const int *seats) {
  static Machine seated;
  Arena *arena = arena_create();
  PlanItems items;
  Room room = {.machine = &seated};
  int n = m->request.ranks, cut[MOST + 1], ranks[MOST];
  const double *seconds[MOST], *cuts[MOST];
  double bottleneck;
  seat(m, seats, &seated);
  ASSERT_OK(plan_items(arena, g, &seated.request, NULL, &items));
  ASSERT_OK(plan_window_create(arena, g, &items, &room.window));
  for (int r = 0; r < n; r++) {
    ranks[r] = r;
    seconds[r] = items.seconds[r];
  }
  PlanSearch search = {.request = &seated.request, .stages = n};
  ASSERT_OK(plan_price_cuts(&search, &items, arena, ranks, cuts));
  PartitionProblem problem = {.n_items = items.n,
                              .n_stages = n,
                              .seconds = seconds,
                              .cut_seconds = cuts,
                              .may_cut = items.may_cut,
                              .fits = fits,
                              .context = &room};
  Status status = partition_solve(&problem, cut, &bottleneck);
  assert_true(status == OK || status == E_LIMIT);
  arena_destroy(arena);
  return status == OK ? bottleneck : INFINITY;
}

static double best_of_all(const Graph *g, const Machine *m, int *seats, int rank) {
  double best = INFINITY;
  int n = m->request.ranks;
  if (rank == n)
    return slowest(g, m, seats);
  for (int k = rank; k < n; k++) {
    int here = seats[rank];
    seats[rank] = seats[k];
    seats[k] = here;
    best = fmin(best, best_of_all(g, m, seats, rank + 1));
    seats[k] = seats[rank];
    seats[rank] = here;
  }
  return best;
}

static void is_an_order(const int *seats, int n) {
  bool seen[MOST] = {false};
  for (int r = 0; r < n; r++) {
    assert_true(seats[r] >= 0 && seats[r] < n && !seen[seats[r]]);
    seen[seats[r]] = true;
  }
}

static void few_ranks_are_seated_best(void **state) {
  (void)state;
  static Machine m;
  uint64_t seed = 3;
  int moved = 0;
  for (int i = 0; i < 24; i++) {
    Arena *arena = arena_create();
    int ranks = 2 + i % 4, seats[MOST], given[MOST] = {0, 1, 2, 3, 4};
    Graph *g = layers_of(arena, 6, 8 + 24 * (i % 2), 8);
    double gain;
    draw(&seed, ranks, i % 3 == 0, &m);
    ASSERT_OK(plan_seat(g, &m.request, seats, &gain));
    is_an_order(seats, ranks);
    double before = slowest(g, &m, given), after = slowest(g, &m, seats), best = best_of_all(g, &m, given, 0);
    if (after > best * (1 + 1e-9) || (after < before * (1 - 1e-9)) != (gain > 0))
      FAIL_TEST("case %d: the slowest stage takes %g, %g in the given order, %g at best; a gain of %g", i, after,
                before, best, gain);
    if (before < INFINITY)
      assert_true(fabs(gain - (1 - after / before)) < 1e-9);
    moved += gain > 0;
    arena_destroy(arena);
  }
  assert_true(moved >= 8);
}

/* Sixteen devices on nodes of two, given so that neighbours are apart: beside each other they are found again. */
static void nodes_are_brought_together(void **state) {
  (void)state;
  static Machine m, mixed;
  uint64_t seed = 1;
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 24, 64, 8);
  int apart[MOST], seats[MOST], given[MOST], slow[2] = {0, 0};
  double gain;
  draw(&seed, MOST, true, &m);
  for (int r = 0; r < MOST; r++) {
    m.devices[r] = device;
    m.limits[r] = SIZE_MAX;
    apart[r] = r / 2 + (r % 2) * (MOST / 2);
    given[r] = r;
  }
  seat(&m, apart, &mixed);
  ASSERT_OK(plan_seat(g, &mixed.request, seats, &gain));
  is_an_order(seats, MOST);
  for (int r = 0; r < MOST - 1; r++) {
    slow[0] += apart[r] / 2 != apart[r + 1] / 2;
    slow[1] += apart[seats[r]] / 2 != apart[seats[r + 1]] / 2;
  }
  assert_true(slowest(g, &mixed, seats) <= slowest(g, &mixed, given));
  assert_int_equal(slow[0], MOST - 1);
  if (slow[1] > MOST / 2 || gain <= 0)
    FAIL_TEST("%d cuts lie on slow links, the slowest stage gains %g", slow[1], gain);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(few_ranks_are_seated_best),
      cmocka_unit_test(nodes_are_brought_together),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
