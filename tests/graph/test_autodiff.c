/* What autodiff does beyond the rules: fan-out, groups of uses, what is frozen or not reached, and its refusals. */
#include <math.h>
#include <string.h>

#include "graph/autodiff.h"
#include "graph/op.h"
#include "graph/ops/rule.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

static Graph *new_graph(Arena *arena) {
  Graph *g;
  ASSERT_OK(graph_create(arena, "test", &g));
  return g;
}

static ValueId add(Graph *g, const char *name, Shape shape, Role role) {
  ValueId v;
  ASSERT_OK(graph_add_value(g, name, F64, shape, role, &v));
  return v;
}

static ValueId binary(Graph *g, OpKind op, const char *name, ValueId a, ValueId b) {
  NodeId id;
  ASSERT_OK(graph_add_node(g, op, name, (ValueId[]){a, b}, 2, NULL, 0, NULL, 1, &id));
  return graph_node(g, id)->out[0];
}

static ValueId unary(Graph *g, OpKind op, const char *name, ValueId a) {
  NodeId id;
  ASSERT_OK(graph_add_node(g, op, name, &a, 1, NULL, 0, NULL, 1, &id));
  return graph_node(g, id)->out[0];
}

/* The sum of all elements is the loss. */
static void set_loss(Graph *g, ValueId y) {
  int64_t axes[MAX_RANK];
  int rank = graph_value(g, y)->shape.rank;
  for (int i = 0; i < rank; i++)
    axes[i] = i;
  g->loss_sum = y;
  if (rank)
    ASSERT_OK(emit_reduce_sum(g, y, axes, rank, false, &g->loss_sum));
  g->loss_scale = add(g, "loss_scale", (Shape){0}, ROLE_STEP);
}

static size_t count_nodes(const Graph *g, size_t first, OpKind op) {
  size_t n = 0;
  for (size_t i = first; i < g->n_nodes; i++)
    n += g->nodes[i]->op == op;
  return n;
}

static const Shape vector = {1, {4}};

static void frozen_inputs_get_no_nodes(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = new_graph(arena);
  size_t unreached;
  ValueId x = add(g, "x", vector, ROLE_INPUT), p = add(g, "p", vector, ROLE_PARAMETER);
  ValueId frozen = add(g, "frozen", vector, ROLE_CONSTANT), idle = add(g, "idle", vector, ROLE_PARAMETER);
  ValueId side = binary(g, OP_Mul, "side", x, frozen); /* no parameter reaches it */
  ValueId dead = binary(g, OP_Mul, "dead", p, idle);   /* it does not reach the loss */
  set_loss(g, binary(g, OP_Mul, "main", side, p));
  size_t n_forward = g->n_nodes;
  ASSERT_OK(autodiff_append(g, &unreached));
  assert_int_equal(unreached, 1);
  assert_false(graph_value(g, side)->needs_gradient);
  assert_true(graph_value(g, dead)->needs_gradient);
  /* the sum's Expand (its cotangent becomes [1] first), one Mul towards p, one Accumulate */
  assert_int_equal(count_nodes(g, n_forward, OP_Mul), 1);
  assert_int_equal(count_nodes(g, n_forward, OP_Expand), 1);
  assert_int_equal(count_nodes(g, n_forward, OP_Accumulate), 1);
  assert_int_equal(g->n_nodes - n_forward - count_nodes(g, n_forward, OP_Reshape), 3);
  ValueId gradients[MAX_GROUPS];
  assert_int_equal(autodiff_gradients(g, idle, gradients), 0);
  assert_int_equal(autodiff_gradients(g, frozen, gradients), 0);
  assert_int_equal(autodiff_gradients(g, p, gradients), 1);
  assert_string_equal(graph_value(g, gradients[0])->name, "p/gradient.0");
  assert_int_equal(graph_value(g, gradients[0])->role, ROLE_GRADIENT);
  assert_int_equal(graph_value(g, gradients[0])->parameter, p);
  const Node *last = g->nodes[g->n_nodes - 1];
  assert_int_equal(last->op, OP_Accumulate);
  assert_string_equal(last->name, "p");
  assert_int_equal(last->phase, PHASE_B);
  assert_int_equal(last->origin, 2);
  arena_destroy(arena);
}

