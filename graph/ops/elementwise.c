/* Elementwise operators with NumPy broadcasting. A rule may give a cotangent of the broadcast shape: autodiff sums
 * it down. */
#include "graph/ops/rule.h"

static Status broadcast_shape(Graph *g, Node *n, Shape *shape) {
  *shape = rule_in(g, n, 0)->shape;
  for (int i = 1; i < n->n_in; i++)
    for (int j = 0; j < i; j++) { /* pairs fit exactly when all do */
      Shape pair;
      if (!shape_broadcast(rule_in(g, n, j)->shape, rule_in(g, n, i)->shape, &pair))
        return fail(E_SHAPE, "shapes do not broadcast: '%s' %s, '%s' %s", rule_in(g, n, j)->name,
                    SHAPE_STR(rule_in(g, n, j)->shape), rule_in(g, n, i)->name, SHAPE_STR(rule_in(g, n, i)->shape));
      shape_broadcast(*shape, pair, shape);
    }
  return OK;
}

Status infer_binary(Graph *g, Node *n) {
  Shape shape;
  TRY(rule_one_type(g, n));
  TRY(broadcast_shape(g, n, &shape));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, shape);
  return OK;
}

static Status infer_pow(Graph *g, Node *n) {
  Shape shape;
  TRY(broadcast_shape(g, n, &shape));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, shape);
  return OK;
}

static Status infer_compare(Graph *g, Node *n) {
  Shape shape;
  TRY(rule_one_type(g, n));
  TRY(broadcast_shape(g, n, &shape));
  rule_set(g, n, 0, BOOL, shape);
  return OK;
}

static Status infer_logic(Graph *g, Node *n) {
  if (rule_in(g, n, 0)->dtype != BOOL)
    return fail(E_SHAPE, "input '%s' is %s, not bool", rule_in(g, n, 0)->name, dtype_name(rule_in(g, n, 0)->dtype));
  return infer_compare(g, n);
}

static Status infer_where(Graph *g, Node *n) {
  Shape shape;
  if (rule_in(g, n, 0)->dtype != BOOL)
    return fail(E_SHAPE, "condition '%s' is %s, not bool", rule_in(g, n, 0)->name, dtype_name(rule_in(g, n, 0)->dtype));
  if (rule_in(g, n, 1)->dtype != rule_in(g, n, 2)->dtype)
    return fail(E_SHAPE, "types differ: %s, %s", dtype_name(rule_in(g, n, 1)->dtype),
                dtype_name(rule_in(g, n, 2)->dtype));
  TRY(broadcast_shape(g, n, &shape));
  rule_set(g, n, 0, rule_in(g, n, 1)->dtype, shape);
  return OK;
}

Status infer_float_unary(Graph *g, Node *n) {
  TRY(rule_float(g, n, 0));
  return rule_same(g, n);
}

/* Both inputs have one shape: a cotangent and what the forward kept. */
static Status infer_float_pair(Graph *g, Node *n) {
  TRY(rule_float(g, n, 0));
  TRY(rule_one_type(g, n));
  if (!shape_equal(rule_in(g, n, 0)->shape, rule_in(g, n, 1)->shape))
    return fail(E_SHAPE, "shapes differ: %s, %s", SHAPE_STR(rule_in(g, n, 0)->shape),
                SHAPE_STR(rule_in(g, n, 1)->shape));
  return rule_same(g, n);
}

/* dY, A and B of one shape; two cotangents. */
static Status infer_swiglu_grad(Graph *g, Node *n) {
  TRY(infer_float_pair(g, n));
  if (!shape_equal(rule_in(g, n, 2)->shape, rule_in(g, n, 0)->shape))
    return fail(E_SHAPE, "shapes differ: %s, %s", SHAPE_STR(rule_in(g, n, 0)->shape),
                SHAPE_STR(rule_in(g, n, 2)->shape));
  rule_set(g, n, 1, rule_in(g, n, 0)->dtype, rule_in(g, n, 0)->shape);
  return OK;
}

