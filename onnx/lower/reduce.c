/* Reductions. Invariant: axes reach the graph sorted, counted from the front and never empty. */
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
  return op_reduce(op, kind, x, a.axes, a.n, a.keepdims, out);
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

static Status reduce_min(Op *op) {
  Term *t;
  TRY(op_emit1(op, OP_Neg, op->in[0], &t));
  TRY(reduce(op, OP_ReduceMax, t, &t));
  return op_emit1(op, OP_Neg, t, &op->out[0]);
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

/* m + log(sum(exp(x - m))) with the largest element m. */
static Status reduce_log_sum_exp(Op *op) {
  Axes a;
  Term *largest, *t;
  TRY(axes_of(op, &a));
  TRY(op_reduce(op, OP_ReduceMax, op->in[0], a.axes, a.n, true, &largest));
  TRY(op_emit2(op, OP_Sub, op->in[0], largest, &t));
  TRY(op_emit1(op, OP_Exp, t, &t));
  TRY(op_reduce(op, OP_ReduceSum, t, a.axes, a.n, true, &t));
  TRY(op_emit1(op, OP_Log, t, &t));
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

/* Products of dimensions, which are known; slices multiply one by one. */
static Status reduce_prod(Op *op) {
  Axes a;
  bool known;
  Term *t = op->in[0], *slice;
  TRY(axes_of(op, &a));
  TRY(term_known(op->lower, t, &known));
  if (!known)
    return fail(E_UNSUPPORTED, "only of known numbers");
  for (int i = 0; i < a.n; i++) {
    int axis = (int)a.axes[i];
    Term *product;
    Shape one = t->shape;
    one.dim[axis] = 1;
    TRY(op_scalar(op, t, 1, &product));
    TRY(op_expand(op, product, one, &product));
    for (int64_t k = 0; k < t->shape.dim[axis]; k++) {
      TRY(op_slice(op, t, axis, k, k + 1, &slice));
      TRY(op_emit2(op, OP_Mul, product, slice, &product));
    }
    t = product;
  }
  Shape dropped = {0};
  for (int i = 0, next = 0; i < t->shape.rank; i++)
    if (!a.keepdims && next < a.n && a.axes[next] == i)
      next++;
    else
      dropped.dim[dropped.rank++] = t->shape.dim[i];
  return op_reshape(op, t, dropped, &op->out[0]);
}

/* Axes by attribute in versions up to `last`, by input afterwards. */
#define REDUCE(name, last, function)                                                                                   \
  {#name, 1, last, 1, 1, 1, function, "axes:I keepdims:i"}, {                                                          \
#name, last + 1, OPSET_LAST, 1, 2, 1, function, "keepdims:i noop_with_empty_axes:i"                                \
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
