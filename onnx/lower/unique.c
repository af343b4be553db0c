/* Operators whose result is as large as the contents say: Compress, Unique. Invariant: those contents are known or
 * given once, else the node is refused; nothing is sorted or written out that the budget does not have. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "onnx/lower/lower.h"

/* The elements at these positions of an axis; of everything in one line where axis is -1. */
static Status pick(Op *op, Term *x, int axis, const int64_t *at, int64_t n, Term **out) {
  Term *indices;
  Attr attr = attr_int("axis", axis < 0 ? 0 : axis);
  if (axis < 0)
    TRY(op_reshape(op, x, shape_of(1, (int64_t[]){shape_elements(x->shape)}), &x));
  TRY(term_make(op->lower, NULL, I64, shape_of(1, &n), at, &indices));
  return op_emit(op, OP_Gather, (Term *[]){x, indices}, 2, &attr, 1, out, 1);
}

/* Known contents, written out; E_UNSUPPORTED where they are not. */
static Status contents(Op *op, Term *x, double flops, char **data) {
  bool known;
  size_t bytes;
  TRY(term_given(op->lower, x, &known));
  if (!known)
    return fail(E_UNSUPPORTED, "the shape of the result depends on data");
  TRY(shape_bytes(x->shape, x->dtype, &bytes));
  TRY(budget_need(&op->lower->budget, bytes, flops));
  TRY(ARENA_NEW(op->lower->arena, *data, bytes));
  term_write(x, *data);
  return OK;
}

static Status compress(Op *op) {
  Term *x = op->in[0], *condition = op->in[1];
  int axis = -1;
  int64_t n = shape_elements(condition->shape), kept = 0, *at;
  char *truth;
  if (op_attribute(op, "axis"))
    TRY(op_axis(op, "axis", 0, x->shape.rank, &axis));
  if (condition->dtype != BOOL || condition->shape.rank != 1)
    return fail(E_SHAPE, "the condition is %s %s", dtype_name(condition->dtype), SHAPE_STR(condition->shape));
  TRY(contents(op, condition, (double)n, &truth));
  TRY(budget_need(&op->lower->budget, (size_t)n * sizeof *at, 0));
  TRY(ARENA_NEW(op->lower->arena, at, n));
  for (int64_t i = 0; i < n; i++)
    if (truth[i])
      at[kept++] = i;
  if (kept && at[kept - 1] >= (axis < 0 ? shape_elements(x->shape) : x->shape.dim[axis]))
    return fail(E_SHAPE, "the condition keeps element %lld of %s", (long long)at[kept - 1], SHAPE_STR(x->shape));
  return pick(op, x, axis, at, kept, &op->out[0]);
}

/* What is compared: `n` slices of [outer, n, inner]. */
typedef struct {
  DType dtype;
  const char *data;
  int64_t outer, n, inner;
} Slices;

typedef struct {
  const Slices *slices;
  int64_t i;
} Slice;

#define ORDER(TYPE, T)                                                                                                 \
  case TYPE: {                                                                                                         \
    T x = ((const T *)s->data)[a], y = ((const T *)s->data)[b];                                                        \
    return (x > y) - (x < y);                                                                                          \
  }

/* What is no number comes last, and is one. */
#define ORDER_FLOAT(TYPE, T)                                                                                           \
  case TYPE: {                                                                                                         \
    T x = ((const T *)s->data)[a], y = ((const T *)s->data)[b];                                                        \
    return isnan(x) || isnan(y) ? !!isnan(x) - !!isnan(y) : (x > y) - (x < y);                                         \
  }

static int order_of(const Slices *s, int64_t a, int64_t b) {
  switch (s->dtype) {
    ORDER_FLOAT(F32, float)
    ORDER_FLOAT(F64, double)
    ORDER(I64, int64_t)
    ORDER(I32, int32_t)
    ORDER(I16, int16_t)
    ORDER(I8, int8_t)
    ORDER(U64, uint64_t)
    ORDER(U32, uint32_t)
    ORDER(U16, uint16_t)
  default:
    return ((const uint8_t *)s->data)[a] - ((const uint8_t *)s->data)[b];
  }
}