static Status gradient_add(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  for (int i = 0; i < 2; i++)
    if (rule_wants(g, n, i))
      d_in[i] = d_out[0];
  return OK;
}

static Status gradient_sub(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  if (rule_wants(g, n, 0))
    d_in[0] = d_out[0];
  return rule_wants(g, n, 1) ? emit1(g, OP_Neg, d_out[0], &d_in[1]) : OK;
}

static Status gradient_mul(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  if (rule_wants(g, n, 0))
    TRY(emit2(g, OP_Mul, d_out[0], n->in[1], &d_in[0]));
  return rule_wants(g, n, 1) ? emit2(g, OP_Mul, d_out[0], n->in[0], &d_in[1]) : OK;
}

static Status gradient_div(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  if (rule_wants(g, n, 0))
    TRY(emit2(g, OP_Div, d_out[0], n->in[1], &d_in[0]));
  if (rule_wants(g, n, 1)) { /* dB = -dY Y / B */
    ValueId t;
    TRY(emit2(g, OP_Mul, d_out[0], n->out[0], &t));
    TRY(emit2(g, OP_Div, t, n->in[1], &t));
    TRY(emit1(g, OP_Neg, t, &d_in[1]));
  }
  return OK;
}

/* Whether the value is a sum (or mean) of powers of what has a sign, as below the root of a norm. Views and what bounds
 * it from below may lie between. */
static bool is_sum_of_powers(const Graph *g, ValueId id) {
  double exponent;
  for (int steps = 0; steps < 8; steps++) {
    const Value *v = graph_value(g, id);
    if (v->producer == NO_NODE)
      return false;
    const Node *n = graph_node(g, v->producer);
    switch (n->op) {
    case OP_Reshape:
    case OP_Transpose:
    case OP_Cast:
    case OP_Expand:
    case OP_Relu:
    case OP_ReduceSum:
    case OP_ReduceMean:
    case OP_AveragePool:
      id = n->in[0];
      break;
    case OP_Max: /* with a bound */
      id = graph_value(g, n->in[0])->producer == NO_NODE ? n->in[1] : n->in[0];
      break;
    case OP_Where: /* a clip: bound or value */
      id = graph_value(g, n->in[1])->producer == NO_NODE ? n->in[2] : n->in[1];
      break;
    case OP_Mul:
      return n->in[0] == n->in[1];
    case OP_Pow:
      return rule_scalar(g, n->in[1], &exponent) && exponent > 1;
    default:
      return false;
    }
  }
  return false;
}

/* The cotangent below a root at 0: a norm has the subgradient 0 there. */
static Status emit_root(Graph *g, ValueId root, ValueId d, ValueId *out) {
  ValueId zero, is_zero;
  TRY(emit_scalar(g, d, 0, &zero));
  TRY(emit2(g, OP_Equal, root, zero, &is_zero));
  return emit_where(g, is_zero, zero, d, out);
}

/* A^exponent where the exponent is one number; A itself for 1. */
static Status emit_power(Graph *g, ValueId a, double exponent, ValueId *out) {
  ValueId scalar;
  if (exponent == 1) {
    *out = a;
    return OK;
  }
  if (exponent == 2)
    return emit2(g, OP_Mul, a, a, out);
  TRY(emit_scalar(g, a, exponent, &scalar));
  return emit2(g, OP_Pow, a, scalar, out);
}

