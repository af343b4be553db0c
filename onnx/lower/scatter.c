/* Operators that put elements by number, and the k largest. Invariant: what ONNX leaves open is decided: updates of one
 * place are put in their order, of equal elements the one before is the larger and the smaller, and what is asked for
 * is sorted. */
#include <string.h>

#include "onnx/lower/lower.h"

/* The graph's operator has what is put first, for its type. */
static Status put(Op *op, OpKind kind, Term *data, Term *indices, Term *updates, const Attr *axis) {
  const char *reduction;
  TRY(op_string(op, "reduction", "none", &reduction));
  Attr attrs[] = {attr_string("reduction", reduction), axis ? *axis : (Attr){0}};
  return op_emit(op, kind, (Term *[]){updates, indices, data}, 3, attrs, axis ? 2 : 1, &op->out[0], 1);
}

static Status scatter_elements(Op *op) {
  int axis;
  TRY(op_axis(op, "axis", 0, op->in[0]->shape.rank, &axis));
  Attr attr = attr_int("axis", axis);
  return put(op, OP_ScatterElements, op->in[0], op->in[1], op->in[2], &attr);
}

static Status scatter_nd(Op *op) {
  return put(op, OP_ScatterND, op->in[0], op->in[1], op->in[2], NULL);
}

/* Where the update's places go along the axis: [batch or 1, 1 …, length, 1 …] that broadcasts to the update. */
static Status write_places(Op *op, Shape data, Shape update, int axis, bool circular, Term **places) {
  Shape line = {.rank = data.rank}, first = line;
  Term *start = op_in(op, 2);
  for (int i = 0; i < data.rank; i++) {
    line.dim[i] = i == axis ? update.dim[i] : 1;
    first.dim[i] = i == 0 ? data.dim[0] : 1;
  }
  TRY(op_iota(op, update.dim[axis], places));
  TRY(op_reshape(op, *places, line, places));
  if (start->kind == TERM_ABSENT)
    return OK;
  if (start->shape.rank != 1 || start->shape.dim[0] != data.dim[0])
    return fail(E_SHAPE, "write_indices are %s, the cache %s", SHAPE_STR(start->shape), SHAPE_STR(data));
  TRY(op_cast(op, start, I64, &start));
  TRY(op_reshape(op, start, first, &start));
  TRY(op_emit2(op, OP_Add, start, *places, places));
  if (!circular)
    return OK;
  Term *size;
  TRY(op_scalar(op, *places, (double)data.dim[axis], &size));
  return op_emit2(op, OP_Mod, *places, size, places);
}

static Status tensor_scatter(Op *op) {
  Term *places;
  Shape data = op->in[0]->shape, update = op->in[1]->shape, fits = update;
  const char *mode;
  int axis;
  TRY(op_string(op, "mode", "linear", &mode));
  TRY(op_axis(op, "axis", -2, data.rank, &axis));
  bool circular = strcmp(mode, "circular") == 0;
  if (!circular && strcmp(mode, "linear") != 0)
    return fail(E_UNSUPPORTED, "mode is '%s'", mode);
  if (fits.rank == data.rank)
    fits.dim[axis] = data.dim[axis];
  if (axis == 0 || !shape_equal(fits, data) || update.dim[axis] > data.dim[axis])
    return fail(E_SHAPE, "an update of %s along axis %d of %s", SHAPE_STR(update), axis, SHAPE_STR(data));
  TRY(write_places(op, data, update, axis, circular, &places));
  TRY(op_expand(op, places, update, &places));
  Attr attr = attr_int("axis", axis);
  return put(op, OP_ScatterElements, op->in[0], places, op->in[1], &attr);
}

static Status top_of(Op *op, Term *x, int axis, int64_t k, bool largest, Term **out) {
  Attr attrs[] = {attr_int("axis", axis), attr_int("k", k), attr_int("largest", largest)};
  return op_emit(op, OP_TopK, &x, 1, attrs, 3, out, 2);
}

static Status top_k(Op *op) {
  int axis;
  int64_t k = op_int(op, "k", 0);
  Term *out[2];
  TRY(op_axis(op, "axis", -1, op->in[0]->shape.rank, &axis));
  if (!op_attribute(op, "k"))
    TRY(op_known_int(op, 1, &k));
  TRY(top_of(op, op->in[0], axis, k, op_int(op, "largest", 1), out));
  memcpy(op->out, out, (size_t)op->n_out * sizeof *out);
  return OK;
}

/* The axis from its end, or the other way round. */
static Status reverse(Op *op, Term *x, int axis, Term **out) {
  int64_t axis64 = axis, start = x->shape.dim[axis] - 1, end = -1, step = -1;
  Attr attrs[] = {attr_ints("axes", &axis64, 1), attr_ints("starts", &start, 1), attr_ints("ends", &end, 1),
                  attr_ints("steps", &step, 1)};
  return op_emit(op, OP_Slice, &x, 1, attrs, 4, out, 1);
}

