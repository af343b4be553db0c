/* Gradients of bound models against central differences: inputs become parameters, outputs a weighted sum. The model
 * casts its float inputs to double first, so that differences are exact enough. */
#ifndef TESTS_ONNX_DIFFERENCES_H
#define TESTS_ONNX_DIFFERENCES_H

#include "graph/autodiff.h"
#include "graph/ops/rule.h"
#include "tests/onnx/build_net.h"

/* A float input and its double, "x" and "x64". */
static inline void net_double(Net *net, const char *name, int rank, const int64_t *dims) {
  char wide[32];
  snprintf(wide, sizeof wide, "%s64", name);
  Bytes cast = node(wide, "Cast", name, wide);
  put_message(&net->graph, 11, value_info(name, rank, dims));
  put_attribute_int(&cast, "to", 11);
  net_add(net, cast);
}
#define NET_DOUBLE(net, name, ...)                                                                                     \
  net_double((net), (name), sizeof((int64_t[]){__VA_ARGS__}) / 8, (const int64_t[]){__VA_ARGS__})

static inline Status weighted_outputs(Graph *g) {
  for (size_t i = 0; i < g->n_outputs; i++) {
    Shape shape = graph_value(g, g->outputs[i])->shape;
    int64_t n = shape_elements(shape), axes[MAX_RANK];
    double *weights = arena_alloc(g->arena, (size_t)n, sizeof *weights);
    ValueId w, sum;
    for (int64_t k = 0; k < n; k++)
      weights[k] = cos((double)(3 * k) + (double)i);
    for (int k = 0; k < shape.rank; k++)
      axes[k] = k;
    TRY(graph_add_constant(g, "weights", F64, shape, weights, &w));
    TRY(emit2(g, OP_Mul, g->outputs[i], w, &sum));
    TRY(emit_reduce_sum(g, sum, axes, shape.rank, false, &sum));
    if (i)
      TRY(emit2(g, OP_Add, g->loss_sum, sum, &sum));
    g->loss_sum = sum;
  }
  return graph_add_value(g, "loss_scale", F64, (Shape){0}, ROLE_STEP, &g->loss_scale);
}

/* Runs with element `at` of input `input` moved by this much; the loss. */
static inline double loss_moved(Bound *b, GraphRun *run, size_t input, int64_t at, double by) {
  const Graph *g = b->graph;
  run_begin(run, b->arena, b->model, g);
  *(double *)run_room(run, g->loss_scale) = 1;
  for (size_t k = 0; k < g->n_inputs; k++) {
    float *x = run_room(run, g->inputs[k]);
    for (int64_t j = 0; j < shape_elements(graph_value(g, g->inputs[k])->shape); j++)
      x[j] =
          (float)(round(sin(1.7 * (double)j + (double)(k + 1) * 0.9) * 1024) / 1024 + (k == input && j == at ? by : 0));
  }
  run_graph(run);
  return *(double *)run->values[g->loss_sum];
}

/* Binds, and compares the gradient towards every element of every input. */
static inline void gradients_agree(Net *net, const char *outputs) {
  const double step = 1.0 / 1024;
  Bound b = net_bind_ok(net, outputs, 0);
  Graph *g = b.graph;
  GraphRun run;
  size_t n_unreached;
  for (size_t k = 0; k < g->n_inputs; k++)
    graph_value(g, g->inputs[k])->role = ROLE_PARAMETER;
  ASSERT_OK(weighted_outputs(g));
  ASSERT_OK(autodiff_append(g, &n_unreached));
  for (size_t k = 0; k < g->n_inputs; k++)
    for (int64_t j = 0; j < shape_elements(graph_value(g, g->inputs[k])->shape); j++) {
      double slope[2], gradient = 0;
      ValueId parts[MAX_GROUPS];
      for (int h = 0; h < 2; h++)
        slope[h] = (loss_moved(&b, &run, k, j, step * (h + 1)) - loss_moved(&b, &run, k, j, -step * (h + 1))) /
                   (2 * step * (h + 1));
      loss_moved(&b, &run, k, j, 0);
      for (int i = autodiff_gradients(g, g->inputs[k], parts); i > 0; i--)
        gradient += ((float *)run.values[parts[i - 1]])[j];
      double expected = (4 * slope[0] - slope[1]) / 3;
      if (!(fabs(gradient - expected) <= 1e-6 * fmax(1, fabs(expected))))
        FAIL_TEST("gradient of '%s'[%d] is %.9g, differences give %.9g", graph_value(g, g->inputs[k])->name, (int)j,
                  gradient, expected);
    }
  bound_end(&b);
}

#endif
