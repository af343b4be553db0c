/* The estimate that steers cuts: never above what a stage really takes, and the same however the window came there. */
#include "partitioner/plan/internal.h"
#include "tests/random_graph.h"

static const DeviceSpec device = {.flops_per_second = 1e9, .bytes_per_second = 1e9, .node_overhead_seconds = 1e-7};

static PlanRequest request_of(int ranks, const DeviceSpec *devices) {
  return (PlanRequest){.model_hash = "",
                       .ranks = ranks,
                       .chunks = 1,
                       .microbatches = 6,
                       .microbatch_size = ROWS,
                       .schedule = "1f1b",
                       .devices = devices,
                       .link = {.bytes_per_second = 1e9}};
}

static void never_above_the_truth(void **state) {
  (void)state;
  const DeviceSpec devices[] = {device, device, device};
  int planned = 0;
  for (uint64_t seed = 1; seed <= 80; seed++) {
    Arena *arena = arena_create();
    PlanRequest request = request_of(1 + (int)(seed % 3), devices);
    Graph *g = random_training(arena, seed, 10 + (int)(seed % 40));
    Plan plan;
    PlanItems items;
    PlanWindow *window;
    if (plan_make(arena, g, &request, &plan) == OK) {
      NodeId *order = arena_alloc(arena, g->n_nodes, sizeof *order);
      for (int s = 0, n = 0; s < plan.stages; s++)
        for (size_t i = 0; i < g->n_nodes; i++)
          if (g->nodes[i]->phase == PHASE_F && plan.stage_of[i] == s)
            order[n++] = (NodeId)i;
      ASSERT_OK(plan_items(arena, g, &request, order, &items));
      ASSERT_OK(plan_window_create(arena, g, &items, &window));
      for (int s = 0, first = 0; s < plan.stages; first += plan.reports[s++].n_nodes) {
        size_t bytes = plan_window_bytes(window, first, first + plan.reports[s].n_nodes, plan.stages - s);
        assert_true(bytes <= plan.rank_memory[s].total_bytes);
        assert_true(bytes >= plan.rank_memory[s].parameter_bytes + plan.rank_memory[s].state_bytes);
        planned++;
      }
    }
    arena_destroy(arena);
  }
  assert_true(planned > 80);
}

static void sliding_is_starting_anew(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    Arena *arena = arena_create();
    uint64_t random = seed;
    PlanRequest request = request_of(1, &device);
    Graph *g = random_training(arena, seed, 30);
    PlanItems items;
    PlanWindow *sliding, *fresh;
    ASSERT_OK(plan_items(arena, g, &request, NULL, &items));
    ASSERT_OK(plan_window_create(arena, g, &items, &sliding));
    for (int from = 0, to = 1, round = 0; round < 200; round++) {
      ASSERT_OK(plan_window_create(arena, g, &items, &fresh));
      size_t bytes = plan_window_bytes(sliding, from, to, 2);
      assert_int_equal(bytes, plan_window_bytes(fresh, from, to, 2));
      int step = (int)random_below(&random, 20);
      if (step == 0) { /* back */
        from = (int)random_below(&random, (unsigned)items.n);
        to = from + 1;
      } else if (step < 12 && to < items.n) { /* wider: not less */
        to++;
        assert_true(plan_window_bytes(sliding, from, to, 2) >= bytes);
      } else if (from + 1 < to) {
        from++;
        assert_true(plan_window_bytes(sliding, from, to, 2) <= bytes);
      }
    }
    arena_destroy(arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(never_above_the_truth),
      cmocka_unit_test(sliding_is_starting_anew),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
