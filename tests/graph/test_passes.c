/* Passes. The smallest graph of each rewrite is made from its pattern: nodes in every order and nesting become one that
 * computes the same, and stay what they are where a number is another. Copies of training graphs are the same graph. */
#include "graph/passes/passes.h"

#include <math.h>
#include <string.h>

#include "backend/backend.h"
#include "tests/random_graph.h"

enum { ELEMENTS = 7 };

/* A graph that spells a pattern. */
typedef struct {
  Graph *g;
  uint64_t seed;
  ValueId variable[MOST_VARIABLES];
  int numbers, wrong; /* how many numbers there are; which one is another than the pattern's, -1: none */
} Spelling;

static ValueId number(Spelling *s, double value) {
  ValueId id;
  float x = (float)value;
  if (s->numbers++ == s->wrong)
    x = x == 0 ? 0.5f : x * 1.5f;
  ASSERT_OK(graph_add_constant(s->g, "number", F32, (Shape){0}, &x, &id));
  return id;
}

static ValueId apply(Spelling *s, OpKind op, const ValueId *in, int n_in) {
  NodeId id;
  ASSERT_OK(graph_add_node(s->g, op, "n", in, n_in, NULL, 0, NULL, 1, &id));
  return graph_node(s->g, id)->out[0];
}

/* Joins two of them, at random, until one is left. */
static ValueId join(Spelling *s, OpKind op, ValueId *part, int n) {
  while (n > 1) {
    int i = (int)random_below(&s->seed, (unsigned)n), k = (i + 1 + (int)random_below(&s->seed, (unsigned)n - 1)) % n;
    part[i] = apply(s, op, (ValueId[]){part[i], part[k]}, 2);
    part[k] = part[--n];
  }
  return part[0];
}

static ValueId spell(Spelling *s, const Pattern *p) {
  ValueId part[MOST_PARTS + 1];
  int n = 0;
  if (p->kind == PATTERN_VARIABLE)
    return s->variable[p->variable];
  for (; n < MOST_PARTS && p->part[n]; n++)
    part[n] = spell(s, p->part[n]);
  if (p->kind == PATTERN_FUNCTION)
    return apply(s, p->op, part, n);
  bool is_product = p->kind == PATTERN_PRODUCT, divides = random_below(&s->seed, 3) == 0;
  if (is_product && divides)
    part[0] = apply(s, OP_Div, (ValueId[]){part[0], number(s, 1 / p->number)}, 2);
  else if (p->number != (is_product ? 1 : 0))
    part[n++] = number(s, p->number);
  return join(s, is_product ? OP_Mul : OP_Add, part, n);
}

/* What an output is, node by node. */
static void evaluate(Arena *arena, const Graph *g, float *result) {
  void **data;
  ASSERT_OK(ARENA_NEW(arena, data, g->n_values));
  for (ValueId v = 0; v < g->n_values; v++) {
    assert_non_null(data[v] = arena_alloc(arena, graph_value_bytes(g, v), 1));
    if (graph_value(g, v)->data)
      memcpy(data[v], graph_value(g, v)->data, graph_value_bytes(g, v));
    for (int i = 0; graph_value(g, v)->role == ROLE_INPUT && i < ELEMENTS; i++)
      ((float *)data[v])[i] = (float)i - 3;
  }
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *n = g->nodes[i];
    Tensor in[4], out = tensor_at(F32, graph_value(g, n->out[0])->shape, data[n->out[0]]);
    for (int k = 0; k < n->n_in; k++)
      in[k] = tensor_at(F32, graph_value(g, n->in[k])->shape, data[n->in[k]]);
    ASSERT_OK(backend_evaluate(NULL, n, in, &out));
  }
  memcpy(result, data[g->outputs[0]], ELEMENTS * sizeof *result);
}

static Spelling spelling_of(Arena *arena, const Rewrite *rewrite, uint64_t seed, int wrong, bool deep) {
  Spelling s = {.seed = seed, .wrong = wrong};
  ASSERT_OK(graph_create(arena, "spelling", &s.g));
  for (int i = 0; i < rewrite->n_in; i++) {
    ASSERT_OK(graph_add_value(s.g, "x", F32, shape_of(1, (int64_t[]){ELEMENTS}), ROLE_INPUT, &s.variable[i]));
    ASSERT_OK(graph_add_input(s.g, s.variable[i]));
    s.numbers = wrong < 0 ? 0 : -1000; /* numbers inside a variable are not counted */
    if (deep) /* what the pattern's variable stands for is a product or a sum itself, with a number */
      s.variable[i] = apply(&s, random_below(&s.seed, 2) ? OP_Mul : OP_Add,
                            (ValueId[]){s.variable[i], random_below(&s.seed, 2) ? number(&s, 2) : s.variable[i]}, 2);
    s.numbers = 0;
  }
  ASSERT_OK(graph_add_output(s.g, spell(&s, rewrite->pattern)));
  return s;
}

