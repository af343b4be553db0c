/* Operators that read between elements: one axis resampled by known weights. */
#include "graph/ops/rule.h"

/* Positions and weights of X along `axis`, [places, taps]. */
static Status check_taps(const Graph *g, const Node *n, Shape x, int64_t *places) {
  const Value *indices = rule_in(g, n, 1), *weights = rule_in(g, n, 2);
  int axis;
  TRY(rule_float(g, n, 0));
  TRY(rule_axis(n, "axis", x.rank, &axis));
  if (indices->dtype != I64 || weights->dtype != F64 || indices->shape.rank != 2 ||
      !shape_equal(indices->shape, weights->shape))
    return fail(E_SHAPE, "indices %s %s, weights %s %s", dtype_name(indices->dtype), SHAPE_STR(indices->shape),
                dtype_name(weights->dtype), SHAPE_STR(weights->shape));
  *places = indices->shape.dim[0];
  return OK;
}

static Status infer_resample(Graph *g, Node *n) {
  Shape x = rule_in(g, n, 0)->shape;
  int64_t places;
  TRY(check_taps(g, n, x, &places));
  x.dim[node_int(n, "axis", 0)] = places;
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, x);
  return OK;
}

static Status gradient_resample(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  Attr shape = attr_ints("shape", rule_in(g, n, 0)->shape.dim, rule_in(g, n, 0)->shape.rank);
  if (rule_wants(g, n, 2))
    return fail(E_UNSUPPORTED, "the loss depends on the weights '%s', which have no gradient", rule_in(g, n, 2)->name);
  return emit_like(g, n, OP_ResampleGrad, (ValueId[]){d_out[0], n->in[1], n->in[2]}, 3, &shape, &d_in[0]);
}

static Status infer_resample_grad(Graph *g, Node *n) {
  Shape x, y;
  int64_t places;
  TRY(rule_shape(g, n, "shape", &x));
  TRY(check_taps(g, n, x, &places));
  y = x;
  y.dim[node_int(n, "axis", 0)] = places;
  if (!shape_equal(y, rule_in(g, n, 0)->shape))
    return fail(E_SHAPE, "%s is resampled to %s, the cotangent is %s", SHAPE_STR(x), SHAPE_STR(y),
                SHAPE_STR(rule_in(g, n, 0)->shape));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, x);
  return OK;
}

/* A multiply-add for every tap. */
static Cost cost_taps(const Graph *g, const Node *n) {
  Cost cost = {0, 0};
  const Value *y = n->op == OP_Resample ? rule_out(g, n, 0) : rule_in(g, n, 0);
  cost.flops = 2 * (double)shape_elements(y->shape) * (double)rule_in(g, n, 1)->shape.dim[1];
  for (int i = 0; i < n->n_in; i++)
    cost.bytes += (double)graph_value_bytes(g, n->in[i]);
  cost.bytes += (double)graph_value_bytes(g, n->out[0]);
  return cost;
}

static void batch_resample(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  bool apart = in[0].kind == BATCH_AXIS && in[0].axis != node_int(n, "axis", 0) && !in[0].address;
  (void)g;
  out->kind = BATCH_MIXED;
  if (apart && in[1].kind == BATCH_NONE && in[2].kind == BATCH_NONE)
    *out = in[0];
}

ENTRY(Resample, 3, 3, 1, 1, 0, infer_resample, gradient_resample, cost_taps, batch_resample)
ENTRY(ResampleGrad, 3, 3, 1, 1, 0, infer_resample_grad, NULL, cost_taps, NULL)
