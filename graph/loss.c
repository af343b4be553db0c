/* Losses as nodes. Invariant: loss_sum is a sum over elements that count, loss_scale its cotangent. */
#include "graph/loss.h"

#include <string.h>

#include "graph/batch.h"
#include "graph/loss_model.h"
#include "graph/op.h"

static const char *const names[LOSS_COUNT] = {
    [LOSS_AUTO] = "auto",   [LOSS_CROSS_ENTROPY] = "cross_entropy",
    [LOSS_MSE] = "mse",     [LOSS_BCE_WITH_LOGITS] = "bce_with_logits",
    [LOSS_MODEL] = "model",
};

LossKind loss_find(const char *name) {
  for (int i = 0; i < LOSS_COUNT; i++)
    if (strcmp(names[i], name) == 0)
      return (LossKind)i;
  return LOSS_COUNT;
}

const char *loss_name(LossKind kind) {
  return names[kind];
}

static bool lacks_axis(Shape target, Shape prediction, int axis) {
  Shape rest = {0};
  for (int i = 0; i < prediction.rank; i++)
    if (i != axis)
      rest.dim[rest.rank++] = prediction.dim[i];
  return shape_equal(rest, target);
}

/* The axis whose removal makes the prediction's shape the target's, never the batch's (which may be as long as there
 * are classes), and the first only where no other does; checks one that was given. */
static Status find_class_axis(Shape prediction, const Batch *batch, Shape target, int *class_axis) {
  int batch_axis = batch->kind == BATCH_AXIS ? batch->axis : -1;
  int found = -1, fits = 0;
  if (*class_axis >= prediction.rank)
    return fail(E_USAGE, "class axis %d is outside the prediction %s", *class_axis, SHAPE_STR(prediction));
  if (*class_axis >= 0 && *class_axis == batch_axis)
    return fail(E_USAGE, "class axis %d is the batch axis of the prediction %s", *class_axis, SHAPE_STR(prediction));
  if (*class_axis >= 0 && !lacks_axis(target, prediction, *class_axis))
    return fail(E_SHAPE, "target %s is not the prediction %s without its axis %d", SHAPE_STR(target),
                SHAPE_STR(prediction), *class_axis);
  if (*class_axis >= 0)
    return OK;
  for (int axis = prediction.rank - 1; axis >= 0; axis--)
    if (axis != batch_axis && (axis || !fits) && lacks_axis(target, prediction, axis)) {
      fits++;
      found = axis;
    }
  if (fits == 0)
    return fail(E_SHAPE, "target %s lacks no single axis of the prediction %s", SHAPE_STR(target),
                SHAPE_STR(prediction));
  if (fits > 1)
    return fail(E_SHAPE, "%d axes of the prediction %s could hold the classes of target %s: give --class-axis", fits,
                SHAPE_STR(prediction), SHAPE_STR(target));
  *class_axis = found;
  return OK;
}

/* Resolves kind and class axis; checks the target against the prediction. */
static Status resolve(const Value *prediction, LossSpec *spec) {
  bool integer = spec->target_dtype == I64 || spec->target_dtype == I32;
  if (spec->kind == LOSS_AUTO)
    spec->kind = integer ? LOSS_CROSS_ENTROPY : LOSS_MSE;
  if (!dtype_is_float(prediction->dtype))
    return fail(E_SHAPE, "output '%s' is %s: a loss needs a float type", prediction->name,
                dtype_name(prediction->dtype));
  if (spec->kind == LOSS_CROSS_ENTROPY) {
    if (!integer)
      return fail(E_SHAPE, "cross_entropy needs integer targets, has %s", dtype_name(spec->target_dtype));
    return find_class_axis(prediction->shape, &prediction->batch, spec->target_shape, &spec->class_axis);
  }
  if (spec->target_dtype != prediction->dtype)
    return fail(E_SHAPE, "%s needs %s targets, has %s", loss_name(spec->kind), dtype_name(prediction->dtype),
                dtype_name(spec->target_dtype));
  if (!shape_equal(prediction->shape, spec->target_shape))
    return fail(E_SHAPE, "prediction '%s' is %s, target %s", prediction->name, SHAPE_STR(prediction->shape),
                SHAPE_STR(spec->target_shape));
  return OK;
}

