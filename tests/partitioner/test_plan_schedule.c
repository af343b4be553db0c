/* Plans whose schedule has no name: made for the stages, or given. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "partitioner/plan/internal.h"
#include "tests/partitioner/plan_case.h"

static double reached(const Plan *plan) {
  return plan->step_seconds - plan->update_seconds;
}

static void is_the_same_in_a_file(Arena *arena, Graph *g, const PlanRequest *request, const Plan *plan) {
  const char *text, *again;
  Plan read;
  ASSERT_OK(plan_to_text(arena, plan, &text));
  ASSERT_OK(plan_from_text(arena, text, "text", g, request, &read));
  ASSERT_OK(plan_to_text(arena, &read, &again));
  assert_string_equal(text, again);
}

static bool fits(const Plan *plan) {
  for (int r = 0; r < plan->ranks; r++)
    if (plan->rank_memory[r].total_bytes > plan->memory_limits[r])
      return false;
  return true;
}

/* Over ranks, stages a rank, microbatches, objectives and limits: no slower than by name, not below the bound, the same
 * again, and back from a file. */
static void synthesis_is_faster_and_fits(void **state) {
  (void)state;
  int taken = 0, tight = 0;
  for (int n = 0; n < 12; n++) {
    Arena *arena = arena_create();
    int ranks = 2 + n % 3, chunks = 2 - n / 3 % 2;
    Graph *g = layers_of(arena, 11, 4 + 4 * (n % 2), 8);
    PlanRequest request = request_of(ranks, 4 + n % 5, "auto");
    Plan named, plan, again;
    size_t limits[4];
    request.chunks = chunks;
    request.objective = n % 4 ? OBJECTIVE_SPAN : OBJECTIVE_MAKESPAN;
    devices[1].flops_per_second /= 1 + n % 5;
    ASSERT_OK(plan_make(arena, g, &request, &named));
    for (int r = 0; r < ranks; r++)
      limits[r] = named.rank_memory[r].total_bytes + (n % 6) * 64;
    if (n >= 6)
      request.memory_limits = limits;
    request.synthesize = true;
    ASSERT_OK(plan_make(arena, g, &request, &plan));
    assert_true(fits(&plan));
    assert_string_equal(plan.named, named.schedule.name);
    assert_true(plan.named_step_seconds == named.step_seconds);
    assert_true(plan.step_seconds <= named.step_seconds);
    assert_true(plan.lower_bound_seconds <= reached(&plan) * (1 + 1e-12));
    assert_true(plan.lower_bound_seconds > 0.5 * reached(&plan));
    if (strcmp(plan.schedule.name, "auto") == 0) {
      PlanRequest other = request;
      assert_true(plan.step_seconds < named.step_seconds);
      other.beat_seconds = plan.lower_bound_seconds; /* which no step can */
      ASSERT_OK(plan_make(arena, g, &other, &again));
      assert_true(again.step_seconds == named.step_seconds);
      other.beat_seconds = named.step_seconds;
      ASSERT_OK(plan_make(arena, g, &other, &again));
      assert_true(again.step_seconds == plan.step_seconds);
      taken++;
      tight += n >= 6;
    }
    ASSERT_OK(plan_make(arena, g, &request, &again));
    assert_true(again.step_seconds == plan.step_seconds);
    is_the_same_in_a_file(arena, g, &request, &plan);
    arena_destroy(arena);
  }
  assert_true(taken >= 3 && tight >= 1);
}

/* Random graphs have cuts that no gradient crosses, and values that many stages relay. */
static void synthesis_takes_any_graph(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 8; seed++) {
    Arena *arena = arena_create();
    Graph *g = random_training(arena, seed, 40);
    PlanRequest request = request_of(2 + (int)(seed % 3), 4, "auto");
    Plan plan;
    request.synthesize = true;
    request.chunks = 1 + (int)(seed % 2);
    Status status = plan_make(arena, g, &request, &plan);
    if (status == OK)
      is_the_same_in_a_file(arena, g, &request, &plan);
    else
      assert_int_equal(status, E_USAGE);
    arena_destroy(arena);
  }
}

