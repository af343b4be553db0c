/* Where the windows of a pooling operator lie. Invariant: what window_of gives was checked: no position and no size of
 * it overflows. */
#ifndef GRAPH_WINDOW_H
#define GRAPH_WINDOW_H

#include "graph/graph.h"

enum { WINDOW_AXES = 3 };

/* Of X [N, C, spatial…]: `n` spatial axes, the last ones here; those in front of them are 1. */
typedef struct {
  int n;
  int64_t in[WINDOW_AXES], out[WINDOW_AXES];
  int64_t kernel[WINDOW_AXES], stride[WINDOW_AXES], dilation[WINDOW_AXES];
  int64_t begin[WINDOW_AXES], end[WINDOW_AXES]; /* padding */
} Window;

/* Taps first … end-1 of a window along one axis lie in X, at start + tap · dilation; none where first >= end. Taps up
 * to `padded` lie in X or its padding. */
typedef struct {
  int64_t start, first, end, padded;
} Taps;

/* From the attributes kernel_shape, strides, dilations, pads (begins, then ends) and ceil_mode; E_SHAPE where they do
 * not fit. With ceil_mode the last window may leave the padding, but starts before its end (PyTorch's rule, ONNX's
 * too). */
Status window_of(const Node *node, Shape x, Window *window);
/* x with the spatial axes of what is pooled. */
Shape window_shape(const Window *window, Shape x);

static inline Taps window_taps(const Window *w, int axis, int64_t out) {
  int64_t d = w->dilation[axis], start = out * w->stride[axis] - w->begin[axis], size = w->in[axis];
  int64_t behind = size - start, padded = behind + w->end[axis];
  Taps t = {start, start >= 0 ? 0 : d == 1 ? -start : (d - 1 - start) / d, 0, 0}; /* read as C++, too */
  t.end = behind <= 0 ? 0 : d == 1 ? behind : (behind - 1) / d + 1;
  t.end = t.end < w->kernel[axis] ? t.end : w->kernel[axis];
  t.padded = padded <= 0 ? 0 : d == 1 ? padded : (padded - 1) / d + 1;
  t.padded = t.padded < w->kernel[axis] ? t.padded : w->kernel[axis];
  return t;
}

#endif
