/* The model's own loss: which outputs are means over samples, and whose divisor becomes the whole batch's. */
#include <stdio.h>

#include "graph/autodiff.h"
#include "graph/batch.h"
#include "graph/loss.h"
#include "graph/op.h"
#include "tests/test.h"

enum { SAMPLES = 4, CLASSES = 3 };

typedef struct {
  Arena *arena;
  Graph *g;
  ValueId logits, labels, loss_sum, count;
} Model;

static ValueId add(Model *m, OpKind op, const char *name, const ValueId *in, int n_in, const Attr *attrs, int n_attrs,
                   int n_out) {
  NodeId node;
  ASSERT_OK(graph_add_node(m->g, op, name, in, n_in, attrs, n_attrs, NULL, n_out, &node));
  return graph_node(m->g, node)->out[0];
}

static Model model(void) {
  Model m = {.arena = arena_create()};
  ValueId x, w;
  int64_t wide[] = {SAMPLES, 2}, weight[] = {2, CLASSES}, labels[] = {SAMPLES};
  ASSERT_OK(graph_create(m.arena, "m", &m.g));
  ASSERT_OK(graph_add_value(m.g, "x", F32, shape_of(2, wide), ROLE_INPUT, &x));
  ASSERT_OK(graph_add_value(m.g, "labels", I64, shape_of(1, labels), ROLE_INPUT, &m.labels));
  graph_value(m.g, x)->batch = graph_value(m.g, m.labels)->batch = batch_along(0);
  ASSERT_OK(graph_add_value(m.g, "w", F32, shape_of(2, weight), ROLE_PARAMETER, &w));
  m.logits = add(&m, OP_MatMul, "head", (ValueId[]){x, w}, 2, NULL, 0, 1);
  Attr attrs[] = {attr_int("class_axis", 1), attr_int("ignore_index", -100)};
  m.loss_sum = add(&m, OP_CrossEntropy, "sum", (ValueId[]){m.logits, m.labels}, 2, attrs, 2, 2);
  m.count = add(&m, OP_CountTargets, "count", &m.labels, 1, attrs + 1, 1, 1);
  return m;
}

static Status append(Model *m, ValueId output, int microbatches) {
  LossSpec spec = {.kind = LOSS_MODEL, .output = output, .microbatches = microbatches};
  return loss_append(m->g, &spec);
}

static ValueId mean_entropy(Model *m) {
  Attr to = attr_int("to", F32);
  ValueId ratio = add(m, OP_Div, "ratio", (ValueId[]){m->loss_sum, m->count}, 2, NULL, 0, 1);
  return add(m, OP_Cast, "cast", &ratio, 1, &to, 1, 1);
}

static ValueId mean_square(Model *m, OpKind reduction, const char *name) {
  Attr axes = attr_ints("axes", (int64_t[]){0, 1}, 2), keep = attr_int("keepdims", 0);
  ValueId square = add(m, OP_Mul, "square", (ValueId[]){m->logits, m->logits}, 2, NULL, 0, 1);
  return add(m, reduction, name, &square, 1, (Attr[]){axes, keep}, 2, 1);
}

static void test_ratio_divides_by_the_whole_batch(void **state) {
  (void)state;
  Model m = model();
  ValueId sum =
      add(&m, OP_Add, "total", (ValueId[]){mean_entropy(&m), mean_square(&m, OP_ReduceMean, "mean")}, 2, NULL, 0, 1);
  ASSERT_OK(append(&m, sum, 3));
  assert_int_equal(m.g->n_denominators, 1);
  assert_int_equal(m.g->denominators[0].count, m.count);
  const Value *total = graph_value(m.g, m.g->denominators[0].total);
  assert_int_equal(total->role, ROLE_STEP);
  assert_int_equal(graph_value(m.g, m.g->loss_sum)->dtype, F64);
  assert_int_equal(graph_value(m.g, m.g->loss_sum)->shape.rank, 0);
  assert_int_equal(m.g->target, NO_VALUE);
  size_t unreached;
  ASSERT_OK(autodiff_append(m.g, &unreached));
  assert_int_equal(unreached, 0);
  double denominator;
  LossSpec spec = {.kind = LOSS_MODEL, .microbatches = 3};
  ASSERT_OK(loss_denominator(m.g, &spec, NULL, 0, &denominator));
  assert_true(denominator == 3);
  arena_destroy(m.arena);
}

static void test_one_microbatch_takes_any_number(void **state) {
  (void)state;
  Model m = model();
  ASSERT_OK(append(&m, mean_square(&m, OP_ReduceSum, "sum of squares"), 1));
  assert_int_equal(m.g->n_denominators, 0);
  arena_destroy(m.arena);
}

static void test_a_sum_over_samples_is_refused_for_several(void **state) {
  (void)state;
  Model m = model();
  ASSERT_FAILS(E_UNSUPPORTED,
               "node 'sum of squares' (ReduceSum): sums over the samples: the loss of a batch cannot be told from its "
               "microbatches; use --microbatches 1",
               append(&m, mean_square(&m, OP_ReduceSum, "sum of squares"), 2));
  arena_destroy(m.arena);
}

static void test_a_curve_of_a_mean_is_refused_for_several(void **state) {
  (void)state;
  Model m = model();
  ValueId mean = mean_square(&m, OP_ReduceMean, "mean"), root = add(&m, OP_Sqrt, "root", &mean, 1, NULL, 0, 1);
  ASSERT_FAILS(E_UNSUPPORTED,
               "node 'root' (Sqrt): is no mean over the samples: the loss of a batch cannot be told from its "
               "microbatches; use --microbatches 1",
               append(&m, root, 2));
  arena_destroy(m.arena);
}

static void test_labels_lie_where_their_scores_do(void **state) {
  (void)state;
  Model m = model();
  Batch *labels = &graph_value(m.g, m.labels)->batch;
  labels->outer = 2; /* [L·N] beside scores of [N·L, classes] */
  graph_value(m.g, m.logits)->batch.inner = 2;
  ASSERT_FAILS(E_UNSUPPORTED,
               "node 'sum' (CrossEntropy): has the samples of its scores and of its labels in different places: the "
               "loss of a batch cannot be told from its microbatches; use --microbatches 1",
               append(&m, mean_entropy(&m), 2));
  arena_destroy(m.arena);
}

static void test_a_loss_is_one_number(void **state) {
  (void)state;
  Model m = model();
  char message[200];
  snprintf(message, sizeof message, "output '%s' is float32 [4,3]: the model's own loss is one float number",
           graph_value(m.g, m.logits)->name);
  ASSERT_FAILS(E_SHAPE, message, append(&m, m.logits, 1));
  arena_destroy(m.arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ratio_divides_by_the_whole_batch),
      cmocka_unit_test(test_one_microbatch_takes_any_number),
      cmocka_unit_test(test_a_sum_over_samples_is_refused_for_several),
      cmocka_unit_test(test_a_curve_of_a_mean_is_refused_for_several),
      cmocka_unit_test(test_labels_lie_where_their_scores_do),
      cmocka_unit_test(test_a_loss_is_one_number),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