/* Room for what one microbatch keeps, and no more: the next one waits for it. */
static void the_bound_knows_the_memory(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 11, 64, 8);
  PlanRequest request = request_of(4, 8, "naive");
  Plan naive, ample, tight;
  size_t limits[4];
  ASSERT_OK(plan_make(arena, g, &request, &naive));
  for (int r = 0; r < 4; r++)
    limits[r] = naive.rank_memory[r].total_bytes;
  request.schedule = "auto";
  request.synthesize = true;
  ASSERT_OK(plan_make(arena, g, &request, &ample));
  request.memory_limits = limits;
  ASSERT_OK(plan_make(arena, g, &request, &tight));
  assert_true(fits(&tight));
  if (tight.lower_bound_seconds < 1.5 * ample.lower_bound_seconds ||
      tight.lower_bound_seconds > reached(&tight) * (1 + 1e-12))
    FAIL_TEST("the bound is %g without limits, %g with them, where %g is reached", ample.lower_bound_seconds,
              tight.lower_bound_seconds, reached(&tight));
  arena_destroy(arena);
}

static void a_step_is_a_span_or_a_makespan(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 11, 4, 8);
  PlanRequest request = request_of(3, 4, "1f1b");
  Plan plan;
  for (int objective = 0; objective < 2; objective++) {
    Timing timing;
    Simulation simulation;
    request.objective = (Objective)objective;
    ASSERT_OK(plan_make(arena, g, &request, &plan));
    ASSERT_OK(plan_timing(arena, &plan, &timing));
    ASSERT_OK(simulate_schedule(arena, &plan.schedule, &timing, &simulation));
    double expected = objective ? simulation.makespan_seconds : simulation.longest_span_seconds;
    assert_true(fabs(reached(&plan) - expected) < 1e-12);
    assert_null(plan.named);
  }
  arena_destroy(arena);
}

static Status plan_with(Arena *arena, const char *text, int ranks, Plan *plan) {
  Schedule *schedule;
  PlanRequest request = request_of(ranks, 3, "auto");
  ASSERT_OK(ARENA_NEW(arena, schedule, 1));
  ASSERT_OK(schedule_read(arena, text, schedule));
  request.given = schedule;
  request.chunks = schedule->stages / ranks;
  return plan_make(arena, layers_of(arena, 9, 4, 8), &request, plan);
}

static void given_schedules_are_taken(void **state) {
  (void)state;
  static const char *const texts[] = {
      /* actions alone, B and W joined or split; two stages a rank, where nobody's placement puts them */
      "0F0 0F1 0BW0 0F2 0BW1 0BW2\n1F0 1F1 1BW0 1BW1 1F2 1BW2\n",
      "0F0 0F1 0F2 0W0 0W1 0W2\n1F0 1B0 1F1 1B1 1F2 1B2 1W0 1W1 1W2\n",
      "schedule mine\n1F0 2F0 1F1 2F1 1F2 2F2 2BW0 1BW0 2BW1 1BW1 2BW2 1BW2\n"
      "0F0 0F1 0F2 3F0 3BW0 3F1 3BW1 3F2 3BW2 0BW0 0BW1 0BW2\n",
      /* transfers as they were written */
      "schedule sent send_depth 3 receive_ahead 2\n"
      "0F0 0SEND_F0 0F1 0SEND_F1 0F2 [0SEND_F2 0RECV_B0] 0BW0 0RECV_B1 0BW1 0RECV_B2 0BW2\n"
      "1RECV_F0 1F0 1RECV_F1 1F1 1RECV_F2 1F2 1BW0 1SEND_B0 1BW1 1SEND_B1 1BW2 1SEND_B2\n"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    Arena *arena = arena_create();
    Plan plan;
    ASSERT_OK(plan_with(arena, texts[i], 2, &plan));
    assert_int_equal(plan.stages, i == 2 ? 4 : 2);
    assert_int_equal(plan.schedule.rank_of_stage[0], i == 2);
    assert_int_equal(plan.schedule.send_depth, i == 3 ? 3 : plan.schedule.send_depth);
    PlanRequest nothing = {0};
    is_the_same_in_a_file(arena, plan.graph, &nothing, &plan);
    arena_destroy(arena);
  }
}