static size_t count_op(const Graph *g, OpKind op) {
  size_t n = 0;
  for (size_t i = 0; i < g->n_nodes; i++)
    n += g->nodes[i]->op == op;
  return n;
}

static void check_rewrite(const Pass *pass, int row, uint64_t seed) {
  const Rewrite *r = &pass->rewrites[row];
  Arena *arena = arena_create();
  bool deep = seed % 2;
  Spelling s = spelling_of(arena, r, seed, -1, deep);
  Graph *to;
  ValueId *map;
  float before[ELEMENTS], after[ELEMENTS];
  ASSERT_OK(ARENA_NEW(arena, map, s.g->n_values));
  ASSERT_OK(graph_rewrite(s.g, pass, NULL, NULL, arena, map, &to));
  if (to->n_nodes != (deep ? 1u : 0u) + 1 || count_op(to, r->op) != 1)
    FAIL_TEST("%s, rewrite %d, seed %d: %zu nodes are left", pass->name, row, (int)seed, to->n_nodes);
  assert_int_equal(map[s.g->outputs[0]], to->outputs[0]);
  assert_int_equal(map[s.g->inputs[0]], to->inputs[0]);
  evaluate(arena, s.g, before);
  evaluate(arena, to, after);
  for (int i = 0; i < ELEMENTS; i++)
    assert_true(fabsf(before[i] - after[i]) <= 1e-5f * fmaxf(1, fabsf(before[i])));
  for (int wrong = 0; wrong < s.numbers; wrong++) {
    Spelling other = spelling_of(arena, r, seed, wrong, deep);
    ASSERT_OK(graph_rewrite(other.g, pass, NULL, NULL, arena, NULL, &to));
    if (count_op(to, r->op))
      FAIL_TEST("%s, rewrite %d, seed %d: number %d may be another", pass->name, row, (int)seed, wrong);
  }
  arena_destroy(arena);
}

static void patterns_become_one_node(void **state) {
  (void)state;
  for (int p = 0; fusing_passes[p]; p++)
    for (int row = 0; row < fusing_passes[p]->n; row++)
      for (uint64_t seed = 0; seed < 400; seed++)
        check_rewrite(fusing_passes[p], row, seed);
}

/* What others use stays, and so does what has another shape than the root. */
static void what_is_used_stays(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *to;
  Spelling s = spelling_of(arena, &pass_gelu.rewrites[0], 0, -1, false);
  for (size_t i = 0; i < s.g->n_nodes; i++)
    if (s.g->nodes[i]->op == OP_Erf)
      ASSERT_OK(graph_add_output(s.g, s.g->nodes[i]->out[0]));
  ASSERT_OK(graph_rewrite(s.g, &pass_gelu, NULL, NULL, arena, NULL, &to));
  assert_true(count_op(to, OP_Gelu) == 1 && count_op(to, OP_Erf) == 1 && to->n_nodes == 3);
  s = (Spelling){.wrong = -1};
  ASSERT_OK(graph_create(arena, "wide", &s.g));
  ASSERT_OK(graph_add_value(s.g, "x", F32, shape_of(1, (int64_t[]){1}), ROLE_INPUT, &s.variable[0]));
  ASSERT_OK(graph_add_input(s.g, s.variable[0]));
  float half[ELEMENTS] = {0.5f};
  ValueId number, gate = spell(&s, SUM(1, FUNCTION(Erf, PRODUCT(M_SQRT1_2, X))));
  ASSERT_OK(graph_add_constant(s.g, "half", F32, shape_of(2, (int64_t[]){1, 1}), half, &number));
  ValueId y = apply(&s, OP_Mul, (ValueId[]){apply(&s, OP_Mul, (ValueId[]){s.variable[0], gate}, 2), number}, 2);
  ASSERT_OK(graph_add_output(s.g, y)); /* [1, 1] of [1] */
  ASSERT_OK(graph_rewrite(s.g, &pass_gelu, NULL, NULL, arena, NULL, &to));
  assert_true(count_op(to, OP_Gelu) == 0 && to->n_nodes == s.g->n_nodes);
  arena_destroy(arena);
}

static bool takes_all_but(const void *context, const Graph *g, const Node *node) {
  (void)g;
  return node->op != *(const OpKind *)context;
}

