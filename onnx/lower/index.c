/* Operators that pick or count elements by number. Invariant: as ONNX, negative indices count from the end. */
#include <math.h>
#include <string.h>

#include "onnx/file/exported.h"
#include "onnx/lower/lower.h"

/* Where all rows of known indices are equal, one is looked up. */
static Shape index_shape(const Term *indices) {
  Shape shape = indices->shape;
  const Shape *stored = indices->constant ? &indices->constant->stored : NULL;
  for (int i = 0; stored && i < shape.rank; i++) {
    int j = i - (shape.rank - stored->rank);
    if (j < 0 || stored->dim[j] == 1)
      shape.dim[i] = shape.dim[i] ? 1 : 0;
  }
  return shape;
}

static Status look_up(Op *op, Term *data, int axis, Term **out) {
  Term *indices = op->in[1];
  Attr attrs[] = {attr_int("axis", axis), attr_int("no_gradient_row", 0)};
  bool is_padded = axis == 0 && exported_padding(op->proto, &attrs[1].i);
  Shape small = index_shape(indices), whole = data->shape;
  if (shape_equal(small, indices->shape))
    return op_emit(op, OP_Gather, (Term *[]){data, indices}, 2, attrs, is_padded ? 2 : 1, out, 1);
  if (whole.rank - 1 + small.rank > MAX_RANK)
    return fail(E_UNSUPPORTED, "rank %d is above %d", whole.rank - 1 + small.rank, MAX_RANK);
  TRY(term_broadcast(op->lower, indices->constant, small, &indices));
  TRY(op_emit(op, OP_Gather, (Term *[]){data, indices}, 2, attrs, is_padded ? 2 : 1, out, 1));
  whole = (*out)->shape;
  for (int i = 0; i < small.rank; i++)
    whole.dim[axis + i] = op->in[1]->shape.dim[i];
  return op_expand(op, *out, whole, out);
}

/* Where a frozen row was looked up, its contents: cheaper than a whole table with that row. */
static Status keep_row(Op *op, const FrozenRow *frozen, const Term *table, Term **out) {
  Shape shape = op->in[1]->shape, row = {.rank = table->shape.rank - 1};
  Term *number, *is_row, *from_end, *contents;
  TRY(op_scalar(op, op->in[1], (double)frozen->row, &number));
  TRY(op_emit2(op, OP_Equal, op->in[1], number, &is_row));
  TRY(op_scalar(op, op->in[1], (double)(frozen->row - table->shape.dim[0]), &number));
  TRY(op_emit2(op, OP_Equal, op->in[1], number, &from_end));
  TRY(op_emit2(op, OP_Or, is_row, from_end, &is_row));
  for (int i = 0; i < row.rank; i++) {
    row.dim[i] = table->shape.dim[i + 1];
    shape.dim[shape.rank++] = 1;
  }
  TRY(op_reshape(op, is_row, shape, &is_row));
  TRY(term_make(op->lower, NULL, table->dtype, row, frozen->contents, &contents));
  return op_where(op, is_row, contents, *out, out);
}

static Status gather(Op *op) {
  const Model *model = op->lower->model;
  Term *table = op->in[0]->unmasked;
  int axis;
  TRY(op_axis(op, "axis", 0, op->in[0]->shape.rank, &axis));
  if (!table || axis)
    return look_up(op, op->in[0], axis, &op->out[0]);
  TRY(look_up(op, table, axis, &op->out[0]));
  for (int k = 0; k < model->n_frozen_rows; k++)
    if (model->frozen_rows[k].initializer == table->initializer)
      TRY(keep_row(op, &model->frozen_rows[k], table, &op->out[0]));
  return OK;
}

static Status gather_nd(Op *op) {
  Attr attr = attr_int("batch_dims", op_int(op, "batch_dims", 0));
  return op_emit(op, OP_GatherND, op->in, 2, &attr, 1, &op->out[0], 1);
}

