/* Shapes, and operators that move elements without looking at them. Invariant: what they are told by inputs (axes,
 * sizes, shapes) is known and becomes an attribute. */
#include "base/checked.h"
#include "onnx/lower/lower.h"

static Status identity(Op *op) {
  op->out[0] = op->in[0];
  return OK;
}

static int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

static Status shape(Op *op) {
  Shape s = op->in[0]->shape;
  int64_t start = op_int(op, "start", 0), end = op_int(op, "end", s.rank);
  start = clamp(start < 0 ? start + s.rank : start, 0, s.rank);
  end = clamp(end < 0 ? end + s.rank : end, start, s.rank);
  int64_t n = end - start;
  return term_make(op->lower, NULL, I64, shape_of(1, &n), s.dim + start, &op->out[0]);
}

static Status size(Op *op) {
  int64_t n = shape_elements(op->in[0]->shape);
  return term_make(op->lower, NULL, I64, (Shape){0}, &n, &op->out[0]);
}

/* Input i as a shape. */
static Status known_shape(Op *op, int i, Shape *s) {
  const int64_t *dims;
  int n;
  TRY(op_known_ints(op, i, &dims, &n));
  if (n > MAX_RANK)
    return fail(E_UNSUPPORTED, "rank %d is above %d", n, MAX_RANK);
  *s = shape_of(n, dims);
  return OK;
}

static Status reshape(Op *op) {
  Shape from = op->in[0]->shape, to;
  bool zero_is_zero = op_int(op, "allowzero", 0);
  int open = -1;
  int64_t rest = 1;
  TRY(known_shape(op, 1, &to));
  Shape asked = to;
  for (int i = 0; i < to.rank; i++) {
    if (to.dim[i] == 0 && !zero_is_zero) {
      if (i >= from.rank)
        return fail(E_SHAPE, "dimension %d of %s copies one that %s lacks", i, SHAPE_STR(asked), SHAPE_STR(from));
      to.dim[i] = from.dim[i];
    }
    if (to.dim[i] == -1 && open < 0) {
      open = i;
    } else if (to.dim[i] < 0 || !checked_mul_i64(rest, to.dim[i], &rest)) {
      return fail(E_SHAPE, "no shape: %s", SHAPE_STR(asked));
    }
  }
  if (open >= 0) {
    int64_t elements = shape_elements(from);
    if (rest == 0 || elements % rest)
      return fail(E_SHAPE, "%s has %lld elements, which %s does not divide", SHAPE_STR(from), (long long)elements,
                  SHAPE_STR(asked));
    to.dim[open] = elements / rest;
  }
  return op_reshape(op, op->in[0], to, &op->out[0]);
}

static Status squeeze(Op *op) {
  Shape from = op->in[0]->shape, to = {0};
  int64_t axes[MAX_RANK];
  int n;
  TRY(op_axes(op, "axes", 1, from.rank, axes, &n));
  for (int i = 0, next = 0; i < from.rank; i++) {
    bool drop = n < 0 ? from.dim[i] == 1 : next < n && axes[next] == i;
    if (drop && n >= 0) {
      next++;
      if (from.dim[i] != 1)
        return fail(E_SHAPE, "axis %d of %s is not 1", i, SHAPE_STR(from));
    }
    if (!drop)
      to.dim[to.rank++] = from.dim[i];
  }
  return op_reshape(op, op->in[0], to, &op->out[0]);
}

static Status unsqueeze(Op *op) {
  Shape from = op->in[0]->shape, to = {0};
  int64_t axes[MAX_RANK];
  const int64_t *given;
  int count, n;
  if (op_attribute(op, "axes"))
    op_ints(op, "axes", &given, &count);
  else
    TRY(op_known_ints(op, 1, &given, &count));
  if (count > MAX_RANK - from.rank)
    return fail(E_UNSUPPORTED, "rank %d is above %d", from.rank + count, MAX_RANK);
  to.rank = from.rank + count;
  TRY(op_axes(op, "axes", 1, to.rank, axes, &n));
  for (int i = 0, next = 0, at = 0; i < to.rank; i++) {
    bool fresh = next < n && axes[next] == i;
    next += fresh;
    to.dim[i] = fresh ? 1 : from.dim[at++];
  }
  return op_reshape(op, op->in[0], to, &op->out[0]);
}