/* Runs forward and backward with this loss scale; parameters must be filled. */
static void run_all(CaseGraph *run, double scale) {
  ASSERT_OK(case_extend(run));
  *(double *)run->tensor[run->graph->loss_scale].data = scale;
  ASSERT_OK(case_run(run, &backend_reference, 1, 0, (NodeId)run->graph->n_nodes));
}

static double gradient_sum(const CaseGraph *run, ValueId parameter, int64_t i) {
  ValueId gradients[MAX_GROUPS];
  double sum = 0;
  int n = autodiff_gradients(run->graph, parameter, gradients);
  for (int k = 0; k < n; k++)
    sum += ((double *)run->tensor[gradients[k]].data)[i];
  return sum;
}

/* y = x; then y = y * p, n times: the gradient of p^n x is n p^(n-1) x. */
static void uses_fall_into_groups(void **state) {
  (void)state;
  static const int sizes[][MAX_GROUPS] = {{1}, {1, 1}, {1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 2}, {1, 2, 1, 2}};
  for (int n = 1; n <= 6; n++) {
    Arena *arena = arena_create();
    CaseGraph run = {.graph = new_graph(arena)};
    Graph *g = run.graph;
    size_t unreached;
    ValueId x = add(g, "x", vector, ROLE_INPUT), p = add(g, "p", vector, ROLE_PARAMETER), y = x;
    for (int i = 0; i < n; i++)
      y = binary(g, OP_Mul, "step", y, p);
    set_loss(g, y);
    ASSERT_OK(autodiff_append(g, &unreached));
    int groups = n < MAX_GROUPS ? n : MAX_GROUPS;
    assert_int_equal(g->n_groups, groups);
    ASSERT_OK(case_extend(&run));
    for (int i = 0; i < 4; i++) {
      ((double *)run.tensor[x].data)[i] = i + 1;
      ((double *)run.tensor[p].data)[i] = 0.5 + i;
    }
    run_all(&run, 3);
    NodeId next = 0;
    for (int k = 0; k < groups; k++) { /* consecutive uses in graph order, each in one group */
      assert_int_equal(g->groups[k].parameter, p);
      assert_int_equal(g->groups[k].n_nodes, sizes[n - 1][k]);
      assert_int_equal(graph_value(g, g->groups[k].gradient)->group, k);
      for (int i = 0; i < g->groups[k].n_nodes; i++)
        assert_int_equal(g->groups[k].nodes[i], next++);
    }
    assert_int_equal(next, n);
    for (int i = 0; i < 4; i++)
      assert_float_equal(gradient_sum(&run, p, i), 3 * n * pow(0.5 + i, n - 1) * (i + 1), 1e-9 * pow(4, n));
    case_release(&run);
    arena_destroy(arena);
  }
}

/* Two uses, a loop of five with a loop of two in it, and two uses: five groups' worth, in four groups. */
static void an_unrolled_loop_is_one_group(void **state) {
  (void)state;
  static const int sizes[] = {1, 1, 5, 2};
  Arena *arena = arena_create();
  Graph *g = new_graph(arena);
  size_t unreached;
  int outer = 0, inner = 0;
  NodeId next = 0;
  ValueId x = add(g, "x", vector, ROLE_INPUT), p = add(g, "p", vector, ROLE_PARAMETER), y = x;
  for (int i = 0; i < 9; i++) {
    if (i == 2)
      outer = graph_unroll_begin(g);
    if (i == 4)
      inner = graph_unroll_begin(g);
    if (i == 6)
      graph_unroll_end(g, inner);
    if (i == 7)
      graph_unroll_end(g, outer);
    y = binary(g, OP_Mul, "step", y, p);
  }
  set_loss(g, y);
  ASSERT_OK(autodiff_append(g, &unreached));
  assert_int_equal(g->n_groups, 4);
  for (int k = 0; k < 4; k++) {
    assert_int_equal(g->groups[k].n_nodes, sizes[k]);
    for (int i = 0; i < g->groups[k].n_nodes; i++)
      assert_int_equal(g->groups[k].nodes[i], next++);
  }
  assert_int_equal(next, 9);
  arena_destroy(arena);
}

