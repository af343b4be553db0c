/* Reductions. Invariant: axes reach the graph sorted, counted from the front and never empty. */
#include <math.h>
#include <string.h>

#include "onnx/lower/lower.h"

typedef struct {
  int64_t axes[MAX_RANK];
  int n;
  bool keepdims;
} Axes;

/* The axes by attribute or input 1; all where none are given, none where an empty list is to mean none. */
static Status axes_of(Op *op, Axes *a) {
  int rank = op->in[0]->shape.rank;
  TRY(op_axes(op, "axes", 1, rank, a->axes, &a->n));
  a->keepdims = op_int(op, "keepdims", 1);
  if (a->n > 0 || (a->n <= 0 && op_int(op, "noop_with_empty_axes", 0))) {
    a->n = a->n < 0 ? 0 : a->n;
    return OK;
  }
  a->n = rank;
  for (int i = 0; i < rank; i++)
    a->axes[i] = i;
  return OK;
}

static Status reduce(Op *op, OpKind kind, Term *x, Term **out) {
  Axes a;
  TRY(axes_of(op, &a));
  if (x->dtype != BOOL)
    return op_reduce(op, kind, x, a.axes, a.n, a.keepdims, out);
  TRY(op_cast(op, x, I32, &x));
  TRY(op_reduce(op, kind, x, a.axes, a.n, a.keepdims, &x));
  return op_with_number(op, OP_Greater, x, 0, out); /* of nothing: false */
}

static Status reduce_sum(Op *op) {
  return reduce(op, OP_ReduceSum, op->in[0], &op->out[0]);
}

static Status reduce_mean(Op *op) {
  return reduce(op, OP_ReduceMean, op->in[0], &op->out[0]);
}

static Status reduce_max(Op *op) {
  return reduce(op, OP_ReduceMax, op->in[0], &op->out[0]);
}

/* The order turned round: -x; of integers all bits, for the least number has no counterpart. */
static Status turn(Op *op, Term *x, Term **out) {
  Term *ones;
  if (dtype_is_float(x->dtype))
    return op_emit1(op, OP_Neg, x, out);
  if (x->dtype == BOOL)
    return op_emit1(op, OP_Not, x, out);
  bool is_signed = x->dtype == I64 || x->dtype == I32 || x->dtype == I16 || x->dtype == I8;
  TRY(op_scalar(op, x, is_signed ? -1 : INFINITY, &ones));
  return op_emit2(op, OP_Sub, ones, x, out);
}

static Status reduce_min(Op *op) {
  Term *t;
  TRY(turn(op, op->in[0], &t));
  TRY(reduce(op, OP_ReduceMax, t, &t));
  return turn(op, t, &op->out[0]);
}

static Status sum_square(Op *op, Term **out) {
  Term *t;
  TRY(op_emit2(op, OP_Mul, op->in[0], op->in[0], &t));
  return reduce(op, OP_ReduceSum, t, out);
}

static Status reduce_sum_square(Op *op) {
  return sum_square(op, &op->out[0]);
}

static Status reduce_l1(Op *op) {
  Term *t;
  TRY(op_emit1(op, OP_Abs, op->in[0], &t));
  return reduce(op, OP_ReduceSum, t, &op->out[0]);
}

static Status reduce_l2(Op *op) {
  Term *t;
  TRY(sum_square(op, &t));
  return op_emit1(op, OP_Sqrt, t, &op->out[0]);
}

static Status reduce_log_sum(Op *op) {
  Term *t;
  TRY(reduce(op, OP_ReduceSum, op->in[0], &t));
  return op_emit1(op, OP_Log, t, &op->out[0]);
}

/* log(x); of 0 minus infinity, without a gradient. */
static Status log_or_nothing(Op *op, Term *x, Term **out) {
  Term *zero, *one, *minus, *nothing;
  TRY(op_scalar(op, x, 0, &zero));
  TRY(op_scalar(op, x, 1, &one));
  TRY(op_scalar(op, x, -INFINITY, &minus));
  TRY(op_emit2(op, OP_Equal, x, zero, &nothing));
  TRY(op_where(op, nothing, one, x, &x));
  TRY(op_emit1(op, OP_Log, x, &x));
  return op_where(op, nothing, minus, x, out);
}

