/* The time model on lists made by hand, and the known formulas of gpipe and 1f1b on equal stages. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "partitioner/schedule/simulate.h"
#include "tests/test.h"

static Arena *arena;

static int set_up(void **state) {
  (void)state;
  arena = arena_create();
  return !arena;
}

static int tear_down(void **state) {
  (void)state;
  arena_destroy(arena);
  return 0;
}

/* A schedule of compute actions from "F0 B0 W0" one rank, one string; the digit in front is the stage. */
static Schedule parse(int ranks, int stages, int microbatches, const int *rank_of_stage, const char *const *lines) {
  Schedule schedule = {.name = "made by hand",
                       .ranks = ranks,
                       .stages = stages,
                       .microbatches = microbatches,
                       .rank_of_stage = arena_copy(arena, rank_of_stage, (size_t)stages * sizeof(int))};
  schedule.lists = arena_alloc(arena, (size_t)ranks, sizeof(ActionList));
  for (int rank = 0; rank < ranks; rank++) {
    char *text = arena_string(arena, lines[rank]), *save;
    schedule.lists[rank].actions = arena_alloc(arena, strlen(text), sizeof(Action));
    for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
      char *end;
      Action action = {.stage = (uint16_t)strtol(word, &end, 10)};
      action.kind = *end == 'F' ? ACTION_F : *end == 'W' ? ACTION_W : end[1] == 'W' ? ACTION_BW : ACTION_B;
      action.microbatch = (uint16_t)strtol(end + (action.kind == ACTION_BW ? 2 : 1), NULL, 10);
      schedule.lists[rank].actions[schedule.lists[rank].n_actions++] = action;
    }
  }
  return schedule;
}

static double *filled(int n, double value) {
  double *array = arena_alloc(arena, (size_t)n, sizeof(double));
  for (int i = 0; i < n; i++)
    array[i] = value;
  return array;
}

static Timing equal_times(const Schedule *schedule, double f, double b, double w, double latency) {
  return (Timing){.ranks = schedule->ranks,
                  .stages = schedule->stages,
                  .microbatches = schedule->microbatches,
                  .rank_of_stage = schedule->rank_of_stage,
                  .forward_seconds = filled(schedule->stages, f),
                  .backward_input_seconds = filled(schedule->stages, b),
                  .backward_weight_seconds = filled(schedule->stages, w),
                  .activation = filled(schedule->stages, 1),
                  .backward_input_frees = 0.5,
                  .link_latency_seconds = latency};
}

static void near(double a, double b) {
  if (fabs(a - b) > 1e-9 * (1 + fabs(b)))
    FAIL_TEST("%.12g is not %.12g", a, b);
}

static const int line[] = {0, 1};

static void two_ranks_by_hand(void **state) {
  (void)state;
  Schedule schedule = parse(2, 2, 2, line, (const char *[]){"0F0 0F1 0B0 0W0 0B1 0W1", "1F0 1B0 1F1 1B1 1W0 1W1"});
  Timing timing = equal_times(&schedule, 2, 3, 1, 0.5);
  Simulation result;
  ASSERT_OK(simulate_schedule(arena, &schedule, &timing, &result));
  /* rank 1: F0 2.5-4.5, B0 -7.5, F1 -9.5, B1 -12.5, W0 -13.5, W1 -14.5; rank 0: F 0-4, B0 8-11, W0 -12, B1 13-16 */
  near(result.begin[1][0], 2.5);
  near(result.end[1][3], 12.5);
  near(result.begin[0][2], 8);
  near(result.begin[0][4], 13);
  near(result.arrival[0][0], 2.5);
  near(result.arrival[1][3], 13);
  near(result.arrival[0][2], result.end[0][2]);
  near(result.makespan_seconds, 17);
  near(result.span_seconds[0], 17);
  near(result.span_seconds[1], 12);
  near(result.longest_span_seconds, 17);
  near(result.work_seconds[0], 12);
  near(result.bubble, 1 - 12.0 / 17);
  near(result.peak_memory[0], 2);
  near(result.peak_memory[1], 1.5);
}

static void links_carry_one_transfer_after_the_other(void **state) {
  (void)state;
  Schedule schedule =
      parse(2, 2, 3, line, (const char *[]){"0F0 0F1 0F2 0BW0 0BW1 0BW2", "1F0 1F1 1F2 1BW0 1BW1 1BW2"});
  Timing timing = equal_times(&schedule, 1, 1, 1, 0.25);
  timing.forward_link_seconds = filled(1, 3);
  timing.backward_link_seconds = filled(1, 0);
  Simulation result;
  ASSERT_OK(simulate_schedule(arena, &schedule, &timing, &result));
  near(result.begin[1][0], 4.25);
  near(result.begin[1][1], 7.25);
  near(result.begin[1][2], 10.25);
  near(result.begin[0][3], 11.25 + 2 + 0.25);
}

static void a_v_turns_without_latency(void **state) {
  (void)state;
  const int v[] = {0, 1, 1, 0};
  Schedule schedule = parse(2, 4, 1, v, (const char *[]){"0F0 3F0 3B0 0B0 3W0 0W0", "1F0 2F0 2B0 1B0 2W0 1W0"});
  Timing timing = equal_times(&schedule, 1, 1, 1, 10);
  Simulation result;
  ASSERT_OK(simulate_schedule(arena, &schedule, &timing, &result));
  near(result.begin[1][0], 11);
  near(result.begin[1][1], 12);
  near(result.begin[0][1], 23);
  near(result.begin[0][3], 47);
  near(result.peak_memory[0], 2);
}

