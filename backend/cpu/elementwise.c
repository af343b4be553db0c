/* Elementwise operators over threads: the reference's loops on parts, and functions by the instruction set's loops. */
#include <math.h>
#include <string.h>

#include "backend/cpu/split.h"
#include "backend/reference/reference.h"

#define SPLIT(op_name)                                                                                                 \
  CPU_KERNEL(op_name) {                                                                                                \
    (void)workspace;                                                                                                   \
    return split_elementwise(stream, node, in, out, reference_##op_name);                                              \
  }
SPLIT(Add)
SPLIT(Sub)
SPLIT(Mul)
SPLIT(Div)
SPLIT(Max)
SPLIT(Min)
SPLIT(Equal)
SPLIT(Greater)
SPLIT(GreaterOrEqual)
SPLIT(Less)
SPLIT(LessOrEqual)
SPLIT(And)
SPLIT(Or)
SPLIT(Not)
SPLIT(Where)
SPLIT(Neg)
SPLIT(Abs)
SPLIT(Sqrt)
SPLIT(Log)
SPLIT(Sin)
SPLIT(Cos)
SPLIT(Reciprocal)
SPLIT(Relu)
SPLIT(LeakyRelu)
SPLIT(Cast)
SPLIT(TanhGrad)
SPLIT(SigmoidGrad)
SPLIT(ReluGrad)
SPLIT(LeakyReluGrad)
SPLIT(MeanSquaredErrorGrad)
SPLIT(BinaryCrossEntropyGrad)

static bool tanh_form(const Node *node) {
  return strcmp(node_string(node, "approximate", "none"), "tanh") == 0;
}

/* float32 by the instruction set's loop, other types by the reference's. */
#define FUNCTION(op_name, MAP)                                                                                         \
  static Status op_name##_part(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,                  \
                               void *workspace) {                                                                      \
    if (in->dtype != F32)                                                                                              \
      return reference_##op_name(stream, node, in, out, workspace);                                                    \
    (MAP)(in->data, out->data, shape_elements(out->shape));                                                            \
    return OK;                                                                                                         \
  }                                                                                                                    \
  CPU_KERNEL(op_name) {                                                                                                \
    (void)workspace;                                                                                                   \
    return split_elementwise(stream, node, in, out, op_name##_part);                                                   \
  }
FUNCTION(Exp, stream->isa->exp)
FUNCTION(Tanh, stream->isa->tanh)
FUNCTION(Sigmoid, stream->isa->sigmoid)
FUNCTION(Erf, stream->isa->erf)
FUNCTION(Gelu, tanh_form(node) ? stream->isa->gelu_tanh : stream->isa->gelu_erf)

static Status gelu_grad_part(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace) {
  if (in->dtype != F32)
    return reference_GeluGrad(stream, node, in, out, workspace);
  Map2 *map = tanh_form(node) ? stream->isa->gelu_tanh_grad : stream->isa->gelu_erf_grad;
  map(in[0].data, in[1].data, out->data, shape_elements(out->shape));
  return OK;
}

CPU_KERNEL(GeluGrad) {
  (void)workspace;
  return split_elementwise(stream, node, in, out, gelu_grad_part);
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

static Status pow_part(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace) {
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
    return reference_Pow(stream, node, in, out, workspace);
  return OK;
}

CPU_KERNEL(Pow) {
  (void)workspace;
  return split_elementwise(stream, node, in, out, pow_part);
}

CPU_KERNEL(Accumulate) {
  (void)workspace;
  return split_inputs(stream, node, in, out, reference_Accumulate);
}

CPU_KERNEL(SgdUpdate) {
  (void)workspace;
  return split_inputs(stream, node, in, out, reference_SgdUpdate);
}

CPU_KERNEL(AdamUpdate) {
  (void)workspace;
  return split_inputs(stream, node, in, out, reference_AdamUpdate);
}
