/* The partition equals brute force over all cuts: bottleneck, then cut seconds, then earliest cuts. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"
#include "partitioner/plan/partition.h"
#include "tests/random_graph.h"

enum { MOST = 12, STAGES = 5 };

/* A random problem and its capacities: a stage holds at most so much weight. */
typedef struct {
  PartitionProblem p;
  double seconds[STAGES][MOST], cut_seconds[STAGES][MOST + 1], before[STAGES][MOST + 1];
  const double *seconds_of[STAGES], *cut_seconds_of[STAGES];
  bool may_cut[MOST + 1];
  int weight[MOST], capacity[MOST];
  /* the best found by brute force */
  int trial[MOST + 1], best[MOST + 1];
  double best_bottleneck, best_sum;
  bool found;
} Problem;

static bool fits(void *context, int stage, int from, int to) {
  const Problem *q = context;
  int sum = 0;
  for (int i = from; i < to; i++)
    sum += q->weight[i];
  return sum <= q->capacity[stage];
}

static void judge(Problem *q) {
  double bottleneck = 0, sum = 0;
  int n = q->p.n_stages;
  for (int s = 0; s < n; s++) {
    bottleneck = fmax(bottleneck, partition_stage_seconds(&q->p, q->before[s], s, q->trial[s], q->trial[s + 1]));
    if (q->p.fits && !fits(q, s, q->trial[s], q->trial[s + 1]))
      return;
  }
  for (int s = n - 1; s > 0; s--)
    sum = q->cut_seconds_of[s - 1][q->trial[s]] + sum;
  /* trials come in lexicographic order, so the first of equals has the earliest cuts */
  if (q->found && (bottleneck > q->best_bottleneck || (bottleneck == q->best_bottleneck && sum >= q->best_sum)))
    return;
  q->found = true;
  q->best_bottleneck = bottleneck;
  q->best_sum = sum;
  memcpy(q->best, q->trial, sizeof q->best);
}

static void try_cuts(Problem *q, int stage) {
  if (stage == q->p.n_stages) {
    q->trial[stage] = q->p.n_items;
    judge(q);
    return;
  }
  for (int at = q->trial[stage - 1] + 1; at < q->p.n_items; at++)
    if (q->may_cut[at]) {
      q->trial[stage] = at;
      try_cuts(q, stage + 1);
    }
}

/* Small integers make many ties; fractions make rounding matter. Unlike stages have seconds of their own, and links. */
static void draw(Problem *q, uint64_t seed) {
  uint64_t r = seed;
  *q = (Problem){0};
  bool whole = random_below(&r, 2), limited = random_below(&r, 2), unlike = random_below(&r, 2);
  int n = 1 + (int)random_below(&r, MOST), stages = 1 + (int)random_below(&r, STAGES);
  for (int i = 0; i <= n; i++) {
    q->may_cut[i] = random_below(&r, 5) > 0;
    q->weight[i < n ? i : 0] = (int)random_below(&r, 4);
  }
  for (int s = 0; s < stages; s++) {
    for (int i = 0; i < n; i++) {
      q->seconds[s][i] = random_below(&r, 6) * (whole ? 1 : 0.1);
      q->before[s][i + 1] = q->before[s][i] + q->seconds[s][i];
      q->cut_seconds[s][i] = random_below(&r, 4) * (whole ? 1 : 0.1);
    }
    q->seconds_of[s] = q->seconds[unlike ? s : 0];
    q->cut_seconds_of[s] = q->cut_seconds[unlike ? s : 0];
    if (!unlike)
      memcpy(q->before[s], q->before[0], sizeof q->before[0]);
    q->capacity[s] = 2 + (int)random_below(&r, 12);
  }
  q->p = (PartitionProblem){.n_items = n,
                            .n_stages = stages,
                            .seconds = q->seconds_of,
                            .cut_seconds = q->cut_seconds_of,
                            .may_cut = q->may_cut,
                            .fits = limited ? fits : NULL,
                            .context = q};
}

