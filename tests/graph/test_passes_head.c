/* The last product and its cross entropy as one node: what it stands for, its bits on the cpu, what is left as it is,
 * and where it lies in a pipeline. */
#include <math.h>
#include <string.h>

#include "graph/autodiff.h"
#include "graph/stages.h"
#include "tests/graph/spelled.h"

enum { ROWS = 1024, SIZE = 8, CLASSES = 8200 };

/* Ways to write it; and what keeps it from being one node. */
typedef struct {
  bool transposed, biased, stacked; /* W [v,d]; a vector is added; its rows become another stack before the loss */
  bool divided;                     /* the loss is divided by what the host writes */
  int64_t microbatches;
  bool small, read, frozen, across;
} Way;

typedef struct {
  Graph *g;
  ValueId logits;
} Built;

static ValueId add_value(Graph *g, const char *name, DType dtype, Shape shape, Role role) {
  ValueId id;
  ASSERT_OK(graph_add_value(g, name, dtype, shape, role, &id));
  return id;
}

static ValueId add_node(Graph *g, OpKind op, const ValueId *in, int n_in, const Attr *attrs, int n_attrs, int n_out) {
  NodeId node;
  ASSERT_OK(graph_add_node(g, op, op_def(op)->name, in, n_in, attrs, n_attrs, NULL, n_out, &node));
  return graph_node(g, node)->out[0];
}

static ValueId reshape(Graph *g, ValueId id, Shape shape) {
  Attr to = attr_ints("shape", shape.dim, shape.rank);
  return add_node(g, OP_Reshape, &id, 1, &to, 1, 1);
}

static Graph *build(Arena *arena, const Way *way) {
  Graph *g, *to;
  size_t unreached;
  ASSERT_OK(graph_create(arena, "", &g));
  int64_t v = way->small ? 500 : CLASSES, rows = ROWS;
  Attr trans = attr_int("transB", way->transposed);
  ValueId x = add_value(g, "x", F32, shape_of(3, (int64_t[]){2, ROWS / 2, SIZE}), ROLE_INPUT);
  ValueId s = add_value(g, "s", F32, shape_of(1, (int64_t[]){SIZE}), ROLE_PARAMETER);
  ValueId w = add_value(g, "w", F32, shape_of(2, way->transposed ? (int64_t[]){v, SIZE} : (int64_t[]){SIZE, v}),
                        way->frozen ? ROLE_CONSTANT : ROLE_PARAMETER);
  ValueId h = add_node(g, OP_Mul, (ValueId[]){x, s}, 2, NULL, 0, 1), logits;
  if (way->biased) {
    ValueId b = add_value(g, "b", F32, shape_of(1, &v), ROLE_PARAMETER);
    h = reshape(g, h, shape_of(2, (int64_t[]){ROWS, SIZE}));
    logits = add_node(g, OP_Gemm, (ValueId[]){h, w, b}, 3, &trans, 1, 1);
  } else {
    logits = add_node(g, OP_MatMul, (ValueId[]){h, w}, 2, &trans, 1, 1);
  }
  ASSERT_OK(graph_add_output(g, logits));
  Shape shape = graph_value(g, logits)->shape, targets = shape_of(shape.rank - 1, shape.dim);
  if (way->stacked) {
    targets = shape_of(1, &rows);
    logits = reshape(g, logits, shape_of(2, (int64_t[]){ROWS, v}));
    shape = graph_value(g, logits)->shape;
  }
  if (way->read)
    ASSERT_OK(graph_add_output(g, add_node(g, OP_Exp, &logits, 1, NULL, 0, 1)));
  Attr classes = attr_int("class_axis", shape.rank - 1);
  if (way->across) { /* classes along the axis before */
    classes.i--;
    targets = shape;
    targets.dim[--targets.rank - 1] = shape.dim[shape.rank - 1];
  }
  g->target = add_value(g, "target", I64, targets, ROLE_INPUT);
  g->loss_scale = add_value(g, "loss_scale", F64, (Shape){0}, ROLE_STEP);
  g->loss_sum = add_node(g, OP_CrossEntropy, (ValueId[]){logits, g->target}, 2, &classes, 1, 2);
  if (way->divided) {
    ValueId total = add_value(g, "total", F64, (Shape){0}, ROLE_STEP);
    g->loss_sum = add_node(g, OP_Div, (ValueId[]){g->loss_sum, total}, 2, NULL, 0, 1);
  }
  g->microbatches = way->microbatches;
  ASSERT_OK(autodiff_append(g, &unreached));
  ASSERT_OK(graph_rewrite(g, &pass_accumulate, NULL, NULL, arena, NULL, &to));
  return to;
}