static void twice_in_one_node_is_one_use(void **state) {
  (void)state;
  Arena *arena = arena_create();
  CaseGraph run = {.graph = new_graph(arena)};
  size_t unreached;
  ValueId p = add(run.graph, "p", vector, ROLE_PARAMETER);
  set_loss(run.graph, binary(run.graph, OP_Mul, "square", p, p));
  ASSERT_OK(autodiff_append(run.graph, &unreached));
  assert_int_equal(run.graph->n_groups, 1);
  ASSERT_OK(case_extend(&run));
  for (int i = 0; i < 4; i++)
    ((double *)run.tensor[p].data)[i] = i - 1.5;
  run_all(&run, 1);
  run_all(&run, 1); /* a second microbatch adds */
  for (int i = 0; i < 4; i++)
    assert_float_equal(gradient_sum(&run, p, i), 2 * 2 * (i - 1.5), 1e-12);
  case_release(&run);
  arena_destroy(arena);
}

/* Appended nodes go back through the forward nodes: what graph/autodiff.h promises to partitioners. */
static void check_order(const Graph *g, size_t n_forward) {
  for (size_t i = n_forward; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    assert_int_equal(node->phase, PHASE_B);
    if (i > n_forward)
      assert_true(node->origin <= g->nodes[i - 1]->origin);
    for (int k = 0; k < node->n_in; k++) {
      NodeId producer = node->in[k] == NO_VALUE ? NO_NODE : graph_value(g, node->in[k])->producer;
      if (producer == NO_NODE)
        continue;
      if (producer >= n_forward)
        assert_true(g->nodes[producer]->origin >= node->origin);
      else
        assert_true(producer <= node->origin);
    }
  }
}

/* A random graph of smooth operators over shapes that broadcast. */
static ValueId random_graph(Graph *g, uint64_t *random, ValueId *parameters, int n_parameters) {
  static const Shape shapes[] = {{0}, {1, {4}}, {2, {3, 1}}, {2, {3, 4}}, {3, {2, 1, 4}}};
  static const OpKind unaries[] = {OP_Tanh, OP_Sigmoid, OP_Sin, OP_Neg}, binaries[] = {OP_Add, OP_Mul, OP_Sub};
  ValueId values[64];
  int n = n_parameters;
  for (int i = 0; i < n; i++)
    values[i] = parameters[i] = add(g, "p", shapes[random_below(random, 5)], ROLE_PARAMETER);
  for (int i = 0; i < 24; i++, n++) {
    ValueId a = values[random_below(random, n)], b = values[random_below(random, n)];
    values[n] = random_below(random, 3) ? binary(g, binaries[random_below(random, 3)], "b", a, b)
                                        : unary(g, unaries[random_below(random, 4)], "u", a);
    if (random_below(random, 2)) /* keeps numbers small */
      values[n] = unary(g, OP_Tanh, "t", values[n]);
  }
  ValueId y = values[n - 1];
  for (int i = 1; i < 6; i++)
    y = binary(g, OP_Add, "sum", y, values[n - 1 - i]);
  return y;
}

static double loss_of(CaseGraph *run, size_t n_forward) {
  ASSERT_OK(case_run(run, &backend_reference, 1, 0, (NodeId)n_forward));
  return *(double *)run->tensor[run->graph->loss_sum].data;
}