/* A rewrite is left out where the run lacks its operator, or what its gradient takes. */
static void what_runs_nowhere_is_not_made(void **state) {
  (void)state;
  const OpKind lacks[] = {OP_Relu, OP_Gelu, OP_GeluGrad};
  for (int i = 0; i < 3; i++) {
    Arena *arena = arena_create();
    Graph *to;
    Spelling s = spelling_of(arena, &pass_gelu.rewrites[1], 3, -1, false);
    graph_value(s.g, s.g->inputs[0])->role = ROLE_PARAMETER; /* so that there is a gradient */
    ASSERT_OK(graph_fuse(s.g, takes_all_but, &lacks[i], NULL, NULL, arena, &to));
    assert_int_equal(count_op(to, OP_Gelu), i == 0);
    arena_destroy(arena);
  }
}

/* Passes that are functions: what stands for a node may be several, under its name, or a value that is there. */
static Status emit_twice(Graph *g, const Instead *instead, const ValueId *in, ValueId *out) {
  (void)instead;
  TRY(graph_emit(g, OP_Abs, in, 1, NULL, 0, out));
  return graph_emit(g, OP_Sqrt, out, 1, NULL, 0, out);
}

static Status emit_same(Graph *g, const Instead *instead, const ValueId *in, ValueId *out) {
  (void)g, (void)instead;
  *out = in[0];
  return OK;
}

static Status find_functions(const Graph *g, const Instead **instead) {
  static Instead twice = {.n_in = 1, .emit = emit_twice}, same = {.n_in = 1, .emit = emit_same};
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i]->op == OP_Neg) {
      twice.in = g->nodes[i]->in;
      instead[i] = &twice;
    } else if (g->nodes[i]->op == OP_Floor) {
      same.in = g->nodes[i]->in;
      instead[i] = &same;
    }
  return OK;
}

static void functions_emit(void **state) {
  (void)state;
  const Pass pass = {"functions", NULL, 0, find_functions};
  Arena *arena = arena_create();
  Spelling s = {.wrong = -1};
  Graph *to;
  ASSERT_OK(graph_create(arena, "functions", &s.g));
  ASSERT_OK(graph_add_value(s.g, "x", F32, shape_of(1, (int64_t[]){ELEMENTS}), ROLE_INPUT, &s.variable[0]));
  ASSERT_OK(graph_add_input(s.g, s.variable[0]));
  ValueId floor = apply(&s, OP_Floor, &s.variable[0], 1), y = apply(&s, OP_Neg, &floor, 1);
  ASSERT_OK(graph_add_output(s.g, apply(&s, OP_Exp, &y, 1)));
  ASSERT_OK(graph_rewrite(s.g, &pass, NULL, NULL, arena, NULL, &to));
  const OpKind ops[] = {OP_Abs, OP_Sqrt, OP_Exp};
  assert_int_equal(to->n_nodes, 3);
  for (size_t i = 0; i < 3; i++) {
    assert_int_equal(to->nodes[i]->op, ops[i]);
    assert_string_equal(to->nodes[i]->name, "n");
  }
  assert_int_equal(to->nodes[0]->in[0], to->inputs[0]);
  assert_string_equal(graph_value(to, to->nodes[1]->out[0])->name, graph_value(s.g, y)->name);
  arena_destroy(arena);
}

static void same_value(const Graph *a, ValueId of_a, const Graph *b, ValueId of_b, const ValueId *map) {
  assert_int_equal(of_a == NO_VALUE ? NO_VALUE : map[of_a], of_b);
  if (of_a == NO_VALUE)
    return;
  const Value *x = graph_value(a, of_a), *y = graph_value(b, of_b);
  assert_string_equal(x->name, y->name);
  assert_true(x->dtype == y->dtype && shape_equal(x->shape, y->shape) && x->role == y->role && x->group == y->group &&
              x->initializer == y->initializer && x->needs_gradient == y->needs_gradient);
  assert_int_equal(x->producer == NO_NODE, y->producer == NO_NODE);
  assert_int_equal(x->parameter == NO_VALUE ? NO_VALUE : map[x->parameter], y->parameter);
}

