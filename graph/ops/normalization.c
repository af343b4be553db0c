/* Softmax and the normalisations over the trailing axes. */
#include "graph/ops/rule.h"

static Status infer_softmax(Graph *g, Node *n) {
  int axis;
  TRY(rule_float(g, n, 0));
  TRY(rule_axis(n, "axis", rule_in(g, n, 0)->shape.rank, &axis));
  return rule_same(g, n);
}

static Status gradient_softmax(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  OpKind op = n->op == OP_Softmax ? OP_SoftmaxGrad : OP_LogSoftmaxGrad;
  return emit_like(g, n, op, (ValueId[]){d_out[0], n->out[0]}, 2, NULL, &d_in[0]);
}

/* The normalised part [axis …] of X and X's shape with ones there. */
static Status norm_shapes(const Graph *g, const Node *n, int x, Shape *tail, Shape *stats) {
  Shape shape = rule_in(g, n, x)->shape;
  int axis;
  TRY(rule_float(g, n, x));
  TRY(rule_axis(n, "axis", shape.rank, &axis));
  *tail = shape_of(shape.rank - axis, shape.dim + axis);
  *stats = shape;
  for (int i = axis; i < shape.rank; i++)
    stats->dim[i] = 1;
  return OK;
}

static Status infer_norm(Graph *g, Node *n) {
  Shape tail, stats;
  DType dtype = rule_in(g, n, 0)->dtype;
  TRY(norm_shapes(g, n, 0, &tail, &stats));
  TRY(rule_one_type(g, n));
  for (int i = 1; i < n->n_in; i++)
    if (rule_has_in(n, i) && !shape_equal(rule_in(g, n, i)->shape, tail))
      return fail(E_SHAPE, "'%s' is %s, the normalised axes of %s are %s", rule_in(g, n, i)->name,
                  SHAPE_STR(rule_in(g, n, i)->shape), SHAPE_STR(rule_in(g, n, 0)->shape), SHAPE_STR(tail));
  rule_set(g, n, 0, dtype, rule_in(g, n, 0)->shape);
  for (int i = 1; i < n->n_out; i++)
    rule_set(g, n, i, dtype, stats);
  return OK;
}

static Status sum_leading(Graph *g, ValueId d, int axis, ValueId *out) {
  int64_t axes[MAX_RANK];
  for (int i = 0; i < axis; i++)
    axes[i] = i;
  *out = d;
  return axis ? emit_reduce_sum(g, d, axes, axis, false, out) : OK;
}

static Status gradient_layer_norm(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId dY = d_out[0], X = n->in[0], mean = n->out[1], inv = n->out[2];
  TRY(rule_first_only(g, n, d_out));
  Attr axis = attr_int("axis", node_int(n, "axis", 0));
  if (rule_wants(g, n, 0))
    TRY(graph_emit(g, OP_LayerNormalizationGradInput, (ValueId[]){dY, X, n->in[1], mean, inv}, 5, &axis, 1, &d_in[0]));
  if (rule_wants(g, n, 1))
    TRY(graph_emit(g, OP_LayerNormalizationGradScale, (ValueId[]){dY, X, mean, inv}, 4, &axis, 1, &d_in[1]));
  return rule_wants(g, n, 2) ? sum_leading(g, dY, (int)axis.i, &d_in[2]) : OK;
}

static Status gradient_rms_norm(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId dY = d_out[0], X = n->in[0], inv = n->out[1];
  TRY(rule_first_only(g, n, d_out));
  Attr axis = attr_int("axis", node_int(n, "axis", 0));
  if (rule_wants(g, n, 0))
    TRY(graph_emit(g, OP_RMSNormalizationGradInput, (ValueId[]){dY, X, n->in[1], inv}, 4, &axis, 1, &d_in[0]));
  return rule_wants(g, n, 1)
             ? graph_emit(g, OP_RMSNormalizationGradScale, (ValueId[]){dY, X, inv}, 3, &axis, 1, &d_in[1])
             : OK;
}

