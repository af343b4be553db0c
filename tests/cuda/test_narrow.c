/* The operator table over what is stored in bfloat16, in any mix with float32, on the CUDA backend: what the
 * reference's float32 kernels give of rounded operands, within a rounding; and the same bits again, whatever ran first.
 * With ONNXPIPE_TEST_SAMPLE set, one mix a case and one run of each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/blas.h"
#include "graph/narrow.h"
#include "graph/op.h"
#include "tests/ops/mixes.h"
#include "tests/test.h"

#ifdef EMULATED
#include "tests/cuda/emulation.h"
#else
static void emulation_seed(uint64_t seed) {
  (void)seed;
}
#endif

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

/* A Gemm's row of biases, which is added in the result's type, is rounded where that is bfloat16. */
static void round_row(const CaseGraph *got, const CaseGraph *expected) {
  const Node *n = got->node;
  bool has_row = n->op == OP_Gemm && n->n_in > 2 && n->in[2] != NO_VALUE && node_float(n, "beta", 1) == 1;
  if (!has_row || graph_value(got->graph, n->out[0])->dtype != BF16 ||
      (graph_value(got->graph, n->in[0])->dtype != BF16 && graph_value(got->graph, n->in[1])->dtype != BF16))
    return;
  const Tensor *row = &expected->tensor[n->in[2]];
  Shape y = graph_value(got->graph, n->out[0])->shape;
  if (!row->shape.rank || row->shape.dim[row->shape.rank - 1] != y.dim[1] || shape_elements(row->shape) != y.dim[1])
    return;
  for (int64_t i = 0; i < y.dim[1]; i++)
    ((float *)row->data)[i] = bf16_value(bf16_bits(((float *)row->data)[i]));
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
  static const OpKind products[] = {OP_MatMul, OP_Gemm, OP_AccumulateMatMul};
  static const OpCase many = {
      OP_MatMul,
      TYPES_FLOAT,
      {{.present = true, .shape = {3, {MANY, 1, 2}}}, {.present = true, .shape = {3, {MANY, 2, 1}}}},
      {{true, {3, {MANY, 1, 1}}}},
      {{0}}};
  check_mixes(&many, 1, 0);
  for (uint64_t seed = 310; seed < (sample ? 312 : 350); seed++) {
    Arena *arena = arena_create();
    OpCase c;
    if (case_random(products[seed % 3], seed, arena, &c))
      check_mixes(&c, seed, sample ? 0 : 6);
    arena_destroy(arena);
  }
}

static void large_tensors_agree(void **state) {
  (void)state;
  for (size_t i = 0; i < n_large_op_cases; i++)
    check_mixes(&large_op_cases[i], i, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(mixes_are_rounded_once), cmocka_unit_test(random_cases_agree),
                                     cmocka_unit_test(products_agree), cmocka_unit_test(large_tensors_agree)};
  DeviceSpec device;
  sample = getenv("ONNXPIPE_TEST_SAMPLE") != NULL;
  if (backend_cuda.describe(0, &device) != OK) {
    fprintf(stderr, "skipped: %s\n", status_message());
    return 77;
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