/* dA = dY B A^(B-1), 0 where B is 0 */
static Status gradient_base(Graph *g, const Node *n, ValueId dY, ValueId *dA) {
  ValueId A = n->in[0], B, t, one, zero, flat;
  double exponent;
  if (rule_scalar(g, n->in[1], &exponent) && exponent != 0) {
    TRY(emit_power(g, A, exponent - 1, &t));
    TRY(emit_scale(g, t, exponent, &t));
    if (exponent > 0 && exponent < 1 && is_sum_of_powers(g, A))
      TRY(emit_root(g, A, t, &t));
    return emit2(g, OP_Mul, dY, t, dA);
  }
  TRY(emit_cast(g, n->in[1], rule_in(g, n, 0)->dtype, &B));
  TRY(emit_scalar(g, A, 1, &one));
  TRY(emit_scalar(g, A, 0, &zero));
  TRY(emit2(g, OP_Sub, B, one, &t));
  TRY(emit2(g, OP_Pow, A, t, &t));
  TRY(emit2(g, OP_Mul, B, t, &t));
  TRY(emit2(g, OP_Equal, B, zero, &flat));
  TRY(emit_where(g, flat, zero, t, &t));
  return emit2(g, OP_Mul, dY, t, dA);
}

/* dB = dY Y log A, 0 where A is 0 and Y is not infinite, as torch.pow */
static Status gradient_exponent(Graph *g, const Node *n, ValueId dY, ValueId *dB) {
  ValueId A = n->in[0], B, zero, is_zero, is_finite, t;
  TRY(emit_cast(g, n->in[1], rule_in(g, n, 0)->dtype, &B));
  TRY(emit_scalar(g, A, 0, &zero));
  TRY(emit2(g, OP_Equal, A, zero, &is_zero));
  TRY(emit2(g, OP_GreaterOrEqual, B, zero, &is_finite));
  TRY(emit2(g, OP_And, is_zero, is_finite, &is_zero));
  TRY(emit1(g, OP_Log, A, &t));
  TRY(emit2(g, OP_Mul, n->out[0], t, &t));
  TRY(emit_where(g, is_zero, zero, t, &t));
  TRY(emit2(g, OP_Mul, dY, t, &t));
  return emit_cast(g, t, rule_in(g, n, 1)->dtype, dB);
}

static Status gradient_pow(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  if (rule_wants(g, n, 0))
    TRY(gradient_base(g, n, d_out[0], &d_in[0]));
  return rule_wants(g, n, 1) ? gradient_exponent(g, n, d_out[0], &d_in[1]) : OK;
}

/* Y = A - Q B with a whole quotient Q: dA = dY, dB = -dY Q */
static Status gradient_mod(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId t;
  if (rule_wants(g, n, 0))
    d_in[0] = d_out[0];
  if (!rule_wants(g, n, 1))
    return OK;
  TRY(emit2(g, OP_Sub, n->out[0], n->in[0], &t));
  TRY(emit2(g, OP_Div, t, n->in[1], &t));
  return emit2(g, OP_Mul, d_out[0], t, &d_in[1]);
}

/* The larger (smaller) side takes all, a tie goes by halves, as torch.maximum. */
static Status extremum_share(Graph *g, const Node *n, OpKind wins, int i, ValueId d_out, ValueId *d_in) {
  ValueId win, tie, zero, share;
  TRY(emit_scalar(g, d_out, 0, &zero));
  TRY(emit2(g, wins, n->in[i], n->in[1 - i], &win));
  TRY(emit2(g, OP_Equal, n->in[0], n->in[1], &tie));
  TRY(emit_scale(g, d_out, 0.5, &share));
  TRY(emit_where(g, tie, share, zero, &share));
  return emit_where(g, win, d_out, share, d_in);
}

static Status gradient_max(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  OpKind wins = n->op == OP_Max ? OP_Greater : OP_Less;
  for (int i = 0; i < 2; i++)
    if (rule_wants(g, n, i))
      TRY(extremum_share(g, n, wins, i, d_out[0], &d_in[i]));
  return OK;
}

static Status gradient_where(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId zero;
  TRY(emit_scalar(g, d_out[0], 0, &zero));
  if (rule_wants(g, n, 1))
    TRY(emit_where(g, n->in[0], d_out[0], zero, &d_in[1]));
  if (rule_wants(g, n, 2))
    TRY(emit_where(g, n->in[0], zero, d_out[0], &d_in[2]));
  return OK;
}