static Status gather_elements(Op *op) {
  int axis;
  TRY(op_axis(op, "axis", 0, op->in[0]->shape.rank, &axis));
  Attr attr = attr_int("axis", axis);
  return op_emit(op, OP_GatherElements, op->in, 2, &attr, 1, &op->out[0], 1);
}

static Status trilu(Op *op) {
  int64_t k = 0;
  if (op_has(op, 1))
    TRY(op_known_int(op, 1, &k));
  Attr attrs[] = {attr_int("upper", op_int(op, "upper", 1)), attr_int("k", k)};
  return op_emit(op, OP_Trilu, op->in, 1, attrs, 2, &op->out[0], 1);
}

static Status cumsum(Op *op) {
  int64_t asked;
  int rank = op->in[0]->shape.rank;
  TRY(op_known_int(op, 1, &asked));
  int axis = axis_normalize(asked, rank);
  if (axis < 0)
    return fail(E_SHAPE, "axis %lld is outside rank %d", (long long)asked, rank);
  Attr attrs[] = {attr_int("axis", axis), attr_int("exclusive", op_int(op, "exclusive", 0)),
                  attr_int("reverse", op_int(op, "reverse", 0))};
  return op_emit(op, OP_CumSum, op->in, 1, attrs, 3, &op->out[0], 1);
}

static int64_t range_count(double start, double limit, double delta) {
  double steps = (limit - start) / delta;
  return steps <= 0 ? 0 : (int64_t)ceil(steps);
}

static Status range(Op *op) {
  double start, limit, delta;
  TRY(op_known_number(op, 0, &start));
  TRY(op_known_number(op, 1, &limit));
  TRY(op_known_number(op, 2, &delta));
  if (!(delta != 0) || !((limit - start) / delta < 1e15))
    return fail(E_MODEL, "no range: from %g to %g by %g", start, limit, delta);
  Attr count = attr_int("count", range_count(start, limit, delta));
  return op_emit(op, OP_Range, op->in, 3, &count, 1, &op->out[0], 1);
}

/* Of a float, -0 is, too. */
static bool is_zero(DType dtype, const char *element) {
  static const char zeros[8] = {0};
  if (dtype == F32)
    return *(const float *)element == 0;
  return dtype == F64 ? *(const double *)element == 0 : memcmp(element, zeros, dtype_bytes(dtype)) == 0;
}

/* Positions of the elements that are not zero, [rank, count], in row-major order. */
static Status nonzero(Op *op) {
  Term *x = op->in[0];
  bool known;
  TRY(term_given(op->lower, x, &known));
  int64_t n = shape_elements(x->shape), count = 0, at = 0;
  size_t element = dtype_bytes(x->dtype), bytes;
  if (!known)
    return fail(E_UNSUPPORTED, "the shape of the result depends on data");
  TRY(shape_bytes(x->shape, x->dtype, &bytes));
  TRY(budget_need(&op->lower->budget, bytes, (double)n));
  char *data;
  int64_t *positions;
  TRY(ARENA_NEW(op->lower->arena, data, bytes));
  term_write(x, data);
  for (int64_t i = 0; i < n; i++)
    count += !is_zero(x->dtype, data + (size_t)i * element);
  int rank = x->shape.rank ? x->shape.rank : 1;
  TRY(budget_need(&op->lower->budget, (size_t)count * (size_t)rank * sizeof *positions, (double)count * rank));
  TRY(ARENA_NEW(op->lower->arena, positions, count * rank));
  for (int64_t i = 0; i < n; i++) {
    if (is_zero(x->dtype, data + (size_t)i * element))
      continue;
    int64_t rest = i;
    for (int d = x->shape.rank - 1; d >= 0; rest /= x->shape.dim[d], d--)
      positions[d * count + at] = rest % x->shape.dim[d];
    at++;
  }
  return term_make(op->lower, NULL, I64, shape_of(2, (int64_t[]){rank, count}), positions, &op->out[0]);
}

