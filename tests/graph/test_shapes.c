/* Shape rules refuse what does not fit, in one line with the shapes. (What they accept is in tests/ops.) */
#include <stdio.h>

#include "graph/op.h"
#include "tests/test.h"

enum { INPUTS = 4, ATTRS = 5 };

#define FLOATS(...)                                                                                                    \
  {                                                                                                                    \
    F32, {                                                                                                             \
      __VA_ARGS__                                                                                                      \
    }                                                                                                                  \
  }
#define LONGS(...)                                                                                                     \
  {                                                                                                                    \
    I64, {                                                                                                             \
      __VA_ARGS__                                                                                                      \
    }                                                                                                                  \
  }
#define INTS(label, ...)                                                                                               \
  {                                                                                                                    \
    .name = label, .kind = ATTR_INTS, .ints = (const int64_t[]){__VA_ARGS__},                                          \
    .n = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t))                                                     \
  }
#define INT(label, x)                                                                                                  \
  { .name = label, .kind = ATTR_INT, .i = x }

/* The message follows "node 'n' (Op): ". */
typedef struct {
  OpKind op;
  Status code;
  const char *message;
  struct {
    DType dtype;
    Shape shape;
  } in[INPUTS];
  int n_out;
  Attr attrs[ATTRS];
} Refusal;

