/* From nodes to launches: convolution, pooling, resampling. */
#include "backend/cuda/cuda.h"
#include "backend/reference/parts.h"
#include "backend/reference/reference.h"

static size_t convolution_workspace(const Graph *graph, const Node *node, ConvolutionWay way) {
  Convolution c = convolution_in(graph, node);
  return (size_t)convolution_partials(&c, way) * dtype_bytes(kernel_input(graph, node, 0).dtype);
}

/* x, w, y: where the kernel finds them. */
#define CONVOLUTION(op_name, way, x, w, y)                                                                             \
  static size_t workspace_##op_name(const Graph *graph, const Node *node, size_t budget) {                             \
    (void)budget;                                                                                                      \
    return convolution_workspace(graph, node, way);                                                                    \
  }                                                                                                                    \
  KERNEL(op_name, .accepts = takes_floats, .workspace = workspace_##op_name) {                                         \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_float(in->dtype));                                                                             \
    Convolution c = convolution_of(node, (x)->shape, (w)->shape, (y)->shape);                                          \
    launch_convolution(stream->cuda, in->dtype, &c, way, in[0].data, in[1].data, out->data, workspace);                \
    return cuda_launched(stream, node);                                                                                \
  }
CONVOLUTION(Conv, CONVOLUTION_FORWARD, in, in + 1, out)
CONVOLUTION(ConvGradInput, CONVOLUTION_TOWARDS_INPUT, out, in + 1, in)
CONVOLUTION(ConvGradWeight, CONVOLUTION_TOWARDS_WEIGHT, in + 1, out, in)

static Status pools_of(const Node *node, Shape x, Pools *p) {
  *p = (Pools){.divisor = (int)node_int(node, "divisor", 1), .columns = node_int(node, "storage_order", 0) != 0};
  TRY(window_of(node, x, &p->w));
  p->planes = x.dim[0] * x.dim[1];
  p->from = p->w.in[0] * p->w.in[1] * p->w.in[2];
  p->to = p->w.out[0] * p->w.out[1] * p->w.out[2];
  return OK;
}

KERNEL(MaxPool, .accepts = takes_numbers) {
  UNUSED;
  Pools p;
  TAKES(in->dtype, is_number(in->dtype));
  TRY(pools_of(node, in->shape, &p));
  launch_max_pool(stream->cuda, in->dtype, &p, in->data, out->data, node->n_out > 1 ? out[1].data : NULL);
  return cuda_launched(stream, node);
}

KERNEL(AveragePool, .accepts = takes_floats) {
  UNUSED;
  Pools p;
  TAKES(in->dtype, is_float(in->dtype));
  TRY(pools_of(node, in->shape, &p));
  launch_average_pool(stream->cuda, in->dtype, &p, in->data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(MaxPoolGrad, .accepts = takes_floats) {
  UNUSED;
  Pools p;
  TAKES(in->dtype, is_float(in->dtype));
  TRY(pools_of(node, out->shape, &p));
  launch_pool_grad(stream->cuda, in->dtype, &p, in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(AveragePoolGrad, .accepts = takes_floats) {
  UNUSED;
  Pools p;
  TAKES(in->dtype, is_float(in->dtype));
  TRY(pools_of(node, out->shape, &p));
  launch_pool_grad(stream->cuda, in->dtype, &p, in[0].data, NULL, out->data);
  return cuda_launched(stream, node);
}

static Lines resampled(const Node *node, Shape x) {
  Split3 s = split_at(x, (int)node_int(node, "axis", 0));
  return (Lines){s.outer, s.size, s.inner};
}

KERNEL(Resample, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  launch_resample(stream->cuda, in->dtype, resampled(node, in->shape), in[1].shape.dim[0], in[1].shape.dim[1],
                  in[1].data, in[2].data, in->data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(ResampleGrad, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  launch_resample_grad(stream->cuda, in->dtype, resampled(node, out->shape), in[1].shape.dim[0], in[1].shape.dim[1],
                       in[1].data, in[2].data, in->data, out->data);
  return cuda_launched(stream, node);
}
