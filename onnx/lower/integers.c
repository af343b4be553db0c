/* Integers that kernels do not compute in. Invariant: what moves elements or bits does so in their own type; everything
 * else is computed in int32 or int64 and wraps to the type again, as arithmetic of so many bits does. Of uint64 the
 * bits are those of an int64; where they are compared or divided, the lowering here makes up for the sign. */
#include "graph/op.h"
#include "onnx/lower/lower.h"

/* The type in which this one is computed; DTYPE_NONE: in itself. */
static DType wide_type(DType dtype) {
  switch (dtype) {
  case I8:
  case I16:
  case U8:
  case U16:
    return I32;
  case U32:
  case U64:
    return I64;
  default:
    return DTYPE_NONE;
  }
}

/* Results depend on which of two numbers is larger. */
static bool compares(OpKind kind) {
  return kind == OP_Less || kind == OP_LessOrEqual || kind == OP_Greater || kind == OP_GreaterOrEqual ||
         kind == OP_Max || kind == OP_Min || kind == OP_ReduceMax || kind == OP_TopK;
}

/* The first bit turned round: the order of uint64 becomes that of int64, and back. */
static Status turn_sign(Op *op, Term *a, Term **out) {
  return op_with_number(op, OP_Add, a, (double)INT64_MIN, out);
}

/* x / y of two uint64 numbers in the bits of int64: half of x is a number without a sign, and what that leaves is less
 * than two y. A y with the first bit is more than half of all that x can be. */
static Status divide(Op *op, Term *x, Term *y, Term **out) {
  Term *turned_x, *turned_y, *least, *not_less, *half, *bit, *zero, *large, *q, *r, *more;
  TRY(turn_sign(op, x, &turned_x));
  TRY(turn_sign(op, y, &turned_y));
  TRY(op_emit2(op, OP_GreaterOrEqual, turned_x, turned_y, &not_less));
  TRY(op_cast(op, not_less, I64, &not_less));
  TRY(op_scalar(op, x, 0, &zero));
  TRY(op_scalar(op, x, 2, &least));
  Attr floor_mod = attr_int("fmod", 0);
  TRY(op_emit(op, OP_Mod, (Term *[]){x, least}, 2, &floor_mod, 1, &bit, 1));
  TRY(op_emit2(op, OP_Sub, x, bit, &half));
  TRY(op_with_number(op, OP_Div, half, 2, &half)); /* of a negative number 2^63 too little */
  TRY(op_emit2(op, OP_Less, x, zero, &large));
  TRY(turn_sign(op, half, &r));
  TRY(op_where(op, large, r, half, &half));
  TRY(op_emit2(op, OP_Div, half, y, &q));
  TRY(op_with_number(op, OP_Mul, q, 2, &q));
  TRY(op_emit2(op, OP_Mul, q, y, &r));
  TRY(op_emit2(op, OP_Sub, x, r, &r));
  TRY(turn_sign(op, r, &r));
  TRY(op_emit2(op, OP_GreaterOrEqual, r, turned_y, &more));
  TRY(op_cast(op, more, I64, &more));
  TRY(op_emit2(op, OP_Add, q, more, &q));
  TRY(op_emit2(op, OP_Less, y, zero, &large));
  return op_where(op, large, not_less, q, out);
}

static Status remainder_of(Op *op, Term *x, Term *y, Term **out) {
  Term *q;
  TRY(divide(op, x, y, &q));
  TRY(op_emit2(op, OP_Mul, q, y, &q));
  return op_emit2(op, OP_Sub, x, q, out);
}

/* The operator over wide operands; of uint64 in the bits of int64. */
static Status emit(Op *op, OpKind kind, DType type, Term **in, int n_in, const Attr *attrs, int n_attrs, Term **out,
                   int n_out) {
  if (kind == OP_Abs && (type == U8 || type == U16 || type == U32 || type == U64)) {
    out[0] = in[0];
    return OK;
  }
  if (type != U64)
    return op_emit(op, kind, in, n_in, attrs, n_attrs, out, n_out);
  if (kind == OP_Div)
    return divide(op, in[0], in[1], &out[0]);
  if (kind == OP_Mod)
    return remainder_of(op, in[0], in[1], &out[0]);
  for (int i = 0; i < n_in && compares(kind); i++)
    TRY(turn_sign(op, in[i], &in[i]));
  TRY(op_emit(op, kind, in, n_in, attrs, n_attrs, out, n_out));
  return compares(kind) && out[0]->dtype == I64 ? turn_sign(op, out[0], &out[0]) : OK;
}

Status op_emit_wide(Op *op, OpKind kind, Term *const *in, int n_in, const Attr *attrs, int n_attrs, Term **out,
                    int n_out, bool *wide) {
  Term **widened;
  *wide = false;
  for (int i = 0; i < n_in && !(op_def(kind)->traits & OP_ANY_TYPE); i++)
    *wide |= in[i]->kind == TERM_TENSOR && wide_type(in[i]->dtype);
  if (!*wide)
    return OK;
  TRY(ARENA_NEW(op->lower->arena, widened, n_in));
  for (int i = 0; i < n_in; i++) {
    widened[i] = in[i];
    if (in[i]->kind == TERM_TENSOR && wide_type(in[i]->dtype))
      TRY(op_cast(op, in[i], wide_type(in[i]->dtype), &widened[i]));
  }
  DType type = in[0]->dtype;
  TRY(emit(op, kind, type, widened, n_in, attrs, n_attrs, out, n_out));
  /* other outputs are places, not numbers */
  return wide_type(type) && out[0]->dtype == wide_type(type) ? op_cast(op, out[0], type, &out[0]) : OK;
}