static const Refusal refusals[] = {
    {OP_Add, E_MODEL, "takes 2 inputs, has 1", {FLOATS(1, {3})}, 1, {{0}}},
    {OP_Add, E_SHAPE, "shapes do not broadcast: 'in0' [3,4], 'in1' [3]", {FLOATS(2, {3, 4}), FLOATS(1, {3})}, 1, {{0}}},
    {OP_Add, E_SHAPE, "types differ: 'in0' is float32, 'in1' is int64", {FLOATS(1, {3}), LONGS(1, {3})}, 1, {{0}}},
    {OP_Exp, E_UNSUPPORTED, "input 'in0' is int64, not a float type", {LONGS(1, {3})}, 1, {{0}}},
    {OP_And, E_SHAPE, "input 'in0' is float32, not bool", {FLOATS(1, {3}), FLOATS(1, {3})}, 1, {{0}}},
    {OP_Reshape, E_SHAPE, "[3,4] has 12 elements, [5] has 5", {FLOATS(2, {3, 4})}, 1, {INTS("shape", 5)}},
    {OP_Reshape, E_SHAPE, "shape [-1] has a negative dimension", {FLOATS(1, {3})}, 1, {INTS("shape", -1)}},
    {OP_Reshape, E_UNSUPPORTED, "rank 9 is above 8", {FLOATS(1, {1})}, 1, {INTS("shape", 1, 1, 1, 1, 1, 1, 1, 1, 1)}},
    {OP_Transpose, E_SHAPE, "perm has 1 axes, the input [3,4]", {FLOATS(2, {3, 4})}, 1, {INTS("perm", 0)}},
    {OP_Transpose, E_SHAPE, "perm is no permutation of 2 axes", {FLOATS(2, {3, 4})}, 1, {INTS("perm", 1, 1)}},
    {OP_Concat,
     E_SHAPE,
     "inputs differ outside axis 0: [3,4], [3,5]",
     {FLOATS(2, {3, 4}), FLOATS(2, {3, 5})},
     1,
     {INT("axis", 0)}},
    {OP_Concat, E_SHAPE, "axis 2 is outside rank 2", {FLOATS(2, {3, 4})}, 1, {INT("axis", 2)}},
    {OP_Split, E_SHAPE, "the sizes leave 1 of axis 0 of [5]", {FLOATS(1, {5})}, 2, {INTS("split", 1, 3)}},
    {OP_Split, E_SHAPE, "1 sizes for 2 outputs", {FLOATS(1, {5})}, 2, {INTS("split", 5)}},
    {OP_Slice,
     E_SHAPE,
     "slice 0:6:1 leaves axis 0 of [5]",
     {FLOATS(1, {5})},
     1,
     {INTS("axes", 0), INTS("starts", 0), INTS("ends", 6), INTS("steps", 1)}},
    {OP_Slice,
     E_SHAPE,
     "slice 5:-1:-1 leaves axis 0 of [5]",
     {FLOATS(1, {5})},
     1,
     {INTS("axes", 0), INTS("starts", 5), INTS("ends", -1), INTS("steps", -1)}},
    {OP_Slice,
     E_SHAPE,
     "axis 0, step 0 in a slice of [5]",
     {FLOATS(1, {5})},
     1,
     {INTS("axes", 0), INTS("starts", 0), INTS("ends", 5), INTS("steps", 0)}},
    {OP_Expand, E_SHAPE, "[3] does not expand to [4]", {FLOATS(1, {3})}, 1, {INTS("shape", 4)}},
    {OP_Expand,
     E_SHAPE,
     "shape [4611686018427387904,4] of float32 is too large to address",
     {FLOATS(0)},
     1,
     {INTS("shape", (int64_t)1 << 62, 4)}},
    {OP_Gather,
     E_SHAPE,
     "indices 'in1' are float32, not int64 or int32",
     {FLOATS(1, {3}), FLOATS(1, {3})},
     1,
     {INT("axis", 0)}},
    {OP_GatherND,
     E_SHAPE,
     "indices [3,2] do not address data [3] with batch_dims 0",
     {FLOATS(1, {3}), LONGS(2, {3, 2})},
     1,
     {{0}}},
    {OP_GatherElements,
     E_SHAPE,
     "data [3,2], indices [4,3] along axis 0",
     {FLOATS(2, {3, 2}), LONGS(2, {4, 3})},
     1,
     {INT("axis", 0)}},
    {OP_ScatterElements,
     E_SHAPE,
     "updates are [2,3], expected [2,2]",
     {FLOATS(2, {2, 3}), LONGS(2, {2, 2}), FLOATS(2, {4, 2})},
     1,
     {INT("axis", 0)}},
    {OP_ScatterND,
     E_SHAPE,
     "types differ: updates are float32, data int64",
     {FLOATS(1, {1}), LONGS(2, {1, 1}), LONGS(1, {3})},
     1,
     {{0}}},
    {OP_ScatterND,
     E_UNSUPPORTED,
     "reduction is 'mean'",
     {FLOATS(1, {1}), LONGS(2, {1, 1}), FLOATS(1, {3})},
     1,
     {{.name = "reduction", .kind = ATTR_STRING, .s = "mean"}}},
    {OP_TopK, E_SHAPE, "k is 4, axis 1 of [5,3]", {FLOATS(2, {5, 3})}, 2, {INT("axis", 1), INT("k", 4)}},
    {OP_Trilu, E_SHAPE, "needs rank 2 or more, has [3]", {FLOATS(1, {3})}, 1, {{0}}},
    {OP_MatMul, E_SHAPE, "inner dimensions differ: A [3,4], B [5,4]", {FLOATS(2, {3, 4}), FLOATS(2, {5, 4})}, 1, {{0}}},
    {OP_MatMul,
     E_SHAPE,
     "inner dimensions differ: A [3,4] transposed, B [4,5]",
     {FLOATS(2, {3, 4}), FLOATS(2, {4, 5})},
     1,
     {INT("transA", 1)}},
    {OP_MatMul,
     E_SHAPE,
     "batch dimensions do not broadcast: A [2,3,4], B [3,4,5]",
     {FLOATS(3, {2, 3, 4}), FLOATS(3, {3, 4, 5})},
     1,
     {{0}}},
    {OP_MatMul, E_SHAPE, "no matrices: A [], B [3]", {FLOATS(0), FLOATS(1, {3})}, 1, {{0}}},
    {OP_MatMul, E_UNSUPPORTED, "input 'in0' is int64, not a float type", {LONGS(1, {3}), LONGS(1, {3})}, 1, {{0}}},
    {OP_Gemm, E_SHAPE, "needs matrices: A [3], B [3,4]", {FLOATS(1, {3}), FLOATS(2, {3, 4})}, 1, {{0}}},
    {OP_Gemm,
     E_SHAPE,
     "C [4] does not broadcast to [2,5]",
     {FLOATS(2, {2, 3}), FLOATS(2, {3, 5}), FLOATS(1, {4})},
     1,
     {{0}}},
    {OP_ReduceSum, E_SHAPE, "axis 1 is outside [3] or out of order", {FLOATS(1, {3})}, 1, {INTS("axes", 1)}},
    {OP_ReduceSum, E_SHAPE, "axis 0 is outside [3,4] or out of order", {FLOATS(2, {3, 4})}, 1, {INTS("axes", 1, 0)}},
    {OP_Softmax, E_SHAPE, "axis 0 is outside rank 0", {FLOATS(0)}, 1, {INT("axis", 0)}},
    {OP_LayerNormalization,
     E_SHAPE,
     "'in1' is [3], the normalised axes of [3,4] are [4]",
     {FLOATS(2, {3, 4}), FLOATS(1, {3})},
     3,
     {INT("axis", 1)}},
    {OP_LayerNormalization, E_MODEL, "makes 3 outputs, has 1", {FLOATS(1, {4}), FLOATS(1, {4})}, 1, {{0}}},
    {OP_CrossEntropy,
     E_SHAPE,
     "logits [8,10] with classes on axis 1 need integer targets [8], have float32 [8]",
     {FLOATS(2, {8, 10}), FLOATS(1, {8})},
     2,
     {INT("class_axis", 1)}},
    {OP_MeanSquaredError, E_SHAPE, "prediction [3], target [4]", {FLOATS(1, {3}), FLOATS(1, {4})}, 1, {{0}}},
    {OP_Accumulate, E_SHAPE, "'in0' is float32 [3], 'in1' is float32 [4]", {FLOATS(1, {3}), FLOATS(1, {4})}, 0, {{0}}},
    {OP_AdamUpdate,
     E_MODEL,
     "takes 5 or more inputs, has 4",
     {FLOATS(1, {3}), FLOATS(1, {3}), FLOATS(1, {3}), FLOATS(1, {3})},
     0,
     {{0}}},
    {OP_Cast, E_UNSUPPORTED, "type 99 is not known", {FLOATS(1, {3})}, 1, {INT("to", 99)}},
    {OP_Range, E_SHAPE, "'in1' is [2], not one number", {FLOATS(0), FLOATS(1, {2}), FLOATS(0)}, 1, {INT("count", 1)}},
    {OP_Range,
     E_SHAPE,
     "shape [-1] has a negative dimension",
     {FLOATS(0), FLOATS(0), FLOATS(0)},
     1,
     {INT("count", -1)}},
};