static Status gradient_neg(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  (void)n;
  return emit1(g, OP_Neg, d_out[0], &d_in[0]);
}

static Status gradient_abs(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId zero, positive, negative, minus, t;
  TRY(emit_scalar(g, d_out[0], 0, &zero));
  TRY(emit2(g, OP_Greater, n->in[0], zero, &positive));
  TRY(emit2(g, OP_Less, n->in[0], zero, &negative));
  TRY(emit1(g, OP_Neg, d_out[0], &minus));
  TRY(emit_where(g, negative, minus, zero, &t));
  return emit_where(g, positive, d_out[0], t, &d_in[0]);
}

static Status gradient_sqrt(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId t; /* dX = dY / 2 / Y */
  TRY(emit_scale(g, d_out[0], 0.5, &t));
  TRY(emit2(g, OP_Div, t, n->out[0], &d_in[0]));
  return is_sum_of_powers(g, n->in[0]) ? emit_root(g, n->out[0], d_in[0], &d_in[0]) : OK;
}

static Status gradient_exp(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit2(g, OP_Mul, d_out[0], n->out[0], &d_in[0]);
}

static Status gradient_log(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit2(g, OP_Div, d_out[0], n->in[0], &d_in[0]);
}

static Status gradient_erf(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId t; /* dX = dY 2/sqrt(pi) exp(-X²) */
  TRY(emit2(g, OP_Mul, n->in[0], n->in[0], &t));
  TRY(emit1(g, OP_Neg, t, &t));
  TRY(emit1(g, OP_Exp, t, &t));
  TRY(emit_scale(g, t, 1.1283791670955126, &t));
  return emit2(g, OP_Mul, d_out[0], t, &d_in[0]);
}

static Status gradient_sin(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId t;
  TRY(emit1(g, OP_Cos, n->in[0], &t));
  return emit2(g, OP_Mul, d_out[0], t, &d_in[0]);
}

static Status gradient_cos(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId t;
  TRY(emit1(g, OP_Sin, n->in[0], &t));
  TRY(emit2(g, OP_Mul, d_out[0], t, &t));
  return emit1(g, OP_Neg, t, &d_in[0]);
}

static Status gradient_atan(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId one, t; /* dX = dY / (1 + X²) */
  TRY(emit_scalar(g, n->in[0], 1, &one));
  TRY(emit2(g, OP_Mul, n->in[0], n->in[0], &t));
  TRY(emit2(g, OP_Add, one, t, &t));
  return emit2(g, OP_Div, d_out[0], t, &d_in[0]);
}

static Status gradient_reciprocal(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId t; /* dX = -dY Y² */
  TRY(emit2(g, OP_Mul, n->out[0], n->out[0], &t));
  TRY(emit2(g, OP_Mul, d_out[0], t, &t));
  return emit1(g, OP_Neg, t, &d_in[0]);
}

static Status gradient_tanh(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit2(g, OP_TanhGrad, d_out[0], n->out[0], &d_in[0]);
}

static Status gradient_sigmoid(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit2(g, OP_SigmoidGrad, d_out[0], n->out[0], &d_in[0]);
}

static Status gradient_relu(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit2(g, OP_ReluGrad, d_out[0], n->out[0], &d_in[0]);
}

/* Where the slope is positive Y has X's sign, and X need not be kept. */
static Status gradient_leaky_relu(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId sign = node_float(n, "alpha", 0.01) > 0 ? n->out[0] : n->in[0];
  return emit_like(g, n, OP_LeakyReluGrad, (ValueId[]){d_out[0], sign}, 2, NULL, &d_in[0]);
}

static Status gradient_gelu(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit_like(g, n, OP_GeluGrad, (ValueId[]){d_out[0], n->in[0]}, 2, NULL, &d_in[0]);
}