static void training_graphs_are_copied(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 20; seed++) {
    Arena *arena = arena_create(), *other = arena_create();
    Graph *g = random_training(arena, seed, 20), *copy, *again;
    ValueId *map;
    ASSERT_OK(ARENA_NEW(arena, map, g->n_values));
    ASSERT_OK(graph_copy(g, arena, NULL, &copy)); /* without what nothing needs */
    g = copy;
    ASSERT_OK(graph_copy(g, other, map, &again));
    assert_int_equal(again->n_nodes, g->n_nodes);
    for (size_t i = 0; i < g->n_nodes; i++) {
      const Node *a = g->nodes[i], *b = again->nodes[i];
      assert_string_equal(a->name, b->name);
      assert_true(a->op == b->op && a->phase == b->phase && a->origin == b->origin && a->n_in == b->n_in &&
                  a->n_out == b->n_out && a->n_attrs == b->n_attrs);
      for (int k = 0; k < a->n_in; k++)
        same_value(g, a->in[k], again, b->in[k], map);
      for (int k = 0; k < a->n_out; k++)
        same_value(g, a->out[k], again, b->out[k], map);
    }
    same_value(g, g->target, again, again->target, map);
    same_value(g, g->loss_sum, again, again->loss_sum, map);
    same_value(g, g->loss_scale, again, again->loss_scale, map);
    same_value(g, g->step_scalars, again, again->step_scalars, map);
    assert_int_equal(again->n_groups, g->n_groups);
    for (size_t i = 0; i < g->n_groups; i++) {
      same_value(g, g->groups[i].parameter, again, again->groups[i].parameter, map);
      same_value(g, g->groups[i].gradient, again, again->groups[i].gradient, map);
      assert_int_equal(g->groups[i].n_nodes, again->groups[i].n_nodes);
      assert_memory_equal(g->groups[i].nodes, again->groups[i].nodes, (size_t)g->groups[i].n_nodes * sizeof(NodeId));
    }
    arena_destroy(arena);
    arena_destroy(other);
  }
}

/* Whether a product takes the accumulator's place. */
static bool is_begun(const Graph *g, ValueId accumulator) {
  for (size_t i = 0; i < g->n_nodes; i++)
    if (node_int(g->nodes[i], "begins", 0) && g->nodes[i]->in[0] == accumulator)
      return true;
  return false;
}

/* A microbatch forward and backward; *data [n_values] is what values were then. Accumulators hold something before,
 * unless it is the step's only microbatch and they need their zeros. */
static void run_training(Arena *arena, const Graph *g, void ***data) {
  ASSERT_OK(ARENA_NEW(arena, *data, g->n_values));
  for (ValueId v = 0; v < g->n_values; v++) {
    const Value *value = graph_value(g, v);
    uint64_t seed = 0;
    for (const char *c = value->name; *c; c++)
      seed = seed * 31 + (unsigned char)*c;
    assert_non_null((*data)[v] = arena_alloc(arena, graph_value_bytes(g, v) + 1, 1));
    if (value->data)
      memcpy((*data)[v], value->data, graph_value_bytes(g, v));
    else if (value->producer == NO_NODE && value->role != ROLE_STATE)
      for (int64_t i = 0; i < shape_elements(value->shape); i++) {
        bool is_zero = value->role == ROLE_GRADIENT && g->microbatches == 1 && !is_begun(g, v);
        double number = is_zero ? 0 : 0.25 * random_below(&seed, 9) - 1;
        if (value->dtype == F32)
          ((float *)(*data)[v])[i] = (float)number;
        else if (value->dtype == F64)
          ((double *)(*data)[v])[i] = 1;
      }
  }
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *n = g->nodes[i];
    Tensor in[8], out[8];
    if (n->phase == PHASE_UPDATE)
      continue;
    for (int k = 0; k < n->n_in; k++)
      in[k] = n->in[k] == NO_VALUE
                  ? (Tensor){0}
                  : tensor_at(graph_value(g, n->in[k])->dtype, graph_value(g, n->in[k])->shape, (*data)[n->in[k]]);
    for (int k = 0; k < n->n_out; k++)
      out[k] = n->out[k] == NO_VALUE
                   ? (Tensor){0}
                   : tensor_at(graph_value(g, n->out[k])->dtype, graph_value(g, n->out[k])->shape, (*data)[n->out[k]]);
    ASSERT_OK(backend_evaluate(NULL, n, in, out));
  }
}

/* What accumulators hold in the end; map: from g's values to those of `to`. */
static void accumulators_are_alike(Arena *arena, const Graph *g, const Graph *to, const ValueId *map, float tolerance) {
  void **before, **after;
  run_training(arena, g, &before);
  run_training(arena, to, &after);
  for (size_t i = 0; i < g->n_groups; i++) {
    ValueId v = g->groups[i].gradient;
    for (int64_t k = 0; v != NO_VALUE && k < shape_elements(graph_value(g, v)->shape); k++) {
      float x = ((float *)before[v])[k], y = ((float *)after[map[v]])[k];
      if (!(fabsf(x - y) <= tolerance * fmaxf(1, fabsf(x))))
        FAIL_TEST("'%s': %g, then %g", graph_value(g, v)->name, x, y);
    }
  }
}

