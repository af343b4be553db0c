/* What changes nothing is left out, what is computed twice is computed once, and a logarithm of a softmax is one node;
 * outputs keep their names. */
#include "tests/graph/spelled.h"

enum { LINES = 8 };

typedef struct {
  const char *lines[LINES];
  const char *left;
} Case;

static const Case cases[] = {
    {{"a = Mul x 1", "b = Exp a"}, "Exp"},
    {{"a = Add 0 x", "b = Sub a 0", "c = Div b 1", "d = Pow c 1", "e = Exp d"}, "Exp"},
    {{"a = Mul x 2", "b = Exp a"}, "Mul Exp"},
    {{"a = Sub 0 x", "b = Div 1 a", "c = Exp b"}, "Sub Div Exp"},
    {{"a = Where true x y", "b = Exp a"}, "Exp"},
    {{"a = Where false y x", "b = Exp a"}, "Exp"},
    {{"a = Where some x y", "b = Exp a"}, "Where Exp"},
    {{"a = Mul x ones", "b = Exp a"}, "Exp"},
    {{"a = Mul r ones", "b = Exp a"}, "Mul Exp"}, /* [4] to [3, 4] */
    {{"a = Exp x", "b = Mul a 1"}, "Exp Mul"},    /* the output */
    /* twice */
    {{"a = Mul x p", "b = Mul x p", "c = Exp b", "d = Exp a", "e = Add c d"}, "Mul Exp Add"},
    {{"a = Mul x p", "b = Mul p x", "c = Sub a b", "d = Exp c"}, "Mul Mul Sub Exp"},
    {{"a = ReduceSum p axes:1 keepdims:1", "b = ReduceSum p axes:0 keepdims:1", "c = Add a b"},
     "ReduceSum ReduceSum Add"},
    {{"a = Exp x", "b = Exp x", "c = Mul a p", "d = Mul b p", "e = Add c d"}, "Exp Exp Mul Mul Add"}, /* a mask */
    {{"a = MatMul x w transB:0", "b = Add a v"}, "Gemm"},
    {{"a = MatMul x x transB:1", "b = Add t a"}, "Reshape Gemm"},
    {{"q = Reshape x shape:1,3,4", "a = MatMul q w", "b = Add v a"}, "Reshape Reshape Gemm Reshape"},
    {{"a = MatMul w y transA:1 transB:1", "b = Add a t"}, "MatMul Add"},
    {{"a = MatMul x w", "b = Add a column"}, "MatMul Add"}, /* a column */
    {{"a = Softmax x axis:1", "b = Log a"}, "LogSoftmax"},
    {{"a = Softmax x axis:0", "b = Log a", "c = Add a b"}, "Softmax LogSoftmax Add"},
};

static void constant(Spelled *s, const char *name, DType dtype, Shape shape, const void *data) {
  ValueId id;
  ASSERT_OK(graph_add_constant(s->g, name, dtype, shape, data, &id));
  s->name[id] = name;
}

static Spelled spell(Arena *arena, const Case *c) {
  Shape whole = shape_of(2, (int64_t[]){3, 4});
  uint8_t flags[12] = {0};
  float ones[12];
  Spelled s = spelled_begin(arena);
  spelled_input(&s, "x", ROLE_INPUT, 2, whole.dim);
  spelled_input(&s, "y", ROLE_INPUT, 2, whole.dim);
  spelled_input(&s, "r", ROLE_INPUT, 1, (int64_t[]){4});
  spelled_input(&s, "p", ROLE_PARAMETER, 2, whole.dim);
  spelled_input(&s, "w", ROLE_PARAMETER, 2, (int64_t[]){4, 5});
  spelled_input(&s, "v", ROLE_PARAMETER, 1, (int64_t[]){5});
  spelled_input(&s, "t", ROLE_PARAMETER, 2, (int64_t[]){1, 3});
  spelled_input(&s, "column", ROLE_PARAMETER, 2, (int64_t[]){3, 1});
  constant(&s, "false", BOOL, whole, flags);
  for (int i = 0; i < 12; i++) {
    ones[i] = 1;
    flags[i] = i != 7;
  }
  constant(&s, "some", BOOL, whole, flags);
  flags[7] = 1;
  constant(&s, "true", BOOL, whole, flags);
  constant(&s, "ones", F32, whole, ones);
  spelled_end(&s, c->lines);
  return s;
}

static void what_says_nothing_goes(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Arena *arena = arena_create();
    Spelled s = spell(arena, &cases[i]);
    Graph *to = spelled_fuse(arena, &s);
    spelled_is(to, cases[i].left);
    spelled_same(arena, s.g, to, 1e-5f);
    assert_string_equal(graph_value(to, to->outputs[0])->name, graph_value(s.g, s.g->outputs[0])->name);
    arena_destroy(arena);
  }
}

/* Who is asked before a rewrite is done: here the second that is possible is not. */
static Status all_but_second(void *context, bool possible, bool *does) {
  int *n = context;
  *does = possible && ++*n != 2;
  return OK;
}

static void rewrites_are_settled(void **state) {
  (void)state;
  const Case c = {{"a = Mul x 1", "b = Add a 0", "c = Div b 1", "d = Exp c"}, NULL};
  Arena *arena = arena_create();
  Spelled s = spell(arena, &c);
  Graph *to;
  int n = 0;
  ASSERT_OK(graph_fuse(s.g, NULL, NULL, all_but_second, &n, arena, &to));
  spelled_is(to, "Add Exp");
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(what_says_nothing_goes), cmocka_unit_test(rewrites_are_settled)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
