/* Softmax and the normalisations. Invariant: sums in double, in lanes along a row (LANE_SUM) and down the rows in
 * order. */
#include <tgmath.h>

#include "backend/reference/kernel.h"

enum { BLOCK = 128 };

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
FLOAT_KERNEL(LayerNormalizationGradScale)
FLOAT_KERNEL(RMSNormalization)
FLOAT_KERNEL(RMSNormalizationGradInput)
FLOAT_KERNEL(RMSNormalizationGradScale)