/* Products go into accumulators, which hold the same in the end; a sum of two does not. */
static void products_are_accumulated(void **state) {
  (void)state;
  size_t made = 0, left = 0;
  for (uint64_t seed = 0; seed < 20; seed++) {
    Arena *arena = arena_create();
    Graph *g = random_training(arena, seed, 20), *to;
    ValueId *map;
    ASSERT_OK(ARENA_NEW(arena, map, g->n_values));
    g->microbatches = 1 + (int64_t)(seed % 2);
    ASSERT_OK(graph_rewrite(g, &pass_accumulate, NULL, NULL, arena, map, &to));
    size_t products = count_op(to, OP_AccumulateMatMul);
    for (size_t i = 0; i < to->n_nodes; i++)
      if (to->nodes[i]->op == OP_AccumulateMatMul)
        assert_int_equal(node_int(to->nodes[i], "begins", 0), g->microbatches == 1);
    assert_int_equal(count_op(g, OP_Accumulate), count_op(to, OP_Accumulate) + products);
    assert_true(count_op(to, OP_MatMul) + products <= count_op(g, OP_MatMul));
    made += products;
    left += count_op(to, OP_Accumulate);
    accumulators_are_alike(arena, g, to, map, 1e-4f);
    arena_destroy(arena);
  }
  assert_true(made > 20 && left > 20);
}

/* y = x + f(norm(x)), or what reads the sum of norm and x: two blocks, or with something between x and the norm. */
static Graph *residual_graph(Arena *arena, OpKind op, bool between) {
  RandomGraph r = {0};
  size_t unreached;
  Shape row = shape_of(1, (int64_t[]){WIDTH}), whole = shape_of(2, (int64_t[]){ROWS, WIDTH});
  Attr attrs[] = {attr_int("axis", 1), attr_float("epsilon", 0.1)};
  ASSERT_OK(graph_create(arena, "residual", &r.g));
  ValueId x = random_value(&r, "x", whole, ROLE_INPUT), w = random_value(&r, "w", whole, ROLE_PARAMETER);
  ASSERT_OK(graph_add_input(r.g, x));
  x = random_node(&r, OP_Add, (ValueId[]){x, w}, 2, NULL, 0, 1);
  for (int i = 0; i < 2; i++) {
    ValueId scale = random_value(&r, i ? "scale1" : "scale0", row, ROLE_PARAMETER);
    ValueId from = between ? random_node(&r, OP_Tanh, &x, 1, NULL, 0, 1) : x;
    NodeId norm;
    ASSERT_OK(graph_add_node(r.g, op, "norm", (ValueId[]){from, scale}, 2, attrs, 2, NULL,
                             op == OP_LayerNormalization ? 3 : 2, &norm));
    ValueId f = random_node(&r, OP_Tanh, graph_node(r.g, norm)->out, 1, NULL, 0, 1);
    x = random_node(&r, OP_Add, (ValueId[]){x, f}, 2, NULL, 0, 1);
  }
  ASSERT_OK(graph_add_output(r.g, x));
  LossSpec loss = {.kind = LOSS_MSE, .output = x, .target_dtype = F32, .target_shape = whole};
  ASSERT_OK(loss_append(r.g, &loss));
  ASSERT_OK(autodiff_append(r.g, &unreached));
  return r.g;
}

/* What comes back past a norm is added by the norm's gradient, with the same bits in float32; where something else
 * stands before the norm it is not. */
static void residuals_go_with_norms(void **state) {
  (void)state;
  static const OpKind ops[][2] = {{OP_LayerNormalization, OP_LayerNormalizationGradInput},
                                  {OP_RMSNormalization, OP_RMSNormalizationGradInput}};
  for (int i = 0; i < 4; i++) {
    Arena *arena = arena_create();
    OpKind op = ops[i / 2][0], gradient = ops[i / 2][1];
    Graph *g = residual_graph(arena, op, i % 2), *to;
    ValueId *map;
    size_t fused = 0;
    ASSERT_OK(ARENA_NEW(arena, map, g->n_values));
    ASSERT_OK(graph_rewrite(g, &pass_residual, NULL, NULL, arena, map, &to));
    assert_int_equal(count_op(to, gradient), 2);
    for (size_t k = 0; k < to->n_nodes; k++)
      if (to->nodes[k]->op == gradient) {
        fused += to->nodes[k]->n_in > op_def(gradient)->min_in;
        assert_int_equal(graph_node(to, to->nodes[k]->origin)->op, op);
      }
    assert_int_equal(fused, i % 2 ? 0 : 2);
    assert_int_equal(count_op(g, OP_Add) - count_op(to, OP_Add), fused);
    accumulators_are_alike(arena, g, to, map, 0);
    arena_destroy(arena);
  }
}

