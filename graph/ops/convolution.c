/* Convolution of one to three spatial axes, and its gradients. All three are linear in both inputs, and the gradients
 * of each are the other two: convolve(X, W) = Y, spread(Y, W) = X and correlate(Y, X) = W contract the same products.
 */
#include "graph/convolution.h"

#include <string.h>

#include "graph/ops/rule.h"

enum { MOST_STEP = INT32_MAX }; /* of strides, dilations, pads and kernels: so that no sum of them overflows */

/* An attribute with `n` entries, each least … MOST_STEP; all `absent` where it is not there. */
static Status check_entries(const Node *n, const char *name, int count, int64_t least) {
  int given;
  const int64_t *list = node_ints(n, name, &given);
  if (given != 0 && given != count)
    return fail(E_SHAPE, "%s has %d entries, not %d", name, given, count);
  for (int i = 0; i < given; i++)
    if (list[i] < least || list[i] > MOST_STEP)
      return fail(E_SHAPE, "%s has %lld", name, (long long)list[i]);
  return OK;
}

/* How far an axis reaches with its pads, less the reach of the kernel's first to last tap; negative: it does not fit.
 */
static int64_t room_for(const Node *n, int axis, int axes, int64_t x, int64_t k) {
  int given;
  const int64_t *dilations = node_ints(n, "dilations", &given), *pads = node_ints(n, "pads", &given);
  int64_t room = x - (dilations ? dilations[axis] : 1) * (k - 1) - 1;
  return pads ? room + pads[axis] + pads[axis + axes] : room;
}

/* Y's shape from X's and W's. */
static Status convolved(const Node *n, Shape x, Shape w, Shape *y) {
  int axes = x.rank - 2, given;
  int64_t groups = node_int(n, "group", 1);
  if (axes < 1 || axes > CONVOLUTION_AXES)
    return fail(E_UNSUPPORTED, "%d spatial axes (X %s), not one to three", axes, SHAPE_STR(x));
  if (w.rank != x.rank || groups < 1 || w.dim[0] % groups || x.dim[1] % groups || w.dim[1] != x.dim[1] / groups)
    return fail(E_SHAPE, "no weight of %lld groups for X: X %s, W %s", (long long)groups, SHAPE_STR(x), SHAPE_STR(w));
  TRY(check_entries(n, "strides", axes, 1));
  TRY(check_entries(n, "dilations", axes, 1));
  TRY(check_entries(n, "pads", 2 * axes, 0));
  const int64_t *strides = node_ints(n, "strides", &given);
  *y = (Shape){x.rank, {x.dim[0], w.dim[0]}};
  for (int i = 0; i < axes; i++) {
    int64_t k = w.dim[i + 2];
    if (k < 1 || k > MOST_STEP)
      return fail(E_SHAPE, "the kernel's axis %d has %lld taps: W %s", i, (long long)k, SHAPE_STR(w));
    int64_t room = room_for(n, i, axes, x.dim[i + 2], k);
    if (room < 0)
      return fail(E_SHAPE, "the kernel is larger than the padded input along axis %d: X %s, W %s", i + 2, SHAPE_STR(x),
                  SHAPE_STR(w));
    y->dim[i + 2] = room / (strides ? strides[i] : 1) + 1;
  }
  return OK;
}

static Status check_types(const Graph *g, const Node *n) {
  TRY(rule_one_type(g, n));
  return rule_float(g, n, 0);
}

static Status infer_conv(Graph *g, Node *n) {
  Shape y;
  TRY(check_types(g, n));
  TRY(convolved(n, rule_in(g, n, 0)->shape, rule_in(g, n, 1)->shape, &y));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, y);
  return OK;
}

/* Output 0 has the shape of the attribute, and the convolution of x and w is as dY. */
static Status infer_gradient(Graph *g, Node *n, Shape x, Shape w, Shape result) {
  Shape dy = rule_in(g, n, 0)->shape, y;
  TRY(check_types(g, n));
  TRY(convolved(n, x, w, &y));
  if (!shape_equal(y, dy))
    return fail(E_SHAPE, "a convolution of X %s by W %s is %s, not as dY %s", SHAPE_STR(x), SHAPE_STR(w), SHAPE_STR(y),
                SHAPE_STR(dy));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, result);
  return OK;
}

