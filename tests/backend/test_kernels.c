/* The operator table: shapes, and the reference kernels against naive oracles in every type. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/reference/reference.h"
#include "graph/op.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

static void check_shapes(const OpCase *c, const CaseGraph *built) {
  for (int i = 0; i < built->node->n_out; i++) {
    Shape got = graph_value(built->graph, built->node->out[i])->shape;
    if (!shape_equal(got, c->out[i].shape))
      FAIL_TEST("%s: output %d is %s, not %s", case_text(c), i, SHAPE_STR(got), SHAPE_STR(c->out[i].shape));
  }
}

static void check_case(const OpCase *c, DType type, uint64_t seed) {
  Arena *arena = arena_create();
  CaseGraph built;
  double *expected[CASE_INPUTS];
  ValueId value[CASE_INPUTS];
  char where[256];
  if (case_build(c, type, seed, arena, &built) != OK)
    FAIL_TEST("%s: %s", case_text(c), status_message());
  check_shapes(c, &built);
  int n = case_oracle(&built, arena, expected);
  if (case_run(&built, &backend_reference, 1, 0, 1) != OK)
    FAIL_TEST("%s: %s", case_text(c), status_message());
  case_results(built.node, value);
  for (int i = 0; i < n; i++)
    if (!case_close(&built.tensor[value[i]], expected[i], case_tolerance(&built), where))
      FAIL_TEST("%s in %s, result %d: %s", case_text(c), dtype_name(type), i, where);
  case_release(&built);
  if (!case_in_place(c, type, seed, &backend_reference, 1, where))
    FAIL_TEST("%s in %s: %s", case_text(c), dtype_name(type), where);
  arena_destroy(arena);
}

static void rows_agree_with_oracles(void **state) {
  (void)state;
  for (size_t i = 0; i < n_op_cases; i++) {
    DType types[DTYPE_COUNT];
    int n = case_types(&op_cases[i], types);
    for (int k = 0; k < n; k++)
      check_case(&op_cases[i], types[k], i);
  }
}

static void random_cases_agree_with_oracles(void **state) {
  (void)state;
  for (int op = 0; op < OP_COUNT; op++)
    for (uint64_t seed = 0; seed < 20; seed++) {
      Arena *arena = arena_create();
      OpCase c;
      DType types[DTYPE_COUNT];
      if (case_random((OpKind)op, seed, arena, &c)) {
        int n = case_types(&c, types);
        for (int k = 0; k < n; k++)
          check_case(&c, types[k], seed);
      }
      arena_destroy(arena);
    }
}

/* Element (i, j) summed as docs say: along k, left to right. */
static float in_order(const float *a, const float *b, int64_t m, int64_t n, int64_t k, int64_t i, int64_t j, bool ta,
                      bool tb) {
  float sum = 0;
  for (int64_t l = 0; l < k; l++)
    sum += (ta ? a[l * m + i] : a[i * k + l]) * (tb ? b[j * k + l] : b[l * n + j]);
  return sum;
}

/* Bit for bit, whatever instructions. */
static void products_have_one_order(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 30; seed++) {
    uint64_t random = seed;
    int64_t m = 1 + random_below(&random, 110), n = 1 + random_below(&random, 60), k = 1 + random_below(&random, 600);
    bool ta = random_below(&random, 2), tb = random_below(&random, 2);
    OpCase c = {.op = OP_MatMul,
                .in = {{.present = true, .shape = shape_of(2, ta ? (int64_t[]){k, m} : (int64_t[]){m, k})},
                       {.present = true, .shape = shape_of(2, tb ? (int64_t[]){n, k} : (int64_t[]){k, n})}},
                .out = {{true, shape_of(2, (int64_t[]){m, n})}},
                .attrs = {attr_int("transA", ta), attr_int("transB", tb)}};
    Arena *arena = arena_create();
    CaseGraph built;
    ASSERT_OK(case_build(&c, F32, seed, arena, &built));
    ASSERT_OK(case_run(&built, &backend_reference, 1, 0, 1));
    const float *a = built.tensor[0].data, *b = built.tensor[1].data, *y = built.tensor[2].data;
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < n; j++)
        if (y[i * n + j] != in_order(a, b, m, n, k, i, j, ta, tb))
          FAIL_TEST("%s: element %lld,%lld is %.9g, in order %.9g", case_text(&c), (long long)i, (long long)j,
                    (double)y[i * n + j], (double)in_order(a, b, m, n, k, i, j, ta, tb));
    case_release(&built);
    arena_destroy(arena);
  }
}

