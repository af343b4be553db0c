/* The operator table on the CUDA backend: in a build with CUDA on its first device, else on the emulated one, where
 * blocks, threads and streams run in an order that a seed gives. With ONNXPIPE_TEST_SAMPLE set, one type, one random
 * case an operator and one run of each: what a tool has time for that looks at every access. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/blas.h"
#include "graph/op.h"
#include "tests/cuda/emulation.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

static bool sample;

static void run_case(const OpCase *c, DType type, uint64_t seed, Arena *arena, CaseGraph *built) {
  if (case_build(c, type, seed, arena, built) != OK)
    FAIL_TEST("%s: %s", case_text(c), status_message());
}

/* Against the oracle; and the same bits again, whatever ran first. */
static void check_case(const OpCase *c, DType type, uint64_t seed) {
  Arena *arena = arena_create();
  CaseGraph one, two;
  double *expected[CASE_INPUTS];
  ValueId value[CASE_INPUTS];
  char where[256];
  run_case(c, type, seed, arena, &one);
  run_case(c, type, seed, arena, &two);
  int n = case_oracle(&one, arena, expected);
  emulation_seed(seed);
  if (case_run(&one, &backend_cuda, 1, 0, 1) != OK)
    FAIL_TEST("%s in %s: %s", case_text(c), dtype_name(type), status_message());
  case_results(one.node, value);
  for (int i = 0; i < n; i++)
    if (!case_close(&one.tensor[value[i]], expected[i], case_tolerance(&one), where))
      FAIL_TEST("%s in %s, result %d: %s", case_text(c), dtype_name(type), i, where);
  emulation_seed(~seed);
  if (!sample)
    ASSERT_OK(case_run(&two, &backend_cuda, 1, 0, 1));
  for (int i = 0; i < n && !sample; i++)
    if (memcmp(one.tensor[value[i]].data, two.tensor[value[i]].data, graph_value_bytes(one.graph, value[i])))
      FAIL_TEST("%s in %s, result %d: two runs differ", case_text(c), dtype_name(type), i);
  case_release(&one);
  case_release(&two);
  if (!sample && !case_in_place(c, type, seed, &backend_cuda, 1, where))
    FAIL_TEST("%s in %s: %s", case_text(c), dtype_name(type), where);
  arena_destroy(arena);
}

/* CUDA's table may have gaps; they are told once. */
static bool has_kernel(OpKind op) {
  static bool told[OP_COUNT];
  if (!backend_cuda.kernels[op] && !told[op]) {
    fprintf(stderr, "skipped: %s has no kernel on cuda\n", op_def(op)->name);
    told[op] = true;
  }
  return backend_cuda.kernels[op] != NULL;
}

static void check_types(const OpCase *c, uint64_t seed) {
  DType types[DTYPE_COUNT];
  if (!has_kernel(c->op))
    return;
  int n = case_types(c, types);
  for (int k = 0; k < (sample ? 1 : n); k++)
    check_case(c, types[k], seed);
}

/* Rounds the case's A and B to `digits` binary digits, to the nearest, ties to even. */
static void reduce_inputs(const CaseGraph *built, int digits) {
  for (int i = 0; i < 2; i++) {
    const Tensor *t = &built->tensor[built->node->in[i]];
    uint32_t *bits = t->data, low = (1u << (23 - digits)) - 1;
    for (int64_t k = 0; k < shape_elements(t->shape); k++)
      bits[k] = (bits[k] + low / 2 + (bits[k] >> (23 - digits) & 1)) & ~low;
  }
}

/* A product of reduced operands is the full product of operands that were reduced before. Within tolerances that no
 * other precision meets, but for TF32 on a device, which rounds as it likes. */
static void check_reduced(const OpCase *c, Precision precision, uint64_t seed) {
  Arena *arena = arena_create();
  CaseGraph given, reduced;
  double *expected[CASE_INPUTS];
  ValueId value[CASE_INPUTS];
  char where[256];
  run_case(c, F32, seed, arena, &given);
  run_case(c, F32, seed, arena, &reduced);
  reduce_inputs(&reduced, precision == PRECISION_BF16 ? 7 : 10);
  case_oracle(&reduced, arena, expected);
  case_results(given.node, value);
  double tolerance = case_tolerance(&given);
#ifndef EMULATED
  if (precision == PRECISION_TF32)
    tolerance *= 1000;
#endif
  given.node->precision = precision;
  emulation_seed(seed);
  if (case_run(&given, &backend_cuda, 1, 0, 1) != OK)
    FAIL_TEST("%s in precision %d: %s", case_text(c), precision, status_message());
  if (!case_close(&given.tensor[value[0]], expected[0], tolerance, where))
    FAIL_TEST("%s in precision %d: %s", case_text(c), precision, where);
  case_release(&given);
  case_release(&reduced);
  arena_destroy(arena);
}

