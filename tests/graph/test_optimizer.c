/* Optimizers over several steps against torch.optim's pages, written out by hand. */
#include <math.h>
#include <string.h>

#include "graph/autodiff.h"
#include "graph/op.h"
#include "graph/optimizer.h"
#include "tests/graph/sparse_adam.inc"
#include "tests/ops/cases.h"
#include "tests/test.h"

enum { N = 37, STEPS = 6 };

/* One parameter, used `uses` times, in a graph with its update. */
static Graph *training_graph(Arena *arena, DType dtype, const OptimizerSpec *spec, int uses, ValueId *parameter) {
  Graph *g;
  size_t unreached;
  NodeId node;
  ValueId y, idle;
  Attr axes = attr_ints("axes", (int64_t[]){0}, 1), keep = attr_int("keepdims", 0), to = attr_int("to", F64);
  ASSERT_OK(graph_create(arena, "test", &g));
  ASSERT_OK(graph_add_value(g, "w", dtype, (Shape){1, {N}}, ROLE_PARAMETER, parameter));
  ASSERT_OK(graph_add_value(g, "idle", dtype, (Shape){1, {N}}, ROLE_PARAMETER, &idle));
  ASSERT_OK(graph_add_value(g, "x", dtype, (Shape){1, {N}}, ROLE_INPUT, &y));
  for (int i = 0; i < uses; i++) {
    ASSERT_OK(graph_add_node(g, OP_Mul, "use", (ValueId[]){y, *parameter}, 2, NULL, 0, NULL, 1, &node));
    y = graph_node(g, node)->out[0];
  }
  ASSERT_OK(graph_add_node(g, OP_ReduceSum, "sum", &y, 1, (Attr[]){axes, keep}, 2, NULL, 1, &node));
  ASSERT_OK(graph_add_node(g, OP_Cast, "loss", graph_node(g, node)->out, 1, &to, 1, NULL, 1, &node));
  g->loss_sum = graph_node(g, node)->out[0];
  ASSERT_OK(graph_add_value(g, "loss_scale", F64, (Shape){0}, ROLE_STEP, &g->loss_scale));
  ASSERT_OK(autodiff_append(g, &unreached));
  assert_int_equal(unreached, 1);
  ASSERT_OK(optimizer_append(g, spec));
  return g;
}

/* torch.optim.SGD. */
static void sgd_page(const OptimizerSpec *s, int t, double g, double *theta, double *b) {
  g += s->weight_decay * *theta;
  if (s->momentum != 0) {
    *b = t > 1 ? s->momentum * *b + g : g;
    g = s->nesterov ? g + s->momentum * *b : *b;
  }
  *theta -= s->learning_rate * g;
}

/* torch.optim.Adam, AdamW. */
static void adam_page(const OptimizerSpec *s, int t, double g, double *theta, double *m, double *v) {
  if (s->kind == OPTIMIZER_ADAMW)
    *theta -= s->learning_rate * s->weight_decay * *theta;
  else
    g += s->weight_decay * *theta;
  *m = s->beta1 * *m + (1 - s->beta1) * g;
  *v = s->beta2 * *v + (1 - s->beta2) * g * g;
  double m_hat = *m / (1 - pow(s->beta1, t)), v_hat = *v / (1 - pow(s->beta2, t));
  *theta -= s->learning_rate * m_hat / (sqrt(v_hat) + s->epsilon);
}

/* Random accumulators for a step; their sum times the factor is the gradient. */
static void draw_gradient(CaseGraph *run, ValueId parameter, double factor, uint64_t *random, double gradient[N]) {
  ValueId accumulators[MAX_GROUPS];
  int n = autodiff_gradients(run->graph, parameter, accumulators);
  for (int i = 0; i < N; i++) {
    gradient[i] = 0;
    for (int k = 0; k < n; k++) {
      double x = (double)(random_below(random, 4096) - 2048) / 1024;
      tensor_set(&run->tensor[accumulators[k]], i, x);
      gradient[i] += x;
    }
    gradient[i] *= factor;
  }
}

