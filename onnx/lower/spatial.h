/* What convolutions of a file say of their spatial axes. */
#ifndef ONNX_LOWER_SPATIAL_H
#define ONNX_LOWER_SPATIAL_H

#include "graph/convolution.h"
#include "onnx/lower/lower.h"

typedef struct {
  int axes;
  int64_t strides[CONVOLUTION_AXES], dilations[CONVOLUTION_AXES], pads[2 * CONVOLUTION_AXES];
  int64_t reach[CONVOLUTION_AXES]; /* from the kernel's first tap to behind its last */
  int64_t group;
} Spatial;

/* The node's attributes for X [N,C,x…] and W [.., .., k…]: as many as there are axes, and none so large that a sum of
 * them overflows. */
Status read_spatial(const Op *op, Shape x, Shape w, Spatial *s);

#endif
