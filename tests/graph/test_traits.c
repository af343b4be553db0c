/* What the table of operators says of one is so, on every row of the operator tests. */
#include <math.h>
#include <string.h>

#include "graph/op.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

static bool has(const OpCase *c, unsigned trait) {
  return op_def(c->op)->traits & trait;
}

/* Runs the case in float64; inputs from `first` to `last` were multiplied, element `raised` of input 0 raised by 1. */
static void run(const OpCase *c, uint64_t seed, double factor, int first, int last, int64_t raised, Arena *arena,
                CaseGraph *built) {
  if (case_build(c, F64, seed, arena, built) != OK)
    FAIL_TEST("%s: %s", case_text(c), status_message());
  for (int k = 0; k < built->node->n_in; k++) {
    Tensor *t = built->node->in[k] == NO_VALUE ? NULL : &built->tensor[built->node->in[k]];
    for (int64_t i = 0; t && t->dtype == F64 && k >= first && k <= last && i < shape_elements(t->shape); i++)
      ((double *)t->data)[i] *= factor;
    if (k == 0 && raised >= 0 && t && t->dtype == F64)
      ((double *)t->data)[raised] += 1;
  }
  ASSERT_OK(case_run(built, &backend_reference, 1, 0, 1));
}

/* Twice the inputs, twice the outputs. */
static void check_linear(const OpCase *c, uint64_t seed, int first, int last) {
  Arena *arena = arena_create();
  CaseGraph one, two;
  run(c, seed, 1, 0, -1, -1, arena, &one);
  run(c, seed, 2, first, last, -1, arena, &two);
  for (int k = 0; k < one.node->n_out; k++) {
    if (one.node->out[k] == NO_VALUE)
      continue;
    const Tensor *a = &one.tensor[one.node->out[k]], *b = &two.tensor[two.node->out[k]];
    for (int64_t i = 0; a->dtype == F64 && i < shape_elements(a->shape); i++)
      if (fabs(2 * ((double *)a->data)[i] - ((double *)b->data)[i]) > 1e-12 * (1 + fabs(((double *)a->data)[i])))
        FAIL_TEST("%s: is not linear in inputs %d to %d", case_text(c), first, last);
  }
  case_release(&one);
  case_release(&two);
  arena_destroy(arena);
}

/* Shapes broadcast to the output's, and an element of an input of that shape changes its place alone. */
static void check_elementwise(const OpCase *c, uint64_t seed) {
  Arena *arena = arena_create();
  CaseGraph one, two;
  run(c, seed, 1, 0, -1, -1, arena, &one);
  const Tensor *a = &one.tensor[one.node->out[0]], *in = &one.tensor[one.node->in[0]];
  int64_t n = shape_elements(a->shape);
  Shape whole = {0};
  for (int k = 0; k < one.node->n_in; k++)
    assert_true(shape_broadcast(whole, one.tensor[one.node->in[k]].shape, &whole));
  assert_true(one.node->n_out == 1 && shape_equal(whole, a->shape));
  if (n && shape_equal(in->shape, a->shape)) {
    run(c, seed, 1, 0, -1, n / 2, arena, &two);
    size_t size = dtype_bytes(a->dtype);
    const char *x = a->data, *y = two.tensor[two.node->out[0]].data;
    for (int64_t i = 0; i < n; i++)
      if (i != n / 2 && memcmp(x + (size_t)i * size, y + (size_t)i * size, size))
        FAIL_TEST("%s: is not elementwise", case_text(c));
    case_release(&two);
  }
  case_release(&one);
  arena_destroy(arena);
}

static void check_permutes(const OpCase *c) {
  Arena *arena = arena_create();
  CaseGraph built;
  run(c, 0, 1, 0, -1, -1, arena, &built);
  Shape in = built.tensor[built.node->in[0]].shape, out = built.tensor[built.node->out[0]].shape;
  assert_true(in.rank == out.rank && shape_elements(in) == shape_elements(out));
  case_release(&built);
  arena_destroy(arena);
}

static void traits_hold(void **state) {
  (void)state;
  for (size_t i = 0; i < n_op_cases; i++) {
    const OpCase *c = &op_cases[i];
    DType types[DTYPE_COUNT];
    bool wide = false;
    for (int k = case_types(c, types) - 1; k >= 0; k--)
      wide |= types[k] == F64;
    if (!wide)
      continue;
    if (has(c, OP_LINEAR))
      check_linear(c, i, 0, CASE_INPUTS);
    if (has(c, OP_BILINEAR)) {
      check_linear(c, i, 0, 0);
      check_linear(c, i, 1, 1);
    }
    if (has(c, OP_ELEMENTWISE))
      check_elementwise(c, i);
    if (has(c, OP_PERMUTES))
      check_permutes(c);
  }
}

/* What writes its inputs makes no values, and a view is of one. */
static void writers_make_nothing(void **state) {
  (void)state;
  for (int op = 0; op < OP_COUNT; op++) {
    const OpDef *def = op_def((OpKind)op);
    assert_true(!(def->traits & OP_UPDATE) || def->max_out == 0);
    assert_true(!(def->traits & OP_VIEW) || (def->max_in == 1 && def->max_out == 1));
    assert_true(!(def->traits & (OP_SCALES | OP_DIVIDES | OP_BILINEAR)) || def->max_in >= 2);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(traits_hold),
      cmocka_unit_test(writers_make_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