static int by_contents(const Slices *s, int64_t i, int64_t j) {
  for (int64_t o = 0; o < s->outer; o++)
    for (int64_t k = 0; k < s->inner; k++) {
      int order = order_of(s, (o * s->n + i) * s->inner + k, (o * s->n + j) * s->inner + k);
      if (order)
        return order;
    }
  return 0;
}

static int by_slice(const void *a, const void *b) {
  const Slice *x = a, *y = b;
  int order = by_contents(x->slices, x->i, y->i);
  return order ? order : (x->i > y->i) - (x->i < y->i);
}

static int by_position(const void *a, const void *b) {
  int64_t x = ((const Slice *)a)->i, y = ((const Slice *)b)->i;
  return (x > y) - (x < y);
}

/* The first slice of each kind, in the order asked for, and for every slice the first one that is as it is. */
static int64_t first_of_each(const Slices *s, Slice *sorted, int64_t *same_as, bool by_size) {
  int64_t n = 0;
  for (int64_t i = 0; i < s->n; i++)
    sorted[i] = (Slice){s, i};
  if (s->n)
    qsort(sorted, (size_t)s->n, sizeof *sorted, by_slice);
  for (int64_t k = 0; k < s->n; k++) {
    int64_t i = sorted[k].i;
    if (k == 0 || by_contents(s, sorted[n - 1].i, i) != 0)
      sorted[n++].i = i;
    same_as[i] = sorted[n - 1].i;
  }
  if (!by_size && n)
    qsort(sorted, (size_t)n, sizeof *sorted, by_position);
  return n;
}

/* Y is one; the positions of its parts in X, and where each of X's went, and how many went there are the others. */
static Status put_unique(Op *op, int axis, const Slices *s, const Slice *first, int64_t n, const int64_t *same_as) {
  int64_t *at, *place, *into, *counts;
  TRY(ARENA_NEW(op->lower->arena, at, n));
  TRY(ARENA_NEW(op->lower->arena, counts, n));
  TRY(ARENA_NEW(op->lower->arena, place, s->n));
  TRY(ARENA_NEW(op->lower->arena, into, s->n));
  for (int64_t k = 0; k < n; k++) {
    at[k] = first[k].i;
    place[at[k]] = k;
  }
  for (int64_t i = 0; i < s->n; i++) {
    into[i] = place[same_as[i]];
    counts[into[i]]++;
  }
  TRY(pick(op, op->in[0], axis, at, n, &op->out[0]));
  const int64_t *others[] = {at, into, counts};
  for (int i = 1; i < op->n_out; i++)
    TRY(term_make(op->lower, NULL, I64, shape_of(1, i == 2 ? &s->n : &n), others[i - 1], &op->out[i]));
  return OK;
}

static Status unique(Op *op) {
  Term *x = op->in[0];
  Slices s = {.dtype = x->dtype, .outer = 1, .n = shape_elements(x->shape), .inner = 1};
  int axis = -1;
  char *data;
  Slice *sorted;
  int64_t *same_as;
  if (op_attribute(op, "axis")) {
    TRY(op_axis(op, "axis", 0, x->shape.rank, &axis));
    s.n = x->shape.dim[axis];
    for (int i = 0; i < x->shape.rank; i++)
      if (i != axis)
        *(i < axis ? &s.outer : &s.inner) *= x->shape.dim[i];
  }
  if (x->dtype == F16 || x->dtype == BF16)
    return fail(E_UNSUPPORTED, "no order of %s", dtype_name(x->dtype));
  TRY(contents(op, x, (double)shape_elements(x->shape) * log2((double)s.n + 2), &data));
  s.data = data;
  TRY(budget_need(&op->lower->budget, (size_t)s.n * (sizeof *sorted + 5 * sizeof *same_as), 0));
  TRY(ARENA_NEW(op->lower->arena, sorted, s.n));
  TRY(ARENA_NEW(op->lower->arena, same_as, s.n));
  int64_t n = first_of_each(&s, sorted, same_as, op_int(op, "sorted", 1));
  return put_unique(op, axis, &s, sorted, n, same_as);
}

const Lowering lowerings_unique[] = {
    {"Compress", 9, OPSET_LAST, 2, 2, 1, compress, "axis:i"},
    {"Unique", 11, OPSET_LAST, 1, 1, 4, unique, "axis:i sorted:b"},
    {0},
};
