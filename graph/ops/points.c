/* Reading a tensor between its elements, at points that are data, and its gradients. */
#include "graph/ops/rule.h"

enum { MOST_AXES = 3 };

/* X [N,C,x…] and points [N,P,axes]: how many spatial axes. */
static Status check_points(const Graph *g, const Node *n, Shape x, int points_at, int *axes) {
  Shape points = rule_in(g, n, points_at)->shape;
  TRY(rule_one_type(g, n));
  TRY(rule_float(g, n, 0));
  *axes = x.rank - 2;
  if (*axes < 1 || *axes > MOST_AXES)
    return fail(E_UNSUPPORTED, "%d spatial axes (X %s), not one to three", *axes, SHAPE_STR(x));
  if (points.rank != 3 || points.dim[0] != x.dim[0] || points.dim[2] != *axes)
    return fail(E_SHAPE, "X %s, points %s", SHAPE_STR(x), SHAPE_STR(points));
  return OK;
}

static Shape read_shape(Shape x, Shape points) {
  return (Shape){3, {x.dim[0], x.dim[1], points.dim[1]}};
}

static Status infer_point_sample(Graph *g, Node *n) {
  Shape x = rule_in(g, n, 0)->shape;
  int axes;
  TRY(check_points(g, n, x, 1, &axes));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, read_shape(x, rule_in(g, n, 1)->shape));
  return OK;
}

/* dY is as Y of X and points. */
static Status check_cotangent(const Graph *g, const Node *n, Shape x, int points_at) {
  Shape y = read_shape(x, rule_in(g, n, points_at)->shape), dy = rule_in(g, n, 0)->shape;
  return shape_equal(y, dy) ? OK : fail(E_SHAPE, "cotangent is %s, expected %s", SHAPE_STR(dy), SHAPE_STR(y));
}

/* dY, points */
static Status infer_grad_input(Graph *g, Node *n) {
  Shape x;
  int axes;
  TRY(rule_shape(g, n, "shape", &x));
  TRY(check_points(g, n, x, 1, &axes));
  TRY(check_cotangent(g, n, x, 1));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, x);
  return OK;
}

/* dY, X, points */
static Status infer_grad_points(Graph *g, Node *n) {
  Shape x = rule_in(g, n, 1)->shape;
  int axes;
  TRY(check_points(g, n, x, 2, &axes));
  TRY(check_cotangent(g, n, x, 2));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, rule_in(g, n, 2)->shape);
  return OK;
}

static Status gradient_point_sample(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  Shape x = rule_in(g, n, 0)->shape;
  Attr shape = attr_ints("shape", x.dim, x.rank);
  if (rule_wants(g, n, 0))
    TRY(graph_emit(g, OP_PointSampleGradInput, (ValueId[]){d_out[0], n->in[1]}, 2, &shape, 1, &d_in[0]));
  return rule_wants(g, n, 1)
             ? graph_emit(g, OP_PointSampleGradPoints, (ValueId[]){d_out[0], n->in[0], n->in[1]}, 3, NULL, 0, &d_in[1])
             : OK;
}

/* A point meets two elements along each axis, in every channel. */
static Cost cost_points(const Graph *g, const Node *n) {
  bool to_points = n->op == OP_PointSampleGradPoints;
  Shape points = rule_in(g, n, to_points ? 2 : 1)->shape;
  Shape y = n->op == OP_PointSample ? rule_out(g, n, 0)->shape : rule_in(g, n, 0)->shape;
  double corners = (double)(1 << points.dim[2]), reads = (double)shape_elements(y) * corners;
  Cost cost = {.flops = 2 * reads * (to_points ? (double)points.dim[2] + 1 : 1),
               .bytes = reads * (double)dtype_bytes(rule_in(g, n, 0)->dtype) + (double)graph_value_bytes(g, n->out[0])};
  for (int i = 0; i < n->n_in; i++)
    cost.bytes += (double)graph_value_bytes(g, n->in[i]);
  return cost;
}

/* Points of a sample lie in it. */
static void batch_point_sample(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  (void)g, (void)n;
  bool apart = in[0].kind == BATCH_AXIS && in[1].kind == BATCH_AXIS && in[0].axis == 0 && in[1].axis == 0 &&
               in[0].outer == in[1].outer && in[0].inner == in[1].inner;
  *out = apart ? in[0] : (Batch){.kind = BATCH_MIXED};
}

ENTRY(PointSample, 2, 2, 1, 1, 0, infer_point_sample, gradient_point_sample, cost_points, batch_point_sample)
ENTRY(PointSampleGradInput, 2, 2, 1, 1, 0, infer_grad_input, NULL, cost_points, NULL)
ENTRY(PointSampleGradPoints, 3, 3, 1, 1, 0, infer_grad_points, NULL, cost_points, NULL)
