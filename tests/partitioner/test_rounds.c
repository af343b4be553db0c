/* Where orders made in rounds pay: what synthesis comes to with them is shorter than what all placements come to
 * without. They earn their keep on Vs with the memory of 1F1B, from six ranks and twice as many microbatches on;
 * where this test fails because the search has become as good, they may go. */
#include <math.h>

#include "partitioner/synthesis/internal.h"
#include "tests/partitioner/auto_case.h"

/* The smallest setting found, and two of Qi et al. 2023 (tests/partitioner/test_auto.c), whose authors' schedulers
 * reach more than search alone. */
static const struct {
  int ranks, microbatches;
  double f, b, w, latency, limit;
} settings[] = {
    {6, 12, 10, 9.8, 7, 0.3, 6},
    {8, 24, 29.718, 29.444, 19.927, 0.527, 8},
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SETTINGS = 1 }; /* there is no time for more */
#else
enum { SETTINGS = sizeof settings / sizeof *settings };
#endif

/* All that synthesis does for a placement, and as long as for the best of them, but for rounds. */
static double without_rounds(Arena *arena, const AutoCandidate *candidate, uint64_t seed) {
  enum { TURNS = 4 };
  Problem problem;
  Search *search;
  ASSERT_OK(problem_make(arena, candidate, OBJECTIVE_SPAN, &problem));
  ASSERT_OK(search_make(arena, &problem, seed, &search));
  double effort = fmin(1e7, 8000.0 * problem.operations);
  ASSERT_OK(search_named(search, effort));
  for (int turn = 0; turn < TURNS; turn++)
    search_run(search, effort / TURNS);
  ASSERT_OK(search_polish(arena, search, effort, effort));
  return search_best(search)->value;
}

static void rounds_beat_search_alone(void **state) {
  (void)state;
  for (int i = 0; i < SETTINGS; i++) {
    Arena *arena = arena_create();
    Setting setting = equal(settings[i].ranks, settings[i].microbatches, settings[i].f, settings[i].b, settings[i].w,
                            settings[i].latency, settings[i].limit);
    Asked asked;
    Schedule schedule;
    AutoReport report;
    ask(arena, &setting, OBJECTIVE_SPAN, &asked);
    ASSERT_OK(schedule_auto(arena, &asked.request, &schedule, &report));
    double with = (1 + report.gap) * report.lower_bound_seconds, without = INFINITY;
    for (int c = 0; c < asked.request.n_candidates; c++)
      without = fmin(without, without_rounds(arena, &asked.candidates[c], (uint64_t)c + 1));
    if (!(with < without * (1 - 1e-4)))
      FAIL_TEST("%d ranks, %d microbatches: %.6g with rounds, %.6g without", setting.ranks, setting.microbatches, with,
                without);
    arena_destroy(arena);
  }
}

/* Orders come out of rounds only where a rank takes all of its stages' operations once, within its memory. */
static void an_order_of_rounds_is_whole(void **state) {
  (void)state;
  int made = 0;
  for (int ranks = 2; ranks <= 5; ranks++)
    for (int microbatches = 1; microbatches <= 4 * ranks; microbatches++)
      for (int limit = 1; limit <= 2 * ranks; limit++) {
        Arena *arena = arena_create();
        Setting setting = equal(ranks, microbatches, 5, 6, 4, 0.3, limit);
        setting.f[ranks - 1] = 7;
        Asked asked;
        Schedule computes, schedule;
        ask(arena, &setting, OBJECTIVE_SPAN, &asked);
        for (int c = 0; c < 3; c++) {
          Problem problem;
          Clock clock;
          Order order;
          ASSERT_OK(problem_make(arena, &asked.candidates[c], OBJECTIVE_SPAN, &problem));
          ASSERT_OK(clock_make(arena, &problem, &clock));
          ASSERT_OK(order_make(arena, &problem, &order));
          ASSERT_OK(rounds_order(arena, &problem, &clock, &order));
          assert_true(order.value == INFINITY || asked.candidates[c].placement == PLACE_V);
          if (order.value == INFINITY)
            continue;
          made++;
          for (int rank = 0; rank < ranks; rank++)
            assert_true(order_fits(&problem, &order, rank));
          ASSERT_OK(order_schedule(arena, &problem, &order, &computes));
          ASSERT_OK(schedule_add_transfers(arena, &computes, NULL, &schedule));
          ASSERT_OK(schedule_check(&schedule, NULL));
        }
        arena_destroy(arena);
      }
  assert_true(made > 100);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rounds_beat_search_alone),
      cmocka_unit_test(an_order_of_rounds_is_whole),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