static OpCase one_input(OpKind op, DType dtype, int64_t n, Attr attr) {
  return (OpCase){.op = op,
                  .in = {{.present = true, .dtype = dtype, .shape = shape_of(1, &n)}},
                  .out = {{true, shape_of(1, &n)}},
                  .attrs = {attr}};
}

/* Casts one number, given and returned as bits or as a number. */
#define CASTS(T_FROM, from, x, T_TO, to, expected)                                                                     \
  do {                                                                                                                 \
    Arena *arena_ = arena_create();                                                                                    \
    CaseGraph built_;                                                                                                  \
    OpCase c_ = one_input(OP_Cast, from, 1, attr_int("to", to));                                                       \
    ASSERT_OK(case_build(&c_, from, 0, arena_, &built_));                                                              \
    *(T_FROM *)built_.tensor[0].data = (x);                                                                            \
    ASSERT_OK(case_run(&built_, &backend_reference, 1, 0, 1));                                                         \
    T_TO got_ = *(T_TO *)built_.tensor[1].data, expected_ = (expected);                                                \
    if (memcmp(&got_, &expected_, sizeof got_))                                                                        \
      FAIL_TEST("%s to %s: %.17g gives %.17g, not %.17g", dtype_name(from), dtype_name(to), (double)(x), (double)got_, \
                (double)expected_);                                                                                    \
    case_release(&built_);                                                                                             \
    arena_destroy(arena_);                                                                                             \
  } while (0)

static void casts_round_and_saturate(void **state) {
  (void)state;
  CASTS(float, F32, 1.0f, uint16_t, F16, 0x3c00);
  CASTS(float, F32, -2.0f, uint16_t, F16, 0xc000);
  CASTS(float, F32, 0.0f, uint16_t, F16, 0);
  CASTS(float, F32, -0.0f, uint16_t, F16, 0x8000);
  CASTS(float, F32, 65504.0f, uint16_t, F16, 0x7bff);
  CASTS(float, F32, 65519.9f, uint16_t, F16, 0x7bff);
  CASTS(float, F32, 65520.0f, uint16_t, F16, 0x7c00); /* half way to 65536, which is even: infinity */
  CASTS(float, F32, -INFINITY, uint16_t, F16, 0xfc00);
  CASTS(float, F32, 1.0f + 0x1p-11f, uint16_t, F16, 0x3c00); /* ties to even */
  CASTS(float, F32, 1.0f + 0x3p-11f, uint16_t, F16, 0x3c02);
  CASTS(float, F32, 0x1p-24f, uint16_t, F16, 1); /* the smallest */
  CASTS(float, F32, 0x1p-25f, uint16_t, F16, 0);
  CASTS(float, F32, 0x3p-25f, uint16_t, F16, 2);
  CASTS(float, F32, 0x1p-14f - 0x1p-26f, uint16_t, F16, 0x0400); /* rounds up into the normal numbers */
  CASTS(float, F32, 1.0f, uint16_t, BF16, 0x3f80);
  CASTS(float, F32, 1.0f + 0x1p-8f, uint16_t, BF16, 0x3f80);
  CASTS(float, F32, 1.0f + 0x3p-8f, uint16_t, BF16, 0x3f82);
  CASTS(float, F32, 3.4e38f, uint16_t, BF16, 0x7f80);
  CASTS(uint16_t, F16, 0x3c01, float, F32, 1.0f + 0x1p-10f);
  CASTS(uint16_t, F16, 0x0001, float, F32, 0x1p-24f);
  CASTS(uint16_t, F16, 0x83ff, double, F64, -0x3ffp-24);
  CASTS(uint16_t, F16, 0x7c00, double, F64, INFINITY);
  CASTS(uint16_t, BF16, 0xc049, float, F32, -3.140625f);
  CASTS(double, F64, -2.9, int64_t, I64, -2);
  CASTS(double, F64, 1e300, int64_t, I64, INT64_MIN);
  CASTS(double, F64, NAN, int32_t, I32, INT32_MIN);
  CASTS(double, F64, 2147483647.5, int32_t, I32, INT32_MAX);
  CASTS(double, F64, 255.9, uint8_t, U8, 255);
  CASTS(double, F64, -0.9, uint8_t, U8, 0);
  CASTS(double, F64, 256, uint8_t, U8, 0);
  CASTS(double, F64, NAN, uint8_t, BOOL, 1);
  CASTS(uint64_t, U64, UINT64_MAX, float, F32, 0x1p64f);
  CASTS(int64_t, I64, INT64_MAX, int64_t, I64, INT64_MAX);
  CASTS(int64_t, I64, 0x100000001, int32_t, I32, 1);
}