static void random_graphs_agree_with_differences(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    Arena *arena = arena_create();
    CaseGraph run = {.graph = new_graph(arena)};
    uint64_t random = seed;
    ValueId parameters[5];
    size_t unreached;
    set_loss(run.graph, random_graph(run.graph, &random, parameters, 5));
    size_t n_forward = run.graph->n_nodes;
    ASSERT_OK(autodiff_append(run.graph, &unreached));
    check_order(run.graph, n_forward);
    ASSERT_OK(case_extend(&run));
    for (int k = 0; k < 5; k++)
      for (int64_t i = 0; i < shape_elements(run.tensor[parameters[k]].shape); i++)
        tensor_set(&run.tensor[parameters[k]], i, (double)(random_below(&random, 2000) - 1000) / 700);
    run_all(&run, 1);
    for (int k = 0; k < 5; k++)
      for (int64_t i = 0; i < shape_elements(run.tensor[parameters[k]].shape); i++) {
        double *x = (double *)run.tensor[parameters[k]].data + i, at = *x, step = 1e-5;
        *x = at + step;
        double above = loss_of(&run, n_forward);
        *x = at - step;
        double slope = (above - loss_of(&run, n_forward)) / (2 * step), got = gradient_sum(&run, parameters[k], i);
        *x = at;
        if (!(fabs(got - slope) <= 1e-6 * fmax(1, fabs(slope))))
          FAIL_TEST("graph %d, parameter %d, element %d: %g, differences give %g", (int)seed, k, (int)i, got, slope);
      }
    case_release(&run);
    arena_destroy(arena);
  }
}

static void every_operator_without_gradient_is_named(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = new_graph(arena);
  size_t unreached;
  ValueId x = add(g, "x", vector, ROLE_INPUT), p = add(g, "p", vector, ROLE_PARAMETER);
  binary(g, OP_SigmoidGrad, "aside", p, x); /* not on the way to the loss */
  ValueId a = binary(g, OP_SigmoidGrad, "first", p, x), b = binary(g, OP_TanhGrad, "second", x, p);
  set_loss(g, binary(g, OP_Add, "sum", a, b));
  size_t n_forward = g->n_nodes;
  ASSERT_FAILS(
      E_UNSUPPORTED,
      "no gradient for 2 nodes between the parameters and the loss: 'first' (SigmoidGrad), 'second' (TanhGrad)",
      autodiff_append(g, &unreached));
  assert_int_equal(g->n_nodes, n_forward);
  arena_destroy(arena);
}

/* A statistic that only its own gradient reads cannot lie on the way. */
static void gradients_of_statistics_are_refused(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = new_graph(arena);
  NodeId norm;
  size_t unreached;
  ValueId x = add(g, "x", (Shape){2, {3, 4}}, ROLE_PARAMETER), scale = add(g, "scale", vector, ROLE_PARAMETER);
  Attr axis = attr_int("axis", 1);
  ASSERT_OK(graph_add_node(g, OP_RMSNormalization, "norm", (ValueId[]){x, scale}, 2, &axis, 1, NULL, 2, &norm));
  set_loss(g, graph_node(g, norm)->out[1]);
  assert_int_equal(autodiff_append(g, &unreached), E_UNSUPPORTED);
  assert_non_null(strstr(status_message(), "'norm' (RMSNormalization): the loss depends on output 1"));
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(frozen_inputs_get_no_nodes),
      cmocka_unit_test(uses_fall_into_groups),
      cmocka_unit_test(an_unrolled_loop_is_one_group),
      cmocka_unit_test(twice_in_one_node_is_one_use),
      cmocka_unit_test(random_graphs_agree_with_differences),
      cmocka_unit_test(every_operator_without_gradient_is_named),
      cmocka_unit_test(gradients_of_statistics_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