/* swish(x a) and the product with x b, which a loss follows; `kept`: the gate is an output, too; `wide`: of a row. */
static Graph *gated_graph(Arena *arena, bool turned, bool kept, bool wide, bool fused) {
  RandomGraph r = {0};
  size_t unreached;
  Shape whole = shape_of(2, (int64_t[]){ROWS, WIDTH}), row = shape_of(1, (int64_t[]){WIDTH});
  Attr alpha = attr_float("alpha", 1.5);
  ASSERT_OK(graph_create(arena, "gated", &r.g));
  ValueId x = random_value(&r, "x", whole, ROLE_INPUT), a = random_value(&r, "a", wide ? row : whole, ROLE_PARAMETER);
  ValueId b = random_value(&r, "b", whole, ROLE_PARAMETER);
  ASSERT_OK(graph_add_input(r.g, x));
  a = wide ? a : random_node(&r, OP_Mul, (ValueId[]){x, a}, 2, NULL, 0, 1);
  ValueId gate = random_node(&r, OP_Swish, &a, 1, &alpha, 1, 1);
  b = random_node(&r, OP_Mul, (ValueId[]){x, b}, 2, NULL, 0, 1);
  ValueId y = random_node(&r, OP_Mul, turned ? (ValueId[]){b, gate} : (ValueId[]){gate, b}, 2, NULL, 0, 1);
  ASSERT_OK(graph_add_output(r.g, y));
  if (kept)
    ASSERT_OK(graph_add_output(r.g, gate));
  if (fused)
    ASSERT_OK(graph_rewrite(r.g, &pass_swiglu, NULL, NULL, arena, NULL, &r.g));
  LossSpec loss = {.kind = LOSS_MSE, .output = r.g->outputs[0], .target_dtype = F32, .target_shape = whole};
  ASSERT_OK(loss_append(r.g, &loss));
  ASSERT_OK(autodiff_append(r.g, &unreached));
  return r.g;
}

/* A gate and what it multiplies are one node, whose gradient gives both; not where the gate is read elsewhere, or is
 * one for all rows. */
static void gates_become_one_node(void **state) {
  (void)state;
  for (int i = 0; i < 8; i++) {
    Arena *arena = arena_create();
    bool turned = i & 1, kept = i & 2, wide = i & 4;
    Graph *g = gated_graph(arena, turned, kept, wide, false), *to = gated_graph(arena, turned, kept, wide, true);
    size_t made = !kept && !wide;
    void **before, **after;
    assert_int_equal(count_op(to, OP_SwiGLU), made);
    assert_int_equal(count_op(to, OP_SwiGLUGrad), made);
    assert_int_equal(count_op(to, OP_Swish), 1 - made);
    assert_int_equal(count_op(to, OP_SwishGrad), 1 - made);
    run_training(arena, g, &before);
    run_training(arena, to, &after);
    for (size_t k = 0; k < g->n_groups; k++) {
      ValueId v = g->groups[k].gradient, w = to->groups[k].gradient;
      assert_string_equal(graph_value(g, v)->name, graph_value(to, w)->name);
      for (int64_t e = 0; e < shape_elements(graph_value(g, v)->shape); e++)
        assert_float_equal(((float *)before[v])[e], ((float *)after[w])[e], 1e-5f);
    }
    arena_destroy(arena);
  }
}

/* gelu(x a + row) b of a stack of rows or a matrix, twice. */
typedef struct {
  bool stack, tanh, bare; /* bare: without rows that are added */
  bool turned;            /* matrices are read transposed */
  bool frozen;            /* what comes before the GELU does not train */
  bool kept, read;        /* the sums are an output, too; something else reads them */
} Feed;

static ValueId multiply_rows(RandomGraph *r, const Feed *f, ValueId x, const char *name, Role role) {
  Shape shape = graph_value(r->g, x)->shape, matrix = shape_of(2, (int64_t[]){WIDTH, WIDTH});
  ValueId w = random_value(r, name, matrix, role);
  Attr turned = attr_int("transB", f->turned);
  if (f->bare)
    return random_node(r, OP_MatMul, (ValueId[]){x, w}, 2, &turned, 1, 1);
  int64_t rows[] = {shape_elements(shape) / WIDTH, WIDTH};
  Attr flat = attr_ints("shape", rows, 2), back = attr_ints("shape", shape.dim, shape.rank);
  ValueId row = random_value(r, "row", shape_of(1, (int64_t[]){WIDTH}), role);
  if (f->stack)
    x = random_node(r, OP_Reshape, &x, 1, &flat, 1, 1);
  x = random_node(r, OP_Gemm, (ValueId[]){x, w, row}, 3, &turned, 1, 1);
  return f->stack ? random_node(r, OP_Reshape, &x, 1, &back, 1, 1) : x;
}

