/* The operator table over what is stored in bfloat16, in any mix with float32, on the CUDA backend: what the
 * reference's float32 kernels give of rounded operands, within a rounding; and the same bits again, whatever ran first.
 * With ONNXPIPE_TEST_SAMPLE set, one mix a case and one run of each. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/blas.h"
#include "backend/wide.h"
#include "graph/narrow.h"
#include "graph/op.h"
#include "tests/cuda/emulation.h"
#include "tests/ops/mixes.h"
#include "tests/test.h"

static bool sample;

/* What CUDA takes in float32 it takes in every mix. */
static bool takes(const OpCase *c, uint64_t seed, Arena *arena) {
  CaseGraph full;
  ASSERT_OK(case_build(c, F32, seed, arena, &full));
  bool accepts = backend_accepts(&backend_cuda, full.graph, full.node);
  case_release(&full);
  return accepts;
}

static void check_again(const OpCase *c, uint64_t seed, unsigned mix, Arena *arena, const CaseGraph *got) {
  CaseGraph more;
  ASSERT_OK(mix_build_narrow(c, seed, mix, arena, &more));
  emulation_seed(~seed);
  ASSERT_OK(case_run(&more, &backend_cuda, 1, 0, 1));
  for (size_t v = 0; v < got->n_tensors; v++)
    if (memcmp(got->tensor[v].data, more.tensor[v].data, graph_value_bytes(got->graph, (ValueId)v)))
      FAIL_TEST("%s, mix %x: two runs differ", case_text(c), mix);
  case_release(&more);
}

static void round_numbers(const Tensor *t) {
  float *x = t->data;
  for (int64_t i = 0; i < shape_elements(t->shape); i++)
    x[i] = bf16_value(bf16_bits(x[i]));
}

/* A product's row of biases, which is added in the result's type, is rounded where that is bfloat16; not on copies. */
static void round_row(const CaseGraph *got, const CaseGraph *expected) {
  const Node *n = got->node;
  int at = n->op == OP_ProductAdd ? 3 : n->op == OP_Gemm || n->op == OP_ProductGelu ? 2 : n->n_in;
  bool has_row = at < n->n_in && n->in[at] != NO_VALUE && node_float(n, "beta", 1) == 1;
  ValueId sums = n->n_out ? n->out[n->n_out - 1] : NO_VALUE; /* of ProductGelu's two the second, of Gemm's the one */
  if (!has_row || graph_value(got->graph, sums)->dtype != BF16 || wide_copies(&backend_cuda, got->graph, n) ||
      (graph_value(got->graph, n->in[0])->dtype != BF16 && graph_value(got->graph, n->in[1])->dtype != BF16))
    return;
  const Tensor *row = &expected->tensor[n->in[at]];
  Shape y = graph_value(got->graph, n->out[0])->shape;
  int64_t columns = y.dim[y.rank - 1];
  if (!row->shape.rank || row->shape.dim[row->shape.rank - 1] != columns || shape_elements(row->shape) != columns)
    return;
  round_numbers(row);
}

static void check(const OpCase *c, uint64_t seed, unsigned mix) {
  Arena *arena = arena_create();
  CaseGraph expected, got;
  char where[256];
  if (!takes(c, seed, arena) || mix_rounds_inside(c, seed, mix, arena)) {
    arena_destroy(arena);
    return;
  }
  ASSERT_OK(mix_build_rounded(c, seed, mix, arena, &expected));
  ASSERT_OK(mix_build_narrow(c, seed, mix, arena, &got));
  round_row(&got, &expected);
  ASSERT_OK(case_run(&expected, &backend_reference, 1, 0, 1));
  if (!backend_accepts(&backend_cuda, got.graph, got.node))
    FAIL_TEST("%s, mix %x: cuda does not take it", case_text(c), mix);
  emulation_seed(seed);
  if (case_run(&got, &backend_cuda, 1, 0, 1) != OK)
    FAIL_TEST("%s, mix %x: %s", case_text(c), mix, status_message());
  if (mix_differs(&got, &expected, false, where))
    FAIL_TEST("%s, mix %x: %s", case_text(c), mix, where);
  if (!sample)
    check_again(c, seed, mix, arena, &got);
  case_release(&got);
  case_release(&expected);
  arena_destroy(arena);
}

