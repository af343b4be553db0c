/* What is stored in bfloat16: activations and their gradients; not parameters, their gradients, statistics, sums, masks
 * and losses. */
#include "graph/autodiff.h"
#include "graph/loss.h"
#include "graph/optimizer.h"
#include "graph/passes/passes.h"
#include "tests/graph/spelled.h"

enum { LINES = 10 };

/* Values by the lines' names: those that are bfloat16, and those that are not. */
typedef struct {
  const char *lines[LINES];
  LossKind loss; /* LOSS_AUTO: none, the graph infers */
  const char *narrow, *wide;
} Case;

static const Case cases[] = {
    /* the output is not rounded, nor is what it is a view of */
    {{"a = MatMul x w", "b = Gelu a", "c = MatMul b u", "d = Reshape c shape:4,3"}, LOSS_AUTO, "a b", "c d"},
    /* residuals; a bias and a position take part in what they are added to */
    {{"a = MatMul x w", "b = MatMul a u", "c = Add a b", "d = Add c v", "e = Exp d"}, LOSS_AUTO, "a b c d", "e"},
    {{"p = MatMul w u", "a = MatMul x p", "b = Exp a"}, LOSS_AUTO, "a", "p b"},               /* of parameters alone */
    {{"m = Mul x 2", "a = MatMul y w", "b = Add a m", "c = Exp b"}, LOSS_AUTO, "a b", "m c"}, /* a mask */
    {{"a = Add x v", "b = MatMul a w", "c = Exp b"}, LOSS_AUTO, "b", "a c"}, /* an input, with a parameter */
    {{"a = MatMul x w", "m = ReduceMean a axes:1 keepdims:1", "r = Sqrt m", "b = Div a r", "c = Exp b"},
     LOSS_AUTO,
     "a b",
     "m r c"}, /* a norm that is spelled out */
    {{"a = MatMul x w", "b = LayerNormalization a s axis:1", "c = Softmax b axis:1", "d = Exp c"},
     LOSS_AUTO,
     "a b c",
     "d"},
    {{"a = MatMul x w", "b = Transpose a perm:1,0", "c = Slice a axes:0 starts:0 ends:1 steps:1",
      "d = ReduceSum b axes:0,1 keepdims:0", "e = ReduceSum c axes:0,1 keepdims:0", "f = Add d e"},
     LOSS_AUTO,
     "a b c",
     "d e f"},
    {{"a = Gather t i axis:0", "b = Exp a", "c = Tanh b"}, LOSS_AUTO, "a b", "c"}, /* a lookup */
    /* logits */
    {{"a = MatMul x w", "b = Tanh a", "c = MatMul b u"}, LOSS_MSE, "a b c", ""},
    {{"a = MatMul x w", "b = Add a v", "c = Tanh b"}, LOSS_MSE, "a b c", ""},
    {{"a = Gather t i axis:0", "b = LayerNormalization a s axis:1", "c = MatMul b u"}, LOSS_MSE, "a b c", ""},
    /* the model's own loss is float32 from the last product on */
    {{"a = MatMul x w", "b = MatMul a u", "c = LogSoftmax b axis:1", "d = Mul c c",
      "e = ReduceMean d axes:0,1 keepdims:0"},
     LOSS_MODEL,
     "a b",
     "c d e"},
};