/* x, or 0 where it is infinite. */
static Status finite_or_zero(Op *op, Term *x, Term **out) {
  Term *zero, *infinity, *size;
  TRY(op_scalar(op, x, 0, &zero));
  TRY(op_scalar(op, x, INFINITY, &infinity));
  TRY(op_emit1(op, OP_Abs, x, &size));
  TRY(op_emit2(op, OP_Equal, size, infinity, &size));
  return op_where(op, size, zero, x, out);
}

/* m + log(sum(exp(x - m))) with the largest element m; where that is infinite, m is 0. */
static Status reduce_log_sum_exp(Op *op) {
  Axes a;
  Term *largest, *t;
  TRY(axes_of(op, &a));
  TRY(op_reduce(op, OP_ReduceMax, op->in[0], a.axes, a.n, true, &largest));
  TRY(finite_or_zero(op, largest, &largest));
  TRY(op_emit2(op, OP_Sub, op->in[0], largest, &t));
  TRY(op_emit1(op, OP_Exp, t, &t));
  TRY(op_reduce(op, OP_ReduceSum, t, a.axes, a.n, true, &t));
  TRY(log_or_nothing(op, t, &t));
  TRY(op_emit2(op, OP_Add, t, largest, &t));
  if (a.keepdims)
    return op->out[0] = t, OK;
  Shape dropped = {0};
  for (int i = 0, next = 0; i < t->shape.rank; i++)
    if (next < a.n && a.axes[next] == i)
      next++;
    else
      dropped.dim[dropped.rank++] = t->shape.dim[i];
  return op_reshape(op, t, dropped, &op->out[0]);
}

/* The last of the running products along the reduced axes, which are made the last one: its gradient holds where
 * factors are 0. */
static Status reduce_prod(Op *op) {
  Axes a;
  Shape shape = op->in[0]->shape, kept = {0}, lines = {0};
  int64_t perm[MAX_RANK], n = 1;
  Term *t = op->in[0];
  TRY(axes_of(op, &a));
  if (a.n == 0)
    return op->out[0] = t, OK;
  for (int i = 0, next = 0, last = shape.rank - a.n; i < shape.rank; i++) {
    bool reduced = next < a.n && a.axes[next] == i;
    next += reduced;
    perm[reduced ? last++ : lines.rank] = i;
    if (!reduced)
      lines.dim[lines.rank++] = shape.dim[i];
    if (!reduced || a.keepdims)
      kept.dim[kept.rank++] = reduced ? 1 : shape.dim[i];
    n *= reduced ? shape.dim[i] : 1;
  }
  if (n == 0) {
    TRY(op_scalar(op, t, 1, &t));
    return op_expand(op, t, kept, &op->out[0]);
  }
  TRY(op_transpose(op, t, perm, &t));
  lines.dim[lines.rank++] = n;
  TRY(op_reshape(op, t, lines, &t));
  Attr along = attr_int("axis", lines.rank - 1);
  TRY(op_emit(op, OP_CumProd, &t, 1, &along, 1, &t, 1));
  TRY(op_slice(op, t, lines.rank - 1, n - 1, n, &t));
  return op_reshape(op, t, kept, &op->out[0]);
}

/* Axes by attribute in versions up to `last`, by input afterwards. */
#define REDUCE(name, last, function)                                                                                   \
  {#name, 1, last, 1, 1, 1, function, "axes:I keepdims:b"}, {                                                          \
#name, last + 1, OPSET_LAST, 1, 2, 1, function, "keepdims:b noop_with_empty_axes:b"                                \
  }

const Lowering lowerings_reduce[] = {
    REDUCE(ReduceSum, 12, reduce_sum),
    REDUCE(ReduceMean, 17, reduce_mean),
    REDUCE(ReduceMax, 17, reduce_max),
    REDUCE(ReduceMin, 17, reduce_min),
    REDUCE(ReduceProd, 17, reduce_prod),
    REDUCE(ReduceL1, 17, reduce_l1),
    REDUCE(ReduceL2, 17, reduce_l2),
    REDUCE(ReduceLogSum, 17, reduce_log_sum),
    REDUCE(ReduceLogSumExp, 17, reduce_log_sum_exp),
    REDUCE(ReduceSumSquare, 17, reduce_sum_square),
    {0},
};