static Status arg_extreme(Op *op) {
  Term *out[2], *x = op->in[0];
  Shape dropped = x->shape;
  bool last = op_int(op, "select_last_index", 0);
  int axis;
  TRY(op_axis(op, "axis", 0, x->shape.rank, &axis));
  int64_t n = x->shape.dim[axis];
  if (n == 0)
    return fail(E_SHAPE, "axis %d of %s has no element", axis, SHAPE_STR(x->shape));
  if (last)
    TRY(reverse(op, x, axis, &x));
  TRY(top_of(op, x, axis, 1, strcmp(op->lowering->op, "ArgMax") == 0, out));
  if (last) {
    Term *end;
    TRY(op_scalar(op, out[1], (double)(n - 1), &end));
    TRY(op_emit2(op, OP_Sub, end, out[1], &out[1]));
  }
  op->out[0] = out[1];
  if (op_int(op, "keepdims", 1))
    return OK;
  dropped.rank--;
  memmove(dropped.dim + axis, dropped.dim + axis + 1, (size_t)(dropped.rank - axis) * sizeof *dropped.dim);
  return op_reshape(op, out[1], dropped, &op->out[0]);
}

/* Each line along the time axis backwards up to its length, and as it is behind that: time and batch are the first two
 * axes. */
static Status reverse_sequence(Op *op) {
  Term *x = op->in[0], *lengths = op->in[1], *step, *before, *inside;
  Shape s = x->shape;
  int64_t time = op_int(op, "time_axis", 0), batch = op_int(op, "batch_axis", 1), perm[MAX_RANK] = {1, 0};
  Attr batch_dims = attr_int("batch_dims", 1);
  if (s.rank < 2 || time + batch != 1 || time * batch != 0)
    return fail(E_SHAPE, "time_axis %lld, batch_axis %lld of %s", (long long)time, (long long)batch, SHAPE_STR(s));
  if (lengths->shape.rank != 1 || lengths->shape.dim[0] != s.dim[batch])
    return fail(E_SHAPE, "lengths %s for axis %lld of %s", SHAPE_STR(lengths->shape), (long long)batch, SHAPE_STR(s));
  for (int i = 2; i < s.rank; i++)
    perm[i] = i;
  if (batch)
    TRY(op_transpose(op, x, perm, &x));
  TRY(op_iota(op, s.dim[time], &step));
  TRY(op_cast(op, lengths, I64, &lengths));
  TRY(op_reshape(op, lengths, shape_of(2, (int64_t[]){s.dim[batch], 1}), &lengths));
  TRY(op_emit2(op, OP_Less, step, lengths, &inside));
  TRY(op_with_number(op, OP_Sub, lengths, 1, &before));
  TRY(op_emit2(op, OP_Sub, before, step, &before));
  TRY(op_where(op, inside, before, step, &step));
  TRY(op_reshape(op, step, shape_of(3, (int64_t[]){s.dim[batch], s.dim[time], 1}), &step));
  TRY(op_emit(op, OP_GatherND, (Term *[]){x, step}, 2, &batch_dims, 1, &x, 1));
  return batch ? op_transpose(op, x, perm, &op->out[0]) : (op->out[0] = x, OK);
}

#define ARG(name)                                                                                                      \
  {#name, 1, 11, 1, 1, 1, arg_extreme, "axis:i keepdims:b"}, {                                                         \
#name, 12, OPSET_LAST, 1, 1, 1, arg_extreme, "axis:i keepdims:b select_last_index:b"                               \
  }

const Lowering lowerings_scatter[] = {
    {"Scatter", 9, 10, 3, 3, 1, scatter_elements, "axis:i"},
    {"ScatterElements", 11, 15, 3, 3, 1, scatter_elements, "axis:i"},
    {"ScatterElements", 16, OPSET_LAST, 3, 3, 1, scatter_elements, "axis:i reduction:s"},
    {"ScatterND", 11, 15, 3, 3, 1, scatter_nd, ""},
    {"ScatterND", 16, OPSET_LAST, 3, 3, 1, scatter_nd, "reduction:s"},
    {"TensorScatter", 24, OPSET_LAST, 2, 3, 1, tensor_scatter, "axis:i mode:s"},
    {"TopK", 1, 9, 1, 1, 2, top_k, "axis:i k:i!"},
    {"TopK", 10, 10, 2, 2, 2, top_k, "axis:i"},
    {"TopK", 11, OPSET_LAST, 2, 2, 2, top_k, "axis:i largest:b sorted:b"},
    ARG(ArgMax),
    ARG(ArgMin),
    {"ReverseSequence", 10, OPSET_LAST, 2, 2, 1, reverse_sequence, "batch_axis:i time_axis:i"},
    {0},
};