/* A sum over elements is the sum of the microbatches' where each sample of the prediction meets its own of the target.
 */
static Status look_at_samples(Graph *graph, LossSpec *spec) {
  const Value *prediction = graph_value(graph, spec->output);
  const Batch *batch = &prediction->batch;
  int classes = spec->kind == LOSS_CROSS_ENTROPY ? spec->class_axis : prediction->shape.rank;
  const char *text = NULL;
  if (batch->kind == BATCH_MIXED)
    text = arena_format(graph->arena, "samples meet in %s", batch->by);
  else if (batch->kind == BATCH_NONE)
    text = arena_format(graph->arena, "output '%s' does not depend on the samples", prediction->name);
  else if (batch->axis - (batch->axis > classes) != spec->target_batch_axis)
    text = arena_format(graph->arena, "the samples lie along axis %d of output '%s' and along axis %d of the target",
                        batch->axis, prediction->name, spec->target_batch_axis);
  else
    return OK;
  if (!text)
    return status_code();
  spec->coupled = text;
  return spec->microbatches > 1 ? loss_refuse(text) : OK;
}

Status loss_refuse(const char *coupled) {
  return fail(E_UNSUPPORTED, "%s: the loss of a batch cannot be told from its microbatches; use --microbatches 1",
              coupled);
}

Status loss_append(Graph *graph, LossSpec *spec) {
  spec->coupled = NULL;
  TRY(graph_add_value(graph, "loss_scale", F64, (Shape){0}, ROLE_STEP, &graph->loss_scale));
  if (spec->kind == LOSS_MODEL)
    return loss_append_model(graph, spec);
  TRY(resolve(graph_value(graph, spec->output), spec));
  TRY(graph_add_value(graph, "target", spec->target_dtype, spec->target_shape, ROLE_INPUT, &graph->target));
  if (spec->target_shape.rank > spec->target_batch_axis)
    graph_value(graph, graph->target)->batch = batch_along(spec->target_batch_axis);
  TRY(look_at_samples(graph, spec));
  ValueId in[] = {spec->output, graph->target};
  NodeId node;
  if (spec->kind == LOSS_CROSS_ENTROPY) {
    Attr attrs[] = {attr_int("class_axis", spec->class_axis), attr_int("ignore_index", spec->ignore_index)};
    TRY(graph_add_node(graph, OP_CrossEntropy, "loss", in, 2, attrs, 2, (const char *[]){"loss_sum", NULL}, 2, &node));
  } else {
    OpKind op = spec->kind == LOSS_MSE ? OP_MeanSquaredError : OP_BinaryCrossEntropy;
    TRY(graph_add_node(graph, op, "loss", in, 2, NULL, 0, (const char *[]){"loss_sum"}, 1, &node));
  }
  graph->loss_sum = graph_node(graph, node)->out[0];
  return OK;
}

Status loss_denominator(const Graph *graph, const LossSpec *spec, const void *targets, size_t count, double *out) {
  if (spec->kind == LOSS_MODEL) {
    *out = spec->microbatches;
    return OK;
  }
  if (spec->kind != LOSS_CROSS_ENTROPY) {
    *out = (double)count;
    return OK;
  }
  int64_t classes = graph_value(graph, spec->output)->shape.dim[spec->class_axis];
  size_t counted = 0;
  for (size_t i = 0; i < count; i++) {
    int64_t t = spec->target_dtype == I64 ? ((const int64_t *)targets)[i] : ((const int32_t *)targets)[i];
    if (t == spec->ignore_index)
      continue;
    if (t < 0 || t >= classes)
      return fail(E_MODEL, "target %lld at position %zu is outside the %lld classes (0 to %lld)", (long long)t, i,
                  (long long)classes, (long long)classes - 1);
    counted++;
  }
  *out = (double)counted;
  return OK;
}
