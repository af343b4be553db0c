/* Accumulation over microbatches and the optimizer steps, PyTorch's formulas in the element type. Invariant: the
 * gradient of a parameter is the sum of its accumulators from the left, times the gradient factor. */
#include <tgmath.h>

#include "backend/reference/kernel.h"
#include "graph/optimizer.h"

#define T float
#define S(name) name##_f32
#include "backend/reference/optimizer.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/optimizer.inc"
#undef T
#undef S

FLOAT_KERNEL(Accumulate)
FLOAT_KERNEL(SquaredNorm)
FLOAT_KERNEL(SgdUpdate)
FLOAT_KERNEL(AdamUpdate)