static void a_first_stage_may_be_all_w(void **state) {
  (void)state;
  Schedule schedule = parse(2, 2, 1, line, (const char *[]){"0F0 0W0", "1F0 1B0 1W0"});
  Timing timing = equal_times(&schedule, 1, 2, 3, 0);
  Simulation result;
  ASSERT_OK(simulate_schedule(arena, &schedule, &timing, &result));
  near(result.begin[0][1], 4);
  near(result.makespan_seconds, 9);
  near(result.peak_memory[0], 1);
}

static void what_cannot_run_is_refused(void **state) {
  (void)state;
  Simulation result;
  Schedule schedule = parse(2, 2, 2, line, (const char *[]){"0F0 0F1 0B0 0B1 0W0 0W1", "1F1 1B0 1F0 1B1 1W0 1W1"});
  Timing timing = equal_times(&schedule, 1, 1, 1, 0);
  ASSERT_FAILS(E_USAGE, "rank 0 waits for ever at action 2, 0B0",
               simulate_schedule(arena, &schedule, &timing, &result));
  schedule = parse(2, 2, 1, line, (const char *[]){"0F0 0B0 0W0 0B0", "1F0 1B0 1W0"});
  timing = equal_times(&schedule, 1, 1, 1, 0);
  ASSERT_FAILS(E_USAGE, "rank 0, action 3: 0B0 stands twice", simulate_schedule(arena, &schedule, &timing, &result));
  timing.microbatches = 2;
  ASSERT_FAILS(E_USAGE,
               "schedule has 2 ranks, 2 stages, 1 microbatches; the times are for 2 ranks, 2 stages, 2 microbatches",
               simulate_schedule(arena, &schedule, &timing, &result));
  schedule = parse(2, 2, 1, line, (const char *[]){"0F0 1B0", "1F0 1B0 1W0"});
  timing = equal_times(&schedule, 1, 1, 1, 0);
  assert_int_equal(simulate_schedule(arena, &schedule, &timing, &result), E_USAGE);
}

/* gpipe and 1f1b, made here from their definition. */
static Schedule warm_up_schedule(int ranks, int microbatches, bool gpipe) {
  int *rank_of_stage = arena_alloc(arena, (size_t)ranks, sizeof(int));
  const char **lines = arena_alloc(arena, (size_t)ranks, sizeof(char *));
  for (int rank = 0; rank < ranks; rank++) {
    rank_of_stage[rank] = rank;
    int ahead = gpipe ? microbatches : ranks - rank, forwards = 0;
    char *text = arena_string(arena, "");
    for (int m = 0; m < microbatches; m++) {
      for (; forwards < microbatches && forwards < m + ahead; forwards++)
        text = arena_format(arena, "%s %dF%d", text, rank, forwards);
      text = arena_format(arena, "%s %dBW%d", text, rank, m);
    }
    lines[rank] = text;
  }
  Schedule schedule = parse(ranks, ranks, microbatches, rank_of_stage, lines);
  schedule.joined = true;
  return schedule;
}

static void known_formulas_hold(void **state) {
  (void)state;
  for (int p = 1; p <= 6; p++)
    for (int m = 1; m <= 13; m += 3)
      for (int gpipe = 0; gpipe < 2; gpipe++) {
        Schedule schedule = warm_up_schedule(p, m, gpipe);
        Timing timing = equal_times(&schedule, 1, 1, 1, 0);
        Simulation result;
        ASSERT_OK(simulate_schedule(arena, &schedule, &timing, &result));
        near(1 - m * 3.0 / result.makespan_seconds, (p - 1.0) / (m + p - 1));
        for (int rank = 0; rank < p; rank++)
          near(result.peak_memory[rank], gpipe || m < p - rank ? m : p - rank);
      }
}

/* Two ranks on one core: it is never idle while either has something to do. */
static void ranks_that_share_a_core_take_turns(void **state) {
  (void)state;
  const char *const lines[] = {"0F0 0F1 0W0 0W1", "1F0 1B0 1W0 1F1 1B1 1W1"};
  Schedule schedule = parse(2, 2, 2, (int[]){0, 1}, lines);
  Timing timing = equal_times(&schedule, 1, 1, 1, 0);
  Simulation alone, shared;
  ASSERT_OK(simulate_schedule(arena, &schedule, &timing, &alone));
  timing.capacity = 1;
  ASSERT_OK(simulate_schedule(arena, &schedule, &timing, &shared));
  assert_true(fabs(shared.makespan_seconds - 12) < 1e-9); /* F, F, B + W, B + W; twice F + B + W */
  assert_true(alone.makespan_seconds < 12);
  timing.capacity = 2; /* one each: as if nothing were shared */
  ASSERT_OK(simulate_schedule(arena, &schedule, &timing, &shared));
  assert_true(shared.makespan_seconds == alone.makespan_seconds);
  timing.capacity = 1.5;
  ASSERT_OK(simulate_schedule(arena, &schedule, &timing, &shared));
  assert_true(shared.makespan_seconds > alone.makespan_seconds && shared.makespan_seconds < 12);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(two_ranks_by_hand),
      cmocka_unit_test(links_carry_one_transfer_after_the_other),
      cmocka_unit_test(a_v_turns_without_latency),
      cmocka_unit_test(a_first_stage_may_be_all_w),
      cmocka_unit_test(what_cannot_run_is_refused),
      cmocka_unit_test(known_formulas_hold),
      cmocka_unit_test(ranks_that_share_a_core_take_turns),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
