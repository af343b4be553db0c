/* Casts, where the target is a narrow floating-point type. Invariant: terms are float32 or float64; what a narrow type
 * leaves of a number is decided where the file casts to it, and at the graph's ends. */
#include "graph/narrow.h"
#include "graph/op.h"
#include "onnx/lower/lower.h"

Status term_of_narrow(Op *op, Term *a, DType narrow, Term **out) {
  ValueId placed;
  *out = a;
  if (a->narrow == narrow)
    return OK;
  if (a->initializer >= 0 && !a->constant) /* once, for both terms */
    TRY(term_value(op, a, &placed));
  TRY(ARENA_NEW(op->lower->arena, *out, 1));
  **out = *a;
  (*out)->narrow = narrow;
  return OK;
}

Status op_cast_as(Op *op, Term *a, DType to, Term **out) {
  Attr attrs[] = {attr_int("to", to), attr_int("saturate", op_int(op, "saturate", 1))};
  if (!dtype_is_narrow(to)) {
    TRY(op_cast(op, a, to, &a));
    return term_of_narrow(op, a, DTYPE_NONE, out);
  }
  if (a->narrow != to) {
    if (a->dtype != F64)
      TRY(op_cast(op, a, F32, &a));
    TRY(op_emit(op, OP_Narrow, &a, 1, attrs, 2, &a, 1));
    TRY(op_cast(op, a, F32, &a));
  }
  return term_of_narrow(op, a, to, out);
}
