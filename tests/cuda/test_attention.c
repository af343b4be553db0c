/* Attention of bfloat16 on devices against the reference's, which rounds where the definition says; other blocks first,
 * or other threads, give the same bits. With ONNXPIPE_TEST_SAMPLE set, a few. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/reference/attention.h"
#include "tests/cuda/emulation.h"
#include "tests/ops/attention_bf16.h"
#include "tests/ops/draw.h"
#include "tests/test.h"

static void run(const OpCase *c, const CaseGraph *built, uint64_t seed) {
  const Node *node = built->node;
  Tensor in[CASE_INPUTS], out[CASE_OUTPUTS];
  attention_operands(built, in, out);
  if (!backend_cuda.kernels[node->op]->narrow(node, in, out))
    FAIL_TEST("%s is not taken in bfloat16", case_text(c));
  emulation_seed(seed);
  if (case_run(built, &backend_cuda, 1, 0, 1) != OK)
    FAIL_TEST("%s: %s", case_text(c), status_message());
}

static void check(const OpCase *c, uint64_t seed) {
  Arena *arena = arena_create();
  CaseGraph wanted, one, other;
  attention_build_narrow(c, seed, arena, &wanted);
  attention_build_narrow(c, seed, arena, &one);
  attention_build_narrow(c, seed, arena, &other);
  ASSERT_OK(case_run(&wanted, &backend_reference, 1, 0, 1));
  run(c, &one, seed);
  run(c, &other, seed + 1);
  for (size_t v = 0; v < one.n_tensors; v++)
    if (memcmp(one.tensor[v].data, other.tensor[v].data, graph_value_bytes(one.graph, (ValueId)v)))
      FAIL_TEST("%s: two runs differ", case_text(c));
  attention_compare(c, "cuda", &one, &wanted);
  case_release(&one);
  case_release(&other);
  case_release(&wanted);
  arena_destroy(arena);
}

static void random_attention_agrees(void **state) {
  (void)state;
  uint64_t last = getenv("ONNXPIPE_TEST_SAMPLE") ? 10 : 80;
  for (uint64_t seed = 1; seed <= last; seed++) {
    Arena *arena = arena_create();
    OpCase c;
    assert_true(case_random(seed % 2 ? OP_Attention : OP_AttentionGrad, seed, arena, &c));
    check(&c, seed);
    arena_destroy(arena);
  }
}

#define OPERAND(...)                                                                                                   \
  { .present = true, .shape = {4, {__VA_ARGS__}}, .fill = FILL_UNIT }
#define STATISTIC(how, ...)                                                                                            \
  { .present = true, .shape = {3, {__VA_ARGS__}}, .fill = how }

/* Heads that share keys; several tiles of both sides, the last ones not full; a window. */
static void check_size(int64_t D, int64_t T, int64_t left, bool masked) {
  OpCase c = {.op = OP_Attention,
              .types = TYPES_FLOAT,
              .in = {OPERAND(1, 2, T, D), OPERAND(1, 1, T, D), OPERAND(1, 1, T, D)},
              .out = {{true, {4, {1, 2, T, D}}}, {true, {3, {1, 2, T}}}, {true, {3, {1, 2, T}}}},
              .attrs = {{.name = "scale", .kind = ATTR_FLOAT, .f = 1 / sqrt((double)D)},
                        {.name = "right", .kind = ATTR_INT, .i = 0},
                        {.name = "left", .kind = ATTR_INT, .i = left}}};
  CaseInput mask = {.present = true, .shape = {2, {T, T}}, .fill = FILL_UNIT, .fixed = true};
  if (masked)
    c.in[ATTENTION_MASK] = mask;
  check(&c, (uint64_t)D);
  OpCase grad = {.op = OP_AttentionGrad,
                 .types = TYPES_FLOAT,
                 .in = {OPERAND(1, 2, T, D), OPERAND(1, 1, T, D), OPERAND(1, 1, T, D), OPERAND(1, 2, T, D),
                        STATISTIC(FILL_BEYOND, 1, 2, T), STATISTIC(FILL_BEYOND, 1, 2, T), OPERAND(1, 2, T, D)},
                 .out = {{true, {4, {1, 2, T, D}}}, {true, {4, {1, 1, T, D}}}, {true, {4, {1, 1, T, D}}}},
                 .attrs = {c.attrs[0], c.attrs[1], c.attrs[2]}};
  if (masked)
    grad.in[ATTENTION_GRAD_MASK] = mask;
  check(&grad, (uint64_t)D);
}

