/* Elementwise operators. Invariant: types of two operands are equal already, as ONNX demands; the shape rules say
 * where they are not. */
#include <math.h>
#include <string.h>

#include "graph/op.h"
#include "onnx/lower/lower.h"

/* One operator of the graph with the same name, inputs and no attribute. */
static Status same(Op *op) {
  return op_emit(op, op_find(op->lowering->op), op->in, op->n_in, NULL, 0, &op->out[0], 1);
}

static Status relu(Op *op) {
  Term *x = op->in[0];
  return dtype_is_float(x->dtype) ? same(op) : op_with_number(op, OP_Max, x, 0, &op->out[0]);
}

static Status leaky_relu(Op *op) {
  Attr alpha = attr_float("alpha", op_float(op, "alpha", 0.01f));
  return op_emit(op, OP_LeakyRelu, op->in, 1, &alpha, 1, &op->out[0], 1);
}

static Status gelu(Op *op) {
  const char *mode;
  TRY(op_string(op, "approximate", "none", &mode));
  if (strcmp(mode, "none") != 0 && strcmp(mode, "tanh") != 0)
    return fail(E_UNSUPPORTED, "approximate is '%s'", mode);
  Attr approximate = attr_string("approximate", mode);
  return op_emit(op, OP_Gelu, op->in, 1, &approximate, 1, &op->out[0], 1);
}

static Status mod(Op *op) {
  Attr fmod = attr_int("fmod", op_int(op, "fmod", 0));
  return op_emit(op, OP_Mod, op->in, 2, &fmod, 1, &op->out[0], 1);
}

/* a xor b of booleans. */
static Status exclusive_or(Op *op, Term *a, Term *b, Term **out) {
  Term *either, *both;
  TRY(op_emit2(op, OP_Or, a, b, &either));
  TRY(op_emit2(op, OP_And, a, b, &both));
  TRY(op_emit1(op, OP_Not, both, &both));
  return op_emit2(op, OP_And, either, both, out);
}

static Status logical_xor(Op *op) {
  return exclusive_or(op, op->in[0], op->in[1], &op->out[0]);
}

static Status equal(Op *op) {
  if (op->in[0]->dtype != BOOL || op->in[1]->dtype != BOOL)
    return same(op);
  Term *differ;
  TRY(exclusive_or(op, op->in[0], op->in[1], &differ));
  return op_emit1(op, OP_Not, differ, &op->out[0]);
}

/* Sum, Max, Min, Mean of any number of inputs, from the left. */
static Status chain(Op *op, OpKind kind, Term **out) {
  *out = op->in[0];
  for (int i = 1; i < op->n_in; i++)
    TRY(op_emit2(op, kind, *out, op->in[i], out));
  return OK;
}

static Status max(Op *op) {
  return chain(op, OP_Max, &op->out[0]);
}

static Status min(Op *op) {
  return chain(op, OP_Min, &op->out[0]);
}

static Status sum(Op *op) {
  return chain(op, OP_Add, &op->out[0]);
}

static Status mean(Op *op) {
  Term *total;
  TRY(chain(op, OP_Add, &total));
  return op_with_number(op, OP_Div, total, op->n_in, &op->out[0]);
}

static Status where(Op *op) {
  return op_where(op, op->in[0], op->in[1], op->in[2], &op->out[0]);
}

/* Beyond `bound` the bound itself: at the bound the gradient passes, as in torch.clamp. */
static Status clamp(Op *op, Term *x, OpKind beyond, Term *bound, Term **out) {
  Term *outside;
  TRY(op_emit2(op, beyond, x, bound, &outside));
  return op_where(op, outside, bound, x, out);
}

/* A bound that is one known number, from an input or an attribute; one that is not there is none. */
static bool known_bound(const Op *op, int i, const char *attribute, double *bound) {
  if (op_has(op, i))
    return op_in(op, i)->shape.rank <= op->in[0]->shape.rank && term_number(op_in(op, i), bound);
  *bound = op_float(op, attribute, *bound);
  return true;
}