static void check_steps(OptimizerSpec spec, DType dtype, int uses, double tolerance) {
  Arena *arena = arena_create();
  ValueId parameter;
  CaseGraph run = {.graph = training_graph(arena, dtype, &spec, uses, &parameter)};
  Graph *g = run.graph;
  double theta[N], m[N] = {0}, v[N] = {0}, gradient[N], factor = 0.5;
  uint64_t random = 7;
  char where[256];
  ASSERT_OK(case_extend(&run));
  for (int i = 0; i < N; i++) {
    theta[i] = (double)(random_below(&random, 4096) - 2048) / 1024;
    tensor_set(&run.tensor[parameter], i, theta[i]);
  }
  for (int t = 1; t <= STEPS; t++) {
    double rate = spec.learning_rate;
    draw_gradient(&run, parameter, factor, &random, gradient);
    optimizer_scalars(&spec, t, rate, factor, run.tensor[g->step_scalars].data);
    ASSERT_OK(case_run(&run, &backend_reference, 1, (NodeId)g->n_nodes - 2, (NodeId)g->n_nodes));
    double square = 0;
    for (int i = 0; i < N; i++) {
      square += gradient[i] * gradient[i] / (factor * factor);
      if (spec.kind == OPTIMIZER_SGD)
        sgd_page(&spec, t, gradient[i], &theta[i], &m[i]);
      else
        adam_page(&spec, t, gradient[i], &theta[i], &m[i], &v[i]);
    }
    if (!case_close(&run.tensor[parameter], theta, tolerance, where))
      FAIL_TEST("optimizer %d, step %d: %s", spec.kind, t, where);
    assert_float_equal(*(double *)run.tensor[graph_node(g, (NodeId)g->n_nodes - 2)->out[0]].data, square,
                       1e-12 * square);
  }
  case_release(&run);
  arena_destroy(arena);
}

static void check_optimizer(OptimizerSpec spec) {
  for (int uses = 1; uses <= 6; uses++) {
    check_steps(spec, F64, uses, 1e-13);
    check_steps(spec, F32, uses, 2e-6);
  }
}

static void sgd_is_pytorchs(void **state) {
  (void)state;
  OptimizerSpec spec = optimizer_defaults(OPTIMIZER_SGD);
  spec.learning_rate = 0.1;
  check_optimizer(spec);
  spec.weight_decay = 0.05;
  check_optimizer(spec);
  spec.momentum = 0.9;
  check_optimizer(spec);
  spec.nesterov = true;
  check_optimizer(spec);
  spec.weight_decay = 0;
  check_optimizer(spec);
}

static void adam_is_pytorchs(void **state) {
  (void)state;
  OptimizerSpec spec = optimizer_defaults(OPTIMIZER_ADAM);
  check_optimizer(spec);
  spec.learning_rate = 0.05;
  spec.weight_decay = 0.1;
  check_optimizer(spec);
  spec.beta1 = 0.5;
  spec.beta2 = 0.9;
  spec.epsilon = 1e-3;
  check_optimizer(spec);
}

static void adamw_is_pytorchs(void **state) {
  (void)state;
  OptimizerSpec spec = optimizer_defaults(OPTIMIZER_ADAMW);
  assert_float_equal(spec.weight_decay, 0.01, 0);
  check_optimizer(spec);
  spec.learning_rate = 0.05;
  spec.weight_decay = 0.5;
  check_optimizer(spec);
}

/* The sum of what is looked up in a table times a weight each: rows of the table in the order of numbers that repeat.
 */
static Graph *lookup_graph(Arena *arena, const OptimizerSpec *spec, int64_t rows, int64_t microbatches, bool able,
                           ValueId *table, ValueId *index, ValueId *weight) {
  Graph *g;
  size_t unreached;
  NodeId node;
  Attr sum[] = {attr_ints("axes", (int64_t[]){0, 1}, 2), attr_int("keepdims", 0)}, to = attr_int("to", F64);
  ASSERT_OK(graph_create(arena, "lookup", &g));
  ASSERT_OK(graph_add_value(g, "table", F32, (Shape){2, {rows, 3}}, ROLE_PARAMETER, table));
  ASSERT_OK(graph_add_value(g, "index", I64, (Shape){1, {4}}, ROLE_INPUT, index));
  ASSERT_OK(graph_add_value(g, "weight", F32, (Shape){2, {4, 3}}, ROLE_INPUT, weight));
  ASSERT_OK(graph_add_node(g, OP_Gather, "rows", (ValueId[]){*table, *index}, 2, NULL, 0, NULL, 1, &node));
  ValueId y = graph_node(g, node)->out[0];
  ASSERT_OK(graph_add_node(g, OP_Mul, "product", (ValueId[]){y, *weight}, 2, NULL, 0, NULL, 1, &node));
  ASSERT_OK(graph_add_node(g, OP_ReduceSum, "sum", graph_node(g, node)->out, 1, sum, 2, NULL, 1, &node));
  ASSERT_OK(graph_add_node(g, OP_Cast, "loss", graph_node(g, node)->out, 1, &to, 1, NULL, 1, &node));
  g->loss_sum = graph_node(g, node)->out[0];
  ASSERT_OK(graph_add_value(g, "loss_scale", F64, (Shape){0}, ROLE_STEP, &g->loss_scale));
  optimizer_choose(g, spec, microbatches, able);
  ASSERT_OK(autodiff_append(g, &unreached));
  ASSERT_OK(optimizer_append(g, spec));
  return g;
}