/* Every half is what it says, and goes there and back. */
static void halves_survive(void **state) {
  (void)state;
  Arena *arena = arena_create();
  for (int type = 0; type < 2; type++) {
    CaseGraph wide, narrow;
    DType half = type ? BF16 : F16;
    OpCase to = one_input(OP_Cast, half, 65536, attr_int("to", F32));
    OpCase from = one_input(OP_Cast, F32, 65536, attr_int("to", half));
    ASSERT_OK(case_build(&to, half, 0, arena, &wide));
    ASSERT_OK(case_build(&from, F32, 0, arena, &narrow));
    uint16_t *bits = wide.tensor[0].data;
    for (int i = 0; i < 65536; i++)
      bits[i] = (uint16_t)i;
    ASSERT_OK(case_run(&wide, &backend_reference, 1, 0, 1));
    memcpy(narrow.tensor[0].data, wide.tensor[1].data, 65536 * sizeof(float));
    ASSERT_OK(case_run(&narrow, &backend_reference, 1, 0, 1));
    for (int i = 0; i < 65536; i++) {
      float value = ((float *)wide.tensor[1].data)[i];
      if (value == value)
        assert_int_equal(((uint16_t *)narrow.tensor[1].data)[i], i);
    }
    case_release(&wide);
    case_release(&narrow);
  }
  arena_destroy(arena);
}

/* The case with input k filled by `indices` fails with this message. */
static void fails_on(const OpCase *c, int k, const int64_t *indices, const char *message) {
  Arena *arena = arena_create();
  CaseGraph built;
  ASSERT_OK(case_build(c, F32, 0, arena, &built));
  Tensor *t = &built.tensor[built.node->in[k]];
  memcpy(t->data, indices, (size_t)shape_elements(t->shape) * sizeof *indices);
  ASSERT_FAILS(E_MODEL, message, case_run(&built, &backend_reference, 1, 0, 1));
  case_release(&built);
  arena_destroy(arena);
}

#define DATA(...)                                                                                                      \
  {                                                                                                                    \
    .present = true, .shape = { __VA_ARGS__ }                                                                          \
  }
#define INDICES(...)                                                                                                   \
  {                                                                                                                    \
    .present = true, .dtype = I64, .shape = { __VA_ARGS__ }                                                            \
  }

