/* Values that are used far from where they are made: every cut on their way carries and prices them, so cuts lie where
 * few do, and the plan says what sending them past the stages between would spare. */
#include <math.h>

#include "partitioner/plan/internal.h"
#include "tests/partitioner/plan_case.h"

enum { DEPTH = 4, LAYERS = 2 * DEPTH, BATCH = 256, WIDE = 8 };

/* Layers down, then up, of a product with a Tanh each; one on the way up takes what the one as far from the middle on
 * the way down made, as well: a U-Net. The last layers cost more by `tail` products, so that half of the work lies
 * inside. */
static Graph *u_net(Arena *arena, int tail) {
  RandomGraph r = {0};
  ASSERT_OK(graph_create(arena, "u", &r.g));
  Shape shape = shape_of(2, (int64_t[]){BATCH, WIDE}), weight = shape_of(2, (int64_t[]){WIDE, WIDE});
  ValueId v = random_value(&r, "x", shape, ROLE_INPUT), down[DEPTH];
  ASSERT_OK(graph_add_input(r.g, v));
  for (int i = 0; i < LAYERS + tail; i++) {
    if (i >= DEPTH && i < LAYERS)
      v = random_node(&r, OP_Add, (ValueId[]){v, down[LAYERS - 1 - i]}, 2, NULL, 0, 1);
    v = random_node(&r, OP_MatMul, (ValueId[]){v, random_value(&r, "w", weight, ROLE_PARAMETER)}, 2, NULL, 0, 1);
    v = random_node(&r, OP_Tanh, &v, 1, NULL, 0, 1);
    if (i < DEPTH)
      down[i] = v;
  }
  return random_train(&r, v);
}

/* Half of the work lies inside the U, where skips pass: where sending costs, the cut leaves it. */
static void cuts_avoid_skips(void **state) {
  (void)state;
  const size_t value = BATCH * WIDE * sizeof(float);
  Arena *arena = arena_create();
  Graph *g = u_net(arena, 2);
  PlanRequest request = request_of(2, 4, "1f1b");
  Plan fast, slow;
  request.link.bytes_per_second = 1e12;
  ASSERT_OK(plan_make(arena, g, &request, &fast));
  assert_true(fast.cuts.cuts[0].forward_bytes > 2 * value);
  request.link.bytes_per_second = 5e7;
  ASSERT_OK(plan_make(arena, g, &request, &slow));
  assert_int_equal(slow.cuts.cuts[0].forward_bytes, value);
  assert_int_equal(fast.skips.passed_bytes, 0); /* of two stages none lies between */
  arena_destroy(arena);
}

/* What each cut carries is what the partition counted for its place. */
static void relays_are_priced(void **state) {
  (void)state;
  for (int ranks = 2; ranks <= 6; ranks++) {
    Arena *arena = arena_create();
    Graph *g = u_net(arena, 0);
    PlanRequest request = request_of(ranks, 4, "1f1b");
    PlanItems items;
    Plan plan;
    ASSERT_OK(plan_make(arena, g, &request, &plan));
    ASSERT_OK(plan_items(arena, g, &request, NULL, &items));
    size_t passed = 0;
    double relayed = 0;
    for (int c = 0; c < ranks - 1; c++) {
      const Cut *cut = &plan.cuts.cuts[c];
      int last = 0; /* the place before the first item of the stage behind */
      for (int i = 0; i < items.n; i++)
        last = plan.stage_of[items.node[i]] <= c ? i + 1 : last;
      assert_int_equal(cut->forward_bytes, items.forward_bytes[last]);
      assert_int_equal(cut->backward_bytes, items.backward_bytes[last]);
      for (int i = 0; i < cut->n_forward; i++)
        passed += stage_uses(&plan.cuts.stages[c], cut->forward[i]) ? 0 : graph_value_bytes(g, cut->forward[i]);
      for (int i = 0; i < cut->n_backward; i++)
        passed += stage_uses(&plan.cuts.stages[c + 1], cut->backward[i]) ? 0 : graph_value_bytes(g, cut->backward[i]);
    }
    for (int r = 0; r < ranks; r++) {
      double bytes = 0;
      for (int c = r - 1; c <= r; c++)
        if (c >= 0 && c < ranks - 1)
          bytes += (double)(plan.cuts.cuts[c].forward_bytes + plan.cuts.cuts[c].backward_bytes);
      relayed = fmax(relayed, bytes / request.link.bytes_per_second);
    }
    assert_int_equal(plan.skips.passed_bytes, passed);
    assert_true(fabs(plan.skips.relayed_seconds - relayed) < 1e-12);
    assert_true(plan.skips.direct_seconds <= relayed * (1 + 1e-12));
    if (ranks > 3)
      assert_true(passed > 0 && plan.skips.direct_seconds < relayed);
    arena_destroy(arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(cuts_avoid_skips),
      cmocka_unit_test(relays_are_priced),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
