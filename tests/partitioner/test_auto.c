/* Synthesised schedules: proved, within memory whoever counts, the same every time, never below their own bound, and
 * at the bound where that is known to be possible; for equal and for unlike stages, over all placements. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/partitioner/auto_case.h"

/* Counts anew what a rank holds: one of a microbatch's activations, half of it after B. */
static double held_at_most(const Schedule *schedule, int rank, double activation) {
  double held = 0, most = 0;
  for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
    Action action = schedule->lists[rank].actions[i];
    double share = action.stage == 0 ? 0 : 0.5; /* the first stage is all W */
    held += activation * (action.kind == ACTION_F   ? 1
                          : action.kind == ACTION_B ? -share
                          : action.kind == ACTION_W ? share - 1
                                                    : 0);
    most = held > most ? held : most;
  }
  return most;
}

/* Makes the schedule, proves it and returns the bubble. */
static double synthesise(const Setting *setting, Objective objective, AutoReport *report) {
  Arena *arena = arena_create();
  Asked asked;
  Schedule schedule;
  Simulation simulation;
  ask(arena, setting, objective, &asked);
  ASSERT_OK(schedule_auto(arena, &asked.request, &schedule, report));
  const Timing *timing = &asked.timings[report->chosen];
  ASSERT_OK(schedule_check(&schedule, NULL));
  ASSERT_OK(simulate_schedule(arena, &schedule, timing, &simulation));
  for (int rank = 0; rank < setting->ranks; rank++) {
    double held = held_at_most(&schedule, rank, timing->activation[0]);
    assert_true(fabs(held - simulation.peak_memory[rank]) < 1e-6);
    if (setting->limit[rank] > 0 && held > setting->limit[rank] + 1e-6)
      FAIL_TEST("rank %d holds %g, more than %g", rank, held, setting->limit[rank]);
  }
  double value = objective == OBJECTIVE_SPAN ? simulation.longest_span_seconds : simulation.makespan_seconds;
  if (value < report->lower_bound_seconds * (1 - 1e-9))
    FAIL_TEST("%d ranks, %d microbatches: %.9g is less than its bound %.9g", setting->ranks, setting->microbatches,
              value, report->lower_bound_seconds);
  assert_true(fabs(report->gap - (value / report->lower_bound_seconds - 1)) < 1e-9);
  arena_destroy(arena);
  return simulation.bubble;
}

static void known_optima_are_found(void **state) {
  (void)state;
  AutoReport report;
  Setting one = equal(1, 5, 3, 2, 1, 1, 2);
  assert_true(fabs(synthesise(&one, OBJECTIVE_SPAN, &report)) < 1e-9);
  /* Qi et al. 2024: a V of equal F, B and W has no bubble with the memory of 1F1B */
  for (int p = 2; p <= 4; p++) {
    Setting v = equal(p, 3 * p, 10, 10, 10, 0, p);
    assert_true(synthesise(&v, OBJECTIVE_SPAN, &report) < 1e-9);
    assert_true(report.gap < 1e-9);
  }
  Setting ample = equal(4, 16, 12, 11, 7, 0.3, 0);
  assert_true(synthesise(&ample, OBJECTIVE_SPAN, &report) < 1e-9);
}

/* Models of Qi et al. 2023, "Zero bubble pipeline parallelism": milliseconds of one microbatch on one rank, the limit
 * in microbatches, and the smaller of the bubbles that the authors' own two schedulers make of these numbers
 * (github.com/sail-sg/zero-bubble-pipeline-parallelism: the heuristic for a line, and ZB-V). */
