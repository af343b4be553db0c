/* Gradients through what a model is lowered to, for comparison with what PyTorch gives: the input is taken for a
 * parameter, and the loss is the sum of 0 · y[0] + 1 · y[1] + 2 · y[2] + … */
#ifndef TESTS_ONNX_GRADIENT_H
#define TESTS_ONNX_GRADIENT_H

#include "graph/autodiff.h"
#include "graph/ops/rule.h"
#include "tests/onnx/build_net.h"

static inline Status append_counting_loss(Graph *g) {
  ValueId y = g->outputs[0], w, sum;
  Shape shape = graph_value(g, y)->shape;
  int64_t n = shape_elements(shape), axes[MAX_RANK];
  size_t unreached;
  float *weights = arena_alloc(g->arena, (size_t)n, sizeof *weights);
  assert_non_null(weights);
  for (int64_t i = 0; i < n; i++)
    weights[i] = (float)i;
  for (int i = 0; i < shape.rank; i++)
    axes[i] = i;
  TRY(graph_add_constant(g, "weights", F32, shape, weights, &w));
  TRY(emit2(g, OP_Mul, y, w, &sum));
  TRY(emit_reduce_sum(g, sum, axes, shape.rank, false, &sum));
  TRY(emit_cast(g, sum, F64, &g->loss_sum));
  TRY(graph_add_value(g, "loss_scale", F64, (Shape){0}, ROLE_STEP, &g->loss_scale));
  return autodiff_append(g, &unreached);
}

static inline void expect_numbers(const char *what, const float *got, const float *expected, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!(fabs((double)got[i] - expected[i]) <= 2e-5 * fmax(1, fabs(expected[i]))))
      FAIL_TEST("%s %d is %.7g, not %.7g", what, (int)i, got[i], expected[i]);
}

/* Input `x` of the bound model [n_x] gives `y` [n_y] and, in return, `dx` [n_x]. */
static inline void bound_trains(Bound *b, const float *x, const float *y, int64_t n_y, const float *dx, int64_t n_x) {
  Graph *g = b->graph;
  GraphRun run;
  ValueId input = g->inputs[0], output = g->outputs[0], gradient[MAX_GROUPS];
  assert_int_equal(shape_elements(graph_value(g, input)->shape), n_x);
  assert_int_equal(shape_elements(graph_value(g, output)->shape), n_y);
  graph_value(g, input)->role = ROLE_PARAMETER;
  ASSERT_OK(append_counting_loss(g));
  run_begin(&run, b->arena, b->model, g);
  memcpy(run_room(&run, input), x, (size_t)n_x * sizeof *x);
  *(double *)run_room(&run, g->loss_scale) = 1;
  run_graph(&run);
  expect_numbers("y", run_tensor(&run, output).data, y, n_y);
  assert_int_equal(autodiff_gradients(g, input, gradient), 1);
  expect_numbers("dx", run_tensor(&run, gradient[0]).data, dx, n_x);
}
#define NUMBERS(...) (const float[]){__VA_ARGS__}, sizeof((float[]){__VA_ARGS__}) / sizeof(float)
/* The input is 0, 1, 2, … */
#define COUNTS                                                                                                         \
  (const float[]) {                                                                                                    \
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24                           \
  }

#endif
