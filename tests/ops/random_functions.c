/* Random cases of integers as bits, running products and determinants. */
#include "tests/ops/draw.h"

bool draw_functions(Draw *d, OpKind op) {
  static const DType types[] = {U8, U16, U32, U64, I8, I16, I32, I64};
  bool shift = op == OP_BitShift;
  if (op != OP_BitwiseAnd && op != OP_BitwiseOr && op != OP_BitwiseXor && op != OP_BitwiseNot && !shift)
    return false;
  Shape wide = any_shape(d, 0, 4, 6), result = part_of(d, wide);
  DType type = types[between(d, 0, 7)];
  input(d, result)->dtype = type;
  if (op != OP_BitwiseNot) {
    Shape other = part_of(d, wide);
    input(d, other)->dtype = type;
    shape_broadcast(result, other, &result);
  }
  if (shift)
    put_int(d, "right", between(d, 0, 1));
  output(d, result);
  return true;
}

bool draw_determinant(Draw *d, OpKind op) {
  Fill fill = between(d, 0, 1) ? FILL_TIED : FILL_ANY;
  if (op == OP_CumProd || op == OP_CumProdGrad) {
    Shape shape = any_shape(d, 1, 4, 6);
    if (op == OP_CumProdGrad)
      input(d, shape);
    input(d, shape)->fill = fill;
    output(d, shape);
    put_int(d, "axis", between(d, 0, shape.rank - 1));
    put_int(d, "exclusive", between(d, 0, 1));
    put_int(d, "reverse", between(d, 0, 1));
    return true;
  }
  if (op != OP_Det && op != OP_DetGrad)
    return false;
  Shape stack = any_shape(d, 0, 2, 4), x = stack;
  x.rank += 2;
  x.dim[x.rank - 1] = x.dim[x.rank - 2] = between(d, 0, 5);
  if (op == OP_DetGrad)
    input(d, stack);
  input(d, x)->fill = fill;
  output(d, op == OP_Det ? stack : x);
  return true;
}