static bool is_among(const char *names, const char *name) {
  size_t n = strlen(name);
  for (const char *at = names; (at = strstr(at, name)); at += n)
    if ((at == names || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
      return true;
  return false;
}

static bool take_all_but(const void *context, const Graph *g, const Node *node) {
  (void)g;
  const OpKind *refused = context;
  return node->op != *refused;
}

static Spelled spell(Arena *arena, const Case *c) {
  Spelled s = spelled_begin(arena);
  ValueId id;
  spelled_input(&s, "x", ROLE_INPUT, 2, (int64_t[]){3, 4});
  spelled_input(&s, "y", ROLE_INPUT, 2, (int64_t[]){3, 4});
  spelled_input(&s, "w", ROLE_PARAMETER, 2, (int64_t[]){4, 4});
  spelled_input(&s, "u", ROLE_PARAMETER, 2, (int64_t[]){4, 4});
  spelled_input(&s, "t", ROLE_PARAMETER, 2, (int64_t[]){5, 4});
  spelled_input(&s, "v", ROLE_PARAMETER, 1, (int64_t[]){4});
  spelled_input(&s, "s", ROLE_PARAMETER, 1, (int64_t[]){4});
  ASSERT_OK(graph_add_value(s.g, "i", I64, shape_of(1, (int64_t[]){3}), ROLE_INPUT, &id));
  s.name[id] = "i";
  ASSERT_OK(graph_add_input(s.g, id));
  for (int k = 0; c->lines[k]; k++)
    ASSERT_OK(spelled_try(&s, c->lines[k]));
  const Node *last = s.g->nodes[s.g->n_nodes - 1];
  ASSERT_OK(graph_add_output(s.g, last->out[0]));
  return s;
}

static void append_training(const Case *c, Graph *g) {
  size_t unreached;
  LossSpec loss = {.kind = c->loss,
                   .output = g->outputs[0],
                   .target_dtype = F32,
                   .target_shape = graph_value(g, g->outputs[0])->shape,
                   .class_axis = -1,
                   .microbatches = 1};
  OptimizerSpec optimizer = optimizer_defaults(OPTIMIZER_ADAMW);
  ASSERT_OK(loss_append(g, &loss));
  ASSERT_OK(autodiff_append(g, &unreached));
  ASSERT_OK(optimizer_append(g, &optimizer));
}

static void check_values(const Case *c, const Spelled *s) {
  const Graph *g = s->g;
  for (ValueId v = 0; v < g->n_values && v < SPELLED_MOST; v++) {
    const Value *value = graph_value(g, v);
    const char *name = s->name[v];
    bool narrow = value->dtype == BF16;
    if (name && (is_among(c->narrow, name) ? !narrow : is_among(c->wide, name) && narrow))
      FAIL_TEST("%s: '%s' is %s", c->lines[0], name, dtype_name(value->dtype));
    if (value->role != ROLE_ACTIVATION && narrow)
      FAIL_TEST("%s: '%s', which is kept or fed, is bfloat16", c->lines[0], value->name);
  }
}

/* Gradients of activations are bfloat16, those of parameters are not. */
static void check_gradients(const Case *c, const Graph *g) {
  int of_activations = 0, of_parameters = 0;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *n = g->nodes[i];
    for (int k = 0; k < n->n_out && n->phase == PHASE_B; k++)
      of_activations += graph_value(g, n->out[k])->dtype == BF16;
    if (n->op != OP_Accumulate)
      continue;
    of_parameters++;
    if (graph_value(g, n->in[1])->dtype != F32)
      FAIL_TEST("%s: '%s', a parameter's gradient, is bfloat16", c->lines[0], graph_value(g, n->in[1])->name);
  }
  assert_true(of_activations && of_parameters);
}

static void activations_are_stored_in_bfloat16(void **state) {
  (void)state;
  OpKind none = OP_COUNT;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Arena *arena = arena_create();
    bool stored = false;
    Spelled s = spell(arena, &cases[i]);
    if (cases[i].loss != LOSS_AUTO)
      append_training(&cases[i], s.g);
    ASSERT_OK(graph_store_narrow(s.g, take_all_but, &none, &stored));
    assert_true(stored);
    check_values(&cases[i], &s);
    if (cases[i].loss != LOSS_AUTO)
      check_gradients(&cases[i], s.g);
    arena_destroy(arena);
  }
}