static Status clip(Op *op) {
  Term *x = op->in[0], *bound;
  double least = -INFINITY, most = INFINITY;
  if (dtype_is_float(x->dtype) && known_bound(op, 1, "min", &least) && known_bound(op, 2, "max", &most)) {
    Attr bounds[] = {attr_float("min", least), attr_float("max", most)};
    return op_emit(op, OP_Clip, &x, 1, bounds, 2, &op->out[0], 1);
  }
  if (op_has(op, 1))
    TRY(clamp(op, x, OP_Less, op_in(op, 1), &x));
  if (op_has(op, 2))
    TRY(clamp(op, x, OP_Greater, op_in(op, 2), &x));
  if (op_attribute(op, "min")) {
    TRY(op_scalar(op, x, op_float(op, "min", 0), &bound));
    TRY(clamp(op, x, OP_Less, bound, &x));
  }
  if (op_attribute(op, "max")) {
    TRY(op_scalar(op, x, op_float(op, "max", 0), &bound));
    TRY(clamp(op, x, OP_Greater, bound, &x));
  }
  op->out[0] = x;
  return OK;
}

static Status cast(Op *op) {
  int64_t to = op_int(op, "to", 0);
  DType dtype = to > 0 && to < 64 ? stored_from_onnx((int32_t)to) : DTYPE_NONE;
  if (dtype == DTYPE_NONE)
    return fail(E_UNSUPPORTED, "a cast to ONNX type %lld", (long long)to);
  return op_cast_as(op, op->in[0], dtype, &op->out[0]);
}

static Status cast_like(Op *op) {
  const Term *like = op->in[1];
  return op_cast_as(op, op->in[0], like->narrow ? like->narrow : like->dtype, &op->out[0]);
}

/* x > 0 ? x : negative */
static Status positive_or(Op *op, Term *x, Term *negative, Term **out) {
  Term *zero, *is_positive;
  TRY(op_scalar(op, x, 0, &zero));
  TRY(op_emit2(op, OP_Greater, x, zero, &is_positive));
  return op_where(op, is_positive, x, negative, out);
}

/* exp(min(x, 0) / alpha) - 1: never overflows where it is not used. At 0 the gradient is this one's, as in PyTorch. */
static Status exp_minus_one(Op *op, Term *x, double alpha, Term **out) {
  Term *zero;
  TRY(op_scalar(op, x, 0, &zero));
  TRY(clamp(op, x, OP_Greater, zero, &x));
  if (alpha != 1)
    TRY(op_with_number(op, OP_Div, x, alpha, &x));
  TRY(op_emit1(op, OP_Exp, x, &x));
  return op_with_number(op, OP_Sub, x, 1, out);
}

static Status elu(Op *op) {
  Term *t;
  double alpha = op_float(op, "alpha", 1);
  TRY(exp_minus_one(op, op->in[0], 1, &t));
  if (alpha != 1)
    TRY(op_with_number(op, OP_Mul, t, alpha, &t));
  return positive_or(op, op->in[0], t, &op->out[0]);
}

static Status celu(Op *op) {
  Term *t;
  double alpha = op_float(op, "alpha", 1);
  TRY(exp_minus_one(op, op->in[0], alpha, &t));
  TRY(op_with_number(op, OP_Mul, t, alpha, &t));
  return positive_or(op, op->in[0], t, &op->out[0]);
}

static Status selu(Op *op) {
  Term *t;
  double alpha = op_float(op, "alpha", 1.67326319217681884765625),
         gamma = op_float(op, "gamma", 1.05070102214813232421875);
  TRY(exp_minus_one(op, op->in[0], 1, &t));
  TRY(op_with_number(op, OP_Mul, t, alpha, &t));
  TRY(positive_or(op, op->in[0], t, &t));
  return op_with_number(op, OP_Mul, t, gamma, &op->out[0]);
}