/* All that may be, and mixes. */
static void check_mixes(const OpCase *c, uint64_t seed, int mixes) {
  uint64_t random = seed;
  if (!mix_fits(c))
    return;
  check(c, seed, ~0u);
  for (int k = 0; k < mixes; k++)
    check(c, seed, (unsigned)random_next(&random));
}

static void mixes_are_rounded_once(void **state) {
  (void)state;
  for (size_t i = 0; i < n_op_cases; i++)
    check_mixes(&op_cases[i], i, sample ? 0 : 2);
}

static void random_cases_agree(void **state) {
  (void)state;
  for (int op = 0; op < OP_COUNT; op++)
    for (uint64_t seed = 300; seed < (sample ? 301 : 303); seed++) {
      Arena *arena = arena_create();
      OpCase c;
      if (case_random((OpKind)op, seed, arena, &c))
        check_mixes(&c, seed, 1);
      arena_destroy(arena);
    }
}

/* In many mixes, and of more batches than one call of cuBLASLt gets. */
static void products_agree(void **state) {
  (void)state;
  enum { MANY = BLAS_BATCHES + 7 };
  static const OpKind products[] = {OP_MatMul,          OP_Gemm,      OP_AccumulateMatMul, OP_ProductGelu,
                                    OP_ProductGeluGrad, OP_ProductAdd};
  static const OpCase many = {
      OP_MatMul,
      TYPES_FLOAT,
      {{.present = true, .shape = {3, {MANY, 1, 2}}}, {.present = true, .shape = {3, {MANY, 2, 1}}}},
      {{true, {3, {MANY, 1, 1}}}},
      {{0}}};
  check_mixes(&many, 1, 0);
  for (uint64_t seed = 310; seed < (sample ? 316 : 380); seed++) {
    Arena *arena = arena_create();
    OpCase c;
    if (case_random(products[seed % 6], seed, arena, &c))
      check_mixes(&c, seed, sample ? 0 : 6);
    arena_destroy(arena);
  }
}

/* Where cuBLASLt has no epilogue, a kernel follows: what sums that are bfloat16 become, as two nodes make it. */
static void gelus_without_epilogue_agree(void **state) {
  (void)state;
  enum { ROWS = 1003, K = 4, COLUMNS = 8, Y_AND_SUMS = 3 << 3 };
  Arena *arena = arena_create();
  CaseGraph got;
  OpCase c = {.op = OP_ProductGelu,
              .types = TYPES_FLOAT,
              .in = {{.present = true, .shape = {2, {ROWS, K}}},
                     {.present = true, .shape = {2, {K, COLUMNS}}},
                     {.present = true, .shape = {1, {COLUMNS}}}},
              .out = {{true, {2, {ROWS, COLUMNS}}}, {true, {2, {ROWS, COLUMNS}}}},
              .attrs = {attr_string("approximate", "tanh")}};
  for (unsigned mix = Y_AND_SUMS + 1; mix < Y_AND_SUMS + 4; mix++) {
    ASSERT_OK(mix_build_narrow(&c, 1, mix, arena, &got));
    ASSERT_OK(case_run(&got, &backend_cuda, 1, 0, 1));
    const Tensor *y = &got.tensor[got.node->out[0]], *sums = &got.tensor[got.node->out[1]];
    for (int64_t i = 0; i < ROWS * COLUMNS; i++) {
      double x = mix_number(sums, i), gelu = 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
      if (!(fabs(mix_number(y, i) - gelu) <= 0x1p-8 * fabs(gelu) + 1e-6))
        FAIL_TEST("mix %x: GELU of %.9g is %.9g", mix, x, mix_number(y, i));
    }
    case_release(&got);
  }
  arena_destroy(arena);
}