static Graph *feed_graph(Arena *arena, const Feed *f) {
  RandomGraph r = {0};
  size_t unreached;
  Shape whole = f->stack ? shape_of(3, (int64_t[]){2, ROWS, WIDTH}) : shape_of(2, (int64_t[]){ROWS, WIDTH});
  Attr form = attr_string("approximate", f->tanh ? "tanh" : "none");
  ASSERT_OK(graph_create(arena, "feed", &r.g));
  ValueId x = random_value(&r, "x", whole, ROLE_INPUT), sums = NO_VALUE;
  ASSERT_OK(graph_add_input(r.g, x));
  for (int i = 0; i < 2; i++) {
    sums = multiply_rows(&r, f, x, "a", f->frozen ? ROLE_INPUT : ROLE_PARAMETER);
    ValueId y = random_node(&r, OP_Gelu, &sums, 1, &form, 1, 1);
    x = f->frozen && !i ? y : multiply_rows(&r, f, y, "b", ROLE_PARAMETER);
    if (f->read)
      x = random_node(&r, OP_Add, (ValueId[]){x, sums}, 2, NULL, 0, 1);
  }
  ASSERT_OK(graph_add_output(r.g, x));
  if (f->kept)
    ASSERT_OK(graph_add_output(r.g, sums));
  LossSpec loss = {.kind = LOSS_MSE, .output = x, .target_dtype = F32, .target_shape = whole};
  ASSERT_OK(loss_append(r.g, &loss));
  ASSERT_OK(autodiff_append(r.g, &unreached));
  ASSERT_OK(graph_rewrite(r.g, &pass_accumulate, NULL, NULL, arena, NULL, &r.g));
  return r.g;
}

static Graph *fuse_gelus(Arena *arena, Graph *g, Takes *takes, ValueId *map) {
  Graph *between, *to;
  ValueId *step, *last;
  ASSERT_OK(ARENA_NEW(arena, step, g->n_values));
  ASSERT_OK(graph_rewrite(g, &pass_product_gelu, takes, NULL, arena, step, &between));
  ASSERT_OK(ARENA_NEW(arena, last, between->n_values));
  ASSERT_OK(graph_rewrite(between, &pass_product_slope, takes, NULL, arena, last, &to));
  for (size_t v = 0; v < g->n_values; v++)
    map[v] = step[v] == NO_VALUE ? NO_VALUE : last[step[v]];
  return to;
}

/* Each of the sums is read by its GELU, and its slope where it trains; where something else does, it stays. The slope's
 * product runs with the second layer, not the GELU. */
static void gelus_go_with_products(void **state) {
  (void)state;
  for (int i = 0; i < 128; i++) {
    Feed f = {i & 1, i & 2, i & 4, i & 8, i & 16, i & 32, i & 64};
    Arena *arena = arena_create();
    Graph *g = feed_graph(arena, &f), *to;
    ValueId *map;
    ASSERT_OK(ARENA_NEW(arena, map, g->n_values));
    size_t slopes = count_op(g, OP_GeluGrad), left = f.read ? 2 : f.kept, keep = 0;
    assert_int_equal(slopes, f.frozen ? 0 : 2);
    to = fuse_gelus(arena, g, NULL, map);
    assert_int_equal(count_op(to, OP_Gelu), left);
    assert_int_equal(count_op(to, OP_ProductGelu), 2 - left);
    assert_int_equal(count_op(to, OP_GeluGrad), 0);
    assert_int_equal(count_op(to, OP_ProductGeluGrad), slopes);
    for (size_t k = 0; k < to->n_nodes; k++) {
      const Node *n = to->nodes[k];
      keep += n->op == OP_ProductGelu && n->n_out == 2;
      if (n->op == OP_ProductGeluGrad) {
        const Node *layer = graph_node(to, n->origin);
        assert_true(n->in[1] == layer->in[1] && node_int(n, "transB", 0) == !f.turned);
      }
      if (n->op == OP_AccumulateMatMul)
        assert_true(to->nodes[n->origin]->in[1] == graph_value(to, n->in[0])->parameter);
    }
    assert_int_equal(keep, f.frozen ? 0 : 2 - left);
    accumulators_are_alike(arena, g, to, map, 0);
    arena_destroy(arena);
  }
}