static void equals_brute_force(void **state) {
  (void)state;
  int solved = 0, tight = 0;
  for (uint64_t seed = 1; seed <= 6000; seed++) {
    Problem q;
    int cut[MOST + 1];
    double bottleneck = -1;
    draw(&q, seed);
    try_cuts(&q, 1);
    Status status = partition_solve(&q.p, cut, &bottleneck);
    if (!q.found) {
      assert_true(status == E_LIMIT || status == E_USAGE);
      tight += status == E_LIMIT;
      continue;
    }
    ASSERT_OK(status);
    if (bottleneck != q.best_bottleneck || memcmp(cut, q.best, (size_t)(q.p.n_stages + 1) * sizeof *cut) != 0)
      FAIL_TEST("seed %d: bottleneck %.17g, brute force %.17g", (int)seed, bottleneck, q.best_bottleneck);
    q.p.at_least = bottleneck * (seed % 3 ? 1 : 0.9); /* what is known of it changes nothing */
    ASSERT_OK(partition_solve(&q.p, cut, &bottleneck));
    assert_true(bottleneck == q.best_bottleneck);
    assert_memory_equal(cut, q.best, (size_t)(q.p.n_stages + 1) * sizeof *cut);
    solved++;
  }
  assert_true(solved > 3000 && tight > 100);
}

static bool short_enough(void *context, int stage, int from, int to) {
  (void)stage;
  return to - from <= *(int *)context;
}

static void large_problems_take_little_time(void **state) {
  (void)state;
  enum { ITEMS = 10000, MANY = 64 };
  static double seconds[ITEMS], cut_seconds[ITEMS + 1];
  static bool may_cut[ITEMS + 1];
  uint64_t r = 1;
  int longest = 200, cut[MANY + 1];
  double bottleneck, total = 0;
  for (int i = 0; i < ITEMS; i++) {
    seconds[i] = 1e-6 * random_below(&r, 1000);
    cut_seconds[i] = i ? 1e-6 * random_below(&r, 300) : 0;
    may_cut[i] = true;
    total += seconds[i];
  }
  const double *each[MANY], *cuts[MANY];
  for (int k = 0; k < MANY; k++) {
    each[k] = seconds;
    cuts[k] = cut_seconds;
  }
  PartitionProblem p = {.n_items = ITEMS,
                        .n_stages = MANY,
                        .seconds = each,
                        .cut_seconds = cuts,
                        .may_cut = may_cut,
                        .fits = short_enough,
                        .context = &longest};
  clock_t begin = clock();
  ASSERT_OK(partition_solve(&p, cut, &bottleneck));
  assert_true((double)(clock() - begin) / CLOCKS_PER_SEC < 10);
  assert_true(bottleneck >= total / MANY && bottleneck < 1.2 * total / MANY);
  for (int s = 0; s < MANY; s++)
    assert_in_range(cut[s + 1] - cut[s], 1, longest);
}

static void says_what_is_missing(void **state) {
  (void)state;
  double seconds[3] = {1, 1, 1}, cut_seconds[4] = {0};
  bool may_cut[4] = {true, false, true, true};
  int longest = 1, cut[4];
  double bottleneck;
  const double *each[3] = {seconds, seconds, seconds}, *cuts[2] = {cut_seconds, cut_seconds};
  PartitionProblem p = {.n_items = 3, .n_stages = 3, .seconds = each, .cut_seconds = cuts, .may_cut = may_cut};
  ASSERT_FAILS(E_USAGE, "3 stages need 2 cuts, but only 1 is possible", partition_solve(&p, cut, &bottleneck));
  p.n_stages = 2;
  p.fits = short_enough;
  p.context = &longest;
  ASSERT_FAILS(E_LIMIT, "no cut into 2 stages fits the memory", partition_solve(&p, cut, &bottleneck));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(equals_brute_force),
      cmocka_unit_test(large_problems_take_little_time),
      cmocka_unit_test(says_what_is_missing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