static bool is_product(const OpCase *c) {
  return c->op == OP_MatMul || c->op == OP_Gemm;
}

static void products_reduce_their_operands(void **state) {
  (void)state;
  static const OpCase large = {
      OP_MatMul,
      TYPES_FLOAT,
      {{.present = true, .shape = {3, {2, 70, 33}}}, {.present = true, .shape = {2, {33, 65}}}},
      {{true, {3, {2, 70, 65}}}},
      {{0}}};
  for (Precision precision = PRECISION_TF32; precision <= PRECISION_BF16; precision++) {
    check_reduced(&large, precision, 1);
    for (size_t i = 0; i < n_op_cases; i++)
      if (is_product(&op_cases[i]))
        check_reduced(&op_cases[i], precision, i);
    for (uint64_t seed = 300; seed < (sample ? 302 : 340); seed++) {
      Arena *arena = arena_create();
      OpCase c;
      if (case_random(seed % 2 ? OP_MatMul : OP_Gemm, seed, arena, &c))
        check_reduced(&c, precision, seed);
      arena_destroy(arena);
    }
  }
}

/* The same additions in the same order as the reference's: the same bits. */
static void check_like_reference(const OpCase *c, DType type, uint64_t seed) {
  Arena *arena = arena_create();
  CaseGraph device, host;
  run_case(c, type, seed, arena, &device);
  run_case(c, type, seed, arena, &host);
  ValueId sum = device.node->out[0];
  emulation_seed(seed);
  ASSERT_OK(case_run(&device, &backend_cuda, 1, 0, 1));
  ASSERT_OK(case_run(&host, &backend_reference, 1, 0, 1));
  if (memcmp(device.tensor[sum].data, host.tensor[sum].data, graph_value_bytes(device.graph, sum)))
    FAIL_TEST("%s in %s: other bits than the reference's", case_text(c), dtype_name(type));
  case_release(&device);
  case_release(&host);
  arena_destroy(arena);
}

#define INDICES(n, ...)                                                                                                \
  { .present = true, .dtype = I64, .shape = {__VA_ARGS__}, .fill = FILL_INDEX, .limit = n }

#define VECTOR(n)                                                                                                      \
  {                                                                                                                    \
    .present = true, .shape = { 1, {n} }                                                                               \
  }
#define REDUCTION(how)                                                                                                 \
  { .name = "reduction", .kind = ATTR_STRING, .s = how }
#define SCATTER(how)                                                                                                   \
  {OP_ScatterElements,                                                                                                 \
   TYPES_FLOAT,                                                                                                        \
   {VECTOR(3000), INDICES(40, 1, {3000}), VECTOR(40)},                                                                 \
   {{true, {1, {40}}}},                                                                                                \
   {{.name = "axis", .kind = ATTR_INT}, REDUCTION(how)}},                                                              \
  {                                                                                                                    \
    OP_ScatterND, TYPES_FLOAT, {VECTOR(700), INDICES(20, 2, {700, 2}), {.present = true, .shape = {2, {20, 30}}}},     \
        {{true, {2, {20, 30}}}}, {                                                                                     \
      REDUCTION(how)                                                                                                   \
    }                                                                                                                  \
  }

static void puts_by_index_are_the_references(void **state) {
  (void)state;
  static const OpCase cases[] = {SCATTER("none"), SCATTER("add"), SCATTER("mul"), SCATTER("max"), SCATTER("min")};
  static const DType types[] = {F32, F64, I64, I32};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (int t = 0; t < 4; t++)
      check_like_reference(&cases[i], types[t], i);
}

/* What is drawn; and what is added where several meet. */
static bool has_the_references_bits(OpKind op) {
  return op == OP_Dropout || op == OP_RandomUniform || op == OP_RandomNormal || op == OP_GridSampleGradInput ||
         op == OP_PointSampleGradInput || op == OP_MaxRoiPoolGrad;
}