static void indices_out_of_range_are_named(void **state) {
  (void)state;
  OpCase gather = {.op = OP_Gather,
                   .in = {DATA(2, {3, 5}), INDICES(1, {3})},
                   .out = {{true, {2, {3, 3}}}},
                   .attrs = {attr_int("axis", 1)}};
  fails_on(&gather, 1, (int64_t[]){4, -5, 5}, "node 'case' (Gather): index 5 at position 2 is outside axis 1 of [3,5]");
  fails_on(&gather, 1, (int64_t[]){0, -6, 5},
           "node 'case' (Gather): index -6 at position 1 is outside axis 1 of [3,5]");
  fails_on(&gather, 1, (int64_t[]){INT64_MIN, 0, 0},
           "node 'case' (Gather): index -9223372036854775808 at position 0 is outside axis 1 of [3,5]");
  OpCase nd = {.op = OP_GatherND, .in = {DATA(2, {3, 5}), INDICES(2, {1, 2})}, .out = {{true, {1, {1}}}}};
  fails_on(&nd, 1, (int64_t[]){2, 9}, "node 'case' (GatherND): index 9 at position 1 is outside axis 1 of [3,5]");
  OpCase put = {.op = OP_ScatterElements,
                .in = {DATA(2, {2, 2}), INDICES(2, {2, 2}), DATA(2, {3, 5})},
                .out = {{true, {2, {3, 5}}}},
                .attrs = {attr_int("axis", 1)}};
  fails_on(&put, 1, (int64_t[]){4, -5, 0, 5},
           "node 'case' (ScatterElements): index 5 at position 3 is outside axis 1 of [3,5]");
  OpCase slices = {
      .op = OP_ScatterND, .in = {DATA(2, {2, 5}), INDICES(2, {2, 1}), DATA(2, {3, 5})}, .out = {{true, {2, {3, 5}}}}};
  fails_on(&slices, 1, (int64_t[]){2, -4},
           "node 'case' (ScatterND): index -4 at position 1 is outside axis 0 of [3,5]");
  OpCase loss = {.op = OP_CrossEntropy,
                 .in = {DATA(2, {3, 5}), INDICES(1, {3})},
                 .out = {{true, {0}}, {true, {1, {3}}}},
                 .attrs = {attr_int("class_axis", 1)}};
  fails_on(&loss, 1, (int64_t[]){-100, 0, 5},
           "node 'case' (CrossEntropy): target 5 at position 2 is outside the 5 classes (0 to 4)");
  fails_on(&loss, 1, (int64_t[]){4, -1, 0},
           "node 'case' (CrossEntropy): target -1 at position 1 is outside the 5 classes (0 to 4)");
}

static void infinities_and_nans_pass(void **state) {
  (void)state;
  Arena *arena = arena_create();
  CaseGraph built;
  OpCase softmax = one_input(OP_Softmax, F32, 4, attr_int("axis", 0));
  ASSERT_OK(case_build(&softmax, F32, 0, arena, &built));
  memcpy(built.tensor[0].data, (float[]){1000, -INFINITY, 1000, -1000}, 4 * sizeof(float));
  ASSERT_OK(case_run(&built, &backend_reference, 1, 0, 1)); /* large numbers do not overflow, masked ones count 0 */
  assert_memory_equal(built.tensor[1].data, ((float[]){0.5f, 0, 0.5f, 0}), 4 * sizeof(float));
  case_release(&built);
  OpCase relu = one_input(OP_Relu, F32, 2, (Attr){0});
  ASSERT_OK(case_build(&relu, F32, 0, arena, &built));
  memcpy(built.tensor[0].data, (float[]){NAN, -INFINITY}, 2 * sizeof(float));
  ASSERT_OK(case_run(&built, &backend_reference, 1, 0, 1)); /* NaN is not hidden */
  assert_true(isnan(((float *)built.tensor[1].data)[0]) && ((float *)built.tensor[1].data)[1] == 0);
  case_release(&built);
  arena_destroy(arena);
}