static Status flatten(Op *op) {
  Shape from = op->in[0]->shape;
  int64_t axis = op_int(op, "axis", 1), sides[2] = {1, 1};
  axis += axis < 0 ? from.rank : 0;
  if (axis < 0 || axis > from.rank)
    return fail(E_SHAPE, "axis %lld is outside rank %d", (long long)op_int(op, "axis", 1), from.rank);
  for (int i = 0; i < from.rank; i++)
    sides[i >= axis] *= from.dim[i];
  return op_reshape(op, op->in[0], shape_of(2, sides), &op->out[0]);
}

static Status expand(Op *op) {
  Shape to, both;
  TRY(known_shape(op, 1, &to));
  if (!shape_broadcast(op->in[0]->shape, to, &both))
    return fail(E_SHAPE, "%s does not expand to %s", SHAPE_STR(op->in[0]->shape), SHAPE_STR(to));
  return op_expand(op, op->in[0], both, &op->out[0]);
}

static Status concat(Op *op) {
  int axis;
  TRY(op_axis(op, "axis", 1, op->in[0]->shape.rank, &axis));
  return op_concat(op, op->in, op->n_in, axis, &op->out[0]);
}

/* Sizes by attribute or input, or as equal as may be with the last one smaller. */
static Status split_sizes(Op *op, int64_t dim, const int64_t **sizes) {
  int n = 0;
  if (op_attribute(op, "split"))
    op_ints(op, "split", sizes, &n);
  else if (op_has(op, 1))
    TRY(op_known_ints(op, 1, sizes, &n));
  if (n) {
    if (n != op->n_out)
      return fail(E_SHAPE, "%d sizes for %d outputs", n, op->n_out);
    return OK;
  }
  int64_t *even, parts = op_int(op, "num_outputs", op->n_out);
  if (parts != op->n_out || parts < 1)
    return fail(E_SHAPE, "num_outputs is %lld, the node has %d", (long long)parts, op->n_out);
  TRY(ARENA_NEW(op->lower->arena, even, op->n_out));
  int64_t chunk = dim / parts + (dim % parts != 0), rest = dim;
  for (int i = 0; i < op->n_out; i++) {
    even[i] = rest < chunk ? rest : chunk;
    rest -= even[i];
  }
  *sizes = even;
  return OK;
}

static Status split(Op *op) {
  int axis;
  const int64_t *sizes;
  TRY(op_axis(op, "axis", 0, op->in[0]->shape.rank, &axis));
  TRY(split_sizes(op, op->in[0]->shape.dim[axis], &sizes));
  return op_split(op, op->in[0], axis, sizes, op->n_out, op->out);
}

/* start and end as the graph wants them: within the axis, end -1 for "before 0". */
static void slice_bounds(int64_t dim, int64_t step, int64_t *start, int64_t *end) {
  if (*start < 0)
    *start = *start < -dim ? (step > 0 ? 0 : -1) : *start + dim;
  if (*end < 0)
    *end = *end < -dim ? (step > 0 ? 0 : -1) : *end + dim;
  if (step > 0) {
    *start = clamp(*start, 0, dim);
    *end = clamp(*end, 0, dim);
  } else {
    *start = clamp(*start, -1, dim - 1);
    *end = clamp(*end, -1, dim - 1);
    if (*start < 0 || dim == 0) /* nothing */
      *start = *end = 0;
  }
}

typedef struct {
  const int64_t *starts, *ends, *axes, *steps;
  int n, n_ends, n_axes, n_steps;
} SliceArguments;

