/* Deformable convolution: X is read at the kernel's places, moved by offsets that are data, and what was read is
 * multiplied by W. Invariant: samples and groups of offsets are one axis while X is read. */
#include <string.h>

#include "base/checked.h"
#include "onnx/lower/spatial.h"

/* Sizes: offset groups, taps of the kernel, places of the result. */
typedef struct {
  int64_t groups, taps, places;
  Shape result; /* [N, M, o…] */
} Deform;

static Status read_deform(Op *op, const Spatial *s, Deform *d) {
  Shape x = op->in[0]->shape, w = op->in[1]->shape, offset = op->in[2]->shape;
  *d = (Deform){.groups = op_int(op, "offset_group", 1), .taps = 1, .places = 1, .result = x};
  if (d->groups < 1 || x.dim[1] % d->groups || w.dim[0] % s->group || x.dim[1] != w.dim[1] * s->group)
    return fail(E_SHAPE, "%lld groups, %lld of offsets: X %s, W %s", (long long)s->group, (long long)d->groups,
                SHAPE_STR(x), SHAPE_STR(w));
  d->result.dim[1] = w.dim[0];
  for (int i = 0; i < s->axes; i++) {
    int64_t room = x.dim[i + 2] + s->pads[i] + s->pads[i + s->axes] - s->reach[i];
    if (room < 0)
      return fail(E_SHAPE, "the kernel is larger than the padded input along axis %d: X %s, W %s", i + 2, SHAPE_STR(x),
                  SHAPE_STR(w));
    d->result.dim[i + 2] = room / s->strides[i] + 1;
    if (!checked_mul_i64(d->taps, w.dim[i + 2], &d->taps) ||
        !checked_mul_i64(d->places, d->result.dim[i + 2], &d->places))
      return fail(E_SHAPE, "X %s, W %s", SHAPE_STR(x), SHAPE_STR(w));
  }
  Shape expected = d->result;
  if (!checked_mul_i64(d->groups, s->axes, &expected.dim[1]) ||
      !checked_mul_i64(expected.dim[1], d->taps, &expected.dim[1]) || !shape_equal(offset, expected))
    return fail(E_SHAPE, "offset is %s, expected %s", SHAPE_STR(offset), SHAPE_STR(expected));
  expected.dim[1] /= s->axes;
  if (op_has(op, 4) && !shape_equal(op->in[4]->shape, expected))
    return fail(E_SHAPE, "mask is %s, expected %s", SHAPE_STR(op->in[4]->shape), SHAPE_STR(expected));
  return OK;
}

/* Where tap t meets X for the result's place, along one axis, before it is moved. */
static double regular(const Spatial *s, const Deform *d, Shape w, int axis, int64_t t, int64_t place) {
  for (int i = s->axes - 1; i > axis; i--) {
    t /= w.dim[i + 2];
    place /= d->result.dim[i + 2];
  }
  return (double)(place % d->result.dim[axis + 2] * s->strides[axis] + t % w.dim[axis + 2] * s->dilations[axis] -
                  s->pads[axis]);
}

/* [taps, places, axes] */
static Status regular_places(Op *op, const Spatial *s, const Deform *d, Term **out) {
  Shape shape = {3, {d->taps, d->places, s->axes}}, w = op->in[1]->shape;
  size_t bytes;
  double *at;
  TRY(shape_bytes(shape, F64, &bytes));
  TRY(budget_need(&op->lower->budget, bytes, (double)shape_elements(shape) * s->axes));
  TRY(ARENA_NEW(op->lower->arena, at, bytes / sizeof *at));
  for (int64_t i = 0; i < shape_elements(shape); i++)
    at[i] = regular(s, d, w, (int)(i % s->axes), i / s->axes / d->places, i / s->axes % d->places);
  TRY(term_make(op->lower, NULL, F64, shape, at, out));
  return op_cast(op, *out, op->in[0]->dtype, out);
}

/* What each tap reads at each place: [N, offset groups, channels of one, taps, places]. */
static Status read_places(Op *op, const Spatial *s, const Deform *d, Term **out) {
  Term *x = op->in[0], *points, *places;
  int64_t n = x->shape.dim[0] * d->groups, channels = x->shape.dim[1] / d->groups;
  Shape fields = x->shape, moved = {5, {x->shape.dim[0], d->groups, d->taps, s->axes, d->places}};
  fields.dim[0] = n;
  fields.dim[1] = channels;
  TRY(regular_places(op, s, d, &places));
  TRY(op_reshape(op, op->in[2], moved, &points));
  TRY(op_transpose(op, points, (const int64_t[]){0, 1, 2, 4, 3}, &points));
  TRY(op_emit2(op, OP_Add, points, places, &points));
  TRY(op_reshape(op, points, (Shape){3, {n, d->taps * d->places, s->axes}}, &points));
  TRY(op_reshape(op, x, fields, &x));
  TRY(op_emit2(op, OP_PointSample, x, points, out));
  return op_reshape(op, *out, (Shape){5, {moved.dim[0], d->groups, channels, d->taps, d->places}}, out);
}

/* X, W, offset, B, mask */
static Status deform_conv(Op *op) {
  Spatial s;
  Deform d;
  Term *y, *w = op->in[1], *mask = op_in(op, 4);
  Shape filters = w->shape;
  TRY(read_spatial(op, op->in[0]->shape, filters, &s));
  TRY(read_deform(op, &s, &d));
  TRY(read_places(op, &s, &d, &y));
  if (mask->kind != TERM_ABSENT) {
    TRY(op_reshape(op, mask, (Shape){5, {d.result.dim[0], d.groups, 1, d.taps, d.places}}, &mask));
    TRY(op_emit2(op, OP_Mul, y, mask, &y));
  }
  int64_t depth = filters.dim[1] * d.taps;
  TRY(op_reshape(op, y, (Shape){4, {d.result.dim[0], s.group, depth, d.places}}, &y));
  TRY(op_reshape(op, w, (Shape){3, {s.group, filters.dim[0] / s.group, depth}}, &w));
  TRY(op_matmul(op, w, false, y, false, &y));
  TRY(op_reshape(op, y, d.result, &y));
  return op_add_bias(op, y, op_in(op, 3), op->n_in > 3 ? op->proto->input[3] : "", &op->out[0]);
}

const Lowering lowerings_deform[] = {
    {"DeformConv", 19, OPSET_LAST, 3, 5, 1, deform_conv,
     "dilations:I group:i kernel_shape:I offset_group:i pads:I strides:I"},
    {0},
};
