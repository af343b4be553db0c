/* What is drawn: Dropout in training, and numbers. Invariant: a node's number is how many nodes of the file that draw
 * were lowered before it, whatever the sizes. */
#include <math.h>
#include <string.h>

#include "graph/narrow.h"
#include "graph/op.h"
#include "onnx/file/internal.h"
#include "onnx/lower/lower.h"

enum { DRAW_ATTRS = 5 };

/* What every node that draws says; batch_place_draws fills in the last three. A seed of the file's own is one more
 * number that goes in. */
static void draw_attributes(Op *op, int64_t seed, Attr attrs[DRAW_ATTRS]) {
  attrs[0] = attr_int("node", op->lower->draws++);
  attrs[1] = attr_int("seed", seed);
  attrs[2] = attr_int("per_sample", 0);
  attrs[3] = attr_int("outer", 1);
  attrs[4] = attr_int("inner", 0);
}

static Status counter(Op *op, Term **term) {
  ValueId id;
  TRY(graph_counter(op->lower->graph, &id));
  return term_of(op->lower, id, term);
}

/* The bits of a float attribute `seed`. */
static int64_t seed_of(const Op *op) {
  const Onnx__AttributeProto *a = op_attribute(op, "seed");
  float seed = a ? a->f : 0;
  uint32_t bits;
  memcpy(&bits, &seed, sizeof bits);
  return bits;
}

/* The node itself, where it drops nothing: with a mask of ones. */
static Status keep_all(Op *op) {
  uint8_t yes = 1;
  Term *one;
  op->out[0] = op->in[0];
  if (!op_wants(op, 1))
    return OK;
  TRY(term_make(op->lower, NULL, BOOL, (Shape){0}, &yes, &one));
  if (op->lowering->to < 10)
    TRY(op_cast(op, one, op->in[0]->dtype, &one));
  return op_expand(op, one, op->in[0]->shape, &op->out[1]);
}

/* In training every Dropout drops, as a module does that is in training mode: files that were exported for inference
 * say that it does not. */
static Status dropout(Op *op) {
  double ratio = op_float(op, "ratio", 0.5);
  Attr attrs[DRAW_ATTRS + 1];
  Term *in[2] = {op->in[0]}, *out[2];
  if (!op->lower->options->training)
    return keep_all(op);
  if (op_has(op, 1))
    TRY(op_known_number(op, 1, &ratio));
  if (!(ratio >= 0 && ratio <= 1))
    return fail(E_MODEL, "ratio is %g, not between 0 and 1", ratio);
  if (ratio == 0)
    return keep_all(op);
  draw_attributes(op, op_int(op, "seed", 0), attrs);
  attrs[DRAW_ATTRS] = attr_float("ratio", ratio);
  TRY(counter(op, &in[1]));
  TRY(op_emit(op, OP_Dropout, in, 2, attrs, DRAW_ATTRS + 1, out, 2));
  op->out[0] = out[0];
  if (!op_wants(op, 1))
    return OK;
  op->out[1] = out[1];
  return op->lowering->to < 10 ? op_cast(op, out[1], op->in[0]->dtype, &op->out[1]) : OK;
}

/* Numbers shaped like `like`, a float, between (or around) two attributes. */
static Status draw(Op *op, OpKind kind, Term *like, const char *const names[2], const double values[2], Term **out) {
  Attr attrs[DRAW_ATTRS + 2];
  Term *in[2] = {like};
  draw_attributes(op, seed_of(op), attrs);
  for (int i = 0; i < 2; i++)
    attrs[DRAW_ATTRS + i] = attr_float(names[i], op_attribute(op, names[i]) ? op_float(op, names[i], 0) : values[i]);
  TRY(counter(op, &in[1]));
  return op_emit(op, kind, in, 2, attrs, DRAW_ATTRS + 2, out, 1);
}

/* The type of attribute `dtype`; what is drawn for a narrow one is rounded to it. */
static DType named_type(const Op *op, DType absent) {
  int64_t type = op_int(op, "dtype", 0);
  return type ? stored_from_onnx((int32_t)type) : absent;
}

static Status check_drawn(DType type) {
  return type == F32 || type == F64 || dtype_is_narrow(type) ? OK : fail(E_UNSUPPORTED, "type %s", dtype_name(type));
}

static Status draw_named(Op *op, Term *like, DType to) {
  bool is_uniform = strncmp(op->lowering->op, "RandomUniform", strlen("RandomUniform")) == 0;
  static const char *const uniform[] = {"low", "high"}, *const normal[] = {"mean", "scale"};
  static const double usual[] = {0, 1};
  TRY(draw(op, is_uniform ? OP_RandomUniform : OP_RandomNormal, like, is_uniform ? uniform : normal, usual,
           &op->out[0]));
  return op_cast_as(op, op->out[0], to, &op->out[0]);
}

