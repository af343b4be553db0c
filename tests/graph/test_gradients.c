/* Every gradient rule against central differences in float64: the case's node, a weighted sum of its outputs as the
 * loss, autodiff, the reference kernels. */
#include <math.h>
#include <string.h>

#include "graph/autodiff.h"
#include "graph/op.h"
#include "graph/ops/rule.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

enum { SAMPLES = 12 }; /* elements tried of each input */

static const double scale = 0.75; /* the cotangent of the loss */

/* Sum of weights times output i, as a float64 scalar; outputs that only their own gradient reads have none. */
static Status weighted_sum(Graph *g, ValueId y, uint64_t seed, ValueId *sum) {
  Shape shape = graph_value(g, y)->shape;
  int64_t n = shape_elements(shape), axes[MAX_RANK];
  double *weights = arena_alloc(g->arena, (size_t)n, sizeof *weights);
  uint64_t random = seed;
  ValueId w, product;
  for (int64_t i = 0; i < n; i++)
    weights[i] = (double)(random_below(&random, 1000) - 500) / 250;
  for (int i = 0; i < shape.rank; i++)
    axes[i] = i;
  TRY(graph_add_constant(g, "weights", F64, shape, weights, &w));
  TRY(emit2(g, OP_Mul, y, w, &product));
  *sum = product;
  return shape.rank ? emit_reduce_sum(g, product, axes, shape.rank, false, sum) : OK;
}

/* How many leading outputs of an operator pass a gradient on. */
static int differentiable_outputs(const Node *node) {
  switch (node->op) {
  case OP_LayerNormalization:
  case OP_RMSNormalization:
  case OP_Attention:
  case OP_BatchNormalization:
  case OP_Dropout:
  case OP_CrossEntropy:
  case OP_TopK: /* the others are numbers of elements */
  case OP_MaxPool:
    return 1;
  case OP_RecurrentSteps: /* Y and the last states */
    return node->n_out == 5 ? 3 : 2;
  default:
    return node->n_out;
  }
}

static Status append_loss(CaseGraph *built, uint64_t seed) {
  Graph *g = built->graph;
  for (int i = 0; i < differentiable_outputs(built->node); i++) {
    ValueId sum;
    TRY(weighted_sum(g, built->node->out[i], seed + (uint64_t)i, &sum));
    if (i)
      TRY(emit2(g, OP_Add, g->loss_sum, sum, &sum));
    g->loss_sum = sum;
  }
  return graph_add_value(g, "loss_scale", F64, (Shape){0}, ROLE_STEP, &g->loss_scale);
}

static double loss_at(const OpCase *c, CaseGraph *built, size_t n_forward) {
  if (case_run(built, &backend_reference, 1, 0, (NodeId)n_forward) != OK)
    FAIL_TEST("%s: %s", case_text(c), status_message());
  return *(double *)built->tensor[built->graph->loss_sum].data;
}

/* Compares the accumulator of one input with differences at some of its elements. */
static void check_input(const OpCase *c, CaseGraph *built, size_t n_forward, ValueId input, uint64_t seed) {
  const double step = 1e-4;
  ValueId gradients[MAX_GROUPS];
  int n = autodiff_gradients(built->graph, input, gradients);
  if (n != 1)
    FAIL_TEST("%s: %d accumulators for '%s'", case_text(c), n, graph_value(built->graph, input)->name);
  double *x = built->tensor[input].data;
  const double *gradient = built->tensor[gradients[0]].data;
  int64_t elements = shape_elements(built->tensor[input].shape);
  for (int64_t k = 0; k < (elements < SAMPLES ? elements : SAMPLES); k++) {
    int64_t i = elements <= SAMPLES ? k : random_below(&seed, elements);
    double at = x[i], slope[2];
    for (int h = 0; h < 2; h++) { /* two step widths, extrapolated */
      double width = step * (h + 1);
      x[i] = at + width;
      slope[h] = loss_at(c, built, n_forward);
      x[i] = at - width;
      slope[h] = (slope[h] - loss_at(c, built, n_forward)) / (2 * width);
      x[i] = at;
    }
    double expected = scale * (4 * slope[0] - slope[1]) / 3;
    if (!(fabs(gradient[i] - expected) <= 1e-8 * fmax(1, fabs(expected)) + 1e-8 * fabs(loss_at(c, built, n_forward))))
      FAIL_TEST("%s: gradient of '%s' at %lld is %.12g, differences give %.12g", case_text(c),
                graph_value(built->graph, input)->name, (long long)i, gradient[i], expected);
  }
}