static int count_op(const Graph *g, OpKind op) {
  int n = 0;
  for (size_t i = 0; i < g->n_nodes; i++)
    n += g->nodes[i]->op == op;
  return n;
}

static ValueId find_value(const Graph *g, const char *name) {
  for (ValueId v = 0; v < g->n_values; v++)
    if (strcmp(graph_value(g, v)->name, name) == 0)
      return v;
  FAIL_TEST("there is no '%s'", name);
  return NO_VALUE;
}

static void fill(const Value *value, void *data) {
  uint64_t seed = 1;
  for (const char *c = value->name; *c; c++)
    seed = seed * 31 + (unsigned char)*c;
  for (int64_t i = 0; i < shape_elements(value->shape); i++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    double number = (double)(seed >> 40) / (1 << 23) - 1;
    if (value->dtype == F32)
      ((float *)data)[i] = (float)number;
    else if (value->dtype == F64)
      ((double *)data)[i] = 0.375;
    else if (value->dtype == I64)
      ((int64_t *)data)[i] = seed >> 60 ? (int64_t)(seed >> 33) % 500 : -100;
  }
}

/* A microbatch on a backend; *tensors [n_values] is what values were then. */
static void run(Arena *arena, const Graph *g, const Backend *backend, Tensor **tensors) {
  Stream *stream;
  ASSERT_OK(backend->stream_open(0, 2, &stream));
  ASSERT_OK(ARENA_NEW(arena, *tensors, g->n_values));
  for (ValueId v = 0; v < g->n_values; v++) {
    const Value *value = graph_value(g, v);
    Tensor *t = &(*tensors)[v];
    *t = (Tensor){.dtype = value->dtype, .shape = value->shape};
    assert_non_null(t->data = arena_alloc(arena, graph_value_bytes(g, v) + 64, 1));
    t->data = (void *)(((uintptr_t)t->data + 63) / 64 * 64);
    if (value->producer == NO_NODE)
      fill(value, t->data);
  }
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *n = g->nodes[i];
    Tensor in[8] = {{0}}, out[8] = {{0}};
    NodeKernel kernel;
    for (int k = 0; k < n->n_in; k++)
      in[k] = (*tensors)[n->in[k]];
    for (int k = 0; k < n->n_out; k++)
      out[k] = (*tensors)[n->out[k]];
    size_t bytes = backend_workspace_bytes(backend, g, n);
    char *workspace = arena_alloc(arena, bytes + 64, 1);
    assert_non_null(workspace);
    ASSERT_OK(backend_prepare(backend, stream, n, in, out, bytes, &kernel));
    ASSERT_OK(kernel.run(stream, n, in, out, (void *)(((uintptr_t)workspace + 63) / 64 * 64), kernel.state));
    backend_forget(&kernel);
  }
  backend->stream_close(stream);
}

/* The sum of differences over that of sizes. */
static double apart(const Tensor *a, const Tensor *b) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < shape_elements(a->shape); i++) {
    double x = a->dtype == F64 ? ((double *)a->data)[i] : (double)((float *)a->data)[i];
    double y = b->dtype == F64 ? ((double *)b->data)[i] : (double)((float *)b->data)[i];
    difference += fabs(x - y);
    size += fabs(x);
  }
  return size ? difference / size : difference;
}

static void agree(Arena *arena, const Graph *g, const Graph *to, const Backend *backend, double most) {
  Tensor *before, *after;
  run(arena, g, backend, &before);
  run(arena, to, backend, &after);
  assert_true(apart(&before[g->loss_sum], &after[to->loss_sum]) < 1e-12);
  for (size_t i = 0; i < g->n_groups; i++) {
    const char *name = graph_value(g, g->groups[i].gradient)->name;
    ValueId other = find_value(to, name);
    double difference = apart(&before[g->groups[i].gradient], &after[other]);
    assert_true(to->groups[i].n_nodes == 1);
    if (difference > (strncmp(name, "s/", 2) == 0 ? 0 : most)) /* of the rows' gradients, whose bits are the same */
      FAIL_TEST("'%s' is %g apart", name, difference);
  }
}

static const Way ways[] = {
    {.transposed = true, .microbatches = 1},
    {.transposed = true, .stacked = true, .microbatches = 2},
    {.microbatches = 1, .stacked = true, .divided = true},
    {.biased = true, .microbatches = 2},
    {.transposed = true, .biased = true, .divided = true, .microbatches = 1},
};

