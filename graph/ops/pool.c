/* Operators that slide a window: pooling, its gradients. Invariant: every sample and every channel is alone. */
#include "graph/batch.h"
#include "graph/ops/rule.h"
#include "graph/window.h"

static Status infer_max_pool(Graph *g, Node *n) {
  Shape x = rule_in(g, n, 0)->shape;
  Window w;
  TRY(window_of(n, x, &w));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, window_shape(&w, x));
  rule_set(g, n, 1, I64, window_shape(&w, x));
  return OK;
}

static Status gradient_max_pool(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit_like(g, n, OP_MaxPoolGrad, (ValueId[]){d_out[0], n->in[0]}, 2, NULL, &d_in[0]);
}

/* The cotangent has the shape of what was pooled of x. */
static Status infer_pool_gradient(Graph *g, Node *n, Shape x) {
  Window w;
  TRY(rule_float(g, n, 0));
  TRY(window_of(n, x, &w));
  Shape pooled = window_shape(&w, x);
  if (!shape_equal(pooled, rule_in(g, n, 0)->shape))
    return fail(E_SHAPE, "%s is pooled to %s, the cotangent is %s", SHAPE_STR(x), SHAPE_STR(pooled),
                SHAPE_STR(rule_in(g, n, 0)->shape));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, x);
  return OK;
}

static Status infer_max_pool_grad(Graph *g, Node *n) {
  TRY(rule_one_type(g, n));
  return infer_pool_gradient(g, n, rule_in(g, n, 1)->shape);
}

static Status infer_average_pool(Graph *g, Node *n) {
  Shape x = rule_in(g, n, 0)->shape;
  Window w;
  TRY(rule_float(g, n, 0));
  TRY(window_of(n, x, &w));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, window_shape(&w, x));
  return OK;
}

static Status gradient_average_pool(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  Attr shape = attr_ints("shape", rule_in(g, n, 0)->shape.dim, rule_in(g, n, 0)->shape.rank);
  return emit_like(g, n, OP_AveragePoolGrad, d_out, 1, &shape, &d_in[0]);
}

static Status infer_average_pool_grad(Graph *g, Node *n) {
  Shape x;
  TRY(rule_shape(g, n, "shape", &x));
  return infer_pool_gradient(g, n, x);
}

static Status infer_max_unpool(Graph *g, Node *n) {
  Shape x = rule_in(g, n, 0)->shape, y;
  TRY(rule_shape(g, n, "shape", &y));
  if (rule_in(g, n, 1)->dtype != I64 || !shape_equal(x, rule_in(g, n, 1)->shape))
    return fail(E_SHAPE, "indices %s %s of %s", dtype_name(rule_in(g, n, 1)->dtype), SHAPE_STR(rule_in(g, n, 1)->shape),
                SHAPE_STR(x));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, y);
  return OK;
}

/* Each element gets what came of its place, also where another one stands there, as in PyTorch. */
static Status gradient_max_unpool(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  int64_t all = shape_elements(rule_out(g, n, 0)->shape);
  Attr axis = attr_int("axis", 0);
  ValueId line;
  TRY(emit_reshape(g, d_out[0], shape_of(1, &all), &line));
  return graph_emit(g, OP_Gather, (ValueId[]){line, n->in[1]}, 2, &axis, 1, &d_in[0]);
}

/* An operation for every element of every window. */
static Cost cost_windows(const Graph *g, const Node *n) {
  Cost cost = {0, 0};
  int axes;
  const int64_t *kernel = node_ints(n, "kernel_shape", &axes);
  bool forward = n->op == OP_MaxPool || n->op == OP_AveragePool;
  cost.flops = (double)shape_elements((forward ? rule_out(g, n, 0) : rule_in(g, n, 0))->shape);
  for (int i = 0; i < axes; i++)
    cost.flops *= (double)kernel[i];
  for (int i = 0; i < n->n_in; i++)
    cost.bytes += (double)graph_value_bytes(g, n->in[i]);
  for (int i = 0; i < n->n_out; i++)
    if (n->out[i] != NO_VALUE)
      cost.bytes += (double)graph_value_bytes(g, n->out[i]);
  return cost;
}

/* Samples and channels stay where they are. Indices count the elements of all samples, one behind the other. */
static void batch_pool(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  Shape x = rule_in(g, n, 0)->shape;
  out[0].kind = BATCH_MIXED;
  if (in->axis < 2 && !in->step && !in->address)
    out[0] = *in;
  if (n->n_out < 2)
    return;
  out[1].kind = BATCH_MIXED;
  if (out[0].kind == BATCH_AXIS && in->axis == 0 && in->outer == 1) {
    x.dim[0] = in->inner;
    out[1] = *in;
    out[1].uniform = false;
    out[1].step = shape_elements(x);
  }
}

/* Indices that count on from sample to sample by what a sample has here are each sample's own. */
static void batch_unpool(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  Shape y = rule_out(g, n, 0)->shape;
  const Batch *x = &in[0], *at = &in[1];
  out->kind = BATCH_MIXED;
  if (x->kind != BATCH_AXIS || at->kind != BATCH_AXIS || x->axis || at->axis || x->outer != 1 || at->outer != 1 ||
      x->inner != at->inner || x->step || x->address || at->address)
    return;
  y.dim[0] = x->inner;
  if (at->step == shape_elements(y) && y.rank && rule_in(g, n, 0)->shape.dim[0] == rule_out(g, n, 0)->shape.dim[0]) {
    *out = *x;
    out->uniform = false;
  }
}

ENTRY(MaxPool, 1, 1, 1, 2, 0, infer_max_pool, gradient_max_pool, cost_windows, batch_pool)
ENTRY(MaxPoolGrad, 2, 2, 1, 1, 0, infer_max_pool_grad, NULL, cost_windows, NULL)
ENTRY(MaxUnpool, 2, 2, 1, 1, 0, infer_max_unpool, gradient_max_unpool, NULL, batch_unpool)
ENTRY(AveragePool, 1, 1, 1, 1, OP_LINEAR, infer_average_pool, gradient_average_pool, cost_windows, batch_pool)
ENTRY(AveragePoolGrad, 1, 1, 1, 1, OP_LINEAR, infer_average_pool_grad, NULL, cost_windows, NULL)