static Status random_like(Op *op) {
  Term *like = op->in[0];
  DType to = named_type(op, like->narrow ? like->narrow : like->dtype);
  TRY(check_drawn(to));
  TRY(op_cast(op, like, to == F64 ? F64 : F32, &like));
  return draw_named(op, like, to);
}

static Status random_shape(Op *op) {
  const int64_t *dims;
  int n;
  DType to = named_type(op, F32);
  Term zero = {.dtype = to == F64 ? F64 : F32}, *like;
  size_t bytes;
  TRY(check_drawn(to));
  op_ints(op, "shape", &dims, &n);
  if (n > MAX_RANK)
    return fail(E_SHAPE, "%d dimensions", n);
  Shape shape = shape_of(n, dims);
  for (int i = 0; i < n; i++)
    if (dims[i] < 0)
      return fail(E_SHAPE, "dimension %d is %lld", i, (long long)dims[i]);
  TRY(shape_bytes(shape, zero.dtype, &bytes));
  TRY(op_scalar(op, &zero, 0, &like));
  TRY(op_expand(op, like, shape, &like));
  return draw_named(op, like, to);
}

/* 1 with probability X. */
static Status bernoulli(Op *op) {
  Term *p = op->in[0], *u;
  DType to = named_type(op, p->narrow ? p->narrow : p->dtype);
  static const char *const none[] = {"low", "high"};
  static const double unit[] = {0, 1};
  TRY(draw(op, OP_RandomUniform, p, none, unit, &u));
  TRY(op_emit2(op, OP_Less, u, p, &u));
  return op_cast_as(op, u, to, &op->out[0]);
}

/* Classes drawn by the logarithms of their weights [N,C]: how many of the sums of weights so far lie below a number
 * drawn between 0 and the whole. */
static Status multinomial(Op *op) {
  Term *weights = op->in[0], *u, *draws;
  int64_t n = op_int(op, "sample_size", 1), last = 2;
  DType to = named_type(op, I32);
  static const char *const none[] = {"low", "high"};
  static const double unit[] = {0, 1};
  Shape s = weights->shape;
  if (s.rank != 2 || s.dim[1] < 1 || n < 1)
    return fail(E_SHAPE, "%lld draws of '%s' %s", (long long)n, op->proto->input[0], SHAPE_STR(s));
  if (to != I32 && to != I64)
    return fail(E_UNSUPPORTED, "type %s", dtype_name(to));
  Attr attr = attr_int("axis", 1);
  TRY(op_emit(op, OP_Softmax, &weights, 1, &attr, 1, &weights, 1));
  TRY(op_slice(op, weights, 1, 0, 1, &draws));
  TRY(op_expand(op, draws, (Shape){2, {s.dim[0], n}}, &draws));
  TRY(draw(op, OP_RandomUniform, draws, none, unit, &u));
  TRY(op_emit(op, OP_CumSum, &weights, 1, &attr, 1, &weights, 1));
  TRY(op_slice(op, weights, 1, 0, s.dim[1] - 1, &weights)); /* the last is 1, whatever its rounding */
  TRY(op_reshape(op, weights, (Shape){3, {s.dim[0], 1, s.dim[1] - 1}}, &weights));
  TRY(op_reshape(op, u, (Shape){3, {s.dim[0], n, 1}}, &u));
  TRY(op_emit2(op, OP_LessOrEqual, weights, u, &u));
  TRY(op_cast(op, u, to, &u));
  return op_reduce(op, OP_ReduceSum, u, &last, 1, false, &op->out[0]);
}

const Lowering lowerings_random[] = {
    {"Dropout", 7, 9, 1, 1, 2, dropout, "ratio:f"},
    {"Dropout", 10, 11, 1, 1, 2, dropout, "ratio:f"},
    {"Dropout", 12, OPSET_LAST, 1, 3, 2, dropout, "seed:i"},
    {"RandomUniform", 1, OPSET_LAST, 0, 0, 1, random_shape, "dtype:d high:f low:f seed:f shape:I!"},
    {"RandomUniformLike", 1, OPSET_LAST, 1, 1, 1, random_like, "dtype:d high:f low:f seed:f"},
    {"RandomNormal", 1, OPSET_LAST, 0, 0, 1, random_shape, "dtype:d mean:f scale:f seed:f shape:I!"},
    {"RandomNormalLike", 1, OPSET_LAST, 1, 1, 1, random_like, "dtype:d mean:f scale:f seed:f"},
    {"Bernoulli", 15, OPSET_LAST, 1, 1, 1, bernoulli, "dtype:d seed:f"},
    {"Multinomial", 7, OPSET_LAST, 1, 1, 1, multinomial, "dtype:d sample_size:i seed:f"},
    {0},
};