static void given_schedules_are_proved(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } refused[] = {
      {"0F0 0F2 0F1 0BW0 0BW1 0BW2\n1F0 1F1 1F2 1BW0 1BW1 1BW2\n",
       "schedule file: rank 0, action 1, 0F2: each kind runs in increasing microbatch order"},
      {"0F0 0BW0 0BW1 0F1 0F2 0BW2\n1F0 1F1 1F2 1BW0 1BW1 1BW2\n",
       "schedule file: rank 0, compute action 1, 0BW0: waits for ever for 1BW0"},
      {"0F0 0F1 0F2 0B0 0W0 0W1 0W2\n1F0 1F1 1F2 1B0 1B1 1B2 1W0 1W1 1W2\n",
       "schedule file: rank 0, action 3, 0B0: no gradient leaves this stage: it has W alone"},
      {"0F0 0F1 0F2 0BW0 0BW1\n1F0 1F1 1F2 1BW0 1BW1 1BW2\n", "schedule file: rank 0: 0BW2 is missing"},
  };
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    Arena *arena = arena_create();
    Plan plan;
    ASSERT_FAILS(E_MODEL, refused[i].message, plan_with(arena, refused[i].text, 2, &plan));
    arena_destroy(arena);
  }
}

/* Six microbatches in flight where the limit is for less: the message is that of any plan. */
static void given_schedules_keep_limits(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Schedule schedule;
  Plan plan;
  size_t limits[2] = {1000, 1000};
  PlanRequest request = request_of(2, 2, "auto");
  ASSERT_OK(schedule_read(arena, "0F0 0F1 0BW0 0BW1\n1F0 1BW0 1F1 1BW1\n", &schedule));
  request.given = &schedule;
  request.memory_limits = limits;
  assert_int_equal(plan_make(arena, layers_of(arena, 9, 4, 8), &request, &plan), E_LIMIT);
  assert_non_null(strstr(status_message(), "lacks"));
  arena_destroy(arena);
}

/* Of many microbatches few are planned to choose the schedule: it is as good as the best of all by name. */
static void many_microbatches_take_the_best_by_name(void **state) {
  (void)state;
  for (int chunks = 1; chunks <= 2; chunks++)
    for (int limited = 0; limited < 2; limited++) {
      Arena *arena = arena_create();
      Graph *g = layers_of(arena, 19, 4, 8);
      PlanRequest request = request_of(3, 400, chunks == 1 ? "1f1b" : "interleaved-1f1b");
      double best = INFINITY;
      Plan plan;
      request.chunks = chunks;
      ASSERT_OK(plan_make(arena, g, &request, &plan));
      size_t limits[3];
      for (int r = 0; r < 3; r++)
        limits[r] = plan.rank_memory[0].total_bytes * 11 / 10;
      request.memory_limits = limited ? limits : NULL;
      for (int n = 0; schedule_names[n]; n++) {
        request.schedule = schedule_names[n];
        if (plan_make(arena, g, &request, &plan) == OK)
          best = fmin(best, plan.step_seconds);
      }
      request.schedule = "auto";
      ASSERT_OK(plan_make(arena, g, &request, &plan));
      assert_true(plan.step_seconds <= best * (1 + 1e-3));
      arena_destroy(arena);
    }
}

static void thousands_of_microbatches_take_little_time(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 40, 4, 8);
  PlanRequest request = request_of(8, 8192, "auto");
  Plan plan;
  request.synthesize = true;
  ASSERT_OK(plan_make(arena, g, &request, &plan));
  assert_true(plan.step_seconds > 0 && plan.bubble < 0.02);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(many_microbatches_take_the_best_by_name),
      cmocka_unit_test(thousands_of_microbatches_take_little_time),
      cmocka_unit_test(synthesis_is_faster_and_fits),
      cmocka_unit_test(synthesis_takes_any_graph),
      cmocka_unit_test(the_bound_knows_the_memory),
      cmocka_unit_test(a_step_is_a_span_or_a_makespan),
      cmocka_unit_test(given_schedules_are_taken),
      cmocka_unit_test(given_schedules_are_proved),
      cmocka_unit_test(given_schedules_keep_limits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
