/* Reading a tensor between its elements, and its gradients. Invariant: what meets in one element is added in the order
 * of the points, corners of one in the order of their numbers; towards a point over channels, in double. */
#include <tgmath.h>

#include "backend/reference/kernel.h"
#include "backend/reference/places.h"

Field field_of(Shape x, Shape points) {
  Field f = {.axes = x.rank - 2, .samples = x.dim[0], .channels = x.dim[1], .points = points.dim[1], .plane = 1};
  for (int d = 0; d < f.axes; d++) {
    f.size[d] = x.dim[d + 2];
    f.plane *= f.size[d];
  }
  return f;
}

#define T float
#define S(name) name##_f32
#include "backend/reference/corners.inc"
#include "backend/reference/points.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/corners.inc"
#include "backend/reference/points.inc"
#undef T
#undef S

#define POINT_KERNEL(op_name, x, points)                                                                               \
  KERNEL(op_name, .accepts = takes_floats) {                                                                           \
    UNUSED;                                                                                                            \
    Field f = field_of((x)->shape, (points)->shape);                                                                   \
    if (in->dtype != F32 && in->dtype != F64)                                                                          \
      return unsupported_type(node, in->dtype);                                                                        \
    if (in->dtype == F32)                                                                                              \
      op_name##_f32(&f, in, out);                                                                                      \
    else                                                                                                               \
      op_name##_f64(&f, in, out);                                                                                      \
    return OK;                                                                                                         \
  }

POINT_KERNEL(PointSample, in, in + 1)
POINT_KERNEL(PointSampleGradInput, out, in + 1)
POINT_KERNEL(PointSampleGradPoints, in + 1, in + 2)
