/* From nodes to launches: images read between their elements, and pooled by regions. */
#include "backend/cuda/cuda.h"
#include "backend/reference/reference.h"

static Shape shape_in(const Graph *graph, ValueId value) {
  return graph_value(graph, value)->shape;
}

/* 24 bytes a tap: a key, twice, and a weight (kernels.h). */
static size_t grid_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Grid g = grid_of(node, shape_in(graph, node->out[0]), shape_in(graph, node->in[1]));
  return (size_t)(g.samples * g.places * grid_taps(&g)) * 24;
}

KERNEL(GridSample, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Grid g = grid_of(node, in[0].shape, in[1].shape);
  launch_grid_sample(stream->cuda, in->dtype, &g, in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(GridSampleGradInput, .accepts = takes_floats, .workspace = grid_workspace) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Grid g = grid_of(node, out->shape, in[1].shape);
  TRY(cuda_sortable(node, g.samples * g.places * grid_taps(&g), g.samples * g.plane));
  TRY(backend_cuda.zero(stream, out->data, tensor_bytes(out)));
  launch_grid_sample_grad(stream->cuda, in->dtype, &g, in[0].data, in[1].data, workspace, out->data);
  return cuda_launched(stream, node);
}

KERNEL(GridSampleGradGrid, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Grid g = grid_of(node, in[1].shape, in[2].shape);
  launch_grid_grad(stream->cuda, in->dtype, &g, in[0].data, in[1].data, in[2].data, out->data);
  return cuda_launched(stream, node);
}

static size_t point_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Field f = field_of(shape_in(graph, node->out[0]), shape_in(graph, node->in[1]));
  return (size_t)((f.samples * f.points) << f.axes) * 24;
}

KERNEL(PointSample, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Field f = field_of(in[0].shape, in[1].shape);
  launch_point_sample(stream->cuda, in->dtype, &f, in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(PointSampleGradInput, .accepts = takes_floats, .workspace = point_workspace) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Field f = field_of(out->shape, in[1].shape);
  TRY(cuda_sortable(node, (f.samples * f.points) << f.axes, f.samples * f.plane));
  TRY(backend_cuda.zero(stream, out->data, tensor_bytes(out)));
  launch_point_sample_grad(stream->cuda, in->dtype, &f, in[0].data, in[1].data, workspace, out->data);
  return cuda_launched(stream, node);
}

KERNEL(PointSampleGradPoints, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Field f = field_of(in[1].shape, in[2].shape);
  launch_point_grad(stream->cuda, in->dtype, &f, in[0].data, in[1].data, in[2].data, out->data);
  return cuda_launched(stream, node);
}

/* in: X, rois and, of RoiAlign, indices. */
static RegionWork regions_in(const Node *node, const Tensor *in, bool align) {
  return (RegionWork){.r = regions_of(node, in[0].shape, in[1].shape),
                      .index_type = align ? in[2].dtype : I64,
                      .x = in[0].data,
                      .rois = in[1].data,
                      .indices = align ? in[2].data : NULL};
}

/* A gradient's inputs are the cotangent, X, rois, indices. */
static size_t region_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Regions r = regions_of(node, shape_in(graph, node->in[1]), shape_in(graph, node->in[2]));
  return region_room(&r, node->op == OP_RoiAlignGrad);
}

static Status pool(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, bool align) {
  TAKES(in->dtype, is_float(in->dtype));
  RegionWork w = regions_in(node, in, align);
  launch_regions(stream->cuda, in->dtype, &w, cuda_reporter(stream, node), out->data);
  return cuda_launched(stream, node);
}

static Status pool_grad(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *room, bool align) {
  TAKES(in->dtype, is_float(in->dtype));
  RegionWork w = regions_in(node, in + 1, align);
  TRY(cuda_sortable(node, shape_elements(in->shape), shape_elements(out->shape)));
  TRY(backend_cuda.zero(stream, out->data, tensor_bytes(out)));
  launch_regions_grad(stream->cuda, in->dtype, &w, cuda_reporter(stream, node), in->data, room, out->data);
  return cuda_launched(stream, node);
}

KERNEL(RoiAlign, .accepts = takes_floats) {
  UNUSED;
  return pool(stream, node, in, out, true);
}

KERNEL(MaxRoiPool, .accepts = takes_floats) {
  UNUSED;
  return pool(stream, node, in, out, false);
}

KERNEL(RoiAlignGrad, .accepts = takes_floats, .workspace = region_workspace) {
  UNUSED;
  return pool_grad(stream, node, in, out, workspace, true);
}

KERNEL(MaxRoiPoolGrad, .accepts = takes_floats, .workspace = region_workspace) {
  UNUSED;
  return pool_grad(stream, node, in, out, workspace, false);
}