static Status gradient_swish(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit_like(g, n, OP_SwishGrad, (ValueId[]){d_out[0], n->in[0]}, 2, NULL, &d_in[0]);
}

static Status gradient_swiglu(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId in[] = {d_out[0], n->in[0], n->in[1]};
  NodeId id;
  TRY(graph_add_node(g, OP_SwiGLUGrad, n->name, in, 3, n->attrs, n->n_attrs, NULL, 2, &id));
  for (int i = 0; i < 2; i++)
    if (rule_wants(g, n, i))
      d_in[i] = graph_node(g, id)->out[i];
  return OK;
}

static Status gradient_clip(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit_like(g, n, OP_ClipGrad, (ValueId[]){d_out[0], n->in[0]}, 2, NULL, &d_in[0]);
}

static Status infer_cast(Graph *g, Node *n) {
  int64_t to = node_int(n, "to", DTYPE_NONE);
  if (to <= DTYPE_NONE || to >= DTYPE_COUNT)
    return fail(E_UNSUPPORTED, "type %lld is not known", (long long)to);
  rule_set(g, n, 0, (DType)to, rule_in(g, n, 0)->shape);
  return OK;
}

static Status gradient_cast(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit_cast(g, d_out[0], rule_in(g, n, 0)->dtype, &d_in[0]);
}

Cost cost_function(const Graph *g, const Node *n) {
  Cost cost = {0, 0};
  for (int i = 0; i < n->n_in; i++)
    cost.bytes += (double)graph_value_bytes(g, n->in[i]);
  for (int i = 0; i < n->n_out; i++)
    cost.bytes += (double)graph_value_bytes(g, n->out[i]);
  cost.flops = FUNCTION_FLOPS * (double)shape_elements(rule_out(g, n, 0)->shape);
  return cost;
}

ENTRY(Add, 2, 2, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE | OP_LINEAR, infer_binary, gradient_add, NULL, batch_sum)
ENTRY(Sub, 2, 2, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE | OP_LINEAR, infer_binary, gradient_sub, NULL, batch_sum)
ENTRY(Mul, 2, 2, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE | OP_BILINEAR | OP_SCALES, infer_binary, gradient_mul, NULL,
      batch_scale)
ENTRY(Div, 2, 2, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE | OP_DIVIDES, infer_binary, gradient_div, NULL, batch_elementwise)
ENTRY(Pow, 2, 2, 1, 1, OP_ELEMENTWISE, infer_pow, gradient_pow, cost_function, batch_elementwise)
ENTRY(Max, 2, 2, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_binary, gradient_max, NULL, batch_elementwise)
ENTRY(Min, 2, 2, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_binary, gradient_max, NULL, batch_elementwise)
ENTRY(Mod, 2, 2, 1, 1, OP_ELEMENTWISE | OP_DIVIDES, infer_binary, gradient_mod, NULL, batch_elementwise)
ENTRY(Equal, 2, 2, 1, 1, OP_ELEMENTWISE, infer_compare, NULL, NULL, batch_elementwise)
ENTRY(Greater, 2, 2, 1, 1, OP_ELEMENTWISE, infer_compare, NULL, NULL, batch_elementwise)
ENTRY(GreaterOrEqual, 2, 2, 1, 1, OP_ELEMENTWISE, infer_compare, NULL, NULL, batch_elementwise)
ENTRY(Less, 2, 2, 1, 1, OP_ELEMENTWISE, infer_compare, NULL, NULL, batch_elementwise)
ENTRY(LessOrEqual, 2, 2, 1, 1, OP_ELEMENTWISE, infer_compare, NULL, NULL, batch_elementwise)
ENTRY(And, 2, 2, 1, 1, OP_ELEMENTWISE, infer_logic, NULL, NULL, batch_elementwise)
ENTRY(Or, 2, 2, 1, 1, OP_ELEMENTWISE, infer_logic, NULL, NULL, batch_elementwise)
ENTRY(Not, 1, 1, 1, 1, OP_ELEMENTWISE, infer_logic, NULL, NULL, batch_elementwise)
ENTRY(Where, 3, 3, 1, 1, OP_ELEMENTWISE | OP_ANY_TYPE, infer_where, gradient_where, NULL, batch_elementwise)
ENTRY(Neg, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE | OP_LINEAR, rule_same, gradient_neg, NULL, batch_elementwise)
ENTRY(Abs, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, rule_same, gradient_abs, NULL, batch_elementwise)
ENTRY(Sqrt, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_unary, gradient_sqrt, NULL, batch_elementwise)
ENTRY(Exp, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_unary, gradient_exp, cost_function, batch_elementwise)
ENTRY(Log, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_unary, gradient_log, cost_function, batch_elementwise)
ENTRY(Erf, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_unary, gradient_erf, cost_function, batch_elementwise)
ENTRY(Sin, 1, 1, 1, 1, OP_ELEMENTWISE, infer_float_unary, gradient_sin, cost_function, batch_elementwise)
ENTRY(Cos, 1, 1, 1, 1, OP_ELEMENTWISE, infer_float_unary, gradient_cos, cost_function, batch_elementwise)
ENTRY(Atan, 1, 1, 1, 1, OP_ELEMENTWISE, infer_float_unary, gradient_atan, cost_function, batch_elementwise)
ENTRY(Reciprocal, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_unary, gradient_reciprocal, NULL,
      batch_elementwise)