static const struct {
  const char *label;
  int ranks, microbatches;
  double f, b, w, latency, limit, bubble;
} measured[] = {
    {"1.5B m=8 memory=1p", 8, 8, 18.522, 18.086, 9.337, 0.601, 8, 0.18267},
    {"1.5B m=8 memory=2p", 8, 8, 18.522, 18.086, 9.337, 0.601, 16, 0.18267},
    {"1.5B m=24 memory=1p", 8, 24, 18.522, 18.086, 9.337, 0.601, 8, 0.07028},
    {"1.5B m=24 memory=2p", 8, 24, 18.522, 18.086, 9.337, 0.601, 16, 0.00757},
    {"1.5B m=64 memory=1p", 8, 64, 18.522, 18.086, 9.337, 0.601, 8, 0.02756},
    {"1.5B m=64 memory=2p", 8, 64, 18.522, 18.086, 9.337, 0.601, 16, 0.00182},
    {"6.2B m=8 memory=1p", 8, 8, 29.718, 29.444, 19.927, 0.527, 8, 0.15613},
    {"6.2B m=8 memory=2p", 8, 8, 29.718, 29.444, 19.927, 0.527, 16, 0.15613},
    {"6.2B m=24 memory=1p", 8, 24, 29.718, 29.444, 19.927, 0.527, 8, 0.04032},
    {"6.2B m=24 memory=2p", 8, 24, 29.718, 29.444, 19.927, 0.527, 16, 0.00287},
    {"6.2B m=64 memory=1p", 8, 64, 29.718, 29.444, 19.927, 0.527, 8, 0.01551},
    {"6.2B m=64 memory=2p", 8, 64, 29.718, 29.444, 19.927, 0.527, 16, 0.00108},
    {"14.6B m=16 memory=1p", 16, 16, 11.347, 11.248, 8.132, 0.377, 16, 0.17509},
    {"14.6B m=16 memory=2p", 16, 16, 11.347, 11.248, 8.132, 0.377, 32, 0.17509},
    {"14.6B m=48 memory=1p", 16, 48, 11.347, 11.248, 8.132, 0.377, 16, 0.04983},
    {"14.6B m=48 memory=2p", 16, 48, 11.347, 11.248, 8.132, 0.377, 32, 0.00381},
    {"14.6B m=128 memory=1p", 16, 128, 11.347, 11.248, 8.132, 0.377, 16, 0.01929},
    {"14.6B m=128 memory=2p", 16, 128, 11.347, 11.248, 8.132, 0.377, 32, 0.00143},
    {"28.3B m=32 memory=1p", 32, 32, 10.419, 10.204, 7.715, 0.408, 32, 0.18549},
    {"28.3B m=32 memory=2p", 32, 32, 10.419, 10.204, 7.715, 0.408, 64, 0.18549},
    {"28.3B m=96 memory=1p", 32, 96, 10.419, 10.204, 7.715, 0.408, 32, 0.05308},
    {"28.3B m=96 memory=2p", 32, 96, 10.419, 10.204, 7.715, 0.408, 64, 0.00187},
    {"28.3B m=256 memory=1p", 32, 256, 10.419, 10.204, 7.715, 0.408, 32, 0.02059},
    {"28.3B m=256 memory=2p", 32, 256, 10.419, 10.204, 7.715, 0.408, 64, 0.0007},
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { FIRST_ROW = 8, END_ROW = 10 }; /* of one model, with both limits: there is no time for more */
#else
enum { FIRST_ROW = 0, END_ROW = sizeof measured / sizeof *measured };
#endif

static void no_bubble_is_larger_than_its_peers(void **state) {
  (void)state;
  for (int i = FIRST_ROW; i < END_ROW; i++) {
    AutoReport report;
    Setting setting = equal(measured[i].ranks, measured[i].microbatches, measured[i].f, measured[i].b, measured[i].w,
                            measured[i].latency, measured[i].limit);
    double bubble = synthesise(&setting, OBJECTIVE_SPAN, &report);
    if (bubble > measured[i].bubble + 1e-4)
      FAIL_TEST("%s: bubble %.5f, another scheduler reaches %.5f", measured[i].label, bubble, measured[i].bubble);
  }
}

static double chance(unsigned *seed, double from, double to) {
  return from + (to - from) * (rand_r(seed) / (RAND_MAX + 1.0));
}

static Setting unlike(unsigned *seed) {
  Setting setting = equal(1 + (int)chance(seed, 0, 6), 1 + (int)chance(seed, 0, 12), 1, 1, 1, 0, 0);
  setting.latency = chance(seed, 0, 1) < 0.3 ? 0 : chance(seed, 0, 1) < 0.8 ? 0.5 : 30;
  double limit = chance(seed, 0, 1) < 0.2 ? 0 : 1 + floor(chance(seed, 0, 2) * setting.ranks) / 2;
  for (int rank = 0; rank < setting.ranks; rank++) {
    setting.f[rank] = chance(seed, 1, 10);
    setting.b[rank] = chance(seed, 1, 12);
    setting.w[rank] = chance(seed, 0, 1) < 0.1 ? 0 : chance(seed, 0.1, 12);
    setting.limit[rank] = limit;
  }
  return setting;
}

static void unlike_stages_are_proved(void **state) {
  (void)state;
  unsigned seed = 11;
  for (int i = 0; i < 12; i++) {
    Setting setting = unlike(&seed);
    AutoReport report;
    synthesise(&setting, i % 3 == 2 ? OBJECTIVE_MAKESPAN : OBJECTIVE_SPAN, &report);
  }
}

static void the_same_every_time(void **state) {
  (void)state;
  Setting setting = equal(3, 7, 9, 8, 5, 0.4, 3);
  setting.f[1] = 11;
  Text text[2] = {{0}, {0}};
  for (int i = 0; i < 2; i++) {
    Arena *arena = arena_create();
    Asked asked;
    Schedule schedule;
    AutoReport report;
    ask(arena, &setting, OBJECTIVE_SPAN, &asked);
    ASSERT_OK(schedule_auto(arena, &asked.request, &schedule, &report));
    schedule_write(&schedule, &text[i]);
    arena_destroy(arena);
  }
  assert_string_equal(text_whole(&text[0]), text_whole(&text[1]));
  text_free(&text[0]);
  text_free(&text[1]);
}

static void too_little_memory_is_said(void **state) {
  (void)state;
  Setting setting = equal(2, 3, 1, 1, 1, 0, 2);
  setting.limit[1] = 0.75;
  Arena *arena = arena_create();
  Asked asked;
  Schedule schedule;
  AutoReport report;
  ask(arena, &setting, OBJECTIVE_SPAN, &asked);
  ASSERT_FAILS(E_LIMIT, "rank 1 may hold activations of 0.75, one microbatch takes 1",
               schedule_auto(arena, &asked.request, &schedule, &report));
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(known_optima_are_found),    cmocka_unit_test(no_bubble_is_larger_than_its_peers),
      cmocka_unit_test(unlike_stages_are_proved),  cmocka_unit_test(the_same_every_time),
      cmocka_unit_test(too_little_memory_is_said),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
