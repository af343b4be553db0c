/* An input of a convolution as its kernels read it: with its pads, so that no tap has to ask where the edge is. */
#ifndef BACKEND_CPU_FRAME_H
#define BACKEND_CPU_FRAME_H

#include "backend/cpu/cpu.h"
#include "backend/reference/reference.h"
#include "graph/convolution.h"

/* FRAME_BYTES: how much is laid out at once, where less would not do. */
enum { AXES = CONVOLUTION_AXES, FRAME_BYTES = 8 << 20 };

/* A plane: index i of an axis holds the source's element i * scale + shift, or a zero where the source has none. Along
 * the last axis every phases-th index lies together, so that steps of that size meet neighbours. */
typedef struct {
  int64_t source[AXES], size[AXES], shift[AXES], scale[AXES];
  int64_t phases;
  int64_t row, slice, plane; /* elements of axis 2, of axes 1 and 2, and of all */
} Frame;

/* X as a convolution reads it: its result o meets tap k at index o * step[axis] + k * tap[axis]. */
typedef struct {
  int64_t step[AXES], tap[AXES];
} Reach;

/* Not measured yet. With `phases`, steps along the last axis are taken by phases. */
Frame frame_of_input(const Convolution *c, bool phases, Reach *reach);

/* Sets row, slice and plane from the rest; false where a plane would have more than `most` elements. */
bool frame_measure(Frame *frame, double most);

/* Elements that a plane may have to be in proportion to the operands, of `size` bytes an element: it has more where
 * pads, strides or dilations are enormous. */
double frame_most(const Convolution *c, size_t size);

/* Whether it is the source as it lies. */
bool frame_is_source(const Frame *frame);

/* Where an index of the last axis lies in its row. */
static inline int64_t frame_place(const Frame *frame, int64_t i) {
  return i % frame->phases * (frame->row / frame->phases) + i / frame->phases;
}

/* The indices of an axis that have a source: first … end - 1. */
void frame_inside(const Frame *frame, int axis, int64_t *first, int64_t *end);

/* Slices first … end - 1 of a plane from the source's plane. */
void frame_fill_f32(const Frame *frame, int64_t first, int64_t end, const float *from, float *to);
void frame_fill_f64(const Frame *frame, int64_t first, int64_t end, const double *from, double *to);

/* The same convolution with the axes in the order in which kernels cut them: of two, the first lies in front. */
Convolution frame_convolution(Convolution c);

#endif