static Status slice_arguments(Op *op, SliceArguments *a) {
  *a = (SliceArguments){0};
  if (op->lowering->to < 10) {
    op_ints(op, "starts", &a->starts, &a->n);
    op_ints(op, "ends", &a->ends, &a->n_ends);
    op_ints(op, "axes", &a->axes, &a->n_axes);
  } else {
    TRY(op_known_ints(op, 1, &a->starts, &a->n));
    TRY(op_known_ints(op, 2, &a->ends, &a->n_ends));
    if (op_has(op, 3))
      TRY(op_known_ints(op, 3, &a->axes, &a->n_axes));
    if (op_has(op, 4))
      TRY(op_known_ints(op, 4, &a->steps, &a->n_steps));
  }
  if (a->n_ends != a->n || (a->axes && a->n_axes != a->n) || (a->steps && a->n_steps != a->n) || a->n > MAX_RANK)
    return fail(E_SHAPE, "%d starts, %d ends, %d axes, %d steps", a->n, a->n_ends, a->n_axes, a->n_steps);
  return OK;
}

static Status slice(Op *op) {
  SliceArguments a;
  Shape from = op->in[0]->shape;
  int64_t axes[MAX_RANK], starts[MAX_RANK], ends[MAX_RANK], steps[MAX_RANK];
  int n = 0;
  TRY(slice_arguments(op, &a));
  for (int i = 0; i < a.n; i++) {
    int64_t asked = a.axes ? a.axes[i] : i, start = a.starts[i], end = a.ends[i], step = a.steps ? a.steps[i] : 1;
    int axis = axis_normalize(asked, from.rank);
    if (axis < 0 || step == 0)
      return fail(E_SHAPE, "axis %lld, step %lld in a slice of %s", (long long)asked, (long long)step, SHAPE_STR(from));
    slice_bounds(from.dim[axis], step, &start, &end);
    if (step == 1 && start == 0 && end == from.dim[axis])
      continue;
    axes[n] = axis, starts[n] = start, ends[n] = end, steps[n++] = start == end ? 1 : step;
  }
  if (n == 0)
    return identity(op);
  Attr attrs[] = {attr_ints("axes", axes, n), attr_ints("starts", starts, n), attr_ints("ends", ends, n),
                  attr_ints("steps", steps, n)};
  return op_emit(op, OP_Slice, op->in, 1, attrs, 4, &op->out[0], 1);
}

static Status transpose(Op *op) {
  int rank = op->in[0]->shape.rank, n;
  const int64_t *perm;
  int64_t reversed[MAX_RANK];
  bool seen[MAX_RANK] = {false};
  op_ints(op, "perm", &perm, &n);
  if (!op_attribute(op, "perm")) {
    for (int i = 0; i < rank; i++)
      reversed[i] = rank - 1 - i;
    perm = reversed;
    n = rank;
  }
  for (int i = 0; i < n; i++) {
    if (n != rank || perm[i] < 0 || perm[i] >= n || seen[perm[i]])
      return fail(E_SHAPE, "perm is no permutation of the axes of %s", SHAPE_STR(op->in[0]->shape));
    seen[perm[i]] = true;
  }
  if (n != rank)
    return fail(E_SHAPE, "perm has %d axes, the input %s", n, SHAPE_STR(op->in[0]->shape));
  return op_transpose(op, op->in[0], perm, &op->out[0]);
}

