/* Products, normalisations, softmax. Invariant: a lowering keeps the type of its first input. */
#include <string.h>

#include "onnx/lower/lower.h"

static Status matmul(Op *op) {
  return op_matmul(op, op->in[0], false, op->in[1], false, &op->out[0]);
}

static Status gemm(Op *op) {
  return op_gemm(op, op->in[0], op->in[1], op_in(op, 2), op_float(op, "alpha", 1), op_float(op, "beta", 1),
                 op_int(op, "transA", 0), op_int(op, "transB", 0), &op->out[0]);
}

static Status softmax_along(Op *op, Term *x, int axis, Term **out) {
  Attr attr = attr_int("axis", axis);
  OpKind kind = strcmp(op->lowering->op, "Softmax") == 0 ? OP_Softmax : OP_LogSoftmax;
  return op_emit(op, kind, &x, 1, &attr, 1, out, 1);
}

static Status softmax(Op *op) {
  int axis;
  TRY(op_axis(op, "axis", -1, op->in[0]->shape.rank, &axis));
  return softmax_along(op, op->in[0], axis, &op->out[0]);
}

/* Before opset 13: over everything from `axis` on. */
static Status softmax_flat(Op *op) {
  Term *x = op->in[0];
  Shape whole = x->shape, flat;
  int64_t last = 1;
  int axis;
  TRY(op_axis(op, "axis", 1, whole.rank, &axis));
  if (axis == whole.rank - 1)
    return softmax_along(op, x, axis, &op->out[0]);
  flat = shape_of(axis, whole.dim);
  for (int i = axis; i < whole.rank; i++)
    last *= whole.dim[i];
  flat.dim[flat.rank++] = last;
  TRY(op_reshape(op, x, flat, &x));
  TRY(softmax_along(op, x, axis, &x));
  return op_reshape(op, x, whole, &op->out[0]);
}

/* Scale or bias with exactly the shape of the normalised axes. */
static Status norm_operand(Op *op, int i, Shape tail, Term **term) {
  Shape both;
  bool whole;
  *term = op_in(op, i);
  if ((*term)->kind == TERM_ABSENT)
    return OK;
  if (!shape_broadcast((*term)->shape, tail, &both) || shape_elements(both) != shape_elements(tail))
    return fail(E_SHAPE, "'%s' is %s, the normalised axes of %s are %s", op->proto->input[i], SHAPE_STR((*term)->shape),
                SHAPE_STR(op->in[0]->shape), SHAPE_STR(tail));
  TRY(op_leaves_out(op, shape_elements((*term)->shape) == shape_elements(tail), &whole));
  if (whole)
    return op_reshape(op, *term, tail, term);
  return op_expand(op, *term, tail, term);
}

/* Normalises in the type of stash_type where that is wider than the input's, and never in a narrower one; the result
 * has the input's type, and statistics have what stash_type says. */
static Status normalize(Op *op, OpKind kind, Term **in, int n_in, int axis, Term **out, int n_out) {
  int64_t stash = op_int(op, "stash_type", 1);
  DType own = in[0]->dtype, asked = dtype_from_onnx((int32_t)stash);
  Attr attrs[] = {attr_int("axis", axis), attr_float("epsilon", op_float(op, "epsilon", 1e-5f))};
  if (!dtype_is_float(asked))
    return fail(E_UNSUPPORTED, "stash_type is %lld, not a float type", (long long)stash);
  for (int i = 0; i < n_in && asked == F64; i++)
    TRY(op_cast(op, in[i], F64, &in[i]));
  TRY(op_emit(op, kind, in, n_in, attrs, 2, out, n_out));
  for (int i = 1; i < op->n_out; i++)
    if (op_wants(op, i) && (asked == F32 || asked == F64))
      TRY(op_cast(op, out[i], asked, &out[i]));
  return op_cast(op, out[0], own, &out[0]);
}

static Status layer_normalization(Op *op) {
  Term *in[3] = {op->in[0]}, *out[3];
  Shape s = in[0]->shape;
  int axis;
  TRY(op_axis(op, "axis", -1, s.rank, &axis));
  Shape tail = shape_of(s.rank - axis, s.dim + axis);
  TRY(norm_operand(op, 1, tail, &in[1]));
  TRY(norm_operand(op, 2, tail, &in[2]));
  TRY(normalize(op, OP_LayerNormalization, in, in[2]->kind == TERM_ABSENT ? 2 : 3, axis, out, 3));
  memcpy(op->out, out, (size_t)op->n_out * sizeof *out);
  return OK;
}