/* max(x, 0) + log(1 + exp(-|x|)); at 0 the gradient of the first term is that of the whole: a half. */
static Status softplus_of(Op *op, Term *x, Term **out) {
  Term *larger, *t;
  TRY(op_with_number(op, OP_Max, x, 0, &larger));
  TRY(op_emit1(op, OP_Abs, x, &t));
  TRY(op_emit1(op, OP_Neg, t, &t));
  TRY(op_emit1(op, OP_Exp, t, &t));
  TRY(op_with_number(op, OP_Add, t, 1, &t));
  TRY(op_emit1(op, OP_Log, t, &t));
  return op_emit2(op, OP_Add, larger, t, out);
}

static Status softplus(Op *op) {
  return softplus_of(op, op->in[0], &op->out[0]);
}

static Status mish(Op *op) {
  Term *t;
  TRY(softplus_of(op, op->in[0], &t));
  TRY(op_emit1(op, OP_Tanh, t, &t));
  return op_emit2(op, OP_Mul, op->in[0], t, &op->out[0]);
}

static Status softsign(Op *op) {
  Term *t;
  TRY(op_emit1(op, OP_Abs, op->in[0], &t));
  TRY(op_with_number(op, OP_Add, t, 1, &t));
  return op_emit2(op, OP_Div, op->in[0], t, &op->out[0]);
}

/* max(0, min(1, alpha x + beta)) */
static Status hard_sigmoid_of(Op *op, double alpha, double beta, Term **out) {
  Term *x = op->in[0], *zero, *one;
  TRY(op_with_number(op, OP_Mul, x, alpha, &x));
  TRY(op_with_number(op, OP_Add, x, beta, &x));
  TRY(op_scalar(op, x, 0, &zero));
  TRY(op_scalar(op, x, 1, &one));
  TRY(clamp(op, x, OP_LessOrEqual, zero, &x)); /* torch's gradient is 0 at both ends */
  return clamp(op, x, OP_GreaterOrEqual, one, out);
}

static Status hard_sigmoid(Op *op) {
  return hard_sigmoid_of(op, op_float(op, "alpha", 0.2f), op_float(op, "beta", 0.5), &op->out[0]);
}

static Status hard_swish(Op *op) {
  Term *t;
  TRY(hard_sigmoid_of(op, 1.0 / 6, 0.5, &t));
  return op_emit2(op, OP_Mul, op->in[0], t, &op->out[0]);
}

static Status thresholded_relu(Op *op) {
  Term *zero, *limit, *above;
  TRY(op_scalar(op, op->in[0], 0, &zero));
  TRY(op_scalar(op, op->in[0], op_float(op, "alpha", 1), &limit));
  TRY(op_emit2(op, OP_Greater, op->in[0], limit, &above));
  return op_where(op, above, op->in[0], zero, &op->out[0]);
}

static Status prelu(Op *op) {
  Term *t;
  TRY(op_emit2(op, OP_Mul, op->in[0], op->in[1], &t));
  return positive_or(op, op->in[0], t, &op->out[0]);
}

static Status sign(Op *op) {
  Term *zero, *positive, *negative;
  TRY(op_scalar(op, op->in[0], 0, &zero));
  TRY(op_emit2(op, OP_Greater, op->in[0], zero, &positive));
  TRY(op_emit2(op, OP_Less, op->in[0], zero, &negative));
  TRY(op_cast(op, positive, op->in[0]->dtype, &positive));
  TRY(op_cast(op, negative, op->in[0]->dtype, &negative));
  return op_emit2(op, OP_Sub, positive, negative, &op->out[0]);
}

/* A number is no number exactly when it differs from itself. */
static Status is_nan(Op *op) {
  Term *t;
  TRY(op_emit2(op, OP_Equal, op->in[0], op->in[0], &t));
  return op_emit1(op, OP_Not, t, &op->out[0]);
}

