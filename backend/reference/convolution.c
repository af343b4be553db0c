/* Convolution and its gradients, tap by tap. Invariant: an element of Y is the sum over channels, then taps, from left
 * to right; one of X over filters, then taps; one of W over samples, then places, in double: bits depend on shapes
 * alone. */
#include "graph/convolution.h"

#include <string.h>

#include "backend/reference/kernel.h"

#define T float
#define S(name) name##_f32
#include "backend/reference/convolution.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/convolution.inc"
#undef T
#undef S

/* x, w, y: where the kernel finds them. */
#define CONVOLUTION_KERNEL(op_name, x, w, y)                                                                           \
  KERNEL(op_name, .accepts = takes_floats) {                                                                           \
    UNUSED;                                                                                                            \
    Convolution c = convolution_of(node, (x)->shape, (w)->shape, (y)->shape);                                          \
    switch (in->dtype) {                                                                                               \
    case F32:                                                                                                          \
      op_name##_f32(&c, in[0].data, in[1].data, out->data);                                                            \
      return OK;                                                                                                       \
    case F64:                                                                                                          \
      op_name##_f64(&c, in[0].data, in[1].data, out->data);                                                            \
      return OK;                                                                                                       \
    default:                                                                                                           \
      return unsupported_type(node, in->dtype);                                                                        \
    }                                                                                                                  \
  }

CONVOLUTION_KERNEL(Conv, in, in + 1, out)
CONVOLUTION_KERNEL(ConvGradInput, out, in + 1, in)
CONVOLUTION_KERNEL(ConvGradWeight, in + 1, out, in)
