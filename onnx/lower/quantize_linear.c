/* Numbers as small integers, and back. Invariant: training passes over the
 * rounding: what is quantised keeps, beside its integers, the same whole
 * numbers as floats, by which the gradient of what lies within the type's range
 * is handed on as if nothing had been rounded (as
 * torch.fake_quantize_per_tensor_affine does). */
#include <math.h>

#include "graph/op.h"
#include "onnx/lower/lower.h"

/* The integers of a type; false where it has none that are quantised to. */
static bool range_of(DType dtype, double *low, double *high) {
  static const struct {
    DType dtype;
    double low, high;
  } ranges[] = {{U8, 0, UINT8_MAX}, {I8, INT8_MIN, INT8_MAX}, {U16, 0, UINT16_MAX}, {I16, INT16_MIN, INT16_MAX}};
  for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
    if (ranges[i].dtype == dtype) {
      *low = ranges[i].low;
      *high = ranges[i].high;
      return true;
    }
  return false;
}

/* Each place along the axis reads the scale of its block. */
static Status spread_blocks(Op *op, Term *scale, Shape x, int axis, int64_t block, Term **out) {
  int64_t n = x.dim[axis], blocks = scale->shape.dim[axis], *at;
  Attr along = attr_int("axis", axis);
  Term *which;
  if (block < 1)
    block = blocks ? (n + blocks - 1) / blocks : 1;
  if (blocks != n / block + (n % block != 0))
    return fail(E_SHAPE, "%lld blocks of %lld along an axis of %lld", (long long)blocks, (long long)block,
                (long long)n);
  TRY(budget_need(&op->lower->budget, (size_t)n * sizeof *at, (double)n));
  TRY(ARENA_NEW(op->lower->arena, at, n));
  for (int64_t i = 0; i < n; i++)
    at[i] = i / block;
  TRY(term_make(op->lower, NULL, I64, shape_of(1, &n), at, &which));
  return op_emit(op, OP_Gather, (Term *[]){scale, which}, 2, &along, 1, out, 1);
}

/* A scale or zero point as `dtype`, so that it broadcasts to x: one number, one
 * for each place of the axis, or one a block. */
static Status spread(Op *op, Term *term, Shape x, DType dtype, Term **out) {
  int64_t given = op_int(op, "axis", 1), block = op_int(op, "block_size", 0);
  int axis = axis_normalize(given, x.rank);
  Shape s = term->shape, to = {0};
  TRY(op_cast(op, term, dtype, &term));
  if (shape_elements(s) == 1 && s.rank <= 1)
    return op_reshape(op, term, to, out);
  if (axis < 0)
    return fail(E_SHAPE, "axis %lld is outside rank %d", (long long)given, x.rank);
  if (s.rank == 1) {
    if (s.dim[0] != x.dim[axis])
      return fail(E_SHAPE, "%lld scales along an axis of %lld", (long long)s.dim[0], (long long)x.dim[axis]);
    to.rank = x.rank;
    for (int i = 0; i < x.rank; i++)
      to.dim[i] = i == axis ? s.dim[0] : 1;
    return op_reshape(op, term, to, out);
  }
  if (s.rank != x.rank)
    return fail(E_SHAPE, "scales %s of %s", SHAPE_STR(s), SHAPE_STR(x));
  return s.dim[axis] == x.dim[axis] ? (*out = term, OK) : spread_blocks(op, term, x, axis, block, out);
}

static Status bound(Op *op, Term *x, OpKind beyond, double limit, Term **out) {
  Term *bound, *outside;
  TRY(op_scalar(op, x, limit, &bound));
  TRY(op_emit2(op, beyond, x, bound, &outside));
  return op_where(op, outside, bound, x, out);
}

/* round(x / scale) + zero within the type's range, of so many bits where these are not 0; to even, and at the bounds
 * the gradient passes. */
static Status quantize(Op *op, Term *x, Term *scale, Term *zero, DType to, int bits, Term **out) {
  Attr through = attr_int("straight_through", 1);
  double low, high;
  if (!range_of(to, &low, &high))
    return fail(E_UNSUPPORTED, "a result of %s", dtype_name(to));
  if (bits) {
    high = low < 0 ? ldexp(1, bits - 1) - 1 : ldexp(1, bits) - 1;
    low = low < 0 ? -high - 1 : 0;
  }
  TRY(op_emit2(op, OP_Div, x, scale, &x));
  TRY(op_emit(op, OP_Round, &x, 1, &through, 1, &x, 1));
  if (zero)
    TRY(op_emit2(op, OP_Add, x, zero, &x));
  TRY(bound(op, x, OP_Less, low, &x));
  TRY(bound(op, x, OP_Greater, high, &x));
  Term *whole = x, *integers, *kept;
  TRY(op_cast(op, x, to, &integers));
  TRY(ARENA_NEW(op->lower->arena, kept, 1));
  *kept = *integers;
  kept->whole = whole;
  *out = kept;
  return OK;
}

