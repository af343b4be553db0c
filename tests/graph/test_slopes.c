/* Slopes where differences say nothing: at the edges of a function, and of what trains as another function. The numbers
 * are those of PyTorch 2.15 for the same call in float64. */
#include <math.h>
#include <string.h>

#include "graph/autodiff.h"
#include "graph/ops/rule.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

enum { N = 6 };

/* The gradient of the sum of a node's results towards its inputs, which are [N] and have these contents. */
static void slopes(const OpCase *c, const double *const *in, double got[2][N]) {
  Arena *arena = arena_create();
  CaseGraph built;
  size_t unreached;
  ASSERT_OK(case_build(c, F64, 0, arena, &built));
  Graph *g = built.graph;
  ASSERT_OK(emit_reduce_sum(g, built.node->out[0], (int64_t[]){0}, 1, false, &g->loss_sum));
  ASSERT_OK(graph_add_value(g, "loss_scale", F64, (Shape){0}, ROLE_STEP, &g->loss_scale));
  ASSERT_OK(autodiff_append(g, &unreached));
  ASSERT_OK(case_extend(&built));
  *(double *)built.tensor[g->loss_scale].data = 1;
  for (int i = 0; i < built.node->n_in; i++)
    memcpy(built.tensor[built.node->in[i]].data, in[i], N * sizeof(double));
  ASSERT_OK(case_run(&built, &backend_reference, 1, 0, (NodeId)g->n_nodes));
  for (int i = 0; i < built.node->n_in; i++) {
    ValueId gradients[MAX_GROUPS];
    if (graph_value(g, built.node->in[i])->dtype != F64)
      continue;
    assert_int_equal(autodiff_gradients(g, built.node->in[i], gradients), 1);
    memcpy(got[i], built.tensor[gradients[0]].data, sizeof got[i]);
  }
  case_release(&built);
  arena_destroy(arena);
}

static void expect(const double got[N], const double expected[N]) {
  for (int i = 0; i < N; i++)
    if (!(got[i] == expected[i]))
      FAIL_TEST("slope %d is %g, not %g", i, got[i], expected[i]);
}

#define LINE                                                                                                           \
  {                                                                                                                    \
    .present = true, .shape = {.rank = 1, .dim = {N} }                                                                 \
  }

/* torch.pow(base, exponent) */
static void powers_of_zero(void **state) {
  (void)state;
  OpCase pow = {.op = OP_Pow, .in = {LINE, LINE}, .out = {{true, {.rank = 1, .dim = {N}}}}};
  const double base[N] = {0, 0, 0, 0, 0, 1}, exponent[N] = {2, 1, 0.5, 0, -1, 3};
  double got[2][N];
  slopes(&pow, (const double *[]){base, exponent}, got);
  expect(got[0], (double[]){0, 1, INFINITY, 0, -INFINITY, 3});
  expect(got[1], (double[]){0, 0, 0, 0, -INFINITY, 0});
}

/* torch.round, floor and ceil, and the rounding of torch.fake_quantize_per_tensor_affine within its range */
static void steps_are_flat_or_passed_over(void **state) {
  (void)state;
  const double x[N] = {-1.5, -0.5, 0, 0.5, 0.75, 2};
  for (int i = 0; i < 4; i++) {
    double got[2][N];
    OpCase step = {.op = (OpKind[]){OP_Floor, OP_Ceil, OP_Round, OP_Round}[i],
                   .in = {LINE},
                   .out = {{true, {.rank = 1, .dim = {N}}}},
                   .attrs = {attr_int("straight_through", i == 3)}};
    slopes(&step, (const double *[]){x}, got);
    expect(got[0], i == 3 ? (double[]){1, 1, 1, 1, 1, 1} : (double[N]){0});
  }
}

/* torch.nn.functional.embedding(padding_idx=2), where the same row is also counted from the end */
static void a_padding_row_learns_nothing(void **state) {
  (void)state;
  const int64_t rows[N] = {2, 1, 2 - N, 5, -1, 1};
  const double x[N] = {1, 2, 3, 4, 5, 6};
  double in[N], got[2][N];
  OpCase gather = {.op = OP_Gather,
                   .in = {LINE, {true, .dtype = I64, .shape = {1, {N}}, .fill = FILL_INDEX, .limit = N}},
                   .out = {{true, {.rank = 1, .dim = {N}}}},
                   .attrs = {attr_int("no_gradient_row", 2)}};
  memcpy(in, rows, sizeof in);
  slopes(&gather, (const double *[]){x, in}, got);
  expect(got[0], (double[]){0, 2, 0, 0, 0, 2}); /* 5 and -1 are one row */
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(powers_of_zero), cmocka_unit_test(steps_are_flat_or_passed_over),
                                     cmocka_unit_test(a_padding_row_learns_nothing)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