/* Residuals past two layers: y = x + (x a . x b) c, of rows or a stack; `late`: with something between. */
static Graph *past_graph(Arena *arena, bool stack, bool bare, bool late) {
  RandomGraph r = {0};
  Feed f = {.stack = stack, .bare = bare};
  size_t unreached;
  Shape whole = stack ? shape_of(3, (int64_t[]){2, ROWS, WIDTH}) : shape_of(2, (int64_t[]){ROWS, WIDTH});
  ASSERT_OK(graph_create(arena, "past", &r.g));
  ValueId x = random_value(&r, "x", whole, ROLE_INPUT), w = random_value(&r, "w", whole, ROLE_PARAMETER);
  ASSERT_OK(graph_add_input(r.g, x));
  x = random_node(&r, OP_Add, (ValueId[]){x, w}, 2, NULL, 0, 1);
  for (int i = 0; i < 2; i++) {
    ValueId y = multiply_rows(&r, &f, x, "a", ROLE_PARAMETER), z = multiply_rows(&r, &f, x, "b", ROLE_PARAMETER);
    y = random_node(&r, OP_Mul, (ValueId[]){y, z}, 2, NULL, 0, 1);
    y = multiply_rows(&r, &f, y, "c", ROLE_PARAMETER);
    if (late)
      y = random_node(&r, OP_Tanh, &y, 1, NULL, 0, 1);
    x = random_node(&r, OP_Add, (ValueId[]){i ? x : y, i ? y : x}, 2, NULL, 0, 1);
  }
  ASSERT_OK(graph_add_output(r.g, x));
  LossSpec loss = {.kind = LOSS_MSE, .output = x, .target_dtype = F32, .target_shape = whole};
  ASSERT_OK(loss_append(r.g, &loss));
  ASSERT_OK(autodiff_append(r.g, &unreached));
  return r.g;
}

/* What is like a product is added by it, forward and where gradients of two layers meet, with the same bits in float32;
 * one that runs with another node than the sum is not. */
static void sums_go_with_products(void **state) {
  (void)state;
  for (int i = 0; i < 8; i++) {
    Arena *arena = arena_create();
    Graph *g = past_graph(arena, i & 1, i & 2, i & 4), *to;
    size_t forward = 0, backward = 0;
    ValueId *map;
    ASSERT_OK(ARENA_NEW(arena, map, g->n_values));
    ASSERT_OK(graph_rewrite(g, &pass_product_add, NULL, NULL, arena, map, &to));
    for (size_t k = 0; k < to->n_nodes; k++) {
      const Node *n = to->nodes[k];
      forward += n->op == OP_ProductAdd && n->phase == PHASE_F;
      if (n->op == OP_ProductAdd && n->phase != PHASE_F) {
        backward++;
        assert_int_equal(graph_node(to, n->origin)->in[1], n->in[1]);
      }
    }
    assert_int_equal(forward, i & 4 ? 0 : 2);
    assert_int_equal(backward > 0, !(i & 1) || i & 2); /* a view's gradient has the view's stage */
    assert_int_equal(count_op(g, OP_Add) - count_op(to, OP_Add), forward + backward);
    accumulators_are_alike(arena, g, to, map, 0);
    arena_destroy(arena);
  }
}

static bool takes_no_gelus(const void *context, const Graph *graph, const Node *n) {
  (void)context, (void)graph;
  return n->op != OP_ProductGelu && n->op != OP_ProductGeluGrad;
}

static void gelus_stay_where_nobody_takes_them(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = feed_graph(arena, &(Feed){.stack = true});
  ValueId *map;
  ASSERT_OK(ARENA_NEW(arena, map, g->n_values));
  Graph *to = fuse_gelus(arena, g, takes_no_gelus, map);
  assert_true(count_op(to, OP_Gelu) == 2 && count_op(to, OP_GeluGrad) == 2 && count_op(to, OP_ProductGelu) == 0);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(patterns_become_one_node),      cmocka_unit_test(what_is_used_stays),
      cmocka_unit_test(what_runs_nowhere_is_not_made), cmocka_unit_test(functions_emit),
      cmocka_unit_test(training_graphs_are_copied),    cmocka_unit_test(products_are_accumulated),
      cmocka_unit_test(residuals_go_with_norms),       cmocka_unit_test(gates_become_one_node),
      cmocka_unit_test(gelus_go_with_products),        cmocka_unit_test(gelus_stay_where_nobody_takes_them),
      cmocka_unit_test(sums_go_with_products),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
