/* Convolutions. A transposed one is the gradient of one towards its input, and a bias is added. Invariant: pads are
 * numbers before a node is written, whatever said them. */
#include <string.h>

#include "graph/convolution.h"
#include "onnx/lower/lower.h"

enum { MOST_STEP = INT32_MAX };

/* What a node says of its spatial axes. */
typedef struct {
  int axes;
  int64_t strides[CONVOLUTION_AXES], dilations[CONVOLUTION_AXES], pads[2 * CONVOLUTION_AXES];
  int64_t reach[CONVOLUTION_AXES]; /* from the kernel's first tap to behind its last */
  int64_t group;
} Spatial;

/* One attribute with `n` entries of least … MOST_STEP; `absent` where it is not there. */
static Status read_entries(const Op *op, const char *name, int n, int64_t least, int64_t absent, int64_t *entries) {
  const int64_t *given;
  int count;
  op_ints(op, name, &given, &count);
  if (count && count != n)
    return fail(E_SHAPE, "%s has %d entries, not %d", name, count, n);
  for (int i = 0; i < n; i++) {
    entries[i] = count ? given[i] : absent;
    if (entries[i] < least || entries[i] > MOST_STEP)
      return fail(E_SHAPE, "%s has %lld", name, (long long)entries[i]);
  }
  return OK;
}

static Status read_spatial(const Op *op, Spatial *s) {
  Shape x = op->in[0]->shape, w = op->in[1]->shape;
  int64_t kernel[CONVOLUTION_AXES];
  *s = (Spatial){.axes = x.rank - 2, .group = op_int(op, "group", 1)};
  if (s->axes < 1 || s->axes > CONVOLUTION_AXES)
    return fail(E_UNSUPPORTED, "%d spatial axes (X %s), not one to three", s->axes, SHAPE_STR(x));
  if (w.rank != x.rank || s->group < 1 || s->group > MOST_STEP)
    return fail(E_SHAPE, "no weight of %lld groups for X: X %s, W %s", (long long)s->group, SHAPE_STR(x), SHAPE_STR(w));
  TRY(read_entries(op, "strides", s->axes, 1, 1, s->strides));
  TRY(read_entries(op, "dilations", s->axes, 1, 1, s->dilations));
  TRY(read_entries(op, "pads", 2 * s->axes, 0, 0, s->pads));
  TRY(read_entries(op, "kernel_shape", s->axes, 1, 1, kernel));
  for (int i = 0; i < s->axes; i++) {
    int64_t k = w.dim[i + 2];
    if (k < 1 || k > MOST_STEP || (op_attribute(op, "kernel_shape") && k != kernel[i]))
      return fail(E_SHAPE, "kernel_shape[%d] is %lld for W %s", i, (long long)kernel[i], SHAPE_STR(w));
    s->reach[i] = s->dilations[i] * (k - 1) + 1;
  }
  return OK;
}

/* One axis's pads, of `total` places; an odd one lies behind for SAME_UPPER, in front otherwise. */
static void share_pads(Spatial *s, int axis, int64_t total, bool upper) {
  int64_t less = total > 0 ? total / 2 : 0, more = total > 0 ? total - less : 0;
  s->pads[axis] = upper ? less : more;
  s->pads[axis + s->axes] = upper ? more : less;
}

typedef enum { PADS_GIVEN, PADS_NONE, PADS_UPPER, PADS_LOWER } Padding;

static Status read_padding(Op *op, Spatial *s, Padding *padding) {
  static const char *const names[] = {"NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"};
  const char *text;
  TRY(op_string(op, "auto_pad", "NOTSET", &text));
  for (int i = 0; i < 4; i++)
    if (strcmp(text, names[i]) == 0) {
      *padding = (Padding)i;
      if (*padding != PADS_GIVEN)
        memset(s->pads, 0, sizeof s->pads);
      return OK;
    }
  return fail(E_UNSUPPORTED, "auto_pad is '%s'", text);
}

static Status emit_convolution(Op *op, OpKind kind, const Spatial *s, Term *x, Term *w, const Shape *shape,
                               Term **out) {
  Attr attrs[] = {attr_ints("strides", s->strides, s->axes), attr_ints("dilations", s->dilations, s->axes),
                  attr_ints("pads", s->pads, 2 * s->axes), attr_int("group", s->group),
                  shape ? attr_ints("shape", shape->dim, shape->rank) : (Attr){0}};
  return op_emit(op, kind, (Term *[]){x, w}, 2, attrs, shape ? 5 : 4, out, 1);
}