static void sparse_adam_is_pytorchs(void **state) {
  (void)state;
  Arena *arena = arena_create();
  OptimizerSpec spec = optimizer_defaults(OPTIMIZER_SPARSE_ADAM);
  spec.beta1 = 0.8;
  spec.beta2 = 0.95;
  spec.epsilon = 1e-3;
  ValueId table, index, weight;
  CaseGraph run = {.graph = lookup_graph(arena, &spec, 6, 1, true, &table, &index, &weight)};
  Graph *g = run.graph;
  const UseGroup *groups[MAX_GROUPS];
  char where[256];
  assert_int_equal(autodiff_groups(g, table, groups), 1);
  assert_int_not_equal(groups[0]->places, NO_VALUE);
  assert_int_equal(g->nodes[g->n_nodes - 1]->op, OP_SparseAdamUpdate);
  ASSERT_OK(case_extend(&run));
  memcpy(run.tensor[table].data, sparse_first, sizeof sparse_first);
  *(double *)run.tensor[g->loss_scale].data = 1;
  for (size_t t = 0; t < sizeof sparse_steps / sizeof *sparse_steps; t++) {
    double expected[18];
    for (int i = 0; i < 18; i++)
      expected[i] = (double)sparse_steps[t].table[i];
    memcpy(run.tensor[index].data, sparse_steps[t].index, sizeof sparse_steps[t].index);
    memcpy(run.tensor[weight].data, sparse_steps[t].cotangent, sizeof sparse_steps[t].cotangent);
    memset(run.tensor[groups[0]->places].data, 0, graph_value_bytes(g, groups[0]->places));
    optimizer_scalars(&spec, (int64_t)t + 1, 0.05, 1, run.tensor[g->step_scalars].data);
    ASSERT_OK(case_run(&run, &backend_cpu, 2, 0, (NodeId)g->n_nodes));
    if (!case_close(&run.tensor[table], expected, 2e-7, where))
      FAIL_TEST("step %zu: %s", t + 1, where);
  }
  assert_memory_equal((float *)run.tensor[table].data + 15, sparse_first + 15, 3 * sizeof(float)); /* never looked up */
  case_release(&run);
  arena_destroy(arena);
}

/* Who keeps rows: a table that is looked up, where they are smaller or mean the rows alone. */
static void tables_keep_rows(void **state) {
  (void)state;
  static const struct {
    OptimizerKind kind;
    double momentum, decay;
    int64_t rows, microbatches; /* 4 lookups of 20 bytes each; a row of the table has 12 */
    bool able, keeps;
  } cases[] = {{OPTIMIZER_SGD, 0, 0, 7, 1, true, true},         {OPTIMIZER_SGD, 0, 0, 6, 1, true, false},
               {OPTIMIZER_SGD, 0, 0, 7, 1, false, false},       {OPTIMIZER_SGD, 0.9, 0, 7, 1, true, true},
               {OPTIMIZER_SGD, 0, 0.1, 7, 1, true, true},       {OPTIMIZER_SGD, 0, 0, 7, 2, true, false},
               {OPTIMIZER_SGD, 0, 0, 14, 2, true, true},        {OPTIMIZER_ADAMW, 0, 0, 7, 1, true, true},
               {OPTIMIZER_ADAMW, 0, 0, 7, 1, false, false},     {OPTIMIZER_ADAMW, 0, 0, 6, 1, true, false},
               {OPTIMIZER_ADAM, 0, 0, 7, 1, true, true},        {OPTIMIZER_SPARSE_ADAM, 0, 0, 2, 2, true, true},
               {OPTIMIZER_SPARSE_ADAM, 0, 0, 2, 2, false, true}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Arena *arena = arena_create();
    OptimizerSpec spec = optimizer_defaults(cases[i].kind);
    spec.momentum = cases[i].momentum;
    spec.weight_decay = cases[i].decay;
    ValueId table, index, weight;
    const UseGroup *groups[MAX_GROUPS];
    const Graph *g =
        lookup_graph(arena, &spec, cases[i].rows, cases[i].microbatches, cases[i].able, &table, &index, &weight);
    assert_int_equal(autodiff_groups(g, table, groups), 1);
    assert_int_equal(groups[0]->places != NO_VALUE, cases[i].keeps);
    arena_destroy(arena);
  }
}

