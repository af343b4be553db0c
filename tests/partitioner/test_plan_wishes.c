/* --cut, --pin and --same-stage: the cut is the best of those that have what is wished, or it is said why none has. */
#include <fnmatch.h>
#include <math.h>
#include <string.h>

#include "partitioner/plan/internal.h"
#include "tests/partitioner/plan_case.h"

enum { STAGES = 3 };

static const char *name_of(const Graph *g, int node) {
  return graph_node(g, (NodeId)node)->name;
}

/* Whether the stages [a, b) and so on have it all; nodes are in the graph's order. */
static bool has_all(const Graph *g, int n, const StageWishes *w, int a, int b) {
  for (int k = 0; k < w->n_cuts; k++) {
    bool found = false;
    for (int i = 0; i < n; i++)
      found |=
          strcmp(graph_value(g, graph_node(g, (NodeId)i)->out[0])->name, w->cuts[k]) == 0 && (i + 1 == a || i + 1 == b);
    if (!found)
      return false;
  }
  for (int i = 0; i < n; i++)
    for (int k = 0; k < w->n_pins; k++)
      if (fnmatch(w->pins[k].glob, name_of(g, i), 0) == 0 && (i >= a) + (i >= b) != w->pins[k].rank)
        return false;
  for (int k = 0; k < w->n_same; k++) {
    int stage = -1;
    for (int i = 0; i < n; i++) {
      int own = (i >= a) + (i >= b);
      if (fnmatch(w->same[k], name_of(g, i), 0) != 0)
        continue;
      if (stage >= 0 && own != stage)
        return false;
      stage = own;
    }
  }
  return true;
}

/* The slowest stage of the best cuts that have it all. */
static double brute_force(Graph *g, const PlanRequest *request, const StageWishes *w) {
  Arena *arena = arena_create();
  PlanItems items;
  double best = INFINITY;
  ASSERT_OK(plan_items(arena, g, request, NULL, &items));
  for (int a = 1; a < items.n; a++)
    for (int b = a + 1; b < items.n; b++) {
      double seconds[STAGES] = {0}, crossing[2] = {0};
      if (!items.may_cut[a] || !items.may_cut[b] || !has_all(g, items.n, w, a, b))
        continue;
      for (int i = 0; i < items.n; i++)
        seconds[(i >= a) + (i >= b)] += items.seconds[0][i];
      for (int c = 0; c < 2; c++)
        crossing[c] = (double)(items.forward_bytes[c ? b : a] + items.backward_bytes[c ? b : a]) / 1e9;
      best = fmin(
          best, fmax(seconds[0] + crossing[0], fmax(seconds[1] + crossing[0] + crossing[1], seconds[2] + crossing[1])));
    }
  arena_destroy(arena);
  return best;
}

static double slowest(const Plan *plan) {
  double most = 0;
  for (int s = 0; s < STAGES; s++) {
    const StageReport *r = &plan->reports[s];
    double seconds = r->forward_seconds + r->backward_input_seconds + r->backward_weight_seconds;
    for (int c = s - 1; c <= s; c++)
      if (c >= 0 && c < STAGES - 1)
        seconds += (double)(plan->reports[c].cut_forward_bytes + plan->reports[c].cut_backward_bytes) / 1e9;
    most = fmax(most, seconds);
  }
  return most;
}

static void equal_brute_force(void **state) {
  (void)state;
  int held = 0, refused = 0;
  for (uint64_t seed = 1; seed <= 150; seed++) {
    Arena *arena = arena_create();
    Graph *g = layers_of(arena, 5, 4, 8);
    int n = random_n_forward(g);
    uint64_t r = seed;
    const char *cuts[2], *same[1];
    PinWish pins[2];
    StageWishes w = {.cuts = cuts, .pins = pins, .same = same};
    for (w.n_cuts = 0; w.n_cuts < (int)random_below(&r, 3); w.n_cuts++)
      cuts[w.n_cuts] = graph_value(g, graph_node(g, random_below(&r, (unsigned)n))->out[0])->name;
    for (w.n_pins = 0; w.n_pins < (int)random_below(&r, 3); w.n_pins++)
      pins[w.n_pins] = (PinWish){name_of(g, (int)random_below(&r, (unsigned)n)), (int)random_below(&r, STAGES)};
    if (random_below(&r, 2))
      same[w.n_same++] = random_below(&r, 2) ? "n1*" : "n[3-5]";
    PlanRequest request = request_of(STAGES, 4, "1f1b");
    request.wishes = &w;
    double best = brute_force(g, &request, &w);
    Plan plan;
    Status status = plan_make(arena, g, &request, &plan);
    if (isinf(best)) {
      assert_int_equal(status, E_USAGE);
      refused++;
    } else {
      ASSERT_OK(status);
      if (fabs(slowest(&plan) - best) > 1e-9 * best)
        FAIL_TEST("seed %d: %.17g, brute force %.17g", (int)seed, slowest(&plan), best);
      assert_true(w.n_cuts + w.n_pins + w.n_same == 0 || (plan.free_step_seconds > 0 && plan.wished_step_seconds > 0));
      held++;
    }
    arena_destroy(arena);
  }
  assert_true(held > 40 && refused > 20);
}

static void what_cannot_hold_is_refused_with_the_reason(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = layers_of(arena, 4, 4, 8);
  PlanRequest request = request_of(2, 4, "auto");
  Plan plan;
  StageWishes w = {.cuts = (const char *[]){"nobody"}, .n_cuts = 1};
  request.wishes = &w;
  ASSERT_FAILS(E_USAGE, "--cut nobody: no node of the forward pass makes a tensor of this name",
               plan_make(arena, g, &request, &plan));
  w = (StageWishes){.pins = (PinWish[]){{"q*", 1}}, .n_pins = 1};
  ASSERT_FAILS(E_USAGE, "--pin q*: no node of the graph has such a name", plan_make(arena, g, &request, &plan));
  w = (StageWishes){.pins = (PinWish[]){{"n0", 2}}, .n_pins = 1};
  ASSERT_FAILS(E_USAGE, "--pin n0=2: the ranks are 0 to 1", plan_make(arena, g, &request, &plan));
  w = (StageWishes){.pins = (PinWish[]){{"n1", 0}, {"n?", 1}}, .n_pins = 2};
  ASSERT_FAILS(E_USAGE, "--pin n?=1: node 'n1' is pinned to rank 0 already", plan_make(arena, g, &request, &plan));
  w = (StageWishes){.pins = (PinWish[]){{"n2", 1}, {"n5", 0}}, .n_pins = 2};
  ASSERT_FAILS(E_USAGE, "--pin: node 'n2' of rank 1 comes before node 'n5' of rank 0",
               plan_make(arena, g, &request, &plan));
  w = (StageWishes){.pins = (PinWish[]){{"n0", 1}}, .n_pins = 1};
  ASSERT_FAILS(E_USAGE, "no cut into 2 stages has all that --cut, --pin and --same-stage ask for",
               plan_make(arena, g, &request, &plan));
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(equal_brute_force),
      cmocka_unit_test(what_cannot_hold_is_refused_with_the_reason),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
