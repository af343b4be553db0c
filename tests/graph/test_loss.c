/* Losses: what they resolve to, their denominators, and that microbatches of unequal counts add up exactly. */
#include <math.h>
#include <string.h>

#include "graph/autodiff.h"
#include "graph/batch.h"
#include "graph/loss.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

static Graph *with_prediction(Arena *arena, DType dtype, Shape shape, ValueId *prediction) {
  Graph *g;
  ASSERT_OK(graph_create(arena, "test", &g));
  ASSERT_OK(graph_add_value(g, "logits", dtype, shape, ROLE_PARAMETER, prediction));
  return g;
}

static LossSpec spec_of(LossKind kind, ValueId output, DType target, Shape shape) {
  return (LossSpec){.kind = kind,
                    .output = output,
                    .target_dtype = target,
                    .target_shape = shape,
                    .ignore_index = -100,
                    .class_axis = -1};
}

static void names_are_found(void **state) {
  (void)state;
  for (int i = 0; i < LOSS_COUNT; i++)
    assert_int_equal(loss_find(loss_name((LossKind)i)), i);
  assert_int_equal(loss_find("hinge"), LOSS_COUNT);
}

/* The kind and class axis that a spec resolves to. */
static void resolves(Shape prediction, DType target, Shape shape, LossKind kind, int class_axis) {
  Arena *arena = arena_create();
  ValueId output;
  Graph *g = with_prediction(arena, F32, prediction, &output);
  LossSpec spec = spec_of(LOSS_AUTO, output, target, shape);
  graph_value(g, output)->batch = batch_along(0);
  ASSERT_OK(loss_append(g, &spec));
  assert_int_equal(spec.kind, kind);
  if (kind == LOSS_CROSS_ENTROPY)
    assert_int_equal(spec.class_axis, class_axis);
  assert_int_equal(graph_value(g, g->loss_sum)->dtype, F64);
  assert_int_equal(graph_value(g, g->loss_sum)->shape.rank, 0);
  assert_int_equal(graph_value(g, g->target)->role, ROLE_INPUT);
  assert_int_equal(graph_value(g, g->loss_scale)->role, ROLE_STEP);
  arena_destroy(arena);
}

static void auto_picks_by_the_target(void **state) {
  (void)state;
  resolves((Shape){2, {8, 10}}, I64, (Shape){1, {8}}, LOSS_CROSS_ENTROPY, 1);
  resolves((Shape){3, {8, 10, 5}}, I32, (Shape){2, {8, 5}}, LOSS_CROSS_ENTROPY, 1);
  resolves((Shape){3, {8, 5, 10}}, I64, (Shape){2, {8, 5}}, LOSS_CROSS_ENTROPY, 2);
  resolves((Shape){2, {8, 8}}, I64, (Shape){1, {8}}, LOSS_CROSS_ENTROPY, 1); /* as many samples as classes */
  resolves((Shape){2, {8, 10}}, F32, (Shape){2, {8, 10}}, LOSS_MSE, -1);
}

static void refuses(Shape prediction, LossKind kind, DType target, Shape shape, int class_axis, Status code,
                    const char *message) {
  Arena *arena = arena_create();
  ValueId output;
  Graph *g = with_prediction(arena, F32, prediction, &output);
  LossSpec spec = spec_of(kind, output, target, shape);
  spec.class_axis = class_axis;
  ASSERT_FAILS(code, message, loss_append(g, &spec));
  arena_destroy(arena);
}

static void the_batch_axis_holds_no_classes(void **state) {
  (void)state;
  Arena *arena = arena_create();
  ValueId output;
  Graph *g = with_prediction(arena, F32, (Shape){2, {8, 8}}, &output);
  LossSpec spec = spec_of(LOSS_AUTO, output, I64, (Shape){1, {8}});
  spec.class_axis = 0;
  graph_value(g, output)->batch = batch_along(0);
  ASSERT_FAILS(E_USAGE, "class axis 0 is the batch axis of the prediction [8,8]", loss_append(g, &spec));
  arena_destroy(arena);
}

/* Where it is not known along which axis the samples lie, it is not the classes that come first. */
static void classes_do_not_come_first(void **state) {
  (void)state;
  Arena *arena = arena_create();
  ValueId output;
  Graph *g = with_prediction(arena, F32, (Shape){2, {8, 8}}, &output);
  LossSpec spec = spec_of(LOSS_AUTO, output, I64, (Shape){1, {8}});
  spec.class_axis = -1;
  graph_value(g, output)->batch = (Batch){.kind = BATCH_MIXED, .by = "node 'loop'"};
  ASSERT_OK(loss_append(g, &spec));
  assert_int_equal(spec.class_axis, 1);
  arena_destroy(arena);
}

static void what_does_not_fit_is_refused(void **state) {
  (void)state;
  refuses((Shape){2, {8, 10}}, LOSS_AUTO, I64, (Shape){1, {7}}, -1, E_SHAPE,
          "target [7] lacks no single axis of the prediction [8,10]");
  refuses((Shape){3, {8, 8, 8}}, LOSS_AUTO, I64, (Shape){2, {8, 8}}, -1, E_SHAPE,
          "2 axes of the prediction [8,8,8] could hold the classes of target [8,8]: give --class-axis");
  refuses((Shape){2, {8, 10}}, LOSS_AUTO, I64, (Shape){1, {8}}, 0, E_SHAPE,
          "target [8] is not the prediction [8,10] without its axis 0");
  refuses((Shape){2, {8, 10}}, LOSS_AUTO, I64, (Shape){1, {8}}, 2, E_USAGE,
          "class axis 2 is outside the prediction [8,10]");
  refuses((Shape){2, {8, 10}}, LOSS_CROSS_ENTROPY, F32, (Shape){1, {8}}, -1, E_SHAPE,
          "cross_entropy needs integer targets, has float32");
  refuses((Shape){2, {8, 10}}, LOSS_MSE, F32, (Shape){1, {8}}, -1, E_SHAPE,
          "prediction 'logits' is [8,10], target [8]");
  refuses((Shape){2, {8, 10}}, LOSS_BCE_WITH_LOGITS, F64, (Shape){2, {8, 10}}, -1, E_SHAPE,
          "bce_with_logits needs float32 targets, has float64");
}