/* float32 unless the scale is float64: what is narrower is computed so. */
static DType precision_of(const Term *scale) {
  return scale->dtype == F64 ? F64 : F32;
}

/* The type that output_dtype names, else `absent`. */
static Status output_type(Op *op, DType absent, DType *dtype) {
  int64_t given = op_int(op, "output_dtype", 0);
  *dtype = given ? dtype_from_onnx((int32_t)given) : absent;
  return *dtype ? OK : fail(E_UNSUPPORTED, "a result of ONNX type %lld", (long long)given);
}

static Status quantize_linear(Op *op) {
  Term *x = op->in[0], *scale, *zero = NULL;
  DType dtype = precision_of(op->in[1]), to;
  TRY(output_type(op, op_has(op, 2) ? op_in(op, 2)->dtype : U8, &to));
  TRY(op_cast(op, x, dtype, &x));
  TRY(spread(op, op->in[1], x->shape, dtype, &scale));
  if (op_has(op, 2))
    TRY(spread(op, op_in(op, 2), x->shape, dtype, &zero));
  return quantize(op, x, scale, zero, to, op_has(op, 2) && !op_int(op, "output_dtype", 0) ? op_in(op, 2)->bits : 0,
                  &op->out[0]);
}

/* (x - zero) scale; of what was quantised here, by the floats. */
static Status dequantize_linear(Op *op) {
  Term *x = op->in[0], *scale, *zero;
  DType dtype = precision_of(op->in[1]), to;
  TRY(output_type(op, op->in[1]->dtype, &to));
  TRY(op_cast(op, x->whole ? x->whole : x, dtype, &x));
  TRY(spread(op, op->in[1], x->shape, dtype, &scale));
  if (op_has(op, 2)) {
    TRY(spread(op, op_in(op, 2), x->shape, dtype, &zero));
    TRY(op_emit2(op, OP_Sub, x, zero, &x));
  }
  TRY(op_emit2(op, OP_Mul, x, scale, &x));
  return op_cast(op, x, to, &op->out[0]);
}

/* The largest of all elements and 0. */
static Status largest(Op *op, Term *x, Term **out) {
  int64_t axes[MAX_RANK];
  for (int i = 0; i < x->shape.rank; i++)
    axes[i] = i;
  TRY(op_reduce(op, OP_ReduceMax, x, axes, x->shape.rank, false, out));
  return op_with_number(op, OP_Max, *out, 0, out);
}

/* scale = (largest - least) / 255 with 0 among them, 1 where all are 0; zero =
 * round(-least / scale). */
static Status dynamic_quantize_linear(Op *op) {
  Term *x = op->in[0], *high, *low, *scale, *zero, *none, *one;
  TRY(largest(op, x, &high));
  TRY(op_emit1(op, OP_Neg, x, &low));
  TRY(largest(op, low, &low)); /* -least */
  TRY(op_emit2(op, OP_Add, high, low, &scale));
  TRY(op_with_number(op, OP_Div, scale, UINT8_MAX, &scale));
  TRY(op_scalar(op, scale, 0, &none));
  TRY(op_scalar(op, scale, 1, &one));
  TRY(op_emit2(op, OP_Equal, scale, none, &none));
  TRY(op_where(op, none, one, scale, &scale));
  TRY(op_emit2(op, OP_Div, low, scale, &zero));
  TRY(op_emit1(op, OP_Round, zero, &zero));
  TRY(bound(op, zero, OP_Greater, UINT8_MAX, &zero));
  TRY(quantize(op, x, scale, zero, U8, 0, &op->out[0]));
  op->out[1] = scale;
  return op_cast(op, zero, U8, &op->out[2]);
}

const Lowering lowerings_quantize_linear[] = {
    {"QuantizeLinear", 10, 12, 2, 3, 1, quantize_linear, ""},
    {"QuantizeLinear", 13, 18, 2, 3, 1, quantize_linear, "axis:i"},
    {"QuantizeLinear", 19, 20, 2, 3, 1, quantize_linear, "axis:i saturate:b"},
    {"QuantizeLinear", 21, 22, 2, 3, 1, quantize_linear, "axis:i saturate:b block_size:i output_dtype:i"},
    {"QuantizeLinear", 23, OPSET_LAST, 2, 3, 1, quantize_linear,
     "axis:i saturate:b block_size:i output_dtype:i precision:i"},
    {"DequantizeLinear", 10, 12, 2, 3, 1, dequantize_linear, ""},
    {"DequantizeLinear", 13, 20, 2, 3, 1, dequantize_linear, "axis:i"},
    {"DequantizeLinear", 21, 22, 2, 3, 1, dequantize_linear, "axis:i block_size:i"},
    {"DequantizeLinear", 23, OPSET_LAST, 2, 3, 1, dequantize_linear, "axis:i block_size:i output_dtype:i"},
    {"DynamicQuantizeLinear", 11, OPSET_LAST, 1, 1, 3, dynamic_quantize_linear, ""},
    {0},
};
