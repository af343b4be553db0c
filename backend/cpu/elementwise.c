/* Elementwise operators over threads: the reference's loops on parts, and functions by the instruction set's loops. */
#include <math.h>
#include <string.h>

#include "backend/cpu/split.h"
#include "backend/reference/reference.h"

#define SPLIT(op_name, takes)                                                                                          \
  CPU_KERNEL(op_name, .accepts = takes, .narrow = split_takes_narrow) {                                                \
    CPU_UNUSED;                                                                                                        \
    return split_elementwise(stream, node, in, out, reference_##op_name.run);                                          \
  }
SPLIT(Add, takes_numbers)
SPLIT(Sub, takes_numbers)
SPLIT(Mul, takes_numbers)
SPLIT(Mod, takes_numbers)
SPLIT(Div, takes_numbers)
SPLIT(Max, takes_numbers)
SPLIT(Min, takes_numbers)
SPLIT(Equal, takes_comparable)
SPLIT(Greater, takes_comparable)
SPLIT(GreaterOrEqual, takes_comparable)
SPLIT(Less, takes_comparable)
SPLIT(LessOrEqual, takes_comparable)
SPLIT(And, takes_any)
SPLIT(Or, takes_any)
SPLIT(Not, takes_any)
SPLIT(Where, takes_any)
SPLIT(Neg, takes_numbers)
SPLIT(Abs, takes_numbers)
SPLIT(Sqrt, takes_floats)
SPLIT(Log, takes_floats)
SPLIT(Sin, takes_floats)
SPLIT(Cos, takes_floats)
SPLIT(Tan, takes_floats)
SPLIT(Asin, takes_floats)
SPLIT(Acos, takes_floats)
SPLIT(Atan, takes_floats)
SPLIT(Sinh, takes_floats)
SPLIT(Cosh, takes_floats)
SPLIT(Asinh, takes_floats)
SPLIT(Acosh, takes_floats)
SPLIT(Atanh, takes_floats)
SPLIT(Floor, takes_floats)
SPLIT(Ceil, takes_floats)
SPLIT(Round, takes_floats)
SPLIT(BitwiseAnd, takes_any)
SPLIT(BitwiseOr, takes_any)
SPLIT(BitwiseXor, takes_any)
SPLIT(BitwiseNot, takes_any)
SPLIT(BitShift, takes_any)
SPLIT(BitCast, takes_any)
SPLIT(Reciprocal, takes_floats)
SPLIT(Relu, takes_floats)
SPLIT(LeakyRelu, takes_floats)
SPLIT(Cast, takes_any)
SPLIT(Clip, takes_floats)
SPLIT(ClipGrad, takes_floats)
SPLIT(TanhGrad, takes_floats)
SPLIT(SigmoidGrad, takes_floats)
SPLIT(ReluGrad, takes_floats)
SPLIT(LeakyReluGrad, takes_floats)
SPLIT(MeanSquaredErrorGrad, takes_floats)
SPLIT(BinaryCrossEntropyGrad, takes_floats)

/* float32 by the instruction set's loop, other types by the reference's. */
#define FUNCTION(op_name, MAP)                                                                                         \
  static Status op_name##_part(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace, \
                               void *state) {                                                                          \
    if (in->dtype != F32)                                                                                              \
      return reference_##op_name.run(stream, node, in, out, workspace, state);                                         \
    (MAP)(in->data, out->data, shape_elements(out->shape));                                                            \
    return OK;                                                                                                         \
  }                                                                                                                    \
  CPU_KERNEL(op_name, .accepts = takes_floats, .narrow = split_takes_narrow) {                                         \
    CPU_UNUSED;                                                                                                        \
    return split_elementwise(stream, node, in, out, op_name##_part);                                                   \
  }
FUNCTION(Exp, stream->isa->exp)
FUNCTION(Tanh, stream->isa->tanh)
FUNCTION(Sigmoid, stream->isa->sigmoid)
FUNCTION(Erf, stream->isa->erf)
FUNCTION(Gelu, gelu_is_tanh(node) ? stream->isa->gelu_tanh : stream->isa->gelu_erf)

static Status gelu_grad_part(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,
                             void *state) {
  if (in->dtype != F32)
    return reference_GeluGrad.run(stream, node, in, out, workspace, state);
  Map2 *map = gelu_is_tanh(node) ? stream->isa->gelu_tanh_grad : stream->isa->gelu_erf_grad;
  map(in[0].data, in[1].data, out->data, shape_elements(out->shape));
  return OK;
}

CPU_KERNEL(GeluGrad, .accepts = takes_floats, .narrow = split_takes_narrow) {
  CPU_UNUSED;
  return split_elementwise(stream, node, in, out, gelu_grad_part);
}

/* x sigmoid(alpha x), and d times its slope: the gate of a block at a time. */
enum { GATES = 256 };

WIDE_LOOPS static void scale(const float *x, float alpha, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    y[i] = alpha * x[i];
}

WIDE_LOOPS static void gated(const float *x, const float *gate, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    y[i] = x[i] * gate[i];
}

WIDE_LOOPS static void gated_slope(const float *d, const float *x, float alpha, const float *gate, float *y,
                                   int64_t n) {
  for (int64_t i = 0; i < n; i++)
    y[i] = d[i] * (gate[i] * (1 + alpha * x[i] * (1 - gate[i])));
}

static Status swish_part(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,
                         void *state) {
  bool is_grad = node->op == OP_SwishGrad;
  if (in->dtype != F32)
    return (is_grad ? reference_SwishGrad : reference_Swish).run(stream, node, in, out, workspace, state);
  const float *d = in[0].data, *x = in[is_grad].data;
  float alpha = (float)node_float(node, "alpha", 1), *y = out->data, gate[GATES];
  int64_t n = shape_elements(out->shape);
  for (int64_t at = 0; at < n; at += GATES) {
    int64_t count = n - at < GATES ? n - at : GATES;
    scale(x + at, alpha, gate, count);
    stream->isa->sigmoid(gate, gate, count);
    if (is_grad)
      gated_slope(d + at, x + at, alpha, gate, y + at, count);
    else
      gated(x + at, gate, y + at, count);
  }
  return OK;
}

CPU_KERNEL(Swish, .accepts = takes_floats, .narrow = split_takes_narrow) {
  CPU_UNUSED;
  return split_elementwise(stream, node, in, out, swish_part);
}

CPU_KERNEL(SwishGrad, .accepts = takes_floats, .narrow = split_takes_narrow) {
  CPU_UNUSED;
  return split_elementwise(stream, node, in, out, swish_part);
}

WIDE_LOOPS static void gated_other(const float *a, const float *gate, const float *b, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    y[i] = a[i] * gate[i] * b[i];
}

/* y over the gate, in a block of its own: results may lie over operands. */
WIDE_LOOPS static void both_slopes(const float *restrict d, const float *restrict a, const float *restrict b,
                                   float alpha, float *restrict gate, float *restrict y, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    float g = gate[i];
    y[i] = d[i] * b[i] * (g * (1 + alpha * a[i] * (1 - g)));
    gate[i] = d[i] * (a[i] * g);
  }
}

