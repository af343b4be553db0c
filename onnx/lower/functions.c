/* Functions of one element beside those of math.c, steps, and integers as bits. */
#include <math.h>
#include <string.h>

#include "graph/op.h"
#include "onnx/lower/lower.h"

/* One operator of the graph with the same name, inputs and no attribute. */
static Status same(Op *op) {
  return op_emit(op, op_find(op->lowering->op), op->in, op->n_in, NULL, 0, &op->out[0], 1);
}

static Status bit_shift(Op *op) {
  const char *direction;
  TRY(op_string(op, "direction", "", &direction));
  if (strcmp(direction, "LEFT") != 0 && strcmp(direction, "RIGHT") != 0)
    return fail(E_MODEL, "direction is '%s'", direction);
  Attr right = attr_int("right", strcmp(direction, "RIGHT") == 0);
  return op_emit(op, OP_BitShift, op->in, 2, &right, 1, &op->out[0], 1);
}

static Status bit_cast(Op *op) {
  int64_t to = op_int(op, "to", 0);
  DType dtype = dtype_from_onnx((int32_t)to);
  if (dtype == DTYPE_NONE)
    return fail(E_UNSUPPORTED, "a cast to ONNX type %lld", (long long)to);
  Attr attr = attr_int("to", dtype);
  return op_emit(op, OP_BitCast, op->in, 1, &attr, 1, &op->out[0], 1);
}

/* Equal to the infinities that count; to none where none does. */
static Status is_inf(Op *op) {
  Term *x = op->in[0], *bound;
  bool positive = op_int(op, "detect_positive", 1), negative = op_int(op, "detect_negative", 1);
  if (positive && negative)
    TRY(op_emit1(op, OP_Abs, x, &x));
  TRY(op_scalar(op, x, negative && !positive ? -INFINITY : INFINITY, &bound));
  return op_emit2(op, positive || negative ? OP_Equal : OP_Greater, x, bound, &op->out[0]);
}

/* x - bias above lambd, x + bias below -lambd, between them 0 */
static Status shrink(Op *op) {
  Term *x = op->in[0], *zero, *limit, *above, *below, *less, *more;
  double bias = op_float(op, "bias", 0), lambd = op_float(op, "lambd", 0.5);
  TRY(op_scalar(op, x, 0, &zero));
  TRY(op_scalar(op, x, lambd, &limit));
  TRY(op_emit2(op, OP_Greater, x, limit, &above));
  TRY(op_scalar(op, x, -lambd, &limit));
  TRY(op_emit2(op, OP_Less, x, limit, &below));
  TRY(op_with_number(op, OP_Sub, x, bias, &less));
  TRY(op_with_number(op, OP_Add, x, bias, &more));
  TRY(op_where(op, below, more, zero, &op->out[0]));
  return op_where(op, above, less, op->out[0], &op->out[0]);
}

/* 1 at the first of the largest elements along the axis. */
static Status hardmax_along(Op *op, Term *x, int axis, Term **out) {
  Term *largest, *is_largest, *count, *is_first;
  Attr along = attr_int("axis", axis);
  TRY(op_reduce(op, OP_ReduceMax, x, (int64_t[]){axis}, 1, true, &largest));
  TRY(op_emit2(op, OP_Equal, x, largest, &is_largest));
  TRY(op_cast(op, is_largest, I32, &count));
  TRY(op_emit(op, OP_CumSum, &count, 1, &along, 1, &count, 1));
  TRY(op_scalar(op, count, 1, &is_first));
  TRY(op_emit2(op, OP_Equal, count, is_first, &is_first));
  TRY(op_emit2(op, OP_And, is_largest, is_first, &is_first));
  return op_cast(op, is_first, x->dtype, out);
}

/* Up to opset 12 over everything from the axis on. */
static Status hardmax(Op *op) {
  Term *x = op->in[0];
  Shape shape = x->shape, flat = {.rank = 1};
  int axis, last = op->opset < 13;
  TRY(op_axis(op, "axis", last ? 1 : -1, shape.rank, &axis));
  if (!last)
    return hardmax_along(op, x, axis, &op->out[0]);
  flat.rank = axis + 1;
  for (int i = 0; i < axis; i++)
    flat.dim[i] = shape.dim[i];
  flat.dim[axis] = 1;
  for (int i = axis; i < shape.rank; i++)
    flat.dim[axis] *= shape.dim[i];
  TRY(op_reshape(op, x, flat, &x));
  TRY(hardmax_along(op, x, axis, &x));
  return op_reshape(op, x, shape, &op->out[0]);
}

static Status cumprod(Op *op) {
  int64_t axis, rank = op->in[0]->shape.rank;
  TRY(op_known_int(op, 1, &axis));
  if (axis < -rank || axis >= rank)
    return fail(E_SHAPE, "axis %lld is not one of %lld", (long long)axis, (long long)rank);
  Attr attrs[] = {attr_int("axis", axis < 0 ? axis + rank : axis), attr_int("exclusive", op_int(op, "exclusive", 0)),
                  attr_int("reverse", op_int(op, "reverse", 0))};
  return op_emit(op, OP_CumProd, op->in, 1, attrs, 3, &op->out[0], 1);
}

static Status det(Op *op) {
  return op_emit1(op, OP_Det, op->in[0], &op->out[0]);
}

#define UNARY(name, from)                                                                                              \
  { #name, from, OPSET_LAST, 1, 1, 1, same, "" }
#define BITS(name, from, inputs)                                                                                       \
  { #name, from, OPSET_LAST, inputs, inputs, 1, same, "" }

const Lowering lowerings_functions[] = {
    UNARY(Tan, 7),
    UNARY(Asin, 7),
    UNARY(Acos, 7),
    UNARY(Sinh, 9),
    UNARY(Cosh, 9),
    UNARY(Asinh, 9),
    UNARY(Acosh, 9),
    UNARY(Atanh, 9),
    UNARY(Floor, 6),
    UNARY(Ceil, 6),
    UNARY(Round, 11),
    BITS(BitwiseAnd, 18, 2),
    BITS(BitwiseOr, 18, 2),
    BITS(BitwiseXor, 18, 2),
    BITS(BitwiseNot, 18, 1),
    {"BitShift", 11, OPSET_LAST, 2, 2, 1, bit_shift, "direction:s!"},
    {"BitCast", 26, OPSET_LAST, 1, 1, 1, bit_cast, "to:d!"},
    {"IsInf", 10, OPSET_LAST, 1, 1, 1, is_inf, "detect_positive:b detect_negative:b"},
    {"Shrink", 9, OPSET_LAST, 1, 1, 1, shrink, "bias:f lambd:f"},
    {"Hardmax", 1, OPSET_LAST, 1, 1, 1, hardmax, "axis:i"},
    {"CumProd", 26, OPSET_LAST, 2, 2, 1, cumprod, "exclusive:b reverse:b"},
    {"Det", 11, OPSET_LAST, 1, 1, 1, det, ""},
    {0},
};