static Status rms_normalization(Op *op) {
  Term *in[2] = {op->in[0]}, *out[2];
  Shape s = in[0]->shape;
  int axis;
  TRY(op_axis(op, "axis", -1, s.rank, &axis));
  TRY(norm_operand(op, 1, shape_of(s.rank - axis, s.dim + axis), &in[1]));
  TRY(normalize(op, OP_RMSNormalization, in, 2, axis, out, 2));
  op->out[0] = out[0];
  return OK;
}

/* [N, b b C, H, W] to [N, C, b H, b W]; "CRD" counts the block inside the channels. */
static Status depth_to_space(Op *op) {
  Shape s = op->in[0]->shape;
  int64_t b = op_int(op, "blocksize", 0);
  const char *mode;
  Term *t;
  TRY(op_string(op, "mode", "DCR", &mode));
  bool crd = strcmp(mode, "CRD") == 0;
  if (!crd && strcmp(mode, "DCR") != 0)
    return fail(E_UNSUPPORTED, "mode is '%s'", mode);
  if (s.rank != 4 || b < 1 || b > 1 << 15 || s.dim[1] % (b * b))
    return fail(E_SHAPE, "blocksize %lld for %s", (long long)b, SHAPE_STR(s));
  int64_t c = s.dim[1] / (b * b);
  Shape split = {6, {s.dim[0], crd ? c : b, b, crd ? b : c, s.dim[2], s.dim[3]}};
  int64_t dcr_perm[] = {0, 3, 4, 1, 5, 2}, crd_perm[] = {0, 1, 4, 2, 5, 3};
  TRY(op_reshape(op, op->in[0], split, &t));
  TRY(op_transpose(op, t, crd ? crd_perm : dcr_perm, &t));
  return op_reshape(op, t, (Shape){4, {s.dim[0], c, s.dim[2] * b, s.dim[3] * b}}, &op->out[0]);
}

static Status space_to_depth(Op *op) {
  Shape s = op->in[0]->shape;
  int64_t b = op_int(op, "blocksize", 0), dcr_perm[] = {0, 3, 5, 1, 2, 4}, crd_perm[] = {0, 1, 3, 5, 2, 4};
  const char *mode;
  Term *t;
  TRY(op_string(op, "mode", "DCR", &mode));
  bool crd = strcmp(mode, "CRD") == 0;
  if (!crd && strcmp(mode, "DCR") != 0)
    return fail(E_UNSUPPORTED, "mode is '%s'", mode);
  if (s.rank != 4 || b < 1 || b > 1 << 15 || s.dim[2] % b || s.dim[3] % b)
    return fail(E_SHAPE, "blocksize %lld for %s", (long long)b, SHAPE_STR(s));
  TRY(op_reshape(op, op->in[0], (Shape){6, {s.dim[0], s.dim[1], s.dim[2] / b, b, s.dim[3] / b, b}}, &t));
  TRY(op_transpose(op, t, crd ? crd_perm : dcr_perm, &t));
  return op_reshape(op, t, (Shape){4, {s.dim[0], s.dim[1] * b * b, s.dim[2] / b, s.dim[3] / b}}, &op->out[0]);
}

const Lowering lowerings_nn[] = {
    {"MatMul", 1, OPSET_LAST, 2, 2, 1, matmul, ""},
    {"Gemm", 7, 10, 3, 3, 1, gemm, "alpha:f beta:f transA:b transB:b"},
    {"Gemm", 11, OPSET_LAST, 2, 3, 1, gemm, "alpha:f beta:f transA:b transB:b"},
    {"Softmax", 1, 12, 1, 1, 1, softmax_flat, "axis:i"},
    {"Softmax", 13, OPSET_LAST, 1, 1, 1, softmax, "axis:i"},
    {"LogSoftmax", 1, 12, 1, 1, 1, softmax_flat, "axis:i"},
    {"LogSoftmax", 13, OPSET_LAST, 1, 1, 1, softmax, "axis:i"},
    {"LayerNormalization", 17, OPSET_LAST, 2, 3, 3, layer_normalization, "axis:i epsilon:f stash_type:d"},
    {"RMSNormalization", 23, OPSET_LAST, 2, 2, 1, rms_normalization, "axis:i epsilon:f stash_type:d"},
    {"DepthToSpace", 1, 10, 1, 1, 1, depth_to_space, "blocksize:i!"},
    {"DepthToSpace", 11, OPSET_LAST, 1, 1, 1, depth_to_space, "blocksize:i! mode:s"},
    {"SpaceToDepth", 1, 27, 1, 1, 1, space_to_depth, "blocksize:i!"},
    {"SpaceToDepth", 28, OPSET_LAST, 1, 1, 1, space_to_depth, "blocksize:i! mode:s"},
    {0},
};