/* Sets bit k of *checked for each input k that got a gradient. */
static void check_case(const OpCase *c, uint64_t seed, unsigned *checked) {
  Arena *arena = arena_create();
  CaseGraph built;
  size_t n_unreached;
  if (case_build(c, F64, seed, arena, &built) != OK)
    FAIL_TEST("%s: %s", case_text(c), status_message());
  if (graph_value(built.graph, built.node->out[0])->dtype != F64) { /* a cast to integers */
    case_release(&built);
    arena_destroy(arena);
    return;
  }
  ASSERT_OK(append_loss(&built, seed));
  size_t n_forward = built.graph->n_nodes;
  if (autodiff_append(built.graph, &n_unreached) != OK)
    FAIL_TEST("%s: %s", case_text(c), status_message());
  ASSERT_OK(case_extend(&built));
  *(double *)built.tensor[built.graph->loss_scale].data = scale;
  if (case_run(&built, &backend_reference, 1, 0, (NodeId)built.graph->n_nodes) != OK)
    FAIL_TEST("%s: %s", case_text(c), status_message());
  for (int i = 0; i < built.node->n_in; i++) {
    ValueId in = built.node->in[i];
    if (in != NO_VALUE && graph_value(built.graph, in)->role == ROLE_PARAMETER) {
      check_input(c, &built, n_forward, in, seed);
      *checked |= shape_elements(graph_value(built.graph, in)->shape) ? 1u << i : 0;
    }
  }
  case_release(&built);
  arena_destroy(arena);
}

static void rules_agree_with_differences(void **state) {
  (void)state;
  for (int op = 0; op < OP_COUNT; op++) {
    unsigned checked = 0, inputs = 0;
    if (!op_def((OpKind)op)->gradient || op == OP_Narrow) /* straight through: below */
      continue;
    for (size_t i = 0; i < n_op_cases; i++) {
      const OpCase *c = &op_cases[i];
      if (c->op != (OpKind)op)
        continue;
      for (int k = 0; k < CASE_INPUTS && c->in[k].present; k++)
        inputs |= c->in[k].absent || c->in[k].dtype ? 0 : 1u << k;
      check_case(c, i, &checked);
    }
    if (op == OP_MeanSquaredError || op == OP_BinaryCrossEntropy || op == OP_RoiAlign ||
        op == OP_MaxRoiPool) /* a target and regions are data */
      inputs = 1;
    if (op == OP_Attention) /* so is a mask */
      inputs &= ~(1u << 3);
    if (!inputs || inputs != checked)
      FAIL_TEST("operator %s has a gradient rule, but no row of tests/ops/cases.c tries it (inputs %#x, tried %#x)",
                op_def((OpKind)op)->name, inputs, checked);
  }
}

static void rules_agree_with_differences_on_random_cases(void **state) {
  (void)state;
  for (int op = 0; op < OP_COUNT; op++)
    for (uint64_t seed = 100; op_def((OpKind)op)->gradient && seed < 106; seed++) {
      Arena *arena = arena_create();
      OpCase c;
      unsigned checked = 0;
      if (case_random((OpKind)op, seed, arena, &c))
        check_case(&c, seed, &checked);
      arena_destroy(arena);
    }
}

static void rounding_passes_straight_through(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g;
  ValueId in, out, d_in = NO_VALUE;
  Attr to = attr_int("to", F8E5M2);
  ASSERT_OK(graph_create(arena, "g", &g));
  ASSERT_OK(graph_add_value(g, "x", F32, shape_of(1, (int64_t[]){3}), ROLE_PARAMETER, &in));
  ASSERT_OK(graph_emit(g, OP_Narrow, &in, 1, &to, 1, &out));
  ASSERT_OK(op_def(OP_Narrow)->gradient(g, graph_node(g, 0), &out, &d_in));
  assert_int_equal(d_in, out);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rounding_passes_straight_through),
      cmocka_unit_test(rules_agree_with_differences),
      cmocka_unit_test(rules_agree_with_differences_on_random_cases),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