static void draws_and_readings_are_the_references(void **state) {
  (void)state;
  for (size_t i = 0; i < n_op_cases; i++) {
    if (!has_the_references_bits(op_cases[i].op))
      continue;
    check_like_reference(&op_cases[i], F32, i);
    check_like_reference(&op_cases[i], F64, i);
  }
}

/* Longer than what a block sorts. */
static void long_lines_are_sorted(void **state) {
  (void)state;
  static const OpCase c = {OP_TopK,
                           TYPES_NUMBERS,
                           {{.present = true, .shape = {3, {2, 1100, 3}}, .fill = FILL_TIED}},
                           {{true, {3, {2, 700, 3}}}, {true, {3, {2, 700, 3}}}},
                           {{.name = "axis", .kind = ATTR_INT, .i = 1}, {.name = "k", .kind = ATTR_INT, .i = 700}}};
  check_types(&c, 1);
}

static void casts_are_the_references(void **state) {
  (void)state;
  for (int to = DTYPE_NONE + 1; to < DTYPE_COUNT; to++) {
    OpCase c = {OP_Cast, TYPES_FLOAT, {VECTOR(900)}, {{true, {1, {900}}}}, {{.name = "to", .kind = ATTR_INT, .i = to}}};
    check_like_reference(&c, F32, (uint64_t)to);
    check_like_reference(&c, F64, (uint64_t)to);
  }
}

