/* Random cases of pooling and resampling. */
#include "tests/ops/draw.h"

/* X [N, C, spatial…], its windows, and the shape that they give. */
static void draw_windows(Draw *d, Shape *x, Shape *y) {
  *x = any_shape(d, 3, 5, 7);
  *y = *x;
  int n = x->rank - 2;
  int64_t kernel[3], stride[3], dilation[3], pads[6];
  bool up = between(d, 0, 1);
  for (int i = 0; i < n; i++) {
    int64_t size = x->dim[2 + i];
    kernel[i] = between(d, 1, size < 3 ? size : 3);
    stride[i] = between(d, 1, 3);
    dilation[i] = kernel[i] > 1 ? between(d, 1, (size - 1) / (kernel[i] - 1)) : 1;
    pads[i] = between(d, 0, kernel[i] - 1);
    pads[n + i] = between(d, 0, kernel[i] - 1);
    int64_t room = size + pads[i] + pads[n + i] - (kernel[i] - 1) * dilation[i] - 1;
    y->dim[2 + i] = room / stride[i] + 1;
    if (up && room % stride[i] && y->dim[2 + i] * stride[i] < size + pads[i])
      y->dim[2 + i]++;
  }
  put_ints(d, "kernel_shape", kernel, n);
  put_ints(d, "strides", stride, n);
  put_ints(d, "dilations", dilation, n);
  put_ints(d, "pads", pads, 2 * n);
  put_int(d, "ceil_mode", up);
}

static void draw_max(Draw *d, bool gradient) {
  Shape x, y;
  draw_windows(d, &x, &y);
  if (gradient)
    input(d, y);
  input(d, x)->fill = FILL_DISTINCT;
  output(d, gradient ? x : y);
  if (!gradient && between(d, 0, 1)) {
    output(d, y);
    put_int(d, "storage_order", between(d, 0, 1));
  }
}

static void draw_average(Draw *d) {
  Shape x, y;
  draw_windows(d, &x, &y);
  input(d, x);
  output(d, y);
  put_int(d, "divisor", between(d, 0, 2));
}

static void draw_resample(Draw *d, bool gradient) {
  Shape x = any_shape(d, 1, 4, 6), y = x;
  int axis = (int)between(d, 0, x.rank - 1);
  int64_t taps[2] = {between(d, 1, 9), between(d, 1, 4)};
  y.dim[axis] = taps[0];
  input(d, gradient ? y : x);
  *input(d, x) =
      (CaseInput){.present = true, .dtype = I64, .shape = shape_of(2, taps), .fill = FILL_INDEX, .limit = x.dim[axis]};
  *input(d, x) = (CaseInput){.present = true, .dtype = F64, .shape = shape_of(2, taps), .fixed = true};
  output(d, gradient ? x : y);
  put_int(d, "axis", axis);
  if (gradient)
    put_ints(d, "shape", x.dim, x.rank);
}

/* X [N, C, spatial…] and a grid of places; what a gradient reads beside them. */
static void draw_grid(Draw *d, OpKind op) {
  static const char *const modes[] = {"linear", "nearest", "cubic"}, *const paddings[] = {"zeros", "border",
                                                                                          "reflection"};
  Shape x = any_shape(d, 3, 5, 4), y = x, grid = x;
  for (int i = 2; i < x.rank; i++)
    y.dim[i] = grid.dim[i - 1] = between(d, 1, 3);
  grid.dim[x.rank - 1] = x.rank - 2;
  if (op != OP_GridSample)
    input(d, y);
  if (op != OP_GridSampleGradInput)
    input(d, x);
  input(d, grid);
  output(d, op == OP_GridSample ? y : op == OP_GridSampleGradInput ? x : grid);
  d->c->attrs[d->n_attrs++] = attr_string("mode", modes[between(d, 0, 2)]);
  d->c->attrs[d->n_attrs++] = attr_string("padding_mode", paddings[between(d, 0, 2)]);
  put_int(d, "align_corners", between(d, 0, 1));
  if (op == OP_GridSampleGradInput)
    put_ints(d, "shape", x.dim, x.rank);
}

static void draw_regions(Draw *d, OpKind op) {
  Shape x = {4, {between(d, 1, 3), between(d, 1, 3), between(d, 1, 7), between(d, 1, 7)}};
  Shape y = {4, {between(d, 0, 4), x.dim[1], between(d, 1, 3), between(d, 1, 3)}};
  bool grad = op == OP_RoiAlignGrad || op == OP_MaxRoiPoolGrad, named = op == OP_RoiAlign || op == OP_RoiAlignGrad;
  if (grad)
    input(d, y);
  input(d, x)->fill = FILL_DISTINCT;
  CaseInput *rois = input(d, shape_of(2, (int64_t[]){y.dim[0], named ? 4 : 5}));
  rois->fixed = true;
  rois->fill = named ? FILL_ANY : x.dim[0] > 1 ? FILL_TRUTH : FILL_LIMIT;
  if (named)
    *input(d, x) =
        (CaseInput){.present = true, .dtype = I64, .shape = shape_of(1, y.dim), .fill = FILL_INDEX, .limit = x.dim[0]};
  output(d, grad ? x : y);
  put_int(d, "output_height", y.dim[2]);
  put_int(d, "output_width", y.dim[3]);
  d->c->attrs[d->n_attrs++] = attr_float("spatial_scale", (double)between(d, 1, 8) / 2);
  if (named) {
    put_int(d, "sampling_ratio", between(d, 0, 2));
    put_int(d, "half_pixel", between(d, 0, 1));
    d->c->attrs[d->n_attrs++] = attr_string("mode", between(d, 0, 1) ? "avg" : "max");
    d->c->in[grad].fill = FILL_POSITIVE; /* an element of 0 is as large as what lies outside */
  }
}

bool draw_pool(Draw *d, OpKind op) {
  switch (op) {
  case OP_MaxPool:
  case OP_MaxPoolGrad:
    draw_max(d, op == OP_MaxPoolGrad);
    return true;
  case OP_AveragePool:
    draw_average(d);
    return true;
  case OP_Resample:
  case OP_ResampleGrad:
    draw_resample(d, op == OP_ResampleGrad);
    return true;
  case OP_GridSample:
  case OP_GridSampleGradInput:
  case OP_GridSampleGradGrid:
    draw_grid(d, op);
    return true;
  case OP_RoiAlign:
  case OP_RoiAlignGrad:
  case OP_MaxRoiPool:
  case OP_MaxRoiPoolGrad:
    draw_regions(d, op);
    return true;
  default:
    return false;
  }
}
