/* Convolutions. A transposed one is the gradient of one towards its input, and a bias is added. Invariant: pads are
 * numbers before a node is written, whatever said them. */
#include <string.h>

#include "base/checked.h"
#include "onnx/lower/spatial.h"

enum { MOST_STEP = INT32_MAX };

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

Status read_spatial(const Op *op, Shape x, Shape w, Spatial *s) {
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

Status op_add_bias(Op *op, Term *y, Term *bias, const char *name, Term **out) {
  Shape wide = {.rank = y->shape.rank - 1};
  *out = y;
  if (bias->kind == TERM_ABSENT)
    return OK;
  if (bias->shape.rank != 1 || bias->shape.dim[0] != y->shape.dim[1])
    return fail(E_MODEL, "the bias '%s' is %s, not [%lld]%s", name, SHAPE_STR(bias->shape), (long long)y->shape.dim[1],
                bias->shape.rank == 2 ? " (torch's dynamo exporter with optimize=False writes this for a Conv3d "
                                        "without bias: export with optimize=True)"
                                      : "");
  for (int i = 0; i < wide.rank; i++)
    wide.dim[i] = i ? 1 : bias->shape.dim[0];
  TRY(op_reshape(op, bias, wide, &bias));
  return op_emit2(op, OP_Add, y, bias, out);
}

Status op_conv(Op *op, Term *x, Term *w, Term **out) {
  Spatial s;
  Padding padding;
  TRY(read_spatial(op, x->shape, w->shape, &s));
  TRY(read_padding(op, &s, &padding));
  for (int i = 0; i < s.axes && padding >= PADS_UPPER; i++) {
    int64_t size = x->shape.dim[i + 2], y = (size + s.strides[i] - 1) / s.strides[i];
    share_pads(&s, i, (y - 1) * s.strides[i] + s.reach[i] - size, padding == PADS_UPPER);
  }
  return emit_convolution(op, OP_Conv, &s, x, w, NULL, out);
}

static Status add_own_bias(Op *op, Term *y) {
  return op_add_bias(op, y, op_in(op, 2), op->n_in > 2 ? op->proto->input[2] : "", &op->out[0]);
}

static Status conv(Op *op) {
  Term *y;
  TRY(op_conv(op, op->in[0], op->in[1], &y));
  return add_own_bias(op, y);
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
  TRY(read_spatial(op, x->shape, w->shape, &s));
  TRY(read_padding(op, &s, &padding));
  if (w->shape.dim[1] > INT64_MAX / s.group)
    return fail(E_SHAPE, "%lld groups for W %s", (long long)s.group, SHAPE_STR(w->shape));
  Shape y = {x->shape.rank, {x->shape.dim[0], w->shape.dim[1] * s.group}};
  TRY(transposed_sizes(op, &s, padding, &y, extra));
  for (int i = 0; i < s.axes; i++)
    if (extra[i] >= s.strides[i])
      TRY(add_zeros(op, i + 2, extra[i] / s.strides[i], &x));
  TRY(emit_convolution(op, OP_ConvGradInput, &s, x, w, &y, &t));
  return add_own_bias(op, t);
}

/* ---- Col2Im: sums of blocks of an image, where the convolution that made them found their elements ---- */

/* The image, from which `places` along each axis read blocks. */
typedef struct {
  int axes;
  int64_t strides[MAX_RANK], dilations[MAX_RANK], pads[2 * MAX_RANK];
  int64_t image[MAX_RANK], block[MAX_RANK], places[MAX_RANK];
  int64_t elements, taps, all_places; /* of the image, of a block, of blocks */
} Blocks;

static Status read_blocks(Op *op, Blocks *b) {
  const int64_t *image, *block;
  int n;
  TRY(op_known_ints(op, 1, &image, &b->axes));
  TRY(op_known_ints(op, 2, &block, &n));
  if (n != b->axes || n < 1 || n > MAX_RANK - 2)
    return fail(E_SHAPE, "image_shape has %d entries, block_shape %d", b->axes, n);
  TRY(read_entries(op, "strides", n, 1, 1, b->strides));
  TRY(read_entries(op, "dilations", n, 1, 1, b->dilations));
  TRY(read_entries(op, "pads", 2 * n, 0, 0, b->pads));
  Shape whole = shape_of(n, image), blocks = shape_of(n, block), all = whole;
  size_t bytes;
  TRY(shape_bytes(whole, I64, &bytes));
  TRY(shape_bytes(blocks, I64, &bytes));
  for (int i = 0; i < n; i++) {
    b->image[i] = image[i];
    b->block[i] = block[i];
    if (image[i] < 1 || block[i] < 1 || image[i] > MOST_STEP || block[i] > MOST_STEP)
      return fail(E_SHAPE, "blocks %s of an image %s", SHAPE_STR(blocks), SHAPE_STR(whole));
    int64_t room = image[i] + b->pads[i] + b->pads[i + n] - b->dilations[i] * (block[i] - 1) - 1;
    if (room < 0)
      return fail(E_SHAPE, "blocks %s are larger than the padded image %s", SHAPE_STR(blocks), SHAPE_STR(whole));
    all.dim[i] = b->places[i] = room / b->strides[i] + 1;
  }
  TRY(shape_bytes(all, I64, &bytes));
  b->elements = shape_elements(whole);
  b->taps = shape_elements(blocks);
  b->all_places = shape_elements(all);
  return OK;
}

/* Where tap t of the block at `place` lies in the image; `elements`: in its padding. */
static int64_t lies_at(const Blocks *b, int64_t t, int64_t place) {
  int64_t at = 0, size = 1;
  for (int i = b->axes - 1; i >= 0; i--) {
    int64_t here = place % b->places[i] * b->strides[i] + t % b->block[i] * b->dilations[i] - b->pads[i];
    if (here < 0 || here >= b->image[i])
      return b->elements;
    at += here * size;
    size *= b->image[i];
    place /= b->places[i];
    t /= b->block[i];
  }
  return at;
}

static Status places_of(Op *op, const Blocks *b, Term **places) {
  int64_t n, *at;
  if (!checked_mul_i64(b->taps, b->all_places, &n) || n > INT64_MAX / 64)
    return fail(E_SHAPE, "%lld blocks of %lld elements", (long long)b->all_places, (long long)b->taps);
  TRY(budget_need(&op->lower->budget, (size_t)n * sizeof *at, (double)n * b->axes));
  TRY(ARENA_NEW(op->lower->arena, at, (size_t)n));
  for (int64_t i = 0; i < n; i++)
    at[i] = lies_at(b, i / b->all_places, i % b->all_places);
  return term_make(op->lower, NULL, I64, (Shape){2, {n, 1}}, at, places);
}

/* [N, C taps, places] to [N, C, image]: what lies in the padding is put behind the image, and cut off. */
static Status col2im(Op *op) {
  Blocks b;
  Term *t = op->in[0], *places;
  Shape s = t->shape;
  TRY(read_blocks(op, &b));
  if (s.rank != 3 || s.dim[1] % b.taps || s.dim[2] != b.all_places)
    return fail(E_SHAPE, "%lld blocks of %lld elements: the input is %s", (long long)b.all_places, (long long)b.taps,
                SHAPE_STR(s));
  Shape result = {2 + b.axes, {s.dim[0], s.dim[1] / b.taps}};
  memcpy(result.dim + 2, b.image, (size_t)b.axes * sizeof *b.image);
  Shape put = {3, {b.elements + 1, s.dim[0], result.dim[1]}};
  Attr attrs[] = {attr_string("reduction", "add"), attr_ints("shape", put.dim, put.rank)};
  TRY(places_of(op, &b, &places));
  TRY(op_reshape(op, t, (Shape){3, {s.dim[0], result.dim[1], b.taps * b.all_places}}, &t));
  TRY(op_transpose(op, t, (const int64_t[]){2, 0, 1}, &t));
  TRY(op_emit(op, OP_ScatterND, (Term *[]){t, places}, 2, attrs, 2, &t, 1));
  TRY(op_slice(op, t, 0, 0, b.elements, &t));
  TRY(op_transpose(op, t, (const int64_t[]){1, 2, 0}, &t));
  return op_reshape(op, t, result, &op->out[0]);
}

const Lowering lowerings_convolution[] = {
    {"Conv", 1, OPSET_LAST, 2, 3, 1, conv, "auto_pad:s dilations:I group:i kernel_shape:I pads:I strides:I"},
    {"ConvTranspose", 1, OPSET_LAST, 2, 3, 1, conv_transpose,
     "auto_pad:s dilations:I group:i kernel_shape:I output_padding:I output_shape:I pads:I strides:I"},
    {"Col2Im", 18, OPSET_LAST, 3, 3, 1, col2im, "dilations:I pads:I strides:I"},
    {0},
};
