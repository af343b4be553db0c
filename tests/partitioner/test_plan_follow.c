/* A second training graph on the ranks of a first plan, as an epoch's rest is: its nodes, accumulators and schedule are
 * the first one's, and its memory is counted beside it. */
#include "tests/partitioner/plan_case.h"

enum { NODES = 24, MICROBATCHES = 6 };

static bool holds(const Plan *plan, int rank, ValueId v) {
  return memory_holds(&plan->rank_memory[rank], v);
}

/* Whether the list is the other one without later microbatches, transfers apart. */
static void check_list(const ActionList *list, const ActionList *first, int microbatches) {
  int at = 0;
  for (int i = 0; i < first->n_actions; i++) {
    Action action = first->actions[i];
    if (!action_is_compute(action) || action.microbatch >= microbatches)
      continue;
    while (at < list->n_actions && !action_is_compute(list->actions[at]))
      at++;
    assert_true(at < list->n_actions && list->actions[at].kind == action.kind &&
                list->actions[at].stage == action.stage && list->actions[at].microbatch == action.microbatch);
    at++;
  }
  while (at < list->n_actions)
    assert_false(action_is_compute(list->actions[at++]));
}

/* What the ranks take beside: persistent values that are not stored, and what the first one's memory is short of:
 * little, for fewer microbatches need no more but for transfers that stand elsewhere. */
static void check_memory(const Plan *plan, const Plan *first, const size_t *beside) {
  for (int r = 0; r < plan->ranks; r++) {
    const RankMemory *memory = &plan->rank_memory[r];
    size_t own = memory->persistent_bytes - memory->stored_bytes, work = memory_work_bytes(memory);
    size_t there = memory_work_bytes(&first->rank_memory[r]);
    assert_int_equal(beside[r], own + (work > there ? work - there : 0));
    assert_true(work <= there + there / 4);
  }
}

static void the_rest_lies_where_whole_batches_do(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 12; seed++)
    for (int ranks = 1; ranks <= 4; ranks++)
      for (const char *const *name = schedule_names; *name; name++) {
        Arena *arena = arena_create();
        Graph *whole = random_training(arena, seed, NODES), *rest = random_training(arena, seed, NODES);
        PlanRequest request = request_of(ranks, MICROBATCHES, *name);
        int microbatches = 1 + (int)((seed + (uint64_t)ranks) % MICROBATCHES);
        Plan first, plan;
        size_t *beside;
        ASSERT_OK(schedule_usual_chunks(*name, &request.chunks));
        if (plan_make(arena, whole, &request, &first) == OK) {
          ASSERT_OK(plan_follow(arena, rest, &first, microbatches, ROWS, &plan, &beside));
          for (size_t i = 0; i < whole->n_nodes; i++)
            assert_true(whole->nodes[i]->stage == rest->nodes[i]->stage &&
                        whole->nodes[i]->phase == rest->nodes[i]->phase);
          for (int r = 0; r < ranks; r++) {
            check_list(&plan.schedule.lists[r], &first.schedule.lists[r], microbatches);
            for (ValueId v = 0; v < whole->n_values; v++)
              assert_true(holds(&first, r, v) == holds(&plan, r, v));
          }
          check_memory(&plan, &first, beside);
        }
        arena_destroy(arena);
      }
}

/* A graph that adds up for a parameter that the first one does not train, or has other groups of uses. */
static void other_accumulators_are_refused(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *whole = random_training(arena, 3, NODES), *rest = random_training(arena, 3, NODES);
  PlanRequest request = request_of(2, MICROBATCHES, "1f1b");
  Plan first, plan;
  size_t *beside;
  ASSERT_OK(plan_make(arena, whole, &request, &first));
  ValueId accumulator = 0;
  while (graph_value(rest, accumulator)->role != ROLE_GRADIENT)
    accumulator++;
  graph_value(rest, accumulator)->group = MAX_GROUPS;
  char message[128];
  snprintf(message, sizeof message, "the gradients of '%s' are not added up where whole batches add them up",
           graph_value(rest, graph_value(rest, accumulator)->parameter)->name);
  ASSERT_FAILS(E_UNSUPPORTED, message, plan_follow(arena, rest, &first, 2, ROWS, &plan, &beside));
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_rest_lies_where_whole_batches_do),
                                     cmocka_unit_test(other_accumulators_are_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