static void denominators_count_what_counts(void **state) {
  (void)state;
  Arena *arena = arena_create();
  ValueId output;
  double count;
  Graph *g = with_prediction(arena, F32, (Shape){2, {5, 3}}, &output);
  LossSpec spec = spec_of(LOSS_AUTO, output, I64, (Shape){1, {5}});
  ASSERT_OK(loss_append(g, &spec));
  ASSERT_OK(loss_denominator(g, &spec, (int64_t[]){0, -100, 2, -100, 1}, 5, &count));
  assert_float_equal(count, 3, 0);
  ASSERT_OK(loss_denominator(g, &spec, (int64_t[]){-100}, 1, &count));
  assert_float_equal(count, 0, 0);
  ASSERT_FAILS(E_MODEL, "target 3 at position 1 is outside the 3 classes (0 to 2)",
               loss_denominator(g, &spec, (int64_t[]){0, 3, -100}, 3, &count));
  ASSERT_FAILS(E_MODEL, "target -1 at position 0 is outside the 3 classes (0 to 2)",
               loss_denominator(g, &spec, (int64_t[]){-1}, 1, &count));
  spec.ignore_index = 1;
  spec.target_dtype = I32;
  ASSERT_OK(loss_denominator(g, &spec, (int32_t[]){0, 1, 2}, 3, &count));
  assert_float_equal(count, 2, 0);
  spec.kind = LOSS_MSE;
  ASSERT_OK(loss_denominator(g, &spec, NULL, 15, &count));
  assert_float_equal(count, 15, 0);
  arena_destroy(arena);
}

/* One pass over rows first … first+n-1 of the logits and targets; adds to gradient and loss. */
static void microbatch(const double *logits, const int64_t *targets, int first, int n, double scale, double *gradient,
                       double *loss) {
  Arena *arena = arena_create();
  ValueId output, accumulators[MAX_GROUPS];
  size_t unreached;
  CaseGraph run = {.graph = with_prediction(arena, F64, (Shape){2, {n, 3}}, &output)};
  LossSpec spec = spec_of(LOSS_AUTO, output, I64, (Shape){1, {n}});
  graph_value(run.graph, output)->batch = batch_along(0);
  ASSERT_OK(loss_append(run.graph, &spec));
  ASSERT_OK(autodiff_append(run.graph, &unreached));
  assert_int_equal(autodiff_gradients(run.graph, output, accumulators), 1);
  ASSERT_OK(case_extend(&run));
  memcpy(run.tensor[output].data, logits + 3 * first, sizeof(double) * 3 * (size_t)n);
  memcpy(run.tensor[run.graph->target].data, targets + first, sizeof *targets * (size_t)n);
  *(double *)run.tensor[run.graph->loss_scale].data = scale;
  ASSERT_OK(case_run(&run, &backend_reference, 1, 0, (NodeId)run.graph->n_nodes));
  for (int i = 0; i < 3 * n; i++)
    gradient[3 * first + i] += ((double *)run.tensor[accumulators[0]].data)[i];
  *loss += *(double *)run.tensor[run.graph->loss_sum].data * scale;
  case_release(&run);
  arena_destroy(arena);
}

static void uneven_microbatches_add_up(void **state) {
  (void)state;
  const int64_t targets[6] = {0, -100, -100, 2, 1, -100};
  double logits[18], whole[18] = {0}, parts[18] = {0}, whole_loss = 0, parts_loss = 0, expected = 0;
  for (int i = 0; i < 18; i++)
    logits[i] = sin(i * 1.7) * 2;
  for (int i = 0; i < 6; i++)
    if (targets[i] >= 0)
      expected -= log(exp(logits[3 * i + targets[i]]) /
                      (exp(logits[3 * i]) + exp(logits[3 * i + 1]) + exp(logits[3 * i + 2]))) /
                  3;
  microbatch(logits, targets, 0, 6, 1.0 / 3, whole, &whole_loss);
  microbatch(logits, targets, 0, 3, 1.0 / 3, parts, &parts_loss); /* one target counts */
  microbatch(logits, targets, 3, 3, 1.0 / 3, parts, &parts_loss); /* two do */
  assert_float_equal(whole_loss, expected, 1e-14);
  assert_float_equal(parts_loss, expected, 1e-14);
  for (int i = 0; i < 18; i++) {
    double p = exp(logits[i]) / (exp(logits[i / 3 * 3]) + exp(logits[i / 3 * 3 + 1]) + exp(logits[i / 3 * 3 + 2]));
    double slope = targets[i / 3] < 0 ? 0 : (p - (i % 3 == targets[i / 3])) / 3;
    assert_float_equal(whole[i], slope, 1e-14);
    assert_float_equal(parts[i], whole[i], 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names_are_found),
      cmocka_unit_test(auto_picks_by_the_target),
      cmocka_unit_test(classes_do_not_come_first),
      cmocka_unit_test(what_does_not_fit_is_refused),
      cmocka_unit_test(the_batch_axis_holds_no_classes),
      cmocka_unit_test(denominators_count_what_counts),
      cmocka_unit_test(uneven_microbatches_add_up),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