static void update_nodes_read_as_documented(void **state) {
  (void)state;
  static const struct {
    OptimizerKind kind;
    double momentum;
    int states;
  } kinds[] = {{OPTIMIZER_SGD, 0, 0}, {OPTIMIZER_SGD, 0.9, 1}, {OPTIMIZER_ADAM, 0, 2}, {OPTIMIZER_ADAMW, 0, 2}};
  for (int i = 0; i < 4; i++) {
    Arena *arena = arena_create();
    OptimizerSpec spec = optimizer_defaults(kinds[i].kind);
    ValueId parameter, accumulators[MAX_GROUPS];
    spec.momentum = kinds[i].momentum;
    Graph *g = training_graph(arena, F32, &spec, 5, &parameter);
    const Node *update = g->nodes[g->n_nodes - 1], *norm = g->nodes[g->n_nodes - 2];
    assert_int_not_equal(g->nodes[g->n_nodes - 3]->phase, PHASE_UPDATE); /* nothing for "idle" */
    int n = autodiff_gradients(g, parameter, accumulators);
    assert_int_equal(n, 4);
    assert_int_equal(norm->op, OP_SquaredNorm);
    assert_int_equal(norm->phase, PHASE_UPDATE);
    assert_string_equal(norm->name, "w");
    assert_int_equal(norm->n_in, n);
    assert_memory_equal(norm->in, accumulators, sizeof accumulators);
    const Value *square = graph_value(g, norm->out[0]);
    assert_string_equal(square->name, "w/squared_norm");
    assert_int_equal(square->role, ROLE_STEP);
    assert_int_equal(square->dtype, F64);
    assert_true(op_def(update->op)->traits & OP_UPDATE);
    assert_int_equal(update->phase, PHASE_UPDATE);
    assert_string_equal(update->name, "w");
    assert_int_equal(update->origin, NO_NODE);
    assert_int_equal(update->n_in, 2 + kinds[i].states + n);
    assert_int_equal(update->in[0], parameter);
    assert_int_equal(update->in[1], g->step_scalars);
    for (int k = 0; k < kinds[i].states; k++) {
      assert_int_equal(graph_value(g, update->in[2 + k])->role, ROLE_STATE);
      assert_int_equal(graph_value(g, update->in[2 + k])->parameter, parameter);
    }
    assert_memory_equal(update->in + 2 + kinds[i].states, accumulators, sizeof accumulators);
    arena_destroy(arena);
  }
}

static void refuses(OptimizerSpec spec, const char *message) {
  Arena *arena = arena_create();
  Graph *g;
  ASSERT_OK(graph_create(arena, "test", &g));
  ASSERT_FAILS(E_USAGE, message, optimizer_append(g, &spec));
  arena_destroy(arena);
}

static void what_pytorch_refuses_is_refused(void **state) {
  (void)state;
  OptimizerSpec spec = optimizer_defaults(OPTIMIZER_ADAM);
  spec.beta1 = 1;
  refuses(spec, "adam: beta1 1 is not at least 0 and below 1");
  spec = optimizer_defaults(OPTIMIZER_SGD);
  spec.learning_rate = -0.1;
  refuses(spec, "sgd: learning rate -0.1 is not at least 0 and below inf");
  spec = optimizer_defaults(OPTIMIZER_SGD);
  spec.nesterov = true;
  refuses(spec, "sgd: nesterov needs a momentum");
  spec = optimizer_defaults(OPTIMIZER_ADAMW);
  spec.weight_decay = NAN;
  refuses(spec, "adamw: weight decay nan is not at least 0 and below inf");
  assert_int_equal(optimizer_find("adamw"), OPTIMIZER_ADAMW);
  assert_int_equal(optimizer_find("lion"), OPTIMIZER_COUNT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sgd_is_pytorchs),
      cmocka_unit_test(adam_is_pytorchs),
      cmocka_unit_test(adamw_is_pytorchs),
      cmocka_unit_test(sparse_adam_is_pytorchs),
      cmocka_unit_test(tables_keep_rows),
      cmocka_unit_test(update_nodes_read_as_documented),
      cmocka_unit_test(what_pytorch_refuses_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