static Status check_pair(const Graph *g, const Node *n) {
  TRY(rule_one_type(g, n));
  if (!shape_equal(rule_in(g, n, 0)->shape, rule_in(g, n, 1)->shape))
    return fail(E_SHAPE, "cotangent is %s, X %s", SHAPE_STR(rule_in(g, n, 0)->shape),
                SHAPE_STR(rule_in(g, n, 1)->shape));
  return OK;
}

/* What is added to it, behind the others, is as large. */
static Status infer_norm_grad_input(Graph *g, Node *n) {
  int more = op_def(n->op)->min_in;
  TRY(check_pair(g, n));
  if (rule_has_in(n, more) && !shape_equal(rule_in(g, n, more)->shape, rule_in(g, n, 0)->shape))
    return fail(E_SHAPE, "'%s' is %s, the cotangent %s", rule_in(g, n, more)->name,
                SHAPE_STR(rule_in(g, n, more)->shape), SHAPE_STR(rule_in(g, n, 0)->shape));
  return rule_same(g, n);
}

static Status infer_norm_grad_scale(Graph *g, Node *n) {
  Shape tail, stats;
  TRY(check_pair(g, n));
  TRY(norm_shapes(g, n, 1, &tail, &stats));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, tail);
  return OK;
}

static Status infer_softmax_grad(Graph *g, Node *n) {
  TRY(check_pair(g, n));
  return infer_softmax(g, n);
}

/* Operations for each element of the largest input. */
static Cost passes(const Graph *g, const Node *n, double flops_per_element) {
  Cost cost = {0, 0};
  double elements = 0;
  for (int i = 0; i < n->n_in; i++)
    if (rule_has_in(n, i)) {
      double count = (double)shape_elements(rule_in(g, n, i)->shape);
      cost.bytes += (double)graph_value_bytes(g, n->in[i]);
      elements = count > elements ? count : elements;
    }
  for (int i = 0; i < n->n_out; i++)
    if (n->out[i] != NO_VALUE)
      cost.bytes += (double)graph_value_bytes(g, n->out[i]);
  cost.flops = elements * flops_per_element;
  return cost;
}

static Cost cost_softmax(const Graph *g, const Node *n) {
  return passes(g, n, 20);
}

static Cost cost_norm(const Graph *g, const Node *n) {
  return passes(g, n, 8);
}

ENTRY(Softmax, 1, 1, 1, 1, OP_IN_PLACE, infer_softmax, gradient_softmax, cost_softmax, batch_line)
ENTRY(LogSoftmax, 1, 1, 1, 1, OP_IN_PLACE, infer_softmax, gradient_softmax, cost_softmax, batch_line)
ENTRY(SoftmaxGrad, 2, 2, 1, 1, OP_IN_PLACE, infer_softmax_grad, NULL, cost_norm, NULL)
ENTRY(LogSoftmaxGrad, 2, 2, 1, 1, OP_IN_PLACE, infer_softmax_grad, NULL, cost_softmax, NULL)
ENTRY(LayerNormalization, 2, 3, 3, 3, OP_SCALES, infer_norm, gradient_layer_norm, cost_norm, batch_rows)
ENTRY(LayerNormalizationGradInput, 5, 6, 1, 1, OP_IN_PLACE, infer_norm_grad_input, NULL, cost_norm, NULL)
ENTRY(LayerNormalizationGradScale, 4, 4, 1, 1, 0, infer_norm_grad_scale, NULL, cost_norm, NULL)
ENTRY(RMSNormalization, 2, 2, 2, 2, OP_SCALES, infer_norm, gradient_rms_norm, cost_norm, batch_rows)
ENTRY(RMSNormalizationGradInput, 4, 5, 1, 1, OP_IN_PLACE, infer_norm_grad_input, NULL, cost_norm, NULL)
ENTRY(RMSNormalizationGradScale, 3, 3, 1, 1, 0, infer_norm_grad_scale, NULL, cost_norm, NULL)