/* Y plus input 2, an element for each of its channels. */
static Status add_bias(Op *op, Term *y, Term **out) {
  Term *bias = op_in(op, 2);
  Shape wide = {.rank = y->shape.rank - 1};
  *out = y;
  if (bias->kind == TERM_ABSENT)
    return OK;
  if (bias->shape.rank != 1 || bias->shape.dim[0] != y->shape.dim[1])
    return fail(E_MODEL, "the bias '%s' is %s, not [%lld]%s", op->proto->input[2], SHAPE_STR(bias->shape),
                (long long)y->shape.dim[1],
                bias->shape.rank == 2 ? " (torch's dynamo exporter with optimize=False writes this for a Conv3d "
                                        "without bias: export with optimize=True)"
                                      : "");
  for (int i = 0; i < wide.rank; i++)
    wide.dim[i] = i ? 1 : bias->shape.dim[0];
  TRY(op_reshape(op, bias, wide, &bias));
  return op_emit2(op, OP_Add, y, bias, out);
}

static Status conv(Op *op) {
  Spatial s;
  Padding padding;
  Term *y;
  TRY(read_spatial(op, &s));
  TRY(read_padding(op, &s, &padding));
  for (int i = 0; i < s.axes && padding >= PADS_UPPER; i++) {
    int64_t x = op->in[0]->shape.dim[i + 2], y_size = (x + s.strides[i] - 1) / s.strides[i];
    share_pads(&s, i, (y_size - 1) * s.strides[i] + s.reach[i] - x, padding == PADS_UPPER);
  }
  TRY(emit_convolution(op, OP_Conv, &s, op->in[0], op->in[1], NULL, &y));
  return add_bias(op, y, &op->out[0]);
}

/* The sizes of a transposed convolution's result, and the pads where they follow from them. *extra: how many places of
 * each axis lie behind what the last tap reaches. */
static Status transposed_sizes(Op *op, Spatial *s, Padding padding, Shape *y, int64_t *extra) {
  const int64_t *given;
  int64_t more[CONVOLUTION_AXES];
  int n;
  op_ints(op, "output_shape", &given, &n);
  TRY(read_entries(op, "output_padding", s->axes, 0, 0, more));
  if (n && n != s->axes && n != s->axes + 2)
    return fail(E_SHAPE, "output_shape has %d entries, not %d", n, s->axes);
  for (int i = 0; i < s->axes; i++) {
    int64_t x = op->in[0]->shape.dim[i + 2], size;
    if (x > INT64_MAX >> 32)
      return fail(E_SHAPE, "axis %d of X %s is too long", i + 2, SHAPE_STR(op->in[0]->shape));
    int64_t whole = (x - 1) * s->strides[i] + s->reach[i];
    if (n || padding >= PADS_UPPER) {
      size = n ? given[n - s->axes + i] : x * s->strides[i];
      if (size < 1 || size > INT64_MAX >> 2)
        return fail(E_SHAPE, "output_shape has %lld", (long long)size);
      share_pads(s, i, whole + more[i] - size, padding == PADS_UPPER);
    } else {
      size = whole + more[i] - s->pads[i] - s->pads[i + s->axes];
    }
    y->dim[i + 2] = size;
    extra[i] = size + s->pads[i] + s->pads[i + s->axes] - whole;
  }
  return OK;
}

/* Zeros behind X's places, where a stride or more lies behind the last tap: the convolution back would have more. */
static Status add_zeros(Op *op, int axis, int64_t zeros, Term **x) {
  Term *zero;
  Shape shape = (*x)->shape;
  shape.dim[axis] = zeros;
  TRY(op_scalar(op, *x, 0, &zero));
  TRY(op_expand(op, zero, shape, &zero));
  return op_concat(op, (Term *[]){*x, zero}, 2, axis, x);
}

static Status conv_transpose(Op *op) {
  Spatial s;
  Padding padding;
  Term *x = op->in[0], *w = op->in[1], *t;
  int64_t extra[CONVOLUTION_AXES];
  TRY(read_spatial(op, &s));
  TRY(read_padding(op, &s, &padding));
  if (w->shape.dim[1] > INT64_MAX / s.group)
    return fail(E_SHAPE, "%lld groups for W %s", (long long)s.group, SHAPE_STR(w->shape));
  Shape y = {x->shape.rank, {x->shape.dim[0], w->shape.dim[1] * s.group}};
  TRY(transposed_sizes(op, &s, padding, &y, extra));
  for (int i = 0; i < s.axes; i++)
    if (extra[i] >= s.strides[i])
      TRY(add_zeros(op, i + 2, extra[i] / s.strides[i], &x));
  TRY(emit_convolution(op, OP_ConvGradInput, &s, x, w, &y, &t));
  return add_bias(op, t, &op->out[0]);
}

const Lowering lowerings_convolution[] = {
    {"Conv", 1, OPSET_LAST, 2, 3, 1, conv, "auto_pad:s dilations:I group:i kernel_shape:I pads:I strides:I"},
    {"ConvTranspose", 1, OPSET_LAST, 2, 3, 1, conv_transpose,
     "auto_pad:s dilations:I group:i kernel_shape:I output_padding:I output_shape:I pads:I strides:I"},
    {0},
};