/* Each axis of size d repeated r times: [.., d, ..] → [.., 1, d, ..] expanded to [.., r, d, ..] → [.., r d, ..]. */
static Status tile(Op *op) {
  const int64_t *repeats;
  int n;
  Term *t = op->in[0];
  TRY(op_known_ints(op, 1, &repeats, &n));
  if (n != t->shape.rank)
    return fail(E_SHAPE, "%d repeats for %s", n, SHAPE_STR(t->shape));
  for (int i = 0; i < n; i++) {
    Shape s = t->shape, split = shape_of(i, s.dim);
    if (repeats[i] < 0 || !checked_mul_i64(s.dim[i], repeats[i], &s.dim[i]))
      return fail(E_SHAPE, "%lld repeats of axis %d of %s", (long long)repeats[i], i, SHAPE_STR(t->shape));
    if (repeats[i] == 1)
      continue;
    int64_t inner = 1;
    for (int j = i; j < n; j++)
      inner *= t->shape.dim[j];
    if (i + 2 > MAX_RANK)
      return fail(E_UNSUPPORTED, "rank %d is above %d", i + 2, MAX_RANK);
    split.rank = i + 2;
    split.dim[i] = 1;
    split.dim[i + 1] = inner;
    TRY(op_reshape(op, t, split, &t));
    split.dim[i] = repeats[i];
    TRY(op_expand(op, t, split, &t));
    TRY(op_reshape(op, t, s, &t));
  }
  op->out[0] = t;
  return OK;
}

static Status constant_of_shape(Op *op) {
  Shape to;
  const Onnx__AttributeProto *value = op_attribute(op, "value");
  Term *scalar;
  TRY(known_shape(op, 0, &to));
  if (value) {
    DType dtype;
    Shape one;
    const void *data;
    TRY(tensor_read(op->lower->model, value->t, op->lower->arena, &dtype, &one, &data));
    if (shape_elements(one) != 1)
      return fail(E_MODEL, "the value is %s, not one number", SHAPE_STR(one));
    if (tensor_packed_bits(value->t))
      return fail(E_UNSUPPORTED, "a value of %s", onnx_type_name(value->t->data_type));
    TRY(term_make(op->lower, NULL, dtype, (Shape){0}, data, &scalar));
  } else {
    float zero = 0;
    TRY(term_make(op->lower, NULL, F32, (Shape){0}, &zero, &scalar));
  }
  return op_expand(op, scalar, to, &op->out[0]);
}

#define ROW(name, from, to, least, most, lower, attributes)                                                            \
  { #name, from, to, least, most, 1, lower, attributes }

const Lowering lowerings_shape[] = {
    ROW(Identity, 1, OPSET_LAST, 1, 1, identity, ""),
    ROW(Shape, 1, 14, 1, 1, shape, ""),
    ROW(Shape, 15, OPSET_LAST, 1, 1, shape, "start:i end:i"),
    ROW(Size, 1, OPSET_LAST, 1, 1, size, ""),
    ROW(Reshape, 5, 13, 2, 2, reshape, ""),
    ROW(Reshape, 14, OPSET_LAST, 2, 2, reshape, "allowzero:b"),
    ROW(Squeeze, 1, 12, 1, 1, squeeze, "axes:I"),
    ROW(Squeeze, 13, OPSET_LAST, 1, 2, squeeze, ""),
    ROW(Unsqueeze, 1, 12, 1, 1, unsqueeze, "axes:I!"),
    ROW(Unsqueeze, 13, OPSET_LAST, 2, 2, unsqueeze, ""),
    ROW(Flatten, 1, OPSET_LAST, 1, 1, flatten, "axis:i"),
    ROW(Expand, 8, OPSET_LAST, 2, 2, expand, ""),
    ROW(Concat, 4, OPSET_LAST, 1, MANY, concat, "axis:i!"),
    {"Split", 2, 12, 1, 1, MANY, split, "axis:i split:I"},
    {"Split", 13, 17, 1, 2, MANY, split, "axis:i"},
    {"Split", 18, OPSET_LAST, 1, 2, MANY, split, "axis:i num_outputs:i"},
    ROW(Slice, 1, 9, 1, 1, slice, "starts:I! ends:I! axes:I"),
    ROW(Slice, 10, OPSET_LAST, 3, 5, slice, ""),
    ROW(Transpose, 1, OPSET_LAST, 1, 1, transpose, "perm:I"),
    ROW(Tile, 6, OPSET_LAST, 2, 2, tile, ""),
    ROW(ConstantOfShape, 9, OPSET_LAST, 1, 1, constant_of_shape, "value:t"),
    {0},
};
