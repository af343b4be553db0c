/* Losses and their gradients. Invariant: a loss is the sum over the microbatch, in double, in one fixed order. */
#include <tgmath.h>

#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"

Status class_at(const Node *node, const Tensor *target, int64_t i, int64_t classes, int64_t *class, bool *ignored) {
  int64_t t = target->dtype == I64 ? ((const int64_t *)target->data)[i] : ((const int32_t *)target->data)[i];
  *class = t;
  *ignored = t == node_int(node, "ignore_index", -100);
  if (!*ignored && (t < 0 || t >= classes)) {
    fail(E_MODEL, "target %lld at position %lld is outside the %lld classes (0 to %lld)", (long long)t, (long long)i,
         (long long)classes, (long long)classes - 1);
    node_context(node);
    return E_MODEL;
  }
  return OK;
}

#define T float
#define S(name) name##_f32
#include "backend/reference/loss.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/loss.inc"
#undef T
#undef S

KERNEL(CountTargets, .accepts = takes_any) {
  UNUSED;
  int64_t ignored = node_int(node, "ignore_index", -100), count = 0;
  for (int64_t i = 0; i < shape_elements(in->shape); i++)
    count += (in->dtype == I64 ? ((const int64_t *)in->data)[i] : ((const int32_t *)in->data)[i]) != ignored;
  *(double *)out->data = (double)count;
  return OK;
}

FLOAT_KERNEL(CrossEntropy)
FLOAT_KERNEL(CrossEntropyGrad)
FLOAT_KERNEL(MeanSquaredError)
FLOAT_KERNEL(MeanSquaredErrorGrad)
FLOAT_KERNEL(BinaryCrossEntropy)
FLOAT_KERNEL(BinaryCrossEntropyGrad)