/* Its name and shape. */
static void keeps_its_output(const Graph *from, ValueId output, const ValueId *map, const Graph *to) {
  assert_int_equal(to->n_outputs, 1);
  assert_int_equal(to->outputs[0], map[output]);
  assert_string_equal(graph_value(to, map[output])->name, graph_value(from, output)->name);
  assert_true(shape_equal(graph_value(to, map[output])->shape, graph_value(from, output)->shape));
}

static void bits_are_the_operators_own(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    Arena *arena = arena_create();
    Graph *g = build(arena, &ways[i]), *to;
    ValueId *map;
    ASSERT_OK(ARENA_NEW(arena, map, g->n_values));
    ASSERT_OK(graph_rewrite(g, &pass_head, NULL, NULL, arena, map, &to));
    assert_int_equal(count_op(to, OP_ProductCrossEntropy), 1);
    assert_int_equal(count_op(to, OP_CrossEntropy) + count_op(to, OP_CrossEntropyGrad) + count_op(to, OP_MatMul) +
                         count_op(to, OP_Gemm) + count_op(to, OP_AccumulateMatMul),
                     0);
    keeps_its_output(g, g->outputs[0], map, to);
    Graph *again; /* passes that come after */
    ValueId *further;
    ASSERT_OK(ARENA_NEW(arena, further, to->n_values));
    ASSERT_OK(graph_copy(to, arena, further, &again));
    keeps_its_output(to, map[g->outputs[0]], further, again);
    agree(arena, g, to, &backend_cpu, 1e-6);
    if (i == 1)
      agree(arena, g, to, &backend_reference, 1e-6);
    arena_destroy(arena);
  }
}

static bool takes(const void *context, const Graph *g, const Node *n) {
  return backend_accepts(context, g, n);
}

/* Logits in bfloat16 are so in parts, too. */
static void stored_in_bfloat16(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    Arena *arena = arena_create();
    Graph *g = build(arena, &ways[i]), *to;
    bool stored;
    ASSERT_OK(graph_rewrite(g, &pass_head, NULL, NULL, arena, NULL, &to));
    ASSERT_OK(graph_store_narrow(g, takes, &backend_cpu, &stored));
    assert_true(stored);
    ASSERT_OK(graph_store_narrow(to, takes, &backend_cpu, &stored));
    assert_true(stored);
    agree(arena, g, to, &backend_cpu, 1e-5);
    arena_destroy(arena);
  }
}

static bool takes_no_head(const void *context, const Graph *g, const Node *n) {
  (void)context, (void)g;
  return n->op != OP_ProductCrossEntropy;
}

static void what_does_not_fit_stays(void **state) {
  (void)state;
  static const Way others[] = {{.small = true}, {.read = true}, {.frozen = true}, {.across = true}};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    Arena *arena = arena_create();
    Graph *g = build(arena, &others[i]), *to;
    ASSERT_OK(graph_rewrite(g, &pass_head, NULL, NULL, arena, NULL, &to));
    if (count_op(to, OP_ProductCrossEntropy))
      FAIL_TEST("way %zu is one node", i);
    arena_destroy(arena);
  }
  Arena *arena = arena_create();
  Graph *g = build(arena, &ways[0]), *to;
  ASSERT_OK(graph_rewrite(g, &pass_head, takes_no_head, NULL, arena, NULL, &to));
  assert_int_equal(count_op(to, OP_ProductCrossEntropy), 0);
  arena_destroy(arena);
}

/* The rows' gradient goes down to the stage before as a backward node's. */
static void a_cut_before_it(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g = build(arena, &ways[0]), *to;
  int *stage_of;
  Stages stages;
  ASSERT_OK(graph_rewrite(g, &pass_head, NULL, NULL, arena, NULL, &to));
  ASSERT_OK(ARENA_NEW(arena, stage_of, to->n_nodes));
  for (size_t i = 0; i < to->n_nodes; i++)
    stage_of[i] = to->nodes[i]->op == OP_ProductCrossEntropy;
  ASSERT_OK(stages_assign(to, arena, stage_of, 2, &stages));
  assert_int_equal(stages.cuts[0].n_forward, 1);
  assert_int_equal(stages.cuts[0].n_backward, 1);
  const Value *d = graph_value(to, stages.cuts[0].backward[0]);
  assert_true(graph_node(to, d->producer)->phase == PHASE_B && graph_node(to, d->producer)->stage == 1);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bits_are_the_operators_own),
      cmocka_unit_test(stored_in_bfloat16),
      cmocka_unit_test(what_does_not_fit_stays),
      cmocka_unit_test(a_cut_before_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
