/* Gradients of scatters where differences say nothing: ties of the largest and smallest, and zeros in a product. What
 * PyTorch 2.15 gives for y = D.scatter_reduce(1, I, U, how, include_self=True), loss = sum of w * y. */
#include <math.h>
#include <string.h>

#include "graph/autodiff.h"
#include "graph/op.h"
#include "graph/ops/rule.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

enum { DATA = 6, UPDATES = 8 };

static const double data[DATA] = {1, 2, 0, 0, 3, 5}, updates[UPDATES] = {1, 2, 3, 0, 5, 5, 2, 0};
static const int64_t indices[UPDATES] = {0, 1, 0, 2, 2, 2, 1, 2};
static const double weights[DATA] = {1, 2, 3, 4, 5, 6};

static const struct {
  const char *how;
  double y[DATA], d_data[DATA], d_updates[UPDATES];
} torch[] = {
    {"add", {5, 4, 0, 0, 5, 15}, {1, 2, 3, 4, 5, 6}, {1, 2, 1, 3, 6, 6, 5, 6}},
    {"mul", {3, 4, 0, 0, 6, 0}, {3, 4, 0, 4, 10, 0}, {3, 4, 1, 0, 0, 0, 15, 750}},
    {"max", {3, 2, 0, 0, 3, 5}, {0, 1, 1.5, 4, 5, 2}, {0, 1, 1, 1.5, 2, 2, 0, 0}},
    {"min", {1, 2, 0, 0, 2, 0}, {0.5, 1, 1.5, 4, 0, 0}, {0.5, 1, 0, 1.5, 0, 0, 5, 6}},
};

static void fill(CaseGraph *built) {
  memcpy(built->tensor[built->node->in[0]].data, updates, sizeof updates);
  memcpy(built->tensor[built->node->in[1]].data, indices, sizeof indices);
  memcpy(built->tensor[built->node->in[2]].data, data, sizeof data);
}

static void expect(const char *how, const CaseGraph *built, ValueId id, const double *expected) {
  const Tensor *t = &built->tensor[id];
  for (int64_t i = 0; i < shape_elements(t->shape); i++)
    if (((const double *)t->data)[i] != expected[i])
      FAIL_TEST("%s: element %lld of '%s' is %g, not %g", how, (long long)i, graph_value(built->graph, id)->name,
                ((const double *)t->data)[i], expected[i]);
}

static ValueId gradient_of(const CaseGraph *built, int input) {
  ValueId gradients[MAX_GROUPS];
  assert_int_equal(autodiff_gradients(built->graph, built->node->in[input], gradients), 1);
  return gradients[0];
}

static void scatters_share_as_torch_does(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof torch / sizeof *torch; i++) {
    Arena *arena = arena_create();
    CaseGraph built;
    size_t n_unreached;
    ValueId w, loss;
    OpCase c = {.op = OP_ScatterElements,
                .in = {{.present = true, .shape = {2, {2, 4}}},
                       {.present = true, .dtype = I64, .shape = {2, {2, 4}}, .fill = FILL_INDEX, .limit = 3},
                       {.present = true, .shape = {2, {2, 3}}}},
                .out = {{true, {2, {2, 3}}}},
                .attrs = {attr_int("axis", 1), attr_string("reduction", torch[i].how)}};
    ASSERT_OK(case_build(&c, F64, 1, arena, &built));
    Graph *g = built.graph;
    ASSERT_OK(graph_add_constant(g, "w", F64, (Shape){2, {2, 3}}, weights, &w));
    ASSERT_OK(emit2(g, OP_Mul, built.node->out[0], w, &loss));
    ASSERT_OK(emit_reduce_sum(g, loss, (int64_t[]){0, 1}, 2, false, &g->loss_sum));
    ASSERT_OK(graph_add_value(g, "loss_scale", F64, (Shape){0}, ROLE_STEP, &g->loss_scale));
    ASSERT_OK(autodiff_append(g, &n_unreached));
    ASSERT_OK(case_extend(&built));
    *(double *)built.tensor[g->loss_scale].data = 1;
    fill(&built);
    ASSERT_OK(case_run(&built, &backend_reference, 1, 0, (NodeId)g->n_nodes));
    expect(torch[i].how, &built, built.node->out[0], torch[i].y);
    expect(torch[i].how, &built, gradient_of(&built, 0), torch[i].d_updates);
    expect(torch[i].how, &built, gradient_of(&built, 2), torch[i].d_data);
    case_release(&built);
    arena_destroy(arena);
  }
}

/* Of several updates of one place the last one stays: nothing depends on the others. */
static void what_is_overwritten_gets_no_gradient(void **state) {
  (void)state;
  Arena *arena = arena_create();
  CaseGraph built;
  size_t n_unreached;
  OpCase c = {.op = OP_ScatterND,
              .in = {{.present = true, .shape = {1, {3}}},
                     {.present = true, .dtype = I64, .shape = {2, {3, 1}}, .fill = FILL_INDEX, .limit = 2},
                     {.present = true, .shape = {1, {2}}}},
              .out = {{true, {1, {2}}}}};
  ASSERT_OK(case_build(&c, F64, 1, arena, &built));
  Graph *g = built.graph;
  ASSERT_OK(emit_reduce_sum(g, built.node->out[0], (int64_t[]){0}, 1, false, &g->loss_sum));
  ASSERT_OK(graph_add_value(g, "loss_scale", F64, (Shape){0}, ROLE_STEP, &g->loss_scale));
  ASSERT_OK(autodiff_append(g, &n_unreached));
  ASSERT_OK(case_extend(&built));
  *(double *)built.tensor[g->loss_scale].data = 1;
  memcpy(built.tensor[built.node->in[1]].data, ((int64_t[]){1, 1, -1}), 3 * sizeof(int64_t));
  ASSERT_OK(case_run(&built, &backend_reference, 1, 0, (NodeId)g->n_nodes));
  expect("none", &built, gradient_of(&built, 0), (double[]){0, 0, 1});
  expect("none", &built, gradient_of(&built, 2), (double[]){1, 0});
  case_release(&built);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(scatters_share_as_torch_does),
      cmocka_unit_test(what_is_overwritten_gets_no_gradient),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
