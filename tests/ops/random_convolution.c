/* Random convolutions: one to three axes, groups, depthwise, dilations, uneven pads, strides that leave a rest, and now
 * and then nothing of something. */
#include "tests/ops/draw.h"

typedef struct {
  int axes;
  Shape x, w, y;
  int64_t strides[3], dilations[3], pads[6], groups;
} Drawn;

static void draw_axis(Draw *d, Drawn *c, int i) {
  int64_t k = between(d, 0, 2) ? between(d, 1, 3) : 3, most = c->axes == 1 ? 40 : c->axes == 2 ? 12 : 6;
  c->strides[i] = between(d, 0, 2) ? 1 : between(d, 2, 3);
  c->dilations[i] = between(d, 0, 3) ? 1 : between(d, 2, 3);
  c->pads[i] = between(d, 0, 2);
  c->pads[i + c->axes] = between(d, 0, 2) ? c->pads[i] : between(d, 0, 2);
  int64_t reach = c->dilations[i] * (k - 1) + 1, pads = c->pads[i] + c->pads[i + c->axes];
  int64_t least = reach > pads ? reach - pads : 0;
  c->x.dim[i + 2] = between(d, least, most > least ? most : least);
  c->w.dim[i + 2] = k;
  c->y.dim[i + 2] = (c->x.dim[i + 2] + pads - reach) / c->strides[i] + 1;
}

static Drawn draw(Draw *d) {
  Drawn c = {.axes = (int)between(d, 1, 3), .groups = between(d, 0, 2) ? 1 : between(d, 2, 4)};
  int64_t channels = between(d, 1, 5), filters = between(d, 1, 9);
  if (between(d, 0, 5) == 0) /* depthwise */
    c.groups = between(d, 1, 9), channels = 1, filters = between(d, 1, 2);
  if (between(d, 0, 29) == 0)
    *(between(d, 0, 1) ? &channels : &filters) = 0;
  c.x.rank = c.w.rank = c.y.rank = c.axes + 2;
  c.x.dim[0] = c.y.dim[0] = between(d, 0, 29) ? between(d, 1, 3) : 0;
  c.x.dim[1] = c.groups * channels;
  c.y.dim[1] = c.w.dim[0] = c.groups * filters;
  c.w.dim[1] = channels;
  for (int i = 0; i < c.axes; i++)
    draw_axis(d, &c, i);
  return c;
}

bool draw_convolution(Draw *d, OpKind op) {
  if (op != OP_Conv && op != OP_ConvGradInput && op != OP_ConvGradWeight)
    return false;
  Drawn c = draw(d);
  Shape result = op == OP_Conv ? c.y : op == OP_ConvGradInput ? c.x : c.w;
  input(d, op == OP_Conv ? c.x : c.y);
  input(d, op == OP_ConvGradWeight ? c.x : c.w);
  output(d, result);
  put_ints(d, "strides", c.strides, c.axes);
  put_ints(d, "dilations", c.dilations, c.axes);
  put_ints(d, "pads", c.pads, 2 * c.axes);
  put_int(d, "group", c.groups);
  if (op != OP_Conv)
    put_ints(d, "shape", result.dim, result.rank);
  return true;
}