/* Where one kind of node is refused nothing changes. */
static void all_or_nothing(void **state) {
  (void)state;
  OpKind refused = OP_Tanh;
  Arena *arena = arena_create();
  Spelled s = spell(arena, &(Case){{"a = MatMul x w", "b = Tanh a", "c = MatMul b u"}, LOSS_AUTO, "", ""});
  bool stored = true;
  ASSERT_OK(graph_store_narrow(s.g, take_all_but, &refused, &stored));
  assert_false(stored);
  for (size_t v = 0; v < s.g->n_values; v++)
    assert_int_not_equal(s.g->values[v]->dtype, BF16);
  arena_destroy(arena);
}

/* A product is as fast as what is stored lets it be. */
static void costs_follow_what_is_stored(void **state) {
  (void)state;
  const DeviceSpec device = {.flops_per_second = 1e6, .narrow_flops_per_second = 4e6, .bytes_per_second = 1e12};
  OpKind none = OP_COUNT;
  Arena *arena = arena_create();
  Spelled s = spell(arena, &(Case){{"a = MatMul x w", "b = MatMul a u", "c = Exp b"}, LOSS_AUTO, "", ""});
  double before = op_seconds(s.g, s.g->nodes[1], &device);
  bool stored;
  ASSERT_OK(graph_store_narrow(s.g, take_all_but, &none, &stored));
  assert_true(op_seconds(s.g, s.g->nodes[0], &device) == before); /* of an input and a parameter */
  assert_true(op_seconds(s.g, s.g->nodes[1], &device) == before / 4);
  arena_destroy(arena);
}

/* What a product's sums become with it is as exact as it is alone: float32 where it leads to the model's own loss. */
static void what_is_behind_a_product_is_as_exact(void **state) {
  (void)state;
  static const struct {
    const Pass *pass;
    OpKind op;
    Case given;
    DType stored;
  } joined[] = {
      {&pass_product_add,
       OP_ProductAdd,
       {{"a = MatMul x w", "b = Tanh a", "p = MatMul b u", "r = Add b p", "d = Mul r r",
         "e = ReduceMean d axes:0,1 keepdims:0"},
        LOSS_MODEL,
        "",
        ""},
       F32},
      {&pass_product_add,
       OP_ProductAdd,
       {{"a = MatMul x w", "b = Tanh a", "p = MatMul b u", "r = Add b p"}, LOSS_MSE, "", ""},
       BF16},
      {&pass_product_gelu,
       OP_ProductGelu,
       {{"a = MatMul x w", "r = Gelu a", "d = Mul r r", "e = ReduceMean d axes:0,1 keepdims:0"}, LOSS_MODEL, "", ""},
       F32},
      {&pass_product_gelu,
       OP_ProductGelu,
       {{"a = MatMul x w", "r = Gelu a", "p = MatMul r u"}, LOSS_MSE, "", ""},
       BF16},
  };
  OpKind none = OP_COUNT;
  for (size_t i = 0; i < sizeof joined / sizeof *joined; i++) {
    Arena *arena = arena_create();
    Spelled s = spell(arena, &joined[i].given);
    Graph *g;
    int found = 0;
    bool stored = false;
    append_training(&joined[i].given, s.g);
    ASSERT_OK(graph_rewrite(s.g, joined[i].pass, NULL, NULL, arena, NULL, &g));
    ASSERT_OK(graph_store_narrow(g, take_all_but, &none, &stored));
    for (size_t k = 0; k < g->n_nodes; k++) {
      const Node *n = g->nodes[k];
      for (int o = 0; n->op == joined[i].op && n->phase == PHASE_F && o < n->n_out; o++, found++)
        assert_int_equal(graph_value(g, n->out[o])->dtype, joined[i].stored);
    }
    assert_true(stored && found);
    arena_destroy(arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(activations_are_stored_in_bfloat16),
                                     cmocka_unit_test(all_or_nothing), cmocka_unit_test(costs_follow_what_is_stored),
                                     cmocka_unit_test(what_is_behind_a_product_is_as_exact)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