static Status infer_grad_input(Graph *g, Node *n) {
  Shape x;
  TRY(rule_shape(g, n, "shape", &x));
  return infer_gradient(g, n, x, rule_in(g, n, 1)->shape, x);
}

static Status infer_grad_weight(Graph *g, Node *n) {
  Shape w;
  TRY(rule_shape(g, n, "shape", &w));
  return infer_gradient(g, n, rule_in(g, n, 1)->shape, w, w);
}

/* `op` with the node's strides, dilations, pads and group; of a gradient, the shape that it makes. */
static Status emit_conv(Graph *g, const Node *n, OpKind op, ValueId a, ValueId b, ValueId shaped, ValueId *out) {
  Attr attrs[5];
  int count = 0;
  for (int i = 0; i < n->n_attrs && count < 4; i++)
    if (strcmp(n->attrs[i].name, "shape") != 0)
      attrs[count++] = n->attrs[i];
  if (shaped != NO_VALUE) {
    const Shape *shape = &graph_value(g, shaped)->shape;
    attrs[count++] = attr_ints("shape", shape->dim, shape->rank);
  }
  return graph_emit(g, op, (ValueId[]){a, b}, 2, attrs, count, out);
}

/* Y = convolve(X, W) */
static Status gradient_conv(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId X = n->in[0], W = n->in[1], dY = d_out[0];
  if (rule_wants(g, n, 0))
    TRY(emit_conv(g, n, OP_ConvGradInput, dY, W, X, &d_in[0]));
  return rule_wants(g, n, 1) ? emit_conv(g, n, OP_ConvGradWeight, dY, X, W, &d_in[1]) : OK;
}

/* X = spread(Y, W) */
static Status gradient_grad_input(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId Y = n->in[0], W = n->in[1], dX = d_out[0];
  if (rule_wants(g, n, 0))
    TRY(emit_conv(g, n, OP_Conv, dX, W, NO_VALUE, &d_in[0]));
  return rule_wants(g, n, 1) ? emit_conv(g, n, OP_ConvGradWeight, Y, dX, W, &d_in[1]) : OK;
}

/* W = correlate(Y, X) */
static Status gradient_grad_weight(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId Y = n->in[0], X = n->in[1], dW = d_out[0];
  if (rule_wants(g, n, 0))
    TRY(emit_conv(g, n, OP_Conv, X, dW, NO_VALUE, &d_in[0]));
  return rule_wants(g, n, 1) ? emit_conv(g, n, OP_ConvGradInput, Y, dW, X, &d_in[1]) : OK;
}

static Cost cost_conv(const Graph *g, const Node *n) {
  Convolution c = convolution_in(g, n);
  double outputs = (double)c.samples * (double)c.groups * (double)c.filters * (double)c.y_plane;
  return (Cost){.flops = 2 * outputs * (double)c.channels * (double)c.k_plane,
                .bytes = (double)graph_value_bytes(g, n->in[0]) + (double)graph_value_bytes(g, n->in[1]) +
                         (double)graph_value_bytes(g, n->out[0])};
}

/* Sample by sample, with one weight for all. */
static void batch_conv(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  (void)g, (void)n;
  bool apart = in[0].kind == BATCH_AXIS && in[0].axis == 0 && in[1].kind == BATCH_NONE;
  *out = apart ? in[0] : (Batch){.kind = BATCH_MIXED};
}

ENTRY(Conv, 2, 2, 1, 1, OP_BILINEAR | OP_PRODUCT | OP_CONVOLVES, infer_conv, gradient_conv, cost_conv, batch_conv)
ENTRY(ConvGradInput, 2, 2, 1, 1, OP_BILINEAR | OP_PRODUCT | OP_CONVOLVES, infer_grad_input, gradient_grad_input,
      cost_conv, batch_conv)
ENTRY(ConvGradWeight, 2, 2, 1, 1, OP_BILINEAR | OP_PRODUCT | OP_CONVOLVES, infer_grad_weight, gradient_grad_weight,
      cost_conv, NULL)
