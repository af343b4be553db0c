/* Pad and CenterCropPad. Invariant: axes are padded one after the other, cropped ones first; what repeats elements is a
 * look-up of known positions. */
#include <string.h>

#include "base/checked.h"
#include "onnx/lower/lower.h"

typedef enum { PAD_CONSTANT, PAD_REFLECT, PAD_EDGE, PAD_WRAP, PAD_MODES } PadMode;

/* Blocks of `value` in front of and behind an axis. */
static Status add_blocks(Op *op, Term *value, int axis, int64_t before, int64_t after, Term **t) {
  Term *parts[3] = {*t, *t, *t};
  Shape block = (*t)->shape;
  int first = 1, last = 1;
  if (before > 0) {
    block.dim[axis] = before;
    TRY(op_expand(op, value, block, &parts[--first]));
  }
  if (after > 0) {
    block.dim[axis] = after;
    TRY(op_expand(op, value, block, &parts[++last]));
  }
  return op_concat(op, parts + first, last - first + 1, axis, t);
}

/* Where position i of an endless axis lies in one of `size` elements. */
static int64_t within(PadMode mode, int64_t i, int64_t size) {
  int64_t period = mode == PAD_WRAP ? size : 2 * (size - 1), at;
  if (mode == PAD_EDGE)
    return i < 0 ? 0 : i >= size ? size - 1 : i;
  if (period == 0)
    return 0;
  at = i % period + (i % period < 0 ? period : 0);
  return at < size ? at : period - at;
}

static Status repeat_elements(Op *op, PadMode mode, int axis, int64_t before, int64_t after, Term **t) {
  int64_t size = (*t)->shape.dim[axis], *indices, n = size + before + after;
  Attr attr = attr_int("axis", axis);
  Term *in[2] = {*t};
  if (size == 0 && n > 0)
    return fail(E_SHAPE, "axis %d of %s has nothing to repeat", axis, SHAPE_STR((*t)->shape));
  TRY(budget_need(&op->lower->budget, (size_t)n * sizeof *indices, (double)n));
  TRY(ARENA_NEW(op->lower->arena, indices, n));
  for (int64_t i = 0; i < n; i++)
    indices[i] = within(mode, i - before, size);
  TRY(term_make(op->lower, NULL, I64, shape_of(1, &n), indices, &in[1]));
  return op_emit(op, OP_Gather, in, 2, &attr, 1, t, 1);
}

static Status pad_axis(Op *op, PadMode mode, Term *value, int axis, int64_t before, int64_t after, Term **t) {
  int64_t dim = (*t)->shape.dim[axis], all;
  bool fits = checked_add_i64(before, after, &all) && checked_add_i64(all, dim, &all) && all < INT64_MAX / 16;
  if (!fits || before < -dim || after < -dim || (before < 0 ? -before : 0) + (after < 0 ? -after : 0) > dim)
    return fail(E_SHAPE, "pads %lld, %lld of axis %d of %s", (long long)before, (long long)after, axis,
                SHAPE_STR((*t)->shape));
  TRY(op_slice(op, *t, axis, before < 0 ? -before : 0, dim + (after < 0 ? after : 0), t));
  before = before < 0 ? 0 : before;
  after = after < 0 ? 0 : after;
  if (before + after == 0)
    return OK;
  return mode == PAD_CONSTANT ? add_blocks(op, value, axis, before, after, t)
                              : repeat_elements(op, mode, axis, before, after, t);
}

static Status mode_of(Op *op, PadMode *mode) {
  static const char *const names[PAD_MODES] = {"constant", "reflect", "edge", "wrap"};
  const char *text;
  int known = op->lowering->from >= 18 ? PAD_MODES : PAD_WRAP;
  TRY(op_string(op, "mode", "constant", &text));
  for (*mode = 0; (int)*mode < known && strcmp(text, names[*mode]) != 0; (*mode)++)
    ;
  return (int)*mode < known ? OK : fail(E_UNSUPPORTED, "mode is '%s'", text);
}

static Status pad(Op *op) {
  const int64_t *pads, *axes = NULL;
  PadMode mode;
  int n, n_axes = 0, rank = op->in[0]->shape.rank;
  Term *value, *t = op->in[0];
  TRY(mode_of(op, &mode));
  if (op->lowering->to < 11)
    op_ints(op, "pads", &pads, &n);
  else
    TRY(op_known_ints(op, 1, &pads, &n));
  if (op_has(op, 3))
    TRY(op_known_ints(op, 3, &axes, &n_axes));
  if (n != 2 * (axes ? n_axes : rank))
    return fail(E_SHAPE, "%d pads for %s", n, SHAPE_STR(t->shape));
  TRY(op_scalar(op, t, op_float(op, "value", 0), &value));
  if (op_has(op, 2))
    value = op_in(op, 2);
  if (value->dtype != t->dtype || shape_elements(value->shape) != 1)
    return fail(E_SHAPE, "%s %s is padded with %s %s", dtype_name(t->dtype), SHAPE_STR(t->shape),
                dtype_name(value->dtype), SHAPE_STR(value->shape));
  for (int i = 0; i < n / 2; i++) {
    int axis = axes ? axis_normalize(axes[i], rank) : i;
    if (axis < 0)
      return fail(E_SHAPE, "axis %lld is outside rank %d", (long long)axes[i], rank);
    TRY(pad_axis(op, mode, value, axis, pads[i], pads[i + n / 2], &t));
  }
  op->out[0] = t;
  return OK;
}

/* Half of what is too much is cropped, half of what is missing padded, in front; the rest behind. */
static Status center_crop_pad(Op *op) {
  const int64_t *axes, *sizes;
  int n_axes, n, rank = op->in[0]->shape.rank;
  Term *t = op->in[0], *zero;
  op_ints(op, "axes", &axes, &n_axes);
  TRY(op_known_ints(op, 1, &sizes, &n));
  if (n != (op_attribute(op, "axes") ? n_axes : rank))
    return fail(E_SHAPE, "%d sizes for %s", n, SHAPE_STR(t->shape));
  TRY(op_scalar(op, t, 0, &zero));
  for (int i = 0; i < n; i++) {
    int axis = op_attribute(op, "axes") ? axis_normalize(axes[i], rank) : i;
    int64_t size = sizes[i], dim = axis < 0 ? 0 : t->shape.dim[axis];
    if (axis < 0 || size < 0)
      return fail(E_SHAPE, "size %lld of axis %d of %s", (long long)size, axis, SHAPE_STR(t->shape));
    int64_t before = size < dim ? -((dim - size) / 2) : (size - dim) / 2;
    TRY(pad_axis(op, PAD_CONSTANT, zero, axis, before, size - dim - before, &t));
  }
  op->out[0] = t;
  return OK;
}

#define ROW(name, from, to, least, most, lower, attributes)                                                            \
  { #name, from, to, least, most, 1, lower, attributes }

const Lowering lowerings_pad[] = {
    ROW(Pad, 2, 10, 1, 1, pad, "pads:I! mode:s value:f"),
    ROW(Pad, 11, 17, 2, 3, pad, "mode:s"),
    ROW(Pad, 18, OPSET_LAST, 2, 4, pad, "mode:s"),
    ROW(CenterCropPad, 18, OPSET_LAST, 2, 2, center_crop_pad, "axes:I"),
    {0},
};
