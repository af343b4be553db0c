/* Losses (sums in float64, whose cotangent is 1 / the batch's denominator), accumulation, optimizer steps. */
#include <limits.h>

#include "graph/ops/rule.h"

static Status infer_cross_entropy(Graph *g, Node *n) {
  Shape logits = rule_in(g, n, 0)->shape, target = rule_in(g, n, 1)->shape, expected = {0};
  int axis;
  DType dtype = rule_in(g, n, 1)->dtype;
  TRY(rule_float(g, n, 0));
  TRY(rule_axis(n, "class_axis", logits.rank, &axis));
  for (int i = 0; i < logits.rank; i++)
    if (i != axis)
      expected.dim[expected.rank++] = logits.dim[i];
  if (!shape_equal(expected, target) || (dtype != I64 && dtype != I32))
    return fail(E_SHAPE, "logits %s with classes on axis %d need integer targets %s, have %s %s", SHAPE_STR(logits),
                axis, SHAPE_STR(expected), dtype_name(dtype), SHAPE_STR(target));
  rule_set(g, n, 0, F64, (Shape){0});
  rule_set(g, n, 1, rule_in(g, n, 0)->dtype, target);
  return OK;
}

static Status gradient_cross_entropy(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  TRY(rule_first_only(g, n, d_out));
  return emit_like(g, n, OP_CrossEntropyGrad, (ValueId[]){n->in[0], n->in[1], n->out[1], d_out[0]}, 4, NULL, &d_in[0]);
}

static Status infer_count_targets(Graph *g, Node *n) {
  DType dtype = rule_in(g, n, 0)->dtype;
  if (dtype != I64 && dtype != I32)
    return fail(E_SHAPE, "targets '%s' are %s, not int64 or int32", rule_in(g, n, 0)->name, dtype_name(dtype));
  rule_set(g, n, 0, F64, (Shape){0});
  return OK;
}

static Status infer_paired_loss(Graph *g, Node *n) {
  TRY(rule_float(g, n, 0));
  TRY(rule_one_type(g, n));
  if (!shape_equal(rule_in(g, n, 0)->shape, rule_in(g, n, 1)->shape))
    return fail(E_SHAPE, "prediction %s, target %s", SHAPE_STR(rule_in(g, n, 0)->shape),
                SHAPE_STR(rule_in(g, n, 1)->shape));
  rule_set(g, n, 0, F64, (Shape){0});
  return OK;
}

static Status gradient_paired_loss(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  OpKind op = n->op == OP_MeanSquaredError ? OP_MeanSquaredErrorGrad : OP_BinaryCrossEntropyGrad;
  return graph_emit(g, op, (ValueId[]){n->in[0], n->in[1], d_out[0]}, 3, NULL, 0, &d_in[0]);
}

static Status check_like_first(const Graph *g, const Node *n, int i) {
  if (rule_in(g, n, i)->dtype != rule_in(g, n, 0)->dtype ||
      !shape_equal(rule_in(g, n, i)->shape, rule_in(g, n, 0)->shape))
    return fail(E_SHAPE, "'%s' is %s %s, '%s' is %s %s", rule_in(g, n, 0)->name, dtype_name(rule_in(g, n, 0)->dtype),
                SHAPE_STR(rule_in(g, n, 0)->shape), rule_in(g, n, i)->name, dtype_name(rule_in(g, n, i)->dtype),
                SHAPE_STR(rule_in(g, n, i)->shape));
  return OK;
}

static Status infer_accumulate(Graph *g, Node *n) {
  return check_like_first(g, n, 1);
}

/* The accumulators of one parameter. */
static Status infer_squared_norm(Graph *g, Node *n) {
  TRY(rule_float(g, n, 0));
  for (int i = 1; i < n->n_in; i++)
    TRY(check_like_first(g, n, i));
  rule_set(g, n, 0, F64, (Shape){0});
  return OK;
}

/* Parameter, scalars, states, at least one accumulator. */
static Status infer_update(Graph *g, Node *n) {
  int64_t states = node_int(n, "states", 0);
  if (states < 0 || states > n->n_in - 3)
    return fail(E_SHAPE, "%lld states and an accumulator in %d inputs", (long long)states, n->n_in);
  for (int i = 2; i < n->n_in; i++)
    TRY(check_like_first(g, n, i));
  return OK;
}

static Cost cost_loss(const Graph *g, const Node *n) {
  return (Cost){.flops = 20.0 * (double)shape_elements(rule_in(g, n, 0)->shape),
                .bytes = 2.0 * (double)graph_value_bytes(g, n->in[0])};
}

/* Reads everything, writes the parameter (or accumulator) and its states. */
static Cost cost_update(const Graph *g, const Node *n) {
  Cost cost = {0, 0};
  for (int i = 0; i < n->n_in; i++)
    cost.bytes += (double)graph_value_bytes(g, n->in[i]);
  cost.bytes += (double)graph_value_bytes(g, n->in[0]) * (1 + (double)node_int(n, "states", 0));
  cost.flops = 12.0 * (double)shape_elements(rule_in(g, n, 0)->shape);
  return cost;
}

ENTRY(CrossEntropy, 2, 2, 2, 2, 0, infer_cross_entropy, gradient_cross_entropy, cost_loss, batch_cross_entropy)
ENTRY(CrossEntropyGrad, 4, 4, 1, 1, OP_IN_PLACE, rule_same, NULL, cost_loss, NULL)
ENTRY(CountTargets, 1, 1, 1, 1, 0, infer_count_targets, NULL, NULL, NULL)
ENTRY(MeanSquaredError, 2, 2, 1, 1, 0, infer_paired_loss, gradient_paired_loss, cost_loss, NULL)
ENTRY(MeanSquaredErrorGrad, 3, 3, 1, 1, OP_IN_PLACE, rule_same, NULL, cost_loss, NULL)
ENTRY(BinaryCrossEntropy, 2, 2, 1, 1, 0, infer_paired_loss, gradient_paired_loss, cost_loss, NULL)
ENTRY(BinaryCrossEntropyGrad, 3, 3, 1, 1, OP_IN_PLACE, rule_same, NULL, cost_loss, NULL)
ENTRY(Accumulate, 2, 2, 0, 0, OP_MUTATES_FIRST, infer_accumulate, NULL, cost_update, NULL)
ENTRY(SquaredNorm, 1, MAX_GROUPS, 1, 1, 0, infer_squared_norm, NULL, NULL, NULL)
ENTRY(SgdUpdate, 3, INT_MAX, 0, 0, OP_UPDATE, infer_update, NULL, cost_update, NULL)
ENTRY(AdamUpdate, 5, INT_MAX, 0, 0, OP_UPDATE, infer_update, NULL, cost_update, NULL)
