/* How a convolution's operands lie: what its shape rules, costs and every kernel see. Invariant: fewer than three
 * spatial axes are as if axes of size 1 stood in front of them. */
#ifndef GRAPH_CONVOLUTION_H
#define GRAPH_CONVOLUTION_H

#include "graph/graph.h"

enum { CONVOLUTION_AXES = 3 };

/* X [samples, groups * channels, x…], W [groups * filters, channels, k…], Y [samples, groups * filters, y…].
 * Y at o meets W's tap t at X's place o * stride + t * dilation - pad, where there is one: the rest is zeros. */
typedef struct {
  int64_t samples, groups, channels, filters; /* the last two of one group */
  int64_t x[CONVOLUTION_AXES], k[CONVOLUTION_AXES], y[CONVOLUTION_AXES];
  int64_t stride[CONVOLUTION_AXES], dilation[CONVOLUTION_AXES], pad[CONVOLUTION_AXES];
  int64_t x_plane, k_plane, y_plane; /* elements of all spatial axes together */
} Convolution;

/* Of Conv, ConvGradInput or ConvGradWeight that passed its shape rule, from the shapes of X, W and Y. */
Convolution convolution_of(const Node *node, Shape x, Shape w, Shape y);
/* The same from the node's own values. */
Convolution convolution_in(const Graph *graph, const Node *node);

/* Where one tap of W meets X: a block of Y's places, of which count[2] lie one behind the other. */
typedef struct {
  int64_t count[CONVOLUTION_AXES]; /* places along each axis; one of them is 0 where the tap meets zeros alone */
  int64_t x, y;                    /* offsets of the first within a plane */
  int64_t x_step[CONVOLUTION_AXES], y_step[CONVOLUTION_AXES]; /* to the next */
} ConvolutionTap;

/* Tap number t of k_plane. */
ConvolutionTap convolution_tap(const Convolution *c, int64_t t);

#endif