/* Logits that are rounded, too, differ by a rounding now and then: it is all of them that count here. Biases that are
 * bfloat16 numbers: those that are added to the rows are rounded. */
static void check_head(const OpCase *c, unsigned mix) {
  Arena *arena = arena_create();
  CaseGraph expected, got;
  ValueId value[CASE_INPUTS];
  ASSERT_OK(mix_build_narrow(c, 1, mix, arena, &expected));
  ASSERT_OK(mix_build_narrow(c, 1, mix, arena, &got));
  if (c->in[5].present) {
    round_numbers(&got.tensor[got.node->in[5]]);
    round_numbers(&expected.tensor[expected.node->in[5]]);
  }
  ASSERT_OK(case_run(&expected, &backend_reference, 1, 0, 1));
  emulation_seed(mix);
  ASSERT_OK(case_run(&got, &backend_cuda, 1, 0, 1));
  int n = case_results(got.node, value);
  for (int r = 0; r < n; r++) {
    double apart = 0, all = 0;
    for (int64_t i = 0; i < shape_elements(got.tensor[value[r]].shape); i++) {
      double x = mix_number(&got.tensor[value[r]], i), y = mix_number(&expected.tensor[value[r]], i);
      apart += fabs(x - y);
      all += fabs(y);
    }
    if (!(apart <= 1e-3 * all))
      FAIL_TEST("%s, mix %x: result %d is %g of %g apart", case_text(c), mix, r, apart, all);
  }
  case_release(&expected);
  case_release(&got);
  arena_destroy(arena);
}

static void heads_agree(void **state) {
  (void)state;
  OpCase c = {0};
  for (size_t i = 0; i < n_large_op_cases; i++)
    if (large_op_cases[i].op == OP_ProductCrossEntropy)
      c = large_op_cases[i];
  c.attrs[2] = (Attr){.name = "narrow", .kind = ATTR_INT, .i = 1};
  for (int biased = 0; biased < 2; biased++) {
    static const unsigned X = 2, W = 4, D_X[] = {1 << 5, 1 << 6};
    c.in[5].present = c.out[2].present = biased;
    check_head(&c, X | D_X[biased]);
    check_head(&c, X | W | D_X[biased]);
    check_head(&c, D_X[biased]);
    check_head(&c, X);
    check_head(&c, 0);
  }
}

static void large_tensors_agree(void **state) {
  (void)state;
  for (size_t i = 0; i < n_large_op_cases; i++)
    check_mixes(&large_op_cases[i], i, 0);
}