/* Where(indices == 0 … depth-1, on, off) along a new axis. */
static Status one_hot(Op *op) {
  double depth;
  Term *indices = op->in[0], *classes, *values[2], *hit, *negative, *shifted, *zero;
  int rank = indices->shape.rank, axis;
  TRY(op_known_number(op, 1, &depth));
  TRY(op_axis(op, "axis", -1, rank + 1, &axis));
  if (rank == MAX_RANK || !(depth >= 1 && depth <= 1 << 30) || op->in[2]->shape.rank != 1 ||
      op->in[2]->shape.dim[0] != 2)
    return fail(E_SHAPE, "indices %s, depth %g, values %s", SHAPE_STR(indices->shape), depth,
                SHAPE_STR(op->in[2]->shape));
  Shape wide = {.rank = rank + 1}, line = {.rank = rank + 1};
  for (int i = 0; i <= rank; i++) {
    wide.dim[i] = i == axis ? 1 : indices->shape.dim[i - (i > axis)];
    line.dim[i] = i == axis ? (int64_t)depth : 1;
  }
  TRY(op_cast(op, indices, I64, &indices));
  TRY(op_reshape(op, indices, wide, &indices));
  TRY(op_with_number(op, OP_Add, indices, depth, &shifted));
  TRY(op_scalar(op, indices, 0, &zero));
  TRY(op_emit2(op, OP_Less, indices, zero, &negative));
  TRY(op_where(op, negative, shifted, indices, &indices));
  TRY(op_iota(op, (int64_t)depth, &classes));
  TRY(op_reshape(op, classes, line, &classes));
  TRY(op_emit2(op, OP_Equal, indices, classes, &hit));
  for (int i = 0; i < 2; i++) {
    TRY(op_slice(op, op->in[2], 0, i, i + 1, &values[i]));
    TRY(op_reshape(op, values[i], (Shape){0}, &values[i]));
  }
  return op_where(op, hit, values[1], values[0], &op->out[0]);
}

static Status eye_like(Op *op) {
  Shape s = op->in[0]->shape;
  int64_t k = op_int(op, "k", 0), to = op_int(op, "dtype", 0);
  DType dtype = to ? dtype_from_onnx((int32_t)to) : op->in[0]->dtype;
  Term *rows, *columns, *hit;
  if (s.rank != 2)
    return fail(E_SHAPE, "needs a matrix, has %s", SHAPE_STR(s));
  if (dtype == DTYPE_NONE)
    return fail(E_UNSUPPORTED, "ONNX type %lld", (long long)to);
  TRY(op_iota(op, s.dim[0], &rows));
  TRY(op_iota(op, s.dim[1], &columns));
  TRY(op_reshape(op, rows, shape_of(2, (int64_t[]){s.dim[0], 1}), &rows));
  TRY(op_with_number(op, OP_Add, rows, (double)k, &rows));
  TRY(op_emit2(op, OP_Equal, rows, columns, &hit));
  return op_cast(op, hit, dtype, &op->out[0]);
}

#define ROW(name, from, least, most, lower, attributes)                                                                \
  { #name, from, OPSET_LAST, least, most, 1, lower, attributes }

const Lowering lowerings_index[] = {
    ROW(Gather, 1, 2, 2, gather, "axis:i"),
    ROW(GatherElements, 11, 2, 2, gather_elements, "axis:i"),
    {"GatherND", 11, 11, 2, 2, 1, gather_nd, ""},
    ROW(GatherND, 12, 2, 2, gather_nd, "batch_dims:i"),
    ROW(Trilu, 14, 1, 2, trilu, "upper:b"),
    ROW(CumSum, 11, 2, 2, cumsum, "exclusive:b reverse:b"),
    ROW(Range, 11, 3, 3, range, "stash_type:i"),
    ROW(NonZero, 9, 1, 1, nonzero, ""),
    ROW(OneHot, 9, 3, 3, one_hot, "axis:i"),
    ROW(EyeLike, 9, 1, 1, eye_like, "dtype:d k:i"),
    {0},
};
