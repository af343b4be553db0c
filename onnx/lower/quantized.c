/* Products of integers, and of numbers that were quantized to them. Invariant: differences from zero points are
 * multiplied and summed as float64, exactly where a sum has fewer than 2^53 / 2^16 terms. */
#include "onnx/lower/lower.h"

/* A zero point or a scale as float64. One number stands alone; a vector lies along `axis` of `rank` axes, counted from
 * the front. */
static Status spread(Op *op, Term *term, int rank, int axis, Term **out) {
  Shape s = term->shape, to = {0};
  if (shape_elements(s) != 1 && s.rank == 1) {
    to.rank = rank;
    for (int i = 0; i < rank; i++)
      to.dim[i] = i == axis ? s.dim[0] : 1;
  } else if (s.rank > 1) {
    to = s;
  }
  TRY(op_reshape(op, term, to, out));
  return op_cast(op, *out, F64, out);
}

/* x less its zero point, as float64. */
static Status centred(Op *op, Term *x, Term *zero, int axis, Term **out) {
  TRY(op_cast(op, x, F64, out));
  if (zero->kind == TERM_ABSENT)
    return OK;
  TRY(spread(op, zero, x->shape.rank, axis, &zero));
  return op_emit2(op, OP_Sub, *out, zero, out);
}

/* Of A, whose rows may have a number each, or of B, whose columns may. */
static int lines_of(const Term *x, bool left) {
  int rank = x->shape.rank;
  return rank < 2 ? 0 : left ? rank - 2 : rank - 1;
}

static Status matmul_integer(Op *op) {
  Term *a, *b, *y;
  TRY(centred(op, op->in[0], op_in(op, 2), lines_of(op->in[0], true), &a));
  TRY(centred(op, op->in[1], op_in(op, 3), lines_of(op->in[1], false), &b));
  TRY(op_matmul(op, a, false, b, false, &y));
  return op_cast(op, y, I32, &op->out[0]);
}

static Status conv_integer(Op *op) {
  Term *x, *w, *y;
  TRY(centred(op, op->in[0], op_in(op, 2), 1, &x));
  TRY(centred(op, op->in[1], op_in(op, 3), 0, &w));
  TRY(op_conv(op, x, w, &y));
  return op_cast(op, y, I32, &op->out[0]);
}

#define WHOLE 0x1.8p52 /* a float64 near it is a whole number: adding it rounds to the nearest, ties to even */

/* y · scales / y's scale, to the nearest integer, ties to even, plus y's zero point; at most what its type holds. */
static Status quantize(Op *op, Term *y, Term *scales, int y_scale, Term **out) {
  Term *scale, *zero, *type = op_in(op, y_scale + 1);
  bool is_signed = type->dtype == I8;
  if (!is_signed && type->dtype != U8)
    return fail(E_UNSUPPORTED, "a result of %s", dtype_name(type->dtype));
  TRY(spread(op, op_in(op, y_scale), y->shape.rank, lines_of(y, true), &scale));
  TRY(spread(op, type, y->shape.rank, lines_of(y, true), &zero));
  TRY(op_emit2(op, OP_Div, scales, scale, &scales));
  TRY(op_emit2(op, OP_Mul, y, scales, &y));
  TRY(op_with_number(op, OP_Add, y, WHOLE, &y));
  TRY(op_with_number(op, OP_Sub, y, WHOLE, &y));
  TRY(op_emit2(op, OP_Add, y, zero, &y));
  TRY(op_with_number(op, OP_Max, y, is_signed ? INT8_MIN : 0, &y));
  TRY(op_with_number(op, OP_Min, y, is_signed ? INT8_MAX : UINT8_MAX, &y));
  return op_cast(op, y, type->dtype, out);
}

/* a, its scale, its zero point, b, its scale, its zero point, y's scale, y's zero point */
static Status qlinear_matmul(Op *op) {
  Term *a, *b, *y, *a_scale, *b_scale;
  int rows = lines_of(op->in[0], true), columns = lines_of(op->in[3], false);
  TRY(centred(op, op->in[0], op->in[2], rows, &a));
  TRY(centred(op, op->in[3], op->in[5], columns, &b));
  TRY(spread(op, op->in[1], op->in[0]->shape.rank, rows, &a_scale));
  TRY(spread(op, op->in[4], op->in[3]->shape.rank, columns, &b_scale));
  TRY(op_matmul(op, a, false, b, false, &y));
  TRY(op_emit2(op, OP_Mul, a_scale, b_scale, &a_scale));
  return quantize(op, y, a_scale, 6, &op->out[0]);
}

/* x, w and y as there, and a bias of int32, in x's and w's scales. */
static Status qlinear_conv(Op *op) {
  Term *x, *w, *y, *x_scale, *w_scale, *bias;
  TRY(centred(op, op->in[0], op->in[2], 1, &x));
  TRY(centred(op, op->in[3], op->in[5], 0, &w));
  TRY(op_conv(op, x, w, &y));
  if (op_has(op, 8)) {
    TRY(op_cast(op, op->in[8], F64, &bias));
    TRY(op_add_bias(op, y, bias, op->proto->input[8], &y));
  }
  TRY(spread(op, op->in[1], y->shape.rank, 1, &x_scale));
  TRY(spread(op, op->in[4], y->shape.rank, 1, &w_scale)); /* one for each filter: Y's channels */
  TRY(op_emit2(op, OP_Mul, x_scale, w_scale, &x_scale));
  return quantize(op, y, x_scale, 6, &op->out[0]);
}

const Lowering lowerings_quantized[] = {
    {"MatMulInteger", 10, OPSET_LAST, 2, 4, 1, matmul_integer, ""},
    {"ConvInteger", 10, OPSET_LAST, 2, 4, 1, conv_integer,
     "auto_pad:s dilations:I group:i kernel_shape:I pads:I strides:I"},
    {"QLinearMatMul", 10, OPSET_LAST, 8, 8, 1, qlinear_matmul, ""},
    {"QLinearConv", 10, OPSET_LAST, 8, 9, 1, qlinear_conv,
     "auto_pad:s dilations:I group:i kernel_shape:I pads:I strides:I"},
    {0},
};