static void what_does_not_fit_is_refused(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
    const Refusal *r = &refusals[i];
    Arena *arena = arena_create();
    Graph *g;
    NodeId node;
    ValueId in[INPUTS];
    int n_in = 0, n_attrs = 0;
    char expected[512];
    ASSERT_OK(graph_create(arena, "test", &g));
    for (; n_in < INPUTS && r->in[n_in].dtype; n_in++)
      ASSERT_OK(graph_add_value(g, arena_format(arena, "in%d", n_in), r->in[n_in].dtype, r->in[n_in].shape, ROLE_INPUT,
                                &in[n_in]));
    while (n_attrs < ATTRS && r->attrs[n_attrs].name)
      n_attrs++;
    snprintf(expected, sizeof expected, "node 'n' (%s): %s", op_def(r->op)->name, r->message);
    ASSERT_FAILS(r->code, expected, graph_add_node(g, r->op, "n", in, n_in, r->attrs, n_attrs, NULL, r->n_out, &node));
    assert_int_equal(g->n_nodes, 0);
    assert_int_equal(g->n_values, n_in); /* nothing is left behind */
    arena_destroy(arena);
  }
}

static void missing_inputs_are_named(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g;
  NodeId node;
  ASSERT_OK(graph_create(arena, "test", &g));
  ASSERT_FAILS(E_MODEL, "node 'n' (Neg): input 0 is missing",
               graph_add_node(g, OP_Neg, "n", (ValueId[]){NO_VALUE}, 1, NULL, 0, NULL, 1, &node));
  ASSERT_FAILS(E_MODEL, "node 'n' (Neg): input 0 is not defined",
               graph_add_node(g, OP_Neg, "n", (ValueId[]){7}, 1, NULL, 0, NULL, 1, &node));
  arena_destroy(arena);
}

static void operators_are_found_by_name(void **state) {
  (void)state;
  for (int i = 0; i < OP_COUNT; i++)
    assert_int_equal(op_find(op_def((OpKind)i)->name), i);
  assert_int_equal(op_find("NoSuchOperator"), OP_COUNT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_does_not_fit_is_refused),
      cmocka_unit_test(missing_inputs_are_named),
      cmocka_unit_test(operators_are_found_by_name),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