static void sums_by_index_are_the_references(void **state) {
  (void)state;
  static const int64_t vocabulary[] = {9000, 2}, few[] = {3, 5, 2}, grid[] = {20, 30};
  static const OpCase cases[] = {
      {OP_GatherGrad,
       TYPES_FLOAT,
       {{.present = true, .shape = {2, {3000, 2}}}, INDICES(9000, 1, {3000})},
       {{true, {2, {9000, 2}}}},
       {{.name = "axis", .kind = ATTR_INT}, {.name = "shape", .kind = ATTR_INTS, .ints = vocabulary, .n = 2}}},
      {OP_GatherGrad, /* runs of many, three times over */
       TYPES_FLOAT,
       {{.present = true, .shape = {3, {3, 1025, 2}}}, INDICES(5, 1, {1025})},
       {{true, {3, {3, 5, 2}}}},
       {{.name = "axis", .kind = ATTR_INT, .i = 1}, {.name = "shape", .kind = ATTR_INTS, .ints = few, .n = 3}}},
      {OP_GatherNDGrad,
       TYPES_FLOAT,
       {{.present = true, .shape = {1, {700}}}, INDICES(20, 2, {700, 2})},
       {{true, {2, {20, 30}}}},
       {{.name = "shape", .kind = ATTR_INTS, .ints = grid, .n = 2}}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    check_types(&cases[i], i);
    check_like_reference(&cases[i], F32, i);
    check_like_reference(&cases[i], F64, i);
  }
  for (size_t i = 0; i < n_large_op_cases; i++)
    if (large_op_cases[i].op == OP_GatherGrad)
      check_like_reference(&large_op_cases[i], F32, i);
}

#define GIVEN(...)                                                                                                     \
  {                                                                                                                    \
    .present = true, .shape = { __VA_ARGS__ }                                                                          \
  }
#define RESULT(...)                                                                                                    \
  {                                                                                                                    \
    true, {                                                                                                            \
      __VA_ARGS__                                                                                                      \
    }                                                                                                                  \
  }
#define CELL(how)                                                                                                      \
  {                                                                                                                    \
    { .name = "cell", .kind = ATTR_STRING, .s = how }                                                                  \
  }

/* More samples and units than a warp and a block take at once. */
static void many_units_step(void **state) {
  (void)state;
  static const OpCase cases[] = {
      {OP_RecurrentSteps,
       TYPES_FLOAT,
       {GIVEN(3, {3, 6, 160}), GIVEN(2, {160, 40}), GIVEN(1, {160})},
       {RESULT(3, {3, 6, 40}), RESULT(2, {6, 40}), RESULT(2, {6, 40}), RESULT(3, {3, 6, 40}), RESULT(3, {3, 6, 200})},
       CELL("lstm")},
      {OP_RecurrentSteps,
       TYPES_FLOAT,
       {GIVEN(3, {3, 6, 120}), GIVEN(2, {120, 40}), GIVEN(1, {120})},
       {RESULT(3, {3, 6, 40}), RESULT(2, {6, 40}), RESULT(3, {3, 6, 40}), RESULT(3, {3, 6, 120})},
       CELL("gru")},
      {OP_RecurrentStepsGrad,
       TYPES_FLOAT,
       {GIVEN(2, {160, 40}), GIVEN(3, {3, 6, 40}), GIVEN(3, {3, 6, 200}), GIVEN(3, {3, 6, 40})},
       {RESULT(3, {3, 6, 160}), RESULT(2, {6, 40}), RESULT(2, {6, 40})},
       CELL("lstm")},
      {OP_RecurrentStepsGrad,
       TYPES_FLOAT,
       {GIVEN(2, {120, 40}), GIVEN(3, {3, 6, 40}), GIVEN(3, {3, 6, 120}), GIVEN(3, {3, 6, 40})},
       {RESULT(3, {3, 6, 120}), RESULT(2, {6, 40})},
       CELL("gru")},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    check_case(&cases[i], F64, i); /* cotangents grow from step to step: float32 has no digits left */
}

/* More batches than one call of cuBLASLt gets. */
static void many_small_products(void **state) {
  (void)state;
  enum { MANY = BLAS_BATCHES + 7 };
  static const OpCase c = {
      OP_MatMul,
      TYPES_FLOAT,
      {{.present = true, .shape = {3, {MANY, 1, 2}}}, {.present = true, .shape = {3, {MANY, 2, 1}}}},
      {{true, {3, {MANY, 1, 1}}}},
      {{0}}};
  check_case(&c, F32, 1);
}

static void rows_agree_with_oracles(void **state) {
  (void)state;
  for (size_t i = 0; i < n_op_cases; i++)
    check_types(&op_cases[i], i);
}

static void random_cases_agree_with_oracles(void **state) {
  (void)state;
  for (int op = 0; op < OP_COUNT; op++)
    for (uint64_t seed = 300; seed < (sample ? 301 : 305); seed++) {
      Arena *arena = arena_create();
      OpCase c;
      if (case_random((OpKind)op, seed, arena, &c))
        check_types(&c, seed);
      arena_destroy(arena);
    }
}

static void large_tensors_agree_with_oracles(void **state) {
  (void)state;
  for (size_t i = 0; i < n_large_op_cases; i++)
    check_types(&large_op_cases[i], i);
}

/* What the kernel can do and no graph is given, for it would not be faster. */
static bool is_left_apart(OpKind op) {
  return op == OP_ProductGelu || op == OP_ProductGeluGrad;
}

/* accepts() says of every type what the kernel does. */
static void types_are_known_before_running(void **state) {
  (void)state;
  for (size_t i = 0; i < n_op_cases && !sample; i++)
    for (int type = DTYPE_NONE + 1; has_kernel(op_cases[i].op) && type < DTYPE_COUNT; type++) {
      Arena *arena = arena_create();
      CaseGraph built;
      if (case_build(&op_cases[i], (DType)type, i, arena, &built) == OK) {
        bool accepts = backend_accepts(&backend_cuda, built.graph, built.node);
        Status status = case_run(&built, &backend_cuda, 1, 0, 1);
        bool apart = !accepts && status == OK && is_left_apart(op_cases[i].op);
        if (status != (accepts ? OK : E_UNSUPPORTED) && !apart)
          FAIL_TEST("%s in %s: accepts() says %d, running gives %d", case_text(&op_cases[i]), dtype_name((DType)type),
                    accepts, status);
        case_release(&built);
      }
      arena_destroy(arena);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_agree_with_oracles),
      cmocka_unit_test(random_cases_agree_with_oracles),
      cmocka_unit_test(large_tensors_agree_with_oracles),
      cmocka_unit_test(products_reduce_their_operands),
      cmocka_unit_test(many_small_products),
      cmocka_unit_test(many_units_step),
      cmocka_unit_test(sums_by_index_are_the_references),
      cmocka_unit_test(puts_by_index_are_the_references),
      cmocka_unit_test(draws_and_readings_are_the_references),
      cmocka_unit_test(long_lines_are_sorted),
      cmocka_unit_test(casts_are_the_references),
      cmocka_unit_test(types_are_known_before_running),
  };
  DeviceSpec device;
  sample = getenv("ONNXPIPE_TEST_SAMPLE") != NULL;
  if (backend_cuda.describe(0, &device) != OK) {
    fprintf(stderr, "skipped: %s\n", status_message());
    return 77;
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
