/* From nodes to launches: Fourier transforms, determinants. */
#include "backend/cuda/cuda.h"
#include "backend/reference/fourier.h"
#include "backend/reference/reference.h"

/* Bytes of room that all lines may take at once; one line may take more. */
enum { ROOM_BYTES = 256 << 20 };

static FourierLines lines_of(Shape shape, int axis) {
  int last = shape.rank - 1;
  Split3 s = split_at(shape_of(last, shape.dim), axis);
  return (FourierLines){s.outer, s.inner, s.size, shape.dim[last]};
}

static FourierWork work_of(const Node *node, Shape in, Shape out) {
  int axis = (int)node_int(node, "axis", 0);
  FourierWork w = {.length = node_int(node, "length", 0),
                   .inverse = node_int(node, "inverse", 0),
                   .hermitian = node_int(node, "hermitian", 0),
                   .scale = node_float(node, "scale", 1),
                   .in = lines_of(in, axis),
                   .out = lines_of(out, axis)};
  int64_t lines = w.in.outer * w.in.inner, fit = ROOM_BYTES / (int64_t)fourier_room_bytes(w.length, 1);
  w.at_once = lines < fit ? lines : fit;
  w.at_once = w.at_once > 0 ? w.at_once : 1;
  w.inner_length = fourier_inner_length(w.length);
  for (int64_t rest = w.inner_length; rest > 1; rest /= w.radix[w.n_radices++])
    w.radix[w.n_radices] = (int)fourier_factor(rest);
  return w;
}

static size_t transform_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  FourierWork w = work_of(node, graph_value(graph, node->in[0])->shape, graph_value(graph, node->out[0])->shape);
  return fourier_table_bytes(w.length) + fourier_room_bytes(w.length, w.at_once);
}

KERNEL(DFT, .accepts = takes_floats, .workspace = transform_workspace) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  FourierWork w = work_of(node, in->shape, out->shape);
  launch_fourier(stream->cuda, in->dtype, &w, in->data, workspace, out->data);
  return cuda_launched(stream, node);
}

/* Matrices [.., n, n]. */
static int64_t order_of(Shape x) {
  return x.dim[x.rank - 1];
}

static int64_t matrices_of(Shape x) {
  return shape_elements(shape_of(x.rank - 2, x.dim));
}

static size_t det_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Shape x = graph_value(graph, node->in[node->n_in - 1])->shape;
  return determinant_room(matrices_of(x), order_of(x), node->op == OP_DetGrad);
}

KERNEL(Det, .accepts = takes_floats, .workspace = det_workspace) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  launch_determinant(stream->cuda, in->dtype, matrices_of(in->shape), order_of(in->shape), in->data, workspace,
                     out->data);
  return cuda_launched(stream, node);
}

KERNEL(DetGrad, .accepts = takes_floats, .workspace = det_workspace) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  launch_determinant_grad(stream->cuda, in->dtype, matrices_of(in[1].shape), order_of(in[1].shape), in[0].data,
                          in[1].data, workspace, out->data);
  return cuda_launched(stream, node);
}