#define UNARY(name, from)                                                                                              \
  { #name, from, OPSET_LAST, 1, 1, 1, same, "" }
#define BINARY(name, from)                                                                                             \
  { #name, from, OPSET_LAST, 2, 2, 1, same, "" }
#define ONE(name, from, lower, attributes)                                                                             \
  { #name, from, OPSET_LAST, 1, 1, 1, lower, attributes }

const Lowering lowerings_math[] = {
    UNARY(Neg, 6),
    UNARY(Abs, 6),
    UNARY(Sqrt, 6),
    UNARY(Exp, 6),
    UNARY(Log, 6),
    UNARY(Erf, 9),
    UNARY(Sin, 7),
    UNARY(Cos, 7),
    UNARY(Atan, 7),
    UNARY(Reciprocal, 6),
    UNARY(Tanh, 6),
    UNARY(Sigmoid, 6),
    ONE(Relu, 6, relu, ""),
    UNARY(Not, 1),
    BINARY(Add, 7),
    BINARY(Sub, 7),
    BINARY(Mul, 7),
    BINARY(Div, 7),
    BINARY(Pow, 7),
    BINARY(Greater, 7),
    BINARY(GreaterOrEqual, 12),
    BINARY(Less, 7),
    BINARY(LessOrEqual, 12),
    BINARY(And, 7),
    BINARY(Or, 7),
    {"Xor", 7, OPSET_LAST, 2, 2, 1, logical_xor, ""},
    {"Equal", 7, OPSET_LAST, 2, 2, 1, equal, ""},
    {"Mod", 10, OPSET_LAST, 2, 2, 1, mod, "fmod:b"},
    {"Max", 6, OPSET_LAST, 1, MANY, 1, max, ""},
    {"Min", 6, OPSET_LAST, 1, MANY, 1, min, ""},
    {"Sum", 6, OPSET_LAST, 1, MANY, 1, sum, ""},
    {"Mean", 6, OPSET_LAST, 1, MANY, 1, mean, ""},
    {"Where", 9, OPSET_LAST, 3, 3, 1, where, ""},
    {"Clip", 6, 10, 1, 1, 1, clip, "min:f max:f"},
    {"Clip", 11, OPSET_LAST, 1, 3, 1, clip, ""},
    {"Cast", 6, 18, 1, 1, 1, cast, "to:d!"},
    {"Cast", 19, 23, 1, 1, 1, cast, "to:d! saturate:b"},
    {"Cast", 24, OPSET_LAST, 1, 1, 1, cast, "to:d! saturate:b round_mode:s"},
    {"CastLike", 15, 18, 2, 2, 1, cast_like, ""},
    {"CastLike", 19, 23, 2, 2, 1, cast_like, "saturate:b"},
    {"CastLike", 24, OPSET_LAST, 2, 2, 1, cast_like, "saturate:b round_mode:s"},
    {"PRelu", 7, OPSET_LAST, 2, 2, 1, prelu, ""},
    ONE(LeakyRelu, 6, leaky_relu, "alpha:f"),
    ONE(Gelu, 20, gelu, "approximate:s"),
    ONE(Elu, 6, elu, "alpha:f"),
    ONE(Celu, 12, celu, "alpha:f"),
    ONE(Selu, 6, selu, "alpha:f gamma:f"),
    ONE(Softplus, 1, softplus, ""),
    ONE(Softsign, 1, softsign, ""),
    ONE(Mish, 18, mish, ""),
    ONE(HardSigmoid, 6, hard_sigmoid, "alpha:f beta:f"),
    ONE(HardSwish, 14, hard_swish, ""),
    ONE(ThresholdedRelu, 10, thresholded_relu, "alpha:f"),
    ONE(Sign, 9, sign, ""),
    ONE(IsNaN, 9, is_nan, ""),
    {0},
};