/* Operands that run along a thread's elements, are one for them, or neither; and ends that are no whole thread's. */
static void operands_are_broadcast(void **state) {
  (void)state;
  static const struct {
    Shape a, b, y;
  } shapes[] = {{{3, {3, 7, 40}}, {1, {40}}, {3, {3, 7, 40}}},
                {{3, {3, 7, 40}}, {2, {7, 1}}, {3, {3, 7, 40}}},
                {{3, {3, 7, 40}}, {1, {1}}, {3, {3, 7, 40}}},
                {{3, {3, 7, 5}}, {1, {5}}, {3, {3, 7, 5}}},
                {{3, {5, 1, 24}}, {3, {1, 3, 1}}, {3, {5, 3, 24}}},
                {{3, {2, 3, 16}}, {3, {2, 1, 16}}, {3, {2, 3, 16}}},
                {{4, {2, 3, 4, 9}}, {3, {3, 1, 9}}, {4, {2, 3, 4, 9}}},
                {{2, {1, 2003}}, {2, {2, 1}}, {2, {2, 2003}}},
                {{1, {4099}}, {0}, {1, {4099}}},
                {{1, {4099}}, {1, {4099}}, {1, {4099}}}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    for (unsigned mix = 0; mix < 8; mix++) {
      OpCase c = {.op = mix % 3 ? OP_Mul : OP_Sub,
                  .types = TYPES_FLOAT,
                  .in = {{.present = true, .shape = shapes[i].a}, {.present = true, .shape = shapes[i].b}},
                  .out = {{true, shapes[i].y}}};
      OpCase choice = {.op = OP_Where,
                       .types = TYPES_ALL,
                       .in = {{.present = true, .dtype = BOOL, .shape = shapes[i].b},
                              {.present = true, .shape = shapes[i].a},
                              {.present = true, .shape = shapes[i].b}},
                       .out = {{true, shapes[i].y}}};
      check(&c, mix, mix);
      check(&choice, mix, 2 * mix);
    }
}

/* From and to any element. */
static void copies_begin_anywhere(void **state) {
  (void)state;
  enum { N = 100 };
  float wide[N + 8], rounded[N + 8], back[N + 8];
  uint16_t narrow[N + 8];
  Stream *stream;
  void *from, *to;
  uint64_t random = 1;
  for (int i = 0; i < N + 8; i++)
    wide[i] = (float)(random_next(&random) % 100000) * 0.37f - 9999;
  ASSERT_OK(backend_cuda.stream_open(0, 1, &stream));
  ASSERT_OK(backend_cuda.alloc(stream, sizeof wide, &from));
  ASSERT_OK(backend_cuda.alloc(stream, sizeof wide, &to));
  for (int at = 0; at < 8; at++) {
    ASSERT_OK(backend_cuda.copy(stream, from, wide, sizeof wide, COPY_HOST_TO_DEVICE));
    ASSERT_OK(backend_cuda.convert(stream, (uint16_t *)to + 7 - at, BF16, (float *)from + at, F32, N));
    ASSERT_OK(backend_cuda.copy(stream, narrow, to, sizeof narrow, COPY_DEVICE_TO_HOST));
    ASSERT_OK(backend_cuda.convert(stream, (float *)from + at, F32, (uint16_t *)to + 7 - at, BF16, N));
    ASSERT_OK(backend_cuda.copy(stream, back, from, sizeof back, COPY_DEVICE_TO_HOST));
    ASSERT_OK(backend_cuda.copy(stream, from, wide, sizeof wide, COPY_HOST_TO_DEVICE));
    ASSERT_OK(backend_cuda.convert(stream, (float *)to + at, F32, (float *)from + at, F32, N));
    ASSERT_OK(backend_cuda.copy(stream, rounded, to, sizeof rounded, COPY_DEVICE_TO_HOST));
    ASSERT_OK(backend_cuda.stream_wait(stream));
    for (int i = 0; i < N; i++) {
      assert_int_equal(narrow[7 - at + i], bf16_bits(wide[at + i]));
      assert_true(back[at + i] == bf16_value(narrow[7 - at + i]) && rounded[at + i] == back[at + i]);
    }
  }
  backend_cuda.release(stream, from);
  backend_cuda.release(stream, to);
  backend_cuda.stream_close(stream);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(mixes_are_rounded_once),
                                     cmocka_unit_test(random_cases_agree),
                                     cmocka_unit_test(products_agree),
                                     cmocka_unit_test(heads_agree),
                                     cmocka_unit_test(gelus_without_epilogue_agree),
                                     cmocka_unit_test(large_tensors_agree),
                                     cmocka_unit_test(operands_are_broadcast),
                                     cmocka_unit_test(copies_begin_anywhere)};
  DeviceSpec device;
  sample = getenv("ONNXPIPE_TEST_SAMPLE") != NULL;
  if (backend_cuda.describe(0, &device) != OK) {
    fprintf(stderr, "skipped: %s\n", status_message());
    return 77;
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
