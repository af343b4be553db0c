/* The operator table on the CUDA backend: in a build with CUDA on its first device, else on the emulated one, where
 * blocks, threads and streams run in an order that a seed gives. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/op.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

#ifdef EMULATED
#include "tests/cuda/emulation.h"
#else
static void emulation_seed(uint64_t seed) {
  (void)seed;
}
#endif

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
  ASSERT_OK(case_run(&two, &backend_cuda, 1, 0, 1));
  for (int i = 0; i < n; i++)
    if (memcmp(one.tensor[value[i]].data, two.tensor[value[i]].data, graph_value_bytes(one.graph, value[i])))
      FAIL_TEST("%s in %s, result %d: two runs differ", case_text(c), dtype_name(type), i);
  case_release(&one);
  case_release(&two);
  arena_destroy(arena);
}

static void check_types(const OpCase *c, uint64_t seed) {
  DType types[DTYPE_COUNT];
  int n = case_types(c, types);
  for (int k = 0; k < n; k++)
    check_case(c, types[k], seed);
}

static void rows_agree_with_oracles(void **state) {
  (void)state;
  for (size_t i = 0; i < n_op_cases; i++)
    check_types(&op_cases[i], i);
}

static void random_cases_agree_with_oracles(void **state) {
  (void)state;
  for (int op = 0; op < OP_COUNT; op++)
    for (uint64_t seed = 300; seed < 305; seed++) {
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

/* accepts() says of every type what the kernel does. */
static void types_are_known_before_running(void **state) {
  (void)state;
  for (size_t i = 0; i < n_op_cases; i++)
    for (int type = DTYPE_NONE + 1; type < DTYPE_COUNT; type++) {
      Arena *arena = arena_create();
      CaseGraph built;
      if (case_build(&op_cases[i], (DType)type, i, arena, &built) == OK) {
        bool accepts = backend_cuda.accepts(built.graph, built.node);
        Status status = case_run(&built, &backend_cuda, 1, 0, 1);
        if (status != (accepts ? OK : E_UNSUPPORTED))
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
      cmocka_unit_test(types_are_known_before_running),
  };
  DeviceSpec device;
  if (backend_cuda.describe(0, &device) != OK) {
    fprintf(stderr, "skipped: %s\n", status_message());
    return 77;
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