static void large_attention_agrees(void **state) {
  (void)state;
  for (size_t i = 0; i < n_large_op_cases; i++)
    if (large_op_cases[i].op == OP_Attention || large_op_cases[i].op == OP_AttentionGrad)
      check(&large_op_cases[i], i);
  check_size(64, 150, 1 << 20, false);
  if (getenv("ONNXPIPE_TEST_SAMPLE"))
    return;
  check_size(64, 140, 70, true);
  check_size(100, 100, 1 << 20, false);
  check_size(128, 140, 1 << 20, false);
  check_size(256, 100, 20, false);
}

/* Weights that are dropped are the reference's, in every type. */
static void check_dropped(const OpCase *c) {
  for (int type = 0; type < 3; type++) {
    Arena *arena = arena_create();
    CaseGraph wanted, got;
    Tensor in[CASE_INPUTS], a[CASE_OUTPUTS], b[CASE_OUTPUTS];
    if (type == 2) {
      attention_build_narrow(c, 1, arena, &wanted);
      attention_build_narrow(c, 1, arena, &got);
    } else {
      ASSERT_OK(case_build(c, type ? F64 : F32, 1, arena, &wanted));
      ASSERT_OK(case_build(c, type ? F64 : F32, 1, arena, &got));
    }
    ASSERT_OK(case_run(&wanted, &backend_reference, 1, 0, 1));
    emulation_seed(1);
    ASSERT_OK(case_run(&got, &backend_cuda, 1, 0, 1));
    int n = attention_operands(&got, in, a);
    attention_operands(&wanted, in, b);
    for (int r = 0; r < n; r++)
      for (int64_t i = 0; i < shape_elements(a[r].shape); i++) {
        double x = mix_number(&a[r], i), y = mix_number(&b[r], i), within = a[r].dtype == BF16 ? 0x1p-7 : 1e-5;
        if (x != y && !(fabs(x - y) <= within * fmax(1, fabs(y))))
          FAIL_TEST("%s, type %d: result %d, element %d is %.9g, not %.9g", case_text(c), type, r, (int)i, x, y);
      }
    case_release(&got);
    case_release(&wanted);
    arena_destroy(arena);
  }
}

static void dropped_weights_are_the_references(void **state) {
  (void)state;
  enum { T = 20, L = 70, D = 10 };
  CaseInput counter = {.present = true, .dtype = I64, .shape = {1, {COUNTER_NUMBERS}}, .fixed = true};
  OpCase c = {
      .op = OP_Attention,
      .types = TYPES_FLOAT,
      .in = {OPERAND(2, 2, T, D), OPERAND(2, 1, L, D), OPERAND(2, 1, L, D), {.present = true, .absent = true}, counter},
      .out = {{true, {4, {2, 2, T, D}}}, {true, {3, {2, 2, T}}}, {true, {3, {2, 2, T}}}},
      .attrs = {{.name = "scale", .kind = ATTR_FLOAT, .f = 0.25},
                {.name = "ratio", .kind = ATTR_FLOAT, .f = 0.3},
                {.name = "node", .kind = ATTR_INT, .i = 5},
                {.name = "per_sample", .kind = ATTR_INT, .i = 1},
                {.name = "outer", .kind = ATTR_INT, .i = 1},
                {.name = "inner", .kind = ATTR_INT, .i = 2 * T * L}}};
  check_dropped(&c);
  OpCase grad = {.op = OP_AttentionGrad,
                 .types = TYPES_FLOAT,
                 .in = {OPERAND(2, 2, T, D),
                        OPERAND(2, 1, L, D),
                        OPERAND(2, 1, L, D),
                        OPERAND(2, 2, T, D),
                        STATISTIC(FILL_BEYOND, 2, 2, T),
                        STATISTIC(FILL_BEYOND, 2, 2, T),
                        OPERAND(2, 2, T, D),
                        {.present = true, .absent = true},
                        counter},
                 .out = {{true, {4, {2, 2, T, D}}}, {true, {4, {2, 1, L, D}}}, {true, {4, {2, 1, L, D}}}}};
  memcpy(grad.attrs, c.attrs, sizeof c.attrs);
  check_dropped(&grad);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(large_attention_agrees),
                                     cmocka_unit_test(random_attention_agrees),
                                     cmocka_unit_test(dropped_weights_are_the_references)};
  DeviceSpec device;
  if (backend_cuda.describe(0, &device) != OK) {
    fprintf(stderr, "skipped: %s\n", status_message());
    return 77;
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
