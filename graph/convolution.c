/* Geometry of convolutions. */
#include "graph/convolution.h"

/* Element i of an attribute with an entry for each spatial axis. */
static int64_t entry(const Node *node, const char *name, int i, int64_t absent) {
  int n;
  const int64_t *list = node_ints(node, name, &n);
  return i < n ? list[i] : absent;
}

Convolution convolution_of(const Node *node, Shape x, Shape w, Shape y) {
  int axes = x.rank - 2, in_front = CONVOLUTION_AXES - axes;
  Convolution c = {.samples = x.dim[0], .groups = node_int(node, "group", 1), .channels = w.dim[1]};
  c.filters = w.dim[0] / c.groups;
  c.x_plane = c.k_plane = c.y_plane = 1;
  for (int i = 0; i < CONVOLUTION_AXES; i++) {
    int own = i - in_front;
    bool there = own >= 0;
    c.x[i] = there ? x.dim[own + 2] : 1;
    c.k[i] = there ? w.dim[own + 2] : 1;
    c.y[i] = there ? y.dim[own + 2] : 1;
    c.stride[i] = there ? entry(node, "strides", own, 1) : 1;
    c.dilation[i] = there ? entry(node, "dilations", own, 1) : 1;
    c.pad[i] = there ? entry(node, "pads", own, 0) : 0;
    c.x_plane *= c.x[i];
    c.k_plane *= c.k[i];
    c.y_plane *= c.y[i];
  }
  return c;
}

Convolution convolution_in(const Graph *graph, const Node *node) {
  Shape first = graph_value(graph, node->in[0])->shape, second = graph_value(graph, node->in[1])->shape;
  Shape result = graph_value(graph, node->out[0])->shape;
  switch (node->op) {
  case OP_ConvGradInput:
    return convolution_of(node, result, second, first);
  case OP_ConvGradWeight:
    return convolution_of(node, second, result, first);
  default:
    return convolution_of(node, first, second, result);
  }
}

/* The places o of one axis with 0 <= o * stride + from < size: the first, and how many. */
static int64_t places(int64_t size, int64_t y, int64_t stride, int64_t from, int64_t *first) {
  *first = from < 0 ? (-from + stride - 1) / stride : 0;
  int64_t end = from < size ? (size - 1 - from) / stride + 1 : 0;
  end = end < y ? end : y;
  return end > *first ? end - *first : 0;
}

ConvolutionTap convolution_tap(const Convolution *c, int64_t t) {
  ConvolutionTap tap = {.x_step = {c->stride[0] * c->x[1] * c->x[2], c->stride[1] * c->x[2], c->stride[2]},
                        .y_step = {c->y[1] * c->y[2], c->y[2], 1}};
  int64_t x_size = 1, y_size = 1;
  for (int i = CONVOLUTION_AXES - 1; i >= 0; i--) {
    int64_t from = t % c->k[i] * c->dilation[i] - c->pad[i], first;
    tap.count[i] = places(c->x[i], c->y[i], c->stride[i], from, &first);
    tap.x += (first * c->stride[i] + from) * x_size;
    tap.y += first * y_size;
    x_size *= c->x[i];
    y_size *= c->y[i];
    t /= c->k[i];
  }
  return tap;
}
