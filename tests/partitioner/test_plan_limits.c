/* Plans within limits of memory, over random graphs: either a plan that keeps them, or a message whose numbers agree
 * and whose limit would do. */
#include <stdlib.h>
#include <string.h>

#include "tests/partitioner/plan_case.h"

static size_t largest_rank(const Plan *plan) {
  size_t largest = 0;
  for (int r = 0; r < plan->ranks; r++)
    largest = plan->rank_memory[r].total_bytes > largest ? plan->rank_memory[r].total_bytes : largest;
  return largest;
}

/* A plan with this limit for every rank: kept, or refused with the limit that would do, which is returned. */
static size_t try_limit(Graph *g, PlanRequest *request, size_t limit) {
  Arena *arena = arena_create();
  size_t limits[16], would_do = 0;
  Plan plan;
  for (int r = 0; r < request->ranks; r++)
    limits[r] = limit;
  request->memory_limits = limits;
  Status status = plan_make(arena, g, request, &plan);
  if (status == OK) {
    assert_true(largest_rank(&plan) <= limit);
  } else {
    assert_int_equal(status, E_LIMIT);
    if (strstr(status_message(), "lacks 0 B"))
      FAIL_TEST("%s with a limit of %zu: %s", request->schedule, limit, status_message());
    would_do = strtoull(strstr(status_message(), "a limit of ") + strlen("a limit of "), NULL, 10);
    assert_true(would_do > limit);
  }
  arena_destroy(arena);
  return would_do;
}

static void limits_are_kept_or_said(void **state) {
  (void)state;
  static const char *const schedules[] = {"1f1b", "interleaved-1f1b", "zb-v", "v-half"};
  int refused = 0;
  for (uint64_t seed = 1; seed <= 10; seed++)
    for (int s = 0; s < 4; s++) {
      Arena *arena = arena_create();
      Graph *g = random_training(arena, seed, 24);
      PlanRequest request = request_of(2, 2, schedules[s]);
      request.chunks = s == 0 ? 1 : 2;
      size_t least = try_limit(g, &request, 1);
      assert_int_equal(try_limit(g, &request, least), 0);
      for (size_t limit = least - MEMORY_ALIGNMENT; limit > least - 12 * MEMORY_ALIGNMENT; limit -= MEMORY_ALIGNMENT) {
        size_t would_do = try_limit(g, &request, limit);
        refused += would_do > 0;
        assert_true(would_do == 0 || try_limit(g, &request, would_do) == 0);
      }
      arena_destroy(arena);
    }
  assert_true(refused > 100);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(limits_are_kept_or_said),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
