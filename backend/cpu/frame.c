/* Inputs of convolutions, laid out with their pads. */
#include "backend/cpu/frame.h"

#include <string.h>

Convolution frame_convolution(Convolution c) {
  if (c.x[0] != 1 || c.k[0] != 1 || c.y[0] != 1 || c.pad[0] != 0)
    return c;
  int64_t *axes[] = {c.x, c.k, c.y, c.stride, c.dilation, c.pad};
  for (size_t i = 0; i < sizeof axes / sizeof *axes; i++) {
    int64_t first = axes[i][0];
    axes[i][0] = axes[i][1];
    axes[i][1] = first;
  }
  return c;
}

bool frame_measure(Frame *frame, double most) {
  if ((double)frame->size[0] * (double)frame->size[1] * (double)(frame->size[2] + frame->phases) > most)
    return false;
  frame->row = round_up(frame->size[2], frame->phases);
  frame->slice = frame->row * frame->size[1];
  frame->plane = frame->slice * frame->size[0];
  return true;
}

Frame frame_of_input(const Convolution *c, bool phases, Reach *reach) {
  Frame frame = {.phases = 1};
  for (int i = 0; i < AXES; i++) {
    bool point = c->k[i] == 1; /* what lies between is not read */
    frame.source[i] = c->x[i];
    frame.shift[i] = -c->pad[i];
    frame.scale[i] = point ? c->stride[i] : 1;
    reach->step[i] = point ? 1 : c->stride[i];
    reach->tap[i] = c->dilation[i];
    frame.size[i] = (c->y[i] - 1) * reach->step[i] + (c->k[i] - 1) * reach->tap[i] + 1;
  }
  if (phases)
    frame.phases = least(reach->step[2], frame.size[2]);
  return frame;
}

bool frame_is_source(const Frame *frame) {
  for (int i = 0; i < AXES; i++)
    if (frame->size[i] != frame->source[i] || frame->shift[i] != 0 || frame->scale[i] != 1)
      return false;
  return frame->phases == 1;
}

double frame_most(const Convolution *c, size_t size) {
  double samples = (double)c->samples * (double)c->groups, channels = (double)c->channels, filters = (double)c->filters;
  double operands = samples * (channels * (double)c->x_plane + filters * (double)c->y_plane);
  double planes = (double)c->groups * (channels > filters ? channels : filters);
  return planes == 0 ? 0 : (4 * operands + (double)FRAME_BYTES / (double)size) / planes;
}

void frame_inside(const Frame *frame, int axis, int64_t *first, int64_t *end) {
  int64_t shift = frame->shift[axis], scale = frame->scale[axis], last = frame->source[axis] - 1 - shift;
  *first = shift < 0 ? (-shift + scale - 1) / scale : 0;
  *end = last < 0 ? 0 : least(last / scale + 1, frame->size[axis]);
  *first = least(*first, *end);
}

#define T float
#define S(name) name##_f32
#include "backend/cpu/frame.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/cpu/frame.inc"
#undef T
#undef S
