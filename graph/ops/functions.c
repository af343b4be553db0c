/* Functions of one element that nobody computes from others without losing digits, steps, and integers as bits. */
#include "graph/ops/rule.h"

/* (1 - X) (1 + X), which keeps the digits of 1 - X² near 1; of the other sign where `over`. */
static Status emit_one_minus_square(Graph *g, ValueId x, bool over, ValueId *out) {
  ValueId one, below, above;
  TRY(emit_scalar(g, x, 1, &one));
  TRY(over ? emit2(g, OP_Sub, x, one, &below) : emit2(g, OP_Sub, one, x, &below));
  TRY(emit2(g, OP_Add, one, x, &above));
  return emit2(g, OP_Mul, below, above, out);
}

/* dX = dY (1 + Y²) */
static Status gradient_tan(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId one, t;
  TRY(emit_scalar(g, n->out[0], 1, &one));
  TRY(emit2(g, OP_Mul, n->out[0], n->out[0], &t));
  TRY(emit2(g, OP_Add, one, t, &t));
  return emit2(g, OP_Mul, d_out[0], t, &d_in[0]);
}

/* dX = dY / sqrt(1 - X²); acosh: dY / sqrt(X² - 1) */
static Status gradient_over_root(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId t;
  TRY(emit_one_minus_square(g, n->in[0], n->op == OP_Acosh, &t));
  TRY(emit1(g, OP_Sqrt, t, &t));
  TRY(emit2(g, OP_Div, d_out[0], t, &d_in[0]));
  return n->op == OP_Acos ? emit1(g, OP_Neg, d_in[0], &d_in[0]) : OK;
}

/* dX = dY / sqrt(1 + X²) */
static Status gradient_asinh(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId one, t;
  TRY(emit_scalar(g, n->in[0], 1, &one));
  TRY(emit2(g, OP_Mul, n->in[0], n->in[0], &t));
  TRY(emit2(g, OP_Add, one, t, &t));
  TRY(emit1(g, OP_Sqrt, t, &t));
  return emit2(g, OP_Div, d_out[0], t, &d_in[0]);
}

/* dX = dY / (1 - X²) */
static Status gradient_atanh(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId t;
  TRY(emit_one_minus_square(g, n->in[0], false, &t));
  return emit2(g, OP_Div, d_out[0], t, &d_in[0]);
}

static Status gradient_sinh(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId t;
  TRY(emit1(g, n->op == OP_Sinh ? OP_Cosh : OP_Sinh, n->in[0], &t));
  return emit2(g, OP_Mul, d_out[0], t, &d_in[0]);
}

/* A step is flat wherever it has a slope. Quantisation trains as if it did not round: `straight_through`. */
static Status gradient_step(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId zero;
  if (node_int(n, "straight_through", 0)) {
    d_in[0] = d_out[0];
    return OK;
  }
  TRY(emit_scalar(g, n->in[0], 0, &zero));
  return emit_expand(g, zero, rule_in(g, n, 0)->shape, &d_in[0]);
}

static Status check_integers(const Graph *g, const Node *n) {
  DType dtype = rule_in(g, n, 0)->dtype;
  if (dtype_is_float(dtype) || dtype == BOOL)
    return fail(E_SHAPE, "input '%s' is %s, not integers", rule_in(g, n, 0)->name, dtype_name(dtype));
  return OK;
}

static Status infer_bits(Graph *g, Node *n) {
  TRY(check_integers(g, n));
  return n->n_in == 2 ? infer_binary(g, n) : rule_same(g, n);
}

static Status infer_bit_cast(Graph *g, Node *n) {
  int64_t to = node_int(n, "to", DTYPE_NONE);
  DType from = rule_in(g, n, 0)->dtype;
  if (to <= DTYPE_NONE || to >= DTYPE_COUNT)
    return fail(E_UNSUPPORTED, "type %lld is not known", (long long)to);
  if (dtype_bytes((DType)to) != dtype_bytes(from))
    return fail(E_SHAPE, "%s has %zu bytes, %s has %zu", dtype_name(from), dtype_bytes(from), dtype_name((DType)to),
                dtype_bytes((DType)to));
  rule_set(g, n, 0, (DType)to, rule_in(g, n, 0)->shape);
  return OK;
}

#define FUNCTION(name, gradient)                                                                                       \
  ENTRY(name, 1, 1, 1, 1, OP_ELEMENTWISE, infer_float_unary, gradient, cost_function, batch_elementwise)
FUNCTION(Tan, gradient_tan)
FUNCTION(Asin, gradient_over_root)
FUNCTION(Acos, gradient_over_root)
FUNCTION(Sinh, gradient_sinh)
FUNCTION(Cosh, gradient_sinh)
FUNCTION(Asinh, gradient_asinh)
FUNCTION(Acosh, gradient_over_root)
FUNCTION(Atanh, gradient_atanh)
#define STEP(name) ENTRY(name, 1, 1, 1, 1, OP_ELEMENTWISE, infer_float_unary, gradient_step, NULL, batch_elementwise)
STEP(Floor)
STEP(Ceil)
STEP(Round)
#define BITS(name, inputs)                                                                                             \
  ENTRY(name, inputs, inputs, 1, 1, OP_ELEMENTWISE | OP_ANY_TYPE, infer_bits, NULL, NULL, batch_elementwise)
BITS(BitwiseAnd, 2)
BITS(BitwiseOr, 2)
BITS(BitwiseXor, 2)
BITS(BitwiseNot, 1)
BITS(BitShift, 2)
ENTRY(BitCast, 1, 1, 1, 1, OP_ELEMENTWISE | OP_ANY_TYPE, infer_bit_cast, NULL, NULL, batch_elementwise)