ENTRY(Tanh, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_unary, gradient_tanh, cost_function,
      batch_elementwise)
ENTRY(Sigmoid, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_unary, gradient_sigmoid, cost_function,
      batch_elementwise)
ENTRY(Relu, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_unary, gradient_relu, NULL, batch_elementwise)
ENTRY(LeakyRelu, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_unary, gradient_leaky_relu, NULL,
      batch_elementwise)
ENTRY(Gelu, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_unary, gradient_gelu, cost_function,
      batch_elementwise)
ENTRY(Swish, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_unary, gradient_swish, cost_function,
      batch_elementwise)
ENTRY(SwiGLU, 2, 2, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_pair, gradient_swiglu, cost_function,
      batch_elementwise)
ENTRY(Clip, 1, 1, 1, 1, OP_ELEMENTWISE | OP_IN_PLACE, infer_float_unary, gradient_clip, NULL, batch_elementwise)
ENTRY(Cast, 1, 1, 1, 1, OP_ELEMENTWISE | OP_LINEAR | OP_ANY_TYPE, infer_cast, gradient_cast, NULL, batch_cast)
ENTRY(TanhGrad, 2, 2, 1, 1, OP_IN_PLACE, infer_float_pair, NULL, NULL, NULL)
ENTRY(SigmoidGrad, 2, 2, 1, 1, OP_IN_PLACE, infer_float_pair, NULL, NULL, NULL)
ENTRY(ReluGrad, 2, 2, 1, 1, OP_IN_PLACE, infer_float_pair, NULL, NULL, NULL)
ENTRY(LeakyReluGrad, 2, 2, 1, 1, OP_IN_PLACE, infer_float_pair, NULL, NULL, NULL)
ENTRY(GeluGrad, 2, 2, 1, 1, OP_IN_PLACE, infer_float_pair, NULL, cost_function, NULL)
ENTRY(SwishGrad, 2, 2, 1, 1, OP_IN_PLACE, infer_float_pair, NULL, cost_function, NULL)
ENTRY(SwiGLUGrad, 3, 3, 2, 2, OP_IN_PLACE, infer_swiglu_grad, NULL, cost_function, NULL)
ENTRY(ClipGrad, 2, 2, 1, 1, OP_IN_PLACE, infer_float_pair, NULL, NULL, NULL)
