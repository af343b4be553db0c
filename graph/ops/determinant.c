/* Products along an axis and determinants, whose gradients hold where factors are 0. */
#include "graph/ops/rule.h"

static Status infer_cumprod(Graph *g, Node *n) {
  int axis;
  TRY(rule_axis(n, "axis", rule_in(g, n, 0)->shape.rank, &axis));
  return rule_same(g, n);
}

static Status infer_cumprod_grad(Graph *g, Node *n) {
  TRY(rule_float(g, n, 0));
  TRY(rule_one_type(g, n));
  if (!shape_equal(rule_in(g, n, 0)->shape, rule_in(g, n, 1)->shape))
    return fail(E_SHAPE, "shapes differ: %s, %s", SHAPE_STR(rule_in(g, n, 0)->shape),
                SHAPE_STR(rule_in(g, n, 1)->shape));
  return infer_cumprod(g, n);
}

static Status gradient_cumprod(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit_like(g, n, OP_CumProdGrad, (ValueId[]){d_out[0], n->in[0]}, 2, NULL, &d_in[0]);
}

/* X [..., N, N] -> [...] */
static Status infer_det(Graph *g, Node *n) {
  Shape x = rule_in(g, n, 0)->shape;
  TRY(rule_float(g, n, 0));
  if (x.rank < 2 || x.dim[x.rank - 1] != x.dim[x.rank - 2])
    return fail(E_SHAPE, "X %s holds no square matrices", SHAPE_STR(x));
  x.rank -= 2;
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, x);
  return OK;
}

/* dY [...], X [..., N, N] -> dX */
static Status infer_det_grad(Graph *g, Node *n) {
  Shape dy = rule_in(g, n, 0)->shape, x = rule_in(g, n, 1)->shape;
  TRY(rule_float(g, n, 0));
  TRY(rule_one_type(g, n));
  if (x.rank != dy.rank + 2 || x.dim[x.rank - 1] != x.dim[x.rank - 2] || !shape_equal(dy, shape_of(dy.rank, x.dim)))
    return fail(E_SHAPE, "dY %s is not of determinants of X %s", SHAPE_STR(dy), SHAPE_STR(x));
  rule_set(g, n, 0, rule_in(g, n, 1)->dtype, x);
  return OK;
}

static Status gradient_det(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit2(g, OP_DetGrad, d_out[0], n->in[0], &d_in[0]);
}

/* Elimination of every matrix, and for its gradient as many solutions as there are columns. */
static Cost cost_det(const Graph *g, const Node *n) {
  const Value *x = rule_in(g, n, n->n_in - 1);
  double order = (double)x->shape.dim[x->shape.rank - 1], elements = (double)shape_elements(x->shape);
  double bytes = 8 + (double)graph_value_bytes(g, n->in[n->n_in - 1]) * n->n_in;
  return (Cost){.flops = elements * order * (n->op == OP_Det ? 2.0 / 3 : 8.0 / 3), .bytes = bytes};
}

ENTRY(CumProd, 1, 1, 1, 1, 0, infer_cumprod, gradient_cumprod, NULL, batch_line)
ENTRY(CumProdGrad, 2, 2, 1, 1, 0, infer_cumprod_grad, NULL, NULL, NULL)
ENTRY(Det, 1, 1, 1, 1, 0, infer_det, gradient_det, cost_det, batch_trilu)
ENTRY(DetGrad, 2, 2, 1, 1, 0, infer_det_grad, NULL, cost_det, NULL)
