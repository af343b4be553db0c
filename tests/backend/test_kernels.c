/* The operator table: shapes, and the reference kernels against naive oracles in every type. */
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

/* Sums of float32 are kept in double or are short: rounding of the result and of functions is left. */
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
    if (!case_close(&built.tensor[value[i]], expected[i], type == F64 ? 1e-11 : 2e-5, where))
      FAIL_TEST("%s in %s, result %d: %s", case_text(c), dtype_name(type), i, where);
  case_release(&built);
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

static void every_operator_has_a_row(void **state) {
  (void)state;
  for (int op = 0; op < OP_COUNT; op++) {
    size_t rows = 0;
    for (size_t i = 0; i < n_op_cases; i++)
      rows += op_cases[i].op == (OpKind)op;
    if (!rows)
      FAIL_TEST("operator %s has no row in tests/ops/cases.c", op_def((OpKind)op)->name);
    if (!reference_kernels[op])
      FAIL_TEST("operator %s has no reference kernel", op_def((OpKind)op)->name);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_operator_has_a_row),
      cmocka_unit_test(rows_agree_with_oracles),
      cmocka_unit_test(random_cases_agree_with_oracles),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