static void every_operator_has_a_row(void **state) {
  (void)state;
  for (int op = 0; op < OP_COUNT; op++) {
    size_t rows = 0;
    for (size_t i = 0; i < n_op_cases; i++)
      rows += op_cases[i].op == (OpKind)op;
    if (!rows)
      FAIL_TEST("operator %s has no row in tests/ops/cases.c, or line in tests/ops/unary.def",
                op_def((OpKind)op)->name);
    if (!reference_kernels[op])
      FAIL_TEST("operator %s has no reference kernel", op_def((OpKind)op)->name);
  }
}

/* accepts() says of every type what the kernel does, on all host backends. */
static void types_are_known_before_running(void **state) {
  (void)state;
  for (size_t i = 0; i < n_op_cases; i++)
    for (int type = DTYPE_NONE + 1; type < DTYPE_COUNT; type++)
      for (int b = 0; backends[b]; b++) {
        Arena *arena = arena_create();
        CaseGraph built;
        if (backends[b]->is_host && case_build(&op_cases[i], (DType)type, i, arena, &built) == OK) {
          bool accepts = backend_accepts(backends[b], built.graph, built.node);
          Status status = case_run(&built, backends[b], 1, 0, 1);
          bool empty = shape_elements(op_cases[i].in[0].shape) == 0; /* then nothing need run */
          if (accepts ? status == E_UNSUPPORTED : status != E_UNSUPPORTED && !empty)
            FAIL_TEST("%s in %s on %s: accepts() says %d, running gives %d", case_text(&op_cases[i]),
                      dtype_name((DType)type), backends[b]->name, accepts, status);
          case_release(&built);
        }
        arena_destroy(arena);
      }
}

static void types_without_kernels_are_named(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Graph *g;
  ValueId in[2], product;
  NodeId node;
  int64_t dims[] = {4, 4};
  ASSERT_OK(graph_create(arena, "halves", &g));
  for (int i = 0; i < 2; i++)
    ASSERT_OK(graph_add_value(g, i ? "b" : "a", F16, shape_of(2, dims), ROLE_INPUT, &in[i]));
  ASSERT_OK(graph_add_node(g, OP_MatMul, "mm", in, 2, NULL, 0, NULL, 1, &node));
  product = graph_node(g, node)->out[0];
  ASSERT_OK(graph_add_node(g, OP_Relu, "r", &product, 1, NULL, 0, NULL, 1, &node));
  ASSERT_FAILS(E_UNSUPPORTED, "backend cpu cannot run 2 nodes: 'mm' (MatMul of float16), 'r' (Relu of float16)",
               backend_check(&backend_cpu, g));
  arena_destroy(arena);
}

/* A table may have gaps, as CUDA's: the nodes are named when the run is planned. */
static void missing_kernels_are_named(void **state) {
  (void)state;
  const KernelDef *kernels[OP_COUNT];
  Backend backend = backend_reference;
  memcpy(kernels, backend.kernels, sizeof kernels);
  kernels[OP_Erf] = NULL;
  backend.kernels = kernels;
  Arena *arena = arena_create();
  CaseGraph built;
  OpCase erf = one_input(OP_Erf, F32, 4, (Attr){0});
  ASSERT_OK(case_build(&erf, F32, 0, arena, &built));
  ASSERT_FAILS(E_UNSUPPORTED, "backend reference cannot run 1 node: 'case' (Erf of float32)",
               backend_check(&backend, built.graph));
  case_release(&built);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_operator_has_a_row),        cmocka_unit_test(rows_agree_with_oracles),
      cmocka_unit_test(random_cases_agree_with_oracles), cmocka_unit_test(products_have_one_order),
      cmocka_unit_test(casts_round_and_saturate),        cmocka_unit_test(halves_survive),
      cmocka_unit_test(types_are_known_before_running),  cmocka_unit_test(types_without_kernels_are_named),
      cmocka_unit_test(indices_out_of_range_are_named),  cmocka_unit_test(infinities_and_nans_pass),
      cmocka_unit_test(missing_kernels_are_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
