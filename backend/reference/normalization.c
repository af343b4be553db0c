/* Softmax and the normalisations. Invariant: sums in double, in lanes along a row (LANE_SUM) and down the rows in
 * order. */
#include <tgmath.h>

#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"
#include "graph/narrow.h"

enum { BLOCK = 128, AHEAD = 8 /* rows */ };

#define T float
#define S(name) name##_f32
#include "backend/reference/normalization.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/normalization.inc"
#undef T
#undef S

FLOAT_KERNEL(Softmax)
FLOAT_KERNEL(LogSoftmax)
FLOAT_KERNEL(SoftmaxGrad)
FLOAT_KERNEL(LogSoftmaxGrad)
FLOAT_KERNEL(LayerNormalization)
FLOAT_KERNEL(LayerNormalizationGradInput)
FLOAT_KERNEL(RMSNormalization)
FLOAT_KERNEL(RMSNormalizationGradInput)

int64_t scale_gradient_blocks(const Tensor *out) {
  return (shape_elements(out->shape) + BLOCK - 1) / BLOCK;
}

void scale_gradient_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end) {
  if (out->dtype == F32)
    scale_gradient_f32(node, in, out, first, end);
  else
    scale_gradient_f64(node, in, out, first, end);
}

KERNEL(LayerNormalizationGradScale, .accepts = takes_floats) {
  UNUSED;
  if (in->dtype != F32 && in->dtype != F64)
    return unsupported_type(node, in->dtype);
  scale_gradient_part(node, in, out, 0, scale_gradient_blocks(out));
  return OK;
}

KERNEL(RMSNormalizationGradScale, .accepts = takes_floats) {
  return run_LayerNormalizationGradScale(stream, node, in, out, workspace, state);
}