static Status swiglu_part(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,
                          void *state) {
  bool is_grad = node->op == OP_SwiGLUGrad;
  if (in->dtype != F32)
    return (is_grad ? reference_SwiGLUGrad : reference_SwiGLU).run(stream, node, in, out, workspace, state);
  const float *d = in[0].data, *a = in[is_grad].data, *b = in[1 + is_grad].data;
  float alpha = (float)node_float(node, "alpha", 1), gate[GATES], slope[GATES];
  int64_t n = shape_elements(out->shape);
  for (int64_t at = 0; at < n; at += GATES) {
    int64_t count = n - at < GATES ? n - at : GATES;
    scale(a + at, alpha, gate, count);
    stream->isa->sigmoid(gate, gate, count);
    if (is_grad) {
      both_slopes(d + at, a + at, b + at, alpha, gate, slope, count);
      memcpy((float *)out[0].data + at, slope, (size_t)count * sizeof *slope);
      memcpy((float *)out[1].data + at, gate, (size_t)count * sizeof *gate);
    } else
      gated_other(a + at, gate, b + at, (float *)out->data + at, count);
  }
  return OK;
}

CPU_KERNEL(SwiGLU, .accepts = takes_floats, .narrow = split_takes_narrow) {
  CPU_UNUSED;
  return split_elementwise(stream, node, in, out, swiglu_part);
}

CPU_KERNEL(SwiGLUGrad, .accepts = takes_floats, .narrow = split_takes_narrow) {
  CPU_UNUSED;
  return split_elementwise(stream, node, in, out, swiglu_part);
}

/* Powers that models are made of need no library call. */
WIDE_LOOPS static void cube(const float *x, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    y[i] = x[i] * x[i] * x[i];
}

WIDE_LOOPS static void square(const float *x, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    y[i] = x[i] * x[i];
}

WIDE_LOOPS static void root(const float *x, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    y[i] = sqrtf(x[i]);
}

static Status pow_part(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,
                       void *state) {
  int64_t n = shape_elements(out->shape);
  bool one = in[0].dtype == F32 && in[1].dtype == F32 && shape_elements(in[1].shape) == 1;
  float exponent = one ? *(const float *)in[1].data : NAN;
  if (exponent == 2)
    square(in->data, out->data, n);
  else if (exponent == 3)
    cube(in->data, out->data, n);
  else if (exponent == 0.5f)
    root(in->data, out->data, n);
  else
    return reference_Pow.run(stream, node, in, out, workspace, state);
  return OK;
}

CPU_KERNEL(Pow, .accepts = takes_powers, .narrow = split_takes_narrow) {
  CPU_UNUSED;
  return split_elementwise(stream, node, in, out, pow_part);
}

CPU_KERNEL(Accumulate, .accepts = takes_floats) {
  CPU_UNUSED;
  return split_inputs(stream, node, in, out, reference_Accumulate.run);
}

CPU_KERNEL(SgdUpdate, .accepts = takes_floats) {
  CPU_UNUSED;
  return split_inputs(stream, node, in, out, reference_SgdUpdate.run);
}

CPU_KERNEL(AdamUpdate, .accepts = takes_floats) {
  CPU_UNUSED;
  return split_inputs(stream, node, in, out, reference_AdamUpdate.run);
}
